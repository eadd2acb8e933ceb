"""Queue, JoinableQueue, SimpleQueue: drop-in for multiprocessing's, on an elastic pipe."""

from __future__ import annotations

import errno
import io
import os
import pickle
import weakref
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import context, queues, util
from multiprocessing.context import BaseContext
from queue import Empty, Full
from typing import Any

from pipecap._native import ffi, lib
from pipecap.errors import NotPicklable
from pipecap.queues import frames
from pipecap.queues.feeder import Discarded, Feeder, put_three_now
from pipecap.queues.frames import Incoming, Outgoing
from pipecap.queues.shared import MOST_SLOTS, Shared, SharedLock, retried
from pipecap.queues.transport import Connection, deadline_of, failure, one_way

_AGAIN = -errno.EINTR
_FOR_EVER = -1
_ALL = -1


# From so many bytes on a copy saved is worth the way. A pickler leaves a bytes object outside of its
# frames from 64 KiB on (pickle: _FRAME_SIZE_TARGET), so that it is found at the head of the pickle.
_LARGE = 128 << 10


class _Source:
    """The file of an unpickler that has a large bytes object filled."""

    __slots__ = ("read", "readinto", "readline")

    def __init__(self, rest: io.BytesIO, fill: Callable[[memoryview], int]) -> None:
        self.read = rest.read
        self.readline = rest.readline
        self.readinto = fill


class _Pipe:
    """The pipe of a queue and what its processes share: what all three kinds have in common."""

    _reader: Connection
    _writer: Connection
    _counts = True  # whether it counts its items

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
        self._read_port = shared.port(reader._end, count=self._counts)
        self._write_port = shared.port(writer._end, count=self._counts)
        _pipes.add(self)

    def _get(self, deadline: int) -> Any:
        if self._left or self._half_received:
            return self._one(deadline)
        # The common case, in the fewest steps.
        incoming = frames.take()
        port = self._read_port
        size = _AGAIN
        try:
            while size == _AGAIN:
                size = lib.pipecap_get(port, incoming.struct, deadline, frames.LONGEST, 1, _LARGE)
        except BaseException:  # out of a signal handler
            self._keep(incoming)
            raise
        if size < 0:
            if size == lib.PIPECAP_LARGE_BYTES:
                return self._get_large(incoming)
            incoming, size = self._receive(deadline, 1, incoming, size)
        item = frames.loads(incoming.payload(size))
        frames.give(incoming)
        return item

    def _get_large(self, incoming: Incoming) -> Any:
        """Give a large bytes object, received straight into its own memory: the unpickler makes it and has it filled.

        The read lock is held meanwhile; no other code runs under it, as the pickle of a bytes object has none.
        """
        struct = incoming.struct
        rest = io.BytesIO(ffi.buffer(struct.data + frames.HEADER, lib.PIPECAP_BODY_HEAD)[:])

        def fill(view: memoryview) -> int:
            result = _AGAIN
            with view, ffi.from_buffer("uint8_t[]", view) as body:
                try:
                    while result == _AGAIN:  # between two rounds the interpreter runs its signal handlers
                        result = lib.pipecap_get_body(self._read_port, struct, body)
                    if result == 0:
                        position = rest.tell()
                        rest.write(ffi.buffer(struct.data + frames.HEADER + position, lib.PIPECAP_BODY_TAIL))
                        rest.seek(position)
                except BaseException:
                    self._keep_body(incoming, body)
                    raise
                if result == lib.PIPECAP_CUT_SHORT:
                    frames.give_unused(incoming)
                elif result < 0:
                    self._keep_body(incoming, body)
            if result < 0:
                raise failure(result)
            return int(struct.body)

        item = pickle.Unpickler(_Source(rest, fill)).load()
        frames.give_unused(incoming)
        return item

    def _keep_body(self, incoming: Incoming, body: Any) -> None:
        """Keep what came of a large bytes object for who gets next."""
        if lib.pipecap_keep_body(incoming.struct, body) < 0:  # no memory: nobody can go on with it
            self._shared.struct.broken = 1
            if incoming.struct.locked:
                incoming.struct.locked = 0
                lib.pipecap_unlock(self._shared.struct, True)
        self._keep(incoming)

    def _one(self, deadline: int, *, may_stop: bool = False) -> Any:
        """Give the next item where some came that a get_many() was interrupted over."""
        if not self._left:
            incoming, _ = self._receive(deadline, 1, may_stop=may_stop)
            self._left = [bytes(payload) for payload in reversed(incoming.payloads())]
            frames.give(incoming)
        return frames.loads(self._left.pop())

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
            incoming = incoming or (self._half_received.pop() if self._half_received else frames.take())
        except IndexError:  # another thread was faster
            incoming = frames.take()
        if (whole := incoming.whole) is not None:
            return incoming, whole
        try:
            # Between two rounds the interpreter runs its signal handlers, which may raise.
            while result == _AGAIN or (result == -errno.ETIMEDOUT and not may_stop and incoming.struct.locked):
                if result != _AGAIN:
                    deadline = _FOR_EVER
                result = lib.pipecap_get(self._read_port, incoming.struct, deadline, frames.LONGEST, max_frames, 0)
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
        if incoming.struct.locked or incoming.whole is not None:
            self._half_received.append(incoming)
        else:
            frames.give_unused(incoming)


_pipes: weakref.WeakSet[_Pipe] = weakref.WeakSet()


def _forget_halves() -> None:
    """In the child of a fork: an item that is half here, or half sent, is the parent's to go on with."""
    for pipe in list(_pipes):
        pipe._half_received = []
        pipe._left = []
        pipe._half_sent = []


os.register_at_fork(after_in_child=_forget_halves)


def _all_pickled(objects: Sequence[object]) -> list[frames.Payload]:
    payloads: list[frames.Payload] = []
    try:
        frames.pickle_all(objects, payloads)
    except Exception as error:  # pickling runs the objects' own code, which may raise anything
        raise NotPicklable(type(objects[len(payloads)]).__name__, error) from error
    return payloads


class Queue(_Pipe, queues.Queue):  # type: ignore[type-arg] # a generic class to type checkers only
    """multiprocessing.Queue on an elastic pipe, with direct put, batches, an exit guard and discard.

    `put()` pickles at once: what happens to the object afterwards does not change the item, and an object that cannot
    be pickled raises NotPicklable here. A small item is in the pipe when `put()` returns, if it fits; what does not fit
    is sent by a feeder thread. Items of one process come out in the order they were put.

    `capacity` is "auto": the pipe grows before an item that would not fit, as far as the kernel grants (up to
    fs.pipe-max-size and the quota), and never shrinks. Or bytes: that size from the start (InvalidSize,
    ResizeRefused). `exit_warning`: seconds after which an exit that waits for unread items says so; None for never.
    """

    _joinable = False

    def __init__(
        self, maxsize: int = 0, *, ctx: BaseContext, capacity: int | str = "auto", exit_warning: float | None = 5.0
    ) -> None:
        self._maxsize = maxsize if maxsize > 0 else MOST_SLOTS
        self._exit_warning = exit_warning
        self._ignore_epipe = False
        self._opid = os.getpid()
        self._make_pipe(capacity, self._maxsize)
        self._start()

    def __getstate__(self) -> Any:
        context.assert_spawning(self)
        return (
            self._maxsize, self._exit_warning, self._ignore_epipe, self._opid, self._reader, self._writer, self._shared
        )  # fmt: skip

    def __setstate__(self, state: Any) -> None:
        self._maxsize, self._exit_warning, self._ignore_epipe, self._opid, *ends = state
        self._adopt(*ends)
        self._start()

    def _start(self) -> None:
        self._reset()
        util.register_after_fork(self, Queue._reset)

    def _reset(self) -> None:
        """Begin anew in this process: what another one has put is sent by that one."""
        self._closed = False
        self._half_received = []
        self._feeder = Feeder(
            self._reader,
            self._writer,
            self._shared,
            self._write_port,
            exit_warning=self._exit_warning,
            joinable=self._joinable,
        )
        self._feeder.ignore_epipe = self._ignore_epipe
        self._finish = util.Finalize(self, self._feeder.finish, exitpriority=10)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")

    def put(self, obj: object, block: bool = True, timeout: float | None = None) -> None:
        """Put an item; raises Full, NotPicklable, ValueError when closed, BrokenPipeError when nobody can read."""
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        try:
            payload = frames.pickled(obj)
        except Exception as error:  # pickling runs the object's own code, which may raise anything
            raise NotPicklable(type(obj).__name__, error) from error
        if self._feeder.put(payload):
            return
        deadline = deadline_of(timeout) if block else 0
        while not self._feeder.put(payload):
            if not self._shared.wait_for_slot(deadline):
                raise Full

    def put_many(self, items: Iterable[object], block: bool = True, timeout: float | None = None) -> None:
        """Put items in order, in few writes. Pickles all before it sends the first, so NotPicklable means none was put.

        Where `maxsize` does not have room for all, those that fit are put and the rest waits for room; Full, at the
        `timeout` (of all together), has an attribute `put`: how many were.
        """
        self._check_open()
        payloads = _all_pickled(list(items))
        deadline = deadline_of(timeout) if block else 0
        done = 0
        while done < len(payloads):
            count = self._shared.take_slots(len(payloads) - done, deadline)
            if not count:
                full = Full()
                full.put = done  # type: ignore[attr-defined] # told in the docstring
                raise full
            self._feeder.put_many(payloads[done : done + count])
            done += count

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Get the next item; raises Empty, ValueError when closed, and for what arrived TruncatedItem or BadFrame."""
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        deadline = (_FOR_EVER if timeout is None else deadline_of(timeout)) if block else 0
        return self._get(deadline)

    def get_many(self, max_items: int = 2**32, timeout: float | None = None) -> list[Any]:
        """Get all items that are there, at least one and at most `max_items`, in few reads; Empty at the timeout."""
        self._check_open()
        if max_items < 1:
            raise ValueError("max_items must be at least 1")
        if self._left:
            left = self._left[-max_items:]
            del self._left[-max_items:]
            return frames.receive_all(left[::-1])
        incoming, _ = self._receive(deadline_of(timeout), max_items)
        try:
            return frames.receive_all(incoming.payloads())
        finally:
            frames.give(incoming)

    def qsize(self) -> int:
        """Items put and not got yet, of all processes; those that wait in feeders count."""
        return self._maxsize - int(self._shared.struct.slots)

    def empty(self) -> bool:
        """Whether nothing can be read now; an item may be on its way."""
        return not self._reader.poll()

    def full(self) -> bool:
        """Whether `maxsize` items are in it."""
        return int(self._shared.struct.slots) == 0

    def close(self, *, discard: bool = False) -> Discarded | None:  # type: ignore[override] # tells what it dropped
        """Put no more from this process; what waits is still sent. `discard` drops it instead and gives what it was."""
        self._closed = True
        dropped = self._feeder.discard() if discard else None
        self._finish()
        return dropped

    def join_thread(self) -> None:
        """Wait until all that was put here is in the pipe; only after close()."""
        assert self._closed, f"Queue {self!r} not closed"
        self._feeder.join()

    def cancel_join_thread(self) -> None:
        """Let this process exit without waiting until all is in the pipe: what is not is lost."""
        self._feeder.cancel_join()


class JoinableQueue(Queue, queues.JoinableQueue):  # type: ignore[type-arg] # the same
    """multiprocessing.JoinableQueue, as Queue is multiprocessing.Queue."""

    _joinable = True

    def task_done(self) -> None:
        """Say that an item got before is dealt with; ValueError when said more often than items were put."""
        if lib.pipecap_task_done(self._shared.struct, 1) < 0:
            raise ValueError("task_done() called too many times")

    def join(self) -> None:
        """Wait until task_done() was called for every item that was put."""
        result = retried(lib.pipecap_all_done, self._shared.struct, _FOR_EVER)
        if result < 0:
            raise failure(result)


class SimpleQueue(_Pipe, queues.SimpleQueue):  # type: ignore[type-arg] # the same
    """multiprocessing.SimpleQueue on an elastic pipe: `put()` itself writes, and waits where the pipe is full."""

    _counts = False

    def __init__(self, *, ctx: BaseContext, capacity: int | str = "auto") -> None:
        self._make_pipe(capacity, MOST_SLOTS)

    def __getstate__(self) -> Any:
        context.assert_spawning(self)
        return self._reader, self._writer, self._shared

    def __setstate__(self, state: Any) -> None:
        self._adopt(*state)

    def close(self) -> None:
        """Close both ends in this process."""
        self._reader.close()
        self._writer.close()

    def empty(self) -> bool:
        """Whether nothing can be read now."""
        return not self._reader.poll()

    def get(self) -> Any:
        """Wait for the next item; raises EOFError when nobody can put any more, TruncatedItem, BadFrame."""
        return self._get(_FOR_EVER)

    def put(self, obj: object) -> None:
        """Put an item, waiting until all of it is in the pipe; raises NotPicklable, BrokenPipeError."""
        try:
            payload = frames.pickled(obj)
        except Exception as error:
            raise NotPicklable(type(obj).__name__, error) from error
        sent = 0
        if not isinstance(payload, list) and not self._half_sent:
            sent = self._put_now(payload)
            if sent == _ALL:
                return
        outgoing: Outgoing | None = self._rest(payload, sent)
        if sent and outgoing is not None:
            self._half_sent.append(outgoing)
            outgoing = None
        while self._half_sent:
            self._drive(self._half_sent.pop())
        if outgoing is not None:
            self._drive(outgoing)

    def _put_now(self, payload: bytes | tuple[bytes, bytes, bytes]) -> int:
        """Put an item as far as it goes without waiting; give the bytes sent, or _ALL."""
        progress = ffi.new("uint64_t *")
        try:
            if isinstance(payload, bytes):
                result = lib.pipecap_put_one_now(self._write_port, payload, len(payload), progress)
            else:
                result = put_three_now(self._write_port, payload, progress)
        except BaseException:  # out of a signal handler
            if progress[0]:
                self._half_sent.append(self._rest(payload, progress[0]))
            raise
        if result == 0:
            return _ALL
        if result != lib.PIPECAP_WOULD_WAIT:
            raise failure(result)
        return int(progress[0])

    def _rest(self, payload: frames.Payload, sent: int) -> Outgoing:
        outgoing = self._writer.outgoing(frames.pieces_of(payload), [frames.size_of(payload)])
        if sent:
            outgoing.skip(sent)
        return outgoing

    def _drive(self, outgoing: Outgoing) -> None:
        """Write all of it. Interrupted half-way it stays first in line, under the lock, for the next put()."""
        result = _AGAIN
        try:
            while result == _AGAIN:
                result = lib.pipecap_put(self._write_port, outgoing.struct)
        finally:
            if result == _AGAIN and outgoing.sent and not outgoing.done:
                self._half_sent.append(outgoing.own())
        if result < 0:
            raise failure(result)
