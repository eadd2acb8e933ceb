"""Connection: the standard library's bytes on the wire, written and read as a pipe likes it.

Either end may be a stock multiprocessing.connection.Connection. Sending goes in small writes, because a pipe's reader
and writer never overlap within one; receiving goes straight into a buffer that is warm from the frame before.
"""

from __future__ import annotations

import errno
import io
import os
import socket
import stat
import time
import weakref
from multiprocessing import BufferTooShort, connection, reduction
from typing import TYPE_CHECKING, Any, NoReturn

from pipecap.errors import BadFrame, InvalidSize, TruncatedItem
from pipecap.kernel import pipes
from pipecap.queues import buffers, native, pickling
from pipecap.queues.buffers import Incoming, Outgoing

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from pipecap.queues.pickling import Payload

CHUNK = native.CHUNK
_SOCKET_CHUNK = 1 << 20

# A payload up to this makes a frame that is one write(2).
SMALL = buffers.LARGEST_ATOMIC - buffers.HEADER
_AGAIN = -errno.EINTR
_WAIT_FOR_EVER = -1


class Connection(connection.Connection):
    """One end of a pipe or socket, drop-in for multiprocessing.connection.Connection and equal to it on the wire.

    What is different: `chunk` bytes at most go into one write(2) to a pipe; with `elastic` the pipe grows before a
    message that would not fit, as far as the kernel grants; a message interrupted half-way by an exception in a signal
    handler (Ctrl-C) is gone on with by the next send() or recv() instead of leaving the stream out of step; closing
    it while another thread waits in it never lets that thread touch a descriptor of somebody else; a header that
    cannot be one raises BadFrame, a message cut short TruncatedItem (both are OSError, as the standard library has it).
    """

    if TYPE_CHECKING:  # of the base class, not published
        _handle: int | None
        _readable: bool
        _writable: bool

        def _check_closed(self) -> None: ...
        def _check_readable(self) -> None: ...
        def _check_writable(self) -> None: ...
        def _bad_message_length(self) -> NoReturn: ...

    def __init__(
        self, handle: int, readable: bool = True, writable: bool = True, *, elastic: bool = False, chunk: int = CHUNK
    ) -> None:
        if chunk < 1:
            raise InvalidSize(chunk, "a write takes at least one byte")
        super().__init__(handle, readable, writable)
        try:
            self._end = native.new("struct pipecap_end *", {"fd": handle, "elastic": elastic})
        except OverflowError:
            self._handle = None
            raise ValueError("invalid handle") from None
        self._chunk = chunk
        self._is_pipe: bool | None = None
        # A message under way when an exception came in between; a list, to take from it in one step.
        self._half_received: list[Incoming] = []
        self._half_sent: list[Outgoing] = []
        _connections.add(self)

    def __reduce__(self) -> tuple[object, ...]:
        fd = reduction.DupFd(self.fileno())
        return _rebuild, (fd, self.readable, self.writable, bool(self._end.elastic), self._chunk)

    def _close(self) -> None:
        result = native.end_close(self._end)
        if result < 0:
            raise OSError(-result, os.strerror(-result))

    def send(self, obj: object) -> None:
        """Send a picklable object; raises what its pickling raises, and BrokenPipeError, BlockingIOError."""
        self._check_closed()
        self._check_writable()
        self._send_payload(pickling.pickled(obj))

    def _send_bytes(self, buf: Buffer) -> None:
        self._send_payload(bytes(buf) if memoryview(buf).nbytes <= SMALL else [buf])

    def _send_payload(self, payload: Payload) -> None:
        sent = 0
        if type(payload) is bytes:
            size = len(payload)
            if size <= SMALL and not self._half_sent:
                sent = native.send_once(self._end, payload, size)
                if sent == buffers.HEADER + size:
                    return
                if sent < 0 and sent != _AGAIN:
                    self._failed(sent)
            pieces: list[Buffer] = [payload]
        else:
            pieces = payload  # type: ignore[assignment]
            size = pickling.size_of(payload)
        outgoing = self.outgoing(pieces, [size])
        if sent > 0:  # a socket took part of it
            outgoing.skip(sent)
        try:
            while self._half_sent:
                self._drive(self._half_sent.pop())
            self._drive(outgoing)
        finally:
            outgoing.release()

    def outgoing(self, pieces: list[Buffer], sizes: list[int]) -> Outgoing:
        """Give frames the form they are sent in."""
        if self._is_pipe is None:
            self._is_pipe = stat.S_ISFIFO(os.fstat(self.fileno()).st_mode)
        return Outgoing(pieces, sizes, self._chunk if self._is_pipe else _SOCKET_CHUNK)

    def _drive(self, outgoing: Outgoing) -> None:
        """Send all of it; whatever stops it half-way, the rest is sent before anything else is."""
        result = _AGAIN
        try:
            while result == _AGAIN:  # between two rounds the interpreter runs its signal handlers, which may raise
                result = native.send(self._end, outgoing.struct)
        finally:
            if result in (_AGAIN, -errno.EAGAIN) and outgoing.sent and not outgoing.done:
                self._half_sent.append(outgoing.own())
        if result < 0:
            self._failed(result)

    def recv(self) -> Any:
        """Receive an object; raises EOFError, TruncatedItem, BadFrame, BlockingIOError and what unpickling raises."""
        self._check_closed()
        self._check_readable()
        incoming, size = self._receive()
        try:
            return pickling.loads(incoming.payload(size))
        finally:
            buffers.give(incoming)

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Receive the bytes of one message; OSError, and no reading any more, where it is longer than `maxlength`."""
        self._check_closed()
        self._check_readable()
        if maxlength is not None and maxlength < 0:
            raise ValueError("negative maxlength")
        incoming, size = self._receive(maxlength)
        try:
            return bytes(incoming.payload(size))
        finally:
            buffers.give(incoming)

    def recv_bytes_into(self, buf: Buffer, offset: int = 0) -> int:
        """Receive the bytes of one message into a buffer; gives how many, or raises BufferTooShort with all of them."""
        self._check_closed()
        self._check_readable()
        with memoryview(buf) as whole, whole.cast("B") as target:
            if offset < 0:
                raise ValueError("negative offset")
            if offset > target.nbytes:
                raise ValueError("offset too large")
            incoming, size = self._receive()
            try:
                if target.nbytes < offset + size:
                    raise BufferTooShort(bytes(incoming.payload(size)))
                target[offset : offset + size] = incoming.payload(size)
            finally:
                buffers.give(incoming)
            return size

    def _recv_bytes(self, maxsize: int | None = None) -> io.BytesIO:
        return io.BytesIO(self.recv_bytes(maxsize))

    def _receive(self, longest: int | None = None) -> tuple[Incoming, int]:
        """Give a buffer with one message and the bytes of it. The caller gives the buffer back."""
        try:
            incoming = self._half_received.pop() if self._half_received else buffers.take()
        except IndexError:  # another thread was faster
            incoming = buffers.take()
        if (whole := incoming.whole) is not None:
            return incoming, whole
        most = buffers.LONGEST if longest is None else min(longest, buffers.LONGEST)
        result = _AGAIN
        try:
            while result == _AGAIN:  # between two rounds the interpreter runs its signal handlers, which may raise
                result = native.receive(self._end, incoming.struct, most)
        except BaseException:
            if incoming.amid_frame or incoming.whole is not None:
                self._half_received.append(incoming)
            raise
        if result in (-errno.EAGAIN, -errno.ENOMEM) and incoming.amid_frame:
            self._half_received.append(incoming)
        elif result < 0:
            buffers.give_unused(incoming)
        if result < 0:
            if result == native.TOO_LONG and longest is not None:
                self._bad_message_length()
            self._failed(result)
        return incoming, result

    def _failed(self, result: int) -> NoReturn:
        if result in (native.TOO_LONG, native.BAD_HEADER):
            if self._writable:
                self._readable = False
            else:
                self.close()
            raise BadFrame()
        raise failure(result)

    def _poll(self, timeout: float | None) -> bool:
        result = _AGAIN
        deadline = deadline_of(timeout)
        while result == _AGAIN:
            result = native.readable(self._end, deadline)
        if result < 0:
            raise failure(result)
        return bool(result)


_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _forget_other_threads() -> None:
    """In the child of a fork: calls that other threads were in are not under way here, nor is half a message."""
    for made in list(_connections):
        made._end.users &= 1
        made._half_received.clear()
        made._half_sent.clear()


os.register_at_fork(after_in_child=_forget_other_threads)


def failure(result: int) -> Exception:
    """Make the exception of what a native call gave."""
    if result == native.END_OF_FILE:
        return EOFError()
    if result == native.CUT_SHORT:
        return TruncatedItem()
    if result in (native.TOO_LONG, native.BAD_HEADER):
        return BadFrame()
    if result == native.READER_DIED:
        return BadFrame("where the next item begins is not known: a reader died in the middle of one, or got garbage")
    if result == -errno.EBADF:
        return OSError(errno.EBADF, "handle is closed")
    if result == -errno.ENOMEM:
        return MemoryError("no memory for the message")
    return OSError(-result, os.strerror(-result))


def deadline_of(timeout: float | None) -> int:
    """Nanoseconds of the monotonic clock, as the native calls take them: -1 for ever, 0 not at all."""
    if timeout is None:
        return _WAIT_FOR_EVER
    return time.monotonic_ns() + int(timeout * 1e9) if timeout > 0 else 0


def _rebuild(fd: Any, readable: bool, writable: bool, elastic: bool, chunk: int) -> Connection:
    return Connection(fd.detach(), readable, writable, elastic=elastic, chunk=chunk)


def one_way(capacity: int | str, *, chunk: int = CHUNK) -> tuple[Connection, Connection]:
    """Make a pipe: its reader and its writer. `capacity` is "auto", elastic, or a size set once and for all.

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
