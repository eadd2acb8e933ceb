"""The receiving side of a queue in one process: one item at a time or many, interrupted or not.

What came of an item before an exception (Ctrl-C) is kept, under the read lock, for whoever gets next.
"""

from __future__ import annotations

import errno
import io
import os
import pickle
import threading
import weakref
from collections.abc import Callable
from queue import Empty
from typing import Any

from pipecap.queues import buffers, native, pickling
from pipecap.queues.buffers import Incoming, Outgoing
from pipecap.queues.connection import Connection, failure, one_way
from pipecap.queues.shared import Shared, SharedLock

_AGAIN = -errno.EINTR
_FOR_EVER = -1

# From so many bytes on a copy saved is worth the way. A pickler leaves a bytes object outside of its
# frames from 64 KiB on (pickle: _FRAME_SIZE_TARGET), so that it is found at the head of the pickle.
_large = 128 << 10


class _NotAtOnce(Exception):
    """Raised where the unpickler of this interpreter does not ask for all of a bytes object at once."""


def _do_without() -> None:
    """Receive large bytes objects as anything else from now on."""
    global _large
    _large = 0


class _Source:
    """The file of an unpickler that has a large bytes object filled."""

    __slots__ = ("read", "readinto", "readline")

    def __init__(self, rest: io.BytesIO, fill: Callable[[memoryview], int]) -> None:
        self.read = rest.read
        self.readline = rest.readline
        self.readinto = fill


class SharedPipe:
    """The pipe of a queue and what its processes share: what all three kinds have in common."""

    _reader: Connection
    _writer: Connection
    _counts = True  # whether it counts its items
    _joinable = False  # whether each is a task

    def _make_pipe(self, capacity: int | str, slots: int) -> None:
        shared = Shared(slots)
        reader, writer = one_way(capacity)
        self._adopt(reader, writer, shared)

    def _adopt(self, reader: Connection, writer: Connection, shared: Shared) -> None:
        self._reader = reader
        self._writer = writer
        self._shared = shared
        self._rlock = SharedLock(shared, writer._end, reading=True)
        self._wlock = SharedLock(shared, writer._end, reading=False)
        # A frame that an exception came into while it was read; the read lock is still held for it.
        self._half_received: list[Incoming] = []
        # Items that came with it, pickled, the next one last.
        self._left: list[bytes] = []
        # The same on its way out, under the write lock. (A Queue's is its feeder's.)
        self._half_sent: list[Outgoing] = []
        self._mutex = threading.Lock()  # of the threads that put
        self._read_port = shared.port(reader._end, count=self._counts)
        self._write_port = shared.port(writer._end, count=self._counts, tasks=self._joinable)
        _pipes.add(self)

    def _get(self, deadline: int) -> Any:
        if self._left or self._half_received:
            return self._one(deadline)
        # The common case, in the fewest steps.
        incoming = buffers.take()
        port = self._read_port
        size = _AGAIN
        try:
            while size == _AGAIN:
                size = native.get(port, incoming.struct, deadline, buffers.LONGEST, 1, _large)
            if size == native.LARGE_BYTES:
                return self._get_large(incoming)
        except _NotAtOnce:
            size = _AGAIN
        except BaseException:  # out of a signal handler, or for want of memory
            self._keep(incoming)
            raise
        if size < 0:
            incoming, size = self._receive(deadline, 1, incoming, size)
        item = pickling.loads(incoming.payload(size))
        buffers.give(incoming)
        return item

    def _get_large(self, incoming: Incoming) -> Any:
        """Give a large bytes object, received straight into its own memory: the unpickler makes it and has it filled.

        The read lock is held meanwhile. What came of it before an exception is in `incoming`, for _keep().
        """
        struct = incoming.struct
        rest = io.BytesIO(native.buffer(struct.data + buffers.HEADER, native.BODY_HEAD)[:])

        def fill(view: memoryview) -> int:
            if not struct.body:  # filled already: the pickle has more in it after all
                return rest.readinto(view)
            with view, native.from_buffer("uint8_t[]", view) as body:
                if view.nbytes != struct.body:
                    _do_without()
                    raise _NotAtOnce
                result = _AGAIN
                try:
                    while result == _AGAIN:  # between two rounds the interpreter runs its signal handlers
                        result = native.get_body(self._read_port, struct, body, view.nbytes)
                    if result < 0:
                        raise failure(result)
                    position = rest.tell()
                    rest.write(native.buffer(struct.data + buffers.HEADER + position, native.BODY_TAIL))
                    rest.seek(position)
                    size = view.nbytes
                    struct.body = struct.frame_count = 0  # from here on it is the unpickler's
                except BaseException:
                    if native.keep_body(struct, body) < 0:
                        self._lose(incoming)
                    raise
            return size

        item = pickle.Unpickler(_Source(rest, fill)).load()
        buffers.give_unused(incoming)
        return item

    def _lose(self, incoming: Incoming) -> None:
        """Give up an item of which a part is lost: where the next one begins, nobody knows."""
        struct = incoming.struct
        self._shared.struct.broken = 1
        struct.frame_count = 0
        if struct.locked:
            struct.locked = 0
            native.unlock(self._shared.struct, True)

    def _one(self, deadline: int, *, may_stop: bool = False) -> Any:
        """Give the next item where some came that a get_many() was interrupted over."""
        try:
            payload = self._left.pop()
        except IndexError:
            incoming, _ = self._receive(deadline, 1, may_stop=may_stop)
            payload, *more = [bytes(payload) for payload in incoming.payloads()]
            self._left[:0] = more[::-1]
            buffers.give(incoming)
        return pickling.loads(payload)

    def _receive(
        self,
        deadline: int,
        max_frames: int,
        incoming: Incoming | None = None,
        result: int = _AGAIN,
        *,
        may_stop: bool = False,
    ) -> tuple[Incoming, int]:
        """Give a buffer with at least one frame, and the payload bytes of the first. Raises Empty at the deadline.

        `incoming` and `result` are those of a first try. An item that has begun to arrive is waited for, past the
        deadline, as the standard library does; with `may_stop` its half is kept, under the read lock, for the next
        call.
        """
        try:
            if incoming is None:
                incoming = self._half_received.pop() if self._half_received else buffers.take()
        except IndexError:  # another thread was faster
            incoming = buffers.take()
        try:
            if (whole := incoming.whole) is not None:
                return incoming, whole
            # Between two rounds the interpreter runs its signal handlers, which may raise.
            while result == _AGAIN or (result == -errno.ETIMEDOUT and not may_stop and incoming.struct.locked):
                if result != _AGAIN:
                    deadline = _FOR_EVER
                result = native.get(self._read_port, incoming.struct, deadline, buffers.LONGEST, max_frames, 0)
        except BaseException:
            self._keep(incoming)
            raise
        if result >= 0:
            return incoming, result
        self._keep(incoming)
        if result == -errno.ETIMEDOUT:
            raise Empty
        raise failure(result)

    def _keep(self, incoming: Incoming) -> None:
        """Keep what came, of an item or more, for who gets next; the read lock stays held while one is half here."""
        if incoming.struct.body_filled and incoming.struct.body:  # a second exception, while the first was dealt with
            self._lose(incoming)
        if incoming.struct.locked or incoming.whole is not None:
            self._half_received.append(incoming)
        else:
            buffers.give_unused(incoming)


_pipes: weakref.WeakSet[SharedPipe] = weakref.WeakSet()


def _forget_halves() -> None:
    """In the child of a fork: an item that is half here, or half sent, is the parent's to go on with."""
    for pipe in list(_pipes):
        pipe._half_received = []
        pipe._left = []
        pipe._half_sent = []
        pipe._mutex = threading.Lock()


os.register_at_fork(after_in_child=_forget_halves)
