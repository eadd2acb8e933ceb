"""Connection: the standard library's bytes on the wire, written and read as a pipe likes it.

Either end may be a stock multiprocessing.connection.Connection. Large messages go in small writes, because a pipe's
reader and writer never overlap within one; receiving goes straight into a buffer that is warm from the frame before.
"""

from __future__ import annotations

import io
import os
import socket
import stat
from multiprocessing import BufferTooShort, connection, reduction
from typing import TYPE_CHECKING, Any

from pipecap.errors import BadFrame
from pipecap.kernel import pipes
from pipecap.kernel.sizes import parse_size
from pipecap.queues import native
from pipecap.queues.buffers import LONGEST, Outgoing
from pipecap.queues.native import COPIED, WITHOUT_LIMIT, deadline_of
from pipecap.queues.pickling import loads, pickled
from pipecap.queues.receiver import Receiver
from pipecap.queues.sender import Sender

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

_SOCKET_CHUNK = 1 << 20
_LARGEST_CHUNK = 1 << 40


class Connection(connection.Connection):
    """One end of a pipe or socket, drop-in for multiprocessing.connection.Connection and equal to it on the wire.

    What is different: `chunk` bytes at most go into one write(2) to a pipe (as a size; "auto" is 8 KiB of a large
    message, and a medium one as a whole); with `elastic` the pipe grows before a message that would not fit, as far as
    the kernel grants; a message partly sent or received when a signal handler raises (Ctrl-C) is continued by the next
    send() or recv() instead of leaving the stream out of step; closing it while another thread waits in it never lets
    that thread touch a descriptor of somebody else; a header that cannot be one raises BadFrame, a message cut short
    TruncatedItem (both are OSError, as the standard library has it).

    The ends of a queue are such connections, too: their recv() and send() take the queue's locks.
    """

    if TYPE_CHECKING:  # of the base class, not published
        _handle: int | None
        _readable: bool
        _writable: bool

        def _check_closed(self) -> None: ...
        def _check_readable(self) -> None: ...
        def _check_writable(self) -> None: ...

    def __init__(
        self,
        handle: int,
        readable: bool = True,
        writable: bool = True,
        *,
        elastic: bool = False,
        chunk: int | str = "auto",
    ) -> None:
        self._chunk = chunk_of(chunk)
        super().__init__(handle, readable, writable)
        try:
            self._end = native.new_end(handle, elastic=elastic)
        except OverflowError:
            self._handle = None
            raise ValueError("invalid handle") from None
        self._sender: Sender | None = None
        self._receiver = Receiver(self._end)
        native.reset_in_children(self)

    def forked(self) -> None:
        """Forget the calls of other threads, in the child of a fork."""
        native.end_forked(self._end)

    def share(self, shared: Any, *, counts: bool, tasks: bool, patience: int | None = None) -> Sender | Receiver:
        """Be an end of a queue from now on; return the side of it that this end is."""
        if self._readable:
            self._receiver = Receiver(self._end, shared, counts=counts, tasks=tasks)
            return self._receiver
        waits = {} if patience is None else {"patience": patience}
        self._sender = Sender(self._end, shared, counts=counts, tasks=tasks, chunk=self._chunk, **waits)
        return self._sender

    def __reduce__(self) -> tuple[object, ...]:
        fd = reduction.DupFd(self.fileno())
        return _rebuild, (fd, self.readable, self.writable, bool(self._end.elastic), self._chunk)

    def _close(self, _close: Any = native.end_close) -> None:
        result = _close(self._end)  # bound: at the interpreter's exit modules are empty
        self._receiver.closed()
        if self._sender is not None:
            self._sender.closed()
        if result < 0:
            raise OSError(-result, os.strerror(-result))

    def _out(self) -> Sender:
        if self._sender is None:
            is_pipe = stat.S_ISFIFO(os.fstat(self.fileno()).st_mode)
            self._sender = Sender(self._end, chunk=self._chunk if is_pipe else _SOCKET_CHUNK)
        return self._sender

    def send(self, obj: object) -> None:
        """Send a picklable object; raises what its pickling raises, and BrokenPipeError, BlockingIOError."""
        self._check_closed()
        self._check_writable()
        self._out().send(pickled(obj))

    def _send_bytes(self, buf: Buffer) -> None:
        size = memoryview(buf).nbytes
        if size <= COPIED:
            self._out().send(bytes(buf))
        else:
            self._out().send_frames(Outgoing([buf], [size]))

    def recv(self) -> Any:
        """Receive an object; raises EOFError, TruncatedItem, BadFrame, BlockingIOError and what unpickling raises."""
        self._check_closed()
        self._check_readable()
        return self._use(loads)

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Receive the bytes of one message; OSError, and no reading any more, where it is longer than `maxlength`."""
        self._check_closed()
        self._check_readable()
        if maxlength is not None and maxlength < 0:
            raise ValueError("negative maxlength")
        try:
            received: bytes = self._use(bytes, LONGEST if maxlength is None else min(maxlength, LONGEST))
        except BadFrame as error:
            if maxlength is None:
                raise
            hint = "the next message cannot be told from its rest: make a new connection"
            raise BadFrame(f"bad message length: more than maxlength, {maxlength:,} bytes", hint=hint) from error
        return received

    def recv_bytes_into(self, buf: Buffer, offset: int = 0) -> int:
        """Receive the bytes of one message into a buffer and return how many; BufferTooShort has all of them."""
        self._check_closed()
        self._check_readable()
        with memoryview(buf) as whole, whole.cast("B") as target:
            if offset < 0:
                raise ValueError("negative offset")
            if offset > target.nbytes:
                raise ValueError("offset too large")

            def fill(payload: memoryview) -> int:
                if target.nbytes < offset + payload.nbytes:
                    raise BufferTooShort(bytes(payload))
                target[offset : offset + payload.nbytes] = payload
                return payload.nbytes

            size: int = self._use(fill)
            return size

    def _recv_bytes(self, maxsize: int | None = None) -> io.BytesIO:
        return io.BytesIO(self.recv_bytes(maxsize))

    def _use(self, use: Callable[[memoryview], Any], longest: int = LONGEST) -> Any:
        try:
            return self._receiver.get(WITHOUT_LIMIT, use, longest)
        except BadFrame:
            if self._receiver._shared is None:
                self._stop_reading()
            raise

    def _stop_reading(self) -> None:
        """Where the next message begins is unknown."""
        if self._writable:
            self._readable = False
        else:
            self.close()

    def _poll(self, timeout: float | None) -> bool:
        return self._receiver.poll(deadline_of(timeout))


def _rebuild(fd: Any, readable: bool, writable: bool, elastic: bool, chunk: int) -> Connection:
    return Connection(fd.detach(), readable, writable, elastic=elastic, chunk=chunk or "auto")


def chunk_of(chunk: int | str) -> int:
    """Return the most bytes of one write(2), 0 for "auto". Raises InvalidSize."""
    return 0 if chunk == "auto" else min(parse_size(chunk, least=1), _LARGEST_CHUNK)


def one_way(capacity: int | str, *, chunk: int | str = "auto") -> tuple[Connection, Connection]:
    """Make a pipe: its reader and its writer. `capacity` is "auto", elastic, or a size that stays.

    Raises InvalidSize, ResizeRefused, OSError without descriptors.
    """
    elastic = capacity == "auto"
    read_end, write_end = os.pipe()
    reader = Connection(read_end, writable=False)
    try:
        if not elastic:
            pipes.resize(write_end, capacity)
        return reader, Connection(write_end, readable=False, elastic=elastic, chunk=chunk)
    except BaseException:
        reader.close()
        os.close(write_end)
        raise


def two_way() -> tuple[Connection, Connection]:
    """Make a socketpair, both ends readable and writable, as multiprocessing.Pipe() does."""
    one, other = socket.socketpair()
    one.setblocking(True)  # also under socket.setdefaulttimeout()
    other.setblocking(True)
    return Connection(one.detach()), Connection(other.detach())
