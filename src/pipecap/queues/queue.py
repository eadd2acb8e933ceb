"""Queue, JoinableQueue, SimpleQueue: drop-in for multiprocessing's, on an elastic pipe."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing import context, queues, util
from multiprocessing.context import BaseContext
from queue import Full
from typing import Any

from pipecap.errors import InvalidValue, LostItem
from pipecap.queues import native
from pipecap.queues.compat import StockNames
from pipecap.queues.connection import Connection, one_way
from pipecap.queues.feeder import Feeder
from pipecap.queues.native import AGAIN, AT_ONCE, CLOSED, COPIED, QUEUED, TIMED_OUT, WITHOUT_LIMIT, deadline_of, failure
from pipecap.queues.pickling import all_pickled, encoded, refusal
from pipecap.queues.receiver import Receiver
from pipecap.queues.sender import Sender
from pipecap.queues.shared import UNLIMITED, Shared, SharedLock
from pipecap.results import Result

# How long a put waits for room: a reader at work makes some in less time than handing over to the feeder would take.
_PATIENCE = 200_000


@dataclass(frozen=True, slots=True)
class Discarded(Result):
    """What close(discard=True) dropped: `items`, and their `size` in pickled bytes.

    `cut_short`: one more item was partly in the pipe. It still goes out if somebody reads before the process ends;
    otherwise its reader gets TruncatedItem.
    """

    items: int
    size: int
    cut_short: bool


class SharedPipe:
    """The pipe of a queue and what its processes share: what all three kinds have in common."""

    _reader: Connection
    _writer: Connection
    _sender: Sender
    _receiver: Receiver
    _counts = True  # whether it counts its items
    _joinable = False  # whether each is a task
    _patience: int | None = _PATIENCE

    def _make_pipe(self, capacity: int | str, chunk: int | str, maxsize: int) -> None:
        shared = Shared(maxsize)
        reader, writer = one_way(capacity, chunk=chunk)
        self._adopt(reader, writer, shared)

    def _adopt(self, reader: Connection, writer: Connection, shared: Shared) -> None:
        self._reader = reader
        self._writer = writer
        self._shared = shared
        self._rlock = SharedLock(shared, reader._end, reading=True)
        self._wlock = SharedLock(shared, writer._end, reading=False)
        sides = {"counts": self._counts, "tasks": self._joinable}
        self._receiver = reader.share(shared, **sides)  # type: ignore[assignment] # a read end's
        self._sender = writer.share(shared, **sides, patience=self._patience)  # type: ignore[assignment] # a write end's

    def debug_state(self) -> dict[str, Any]:
        """Return what the processes of this queue share, and what this one has under way; for tests and bug reports.

        `writing` and `reading` are the PIDs of the locks' owners, 0 where they are free. `participants` are the
        processes that used the queue: whether each is alive, and how that is known ("lock" or "pid"). See
        csrc/PROTOCOL.md.
        """
        shared, sender, receiver = self._shared, self._sender.struct, self._receiver.struct
        words = shared.struct
        return {
            "writing": shared.owner(reading=False),
            "reading": shared.owner(reading=True),
            "written": words.written,
            "consumed": words.consumed,
            "credits": words.credits,
            "unfinished": words.unfinished,
            "broken": bool(words.broken),
            "line": sender.items,
            "partly_sent": bool(sender.locked),
            "partly_received": bool(receiver.partial),
            "given_back": native.owed(receiver),
            "participants": shared.participants(),
        }

    def empty(self) -> bool:
        """Whether nothing can be read now, and no error is owed; an item may be on its way."""
        return not self._reader.poll()


class Queue(SharedPipe, StockNames, queues.Queue):  # type: ignore[type-arg] # a generic class to type checkers only
    """multiprocessing.Queue on an elastic pipe, with direct put, batches, an exit guard and discard.

    `put()` pickles at once: what happens to the object afterwards does not change the item, and an object that cannot
    be pickled raises NotPicklable here. A small item is in the pipe when `put()` returns, if it fits and no other
    process is writing; else a feeder thread sends it. Items of one process come out in the order they were put.

    `capacity` is "auto": the pipe grows before an item that would not fit, as far as the kernel grants (up to
    fs.pipe-max-size and the quota), and never shrinks. Or bytes: that size from the start (InvalidSize,
    ResizeRefused). `chunk` as of a Connection. `exit_warning`: seconds after which an exit that waits for unread items
    says so; None for never.
    """

    def __init__(
        self,
        maxsize: int = 0,
        *,
        ctx: BaseContext,
        capacity: int | str = "auto",
        chunk: int | str = "auto",
        exit_warning: float | None = 5.0,
    ) -> None:
        self._maxsize = min(maxsize, UNLIMITED) if maxsize > 0 else UNLIMITED
        self._exit_warning = exit_warning
        self._ignore_epipe = False
        self._opid = os.getpid()
        self._make_pipe(capacity, chunk, self._maxsize)
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
        self.forked()
        util.register_after_fork(self, Queue.forked)
        native.reset_in_children(self)

    def forked(self) -> None:
        """Start anew in this process: what another one has put is sent by that one."""
        self._closed = False
        self._feeder = Feeder(self._sender, self._reader, self._writer, self._exit_warning)
        self._feeder.ignore_epipe = self._ignore_epipe
        self._finish = util.Finalize(self, self._feeder.finish, exitpriority=10)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")

    def put(self, obj: object, block: bool = True, timeout: float | None = None) -> None:
        """Put an item; raises Full, NotPicklable, ValueError when closed, BrokenPipeError when nobody can read.

        It does not wait for another process that is writing: the item then waits in this one for its feeder thread.
        At the exit of the process, after its queues were flushed, it does nothing; but in a thread that the exit waits
        for it waits until the item is in the pipe.
        """
        feeder = self._feeder
        if feeder.is_finished:
            self._check_open()
            return self._put_late(obj, deadline_of(timeout, block=block))
        try:
            payload = encoded(obj)
        except Exception as error:  # pickling runs the object's own code, which may raise anything
            raise refusal(obj, error) from error.__cause__
        deadline = WITHOUT_LIMIT if block and timeout is None else deadline_of(timeout, block=block)
        result = AGAIN
        try:
            if type(payload) is bytes and len(payload) <= COPIED:
                while result == AGAIN:  # between two rounds the interpreter runs its signal handlers, which may raise
                    result = native.put(self._sender.struct, payload, len(payload), 0, deadline)
            else:
                feeder.start()  # a large item waits for what is in line
                result = self._sender.put(payload, deadline)
            if result:
                self._put_later(result)
        except BaseException:
            feeder.start()  # the item may be in line
            raise
        return None

    def _put_late(self, obj: object, deadline: int) -> None:
        """Put when the feeder thread has ended: by a record of its own, and wait until all is in the pipe."""
        if not self._feeder.is_waited_for():
            return self._feeder.refuse()
        late = Sender(self._writer._end, self._shared, counts=self._counts, tasks=self._joinable)
        result = late.put(all_pickled([obj])[0], deadline)
        if result == QUEUED:
            return Feeder(late, self._reader, self._writer, self._exit_warning).send_here()
        return self._put_later(result) if result else None

    def _put_later(self, result: int) -> None:
        """See to an item that was not sent at once: it is in line, or there is an error to raise."""
        if result == QUEUED:
            self._feeder.start()
        elif result == TIMED_OUT:
            raise Full
        elif result == CLOSED:
            self._check_open()  # quiet at the exit of the process
        else:
            raise failure(result)

    def put_many(self, items: Iterable[object], block: bool = True, timeout: float | None = None) -> None:
        """Put items in order, in few writes. Pickles all before it sends the first, so NotPicklable means none was put.

        Where `maxsize` does not have room for all, those that fit are put and the rest waits for room; Full at the
        `timeout`, of all together. Full, and every other error, has an attribute `put`: how many were.
        """
        self._check_open()
        payloads = all_pickled(list(items))
        deadline = deadline_of(timeout, block=block)
        done = 0
        try:
            while done < len(payloads):
                count = self._sender.put_many(payloads[done : done + 1000], deadline)
                if count < 0:
                    return self._put_later(count)
                done += count
                self._feeder.start()  # what waits in line has credits that the next ones may need
        except BaseException as error:
            self._feeder.start()
            error.put = done  # type: ignore[attr-defined] # documented
            raise

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return the next item; raises Empty, ValueError when closed, and for what arrived TruncatedItem or BadFrame.

        LostItem, once an item: another reader died with it. An item that has begun to arrive is waited for past the
        timeout; `block=False` never waits.
        """
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        deadline = (WITHOUT_LIMIT if timeout is None else deadline_of(timeout)) if block else AT_ONCE
        return self._receiver.get(deadline)

    def get_many(self, max_items: int = 2**32, timeout: float | None = None) -> list[Any]:
        """Return all items that are there, at least one and at most `max_items`, in few reads; Empty at the timeout.

        An item that cannot be unpickled raises its error, with the items before it in `items`; those after it stay.
        """
        self._check_open()
        if max_items < 1:
            raise InvalidValue("max_items", max_items, "at least 1", hint="leave it out for all that are there")
        return self._receiver.get_many(deadline_of(timeout), min(max_items, 2**32))

    def qsize(self) -> int:
        """Return the items put and not got yet, of all processes; those that wait in feeders count."""
        size: int = native.queue_size(self._shared.member, self._reader._end)
        return size + int(native.owed(self._receiver.struct))

    def full(self) -> bool:
        """Whether `maxsize` items are in it."""
        return bool(native.queue_size(self._shared.member, self._reader._end) >= self._maxsize)

    def close(self, *, discard: bool = False) -> Discarded | None:  # type: ignore[override] # returns what it dropped
        """Put no more from this process; what waits is still sent. `discard` drops it and returns what it was."""
        self._closed = True
        dropped = Discarded(*self._feeder.discard()) if discard else None
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
        result = AGAIN
        while result == AGAIN:
            result = native.task_done(self._shared.member)
        if result == -errno.EINVAL:
            raise ValueError("task_done() called too many times")
        if result:
            raise failure(result)

    def join(self) -> None:
        """Wait until task_done() was called for every item that was put.

        Raises LostItem, once, for items that a process took with it when it ended: in its feeder, or got and without
        task_done(). (Not where a process calls task_done() for items that another one got.)
        """
        result = AGAIN
        while result == AGAIN:
            result = native.wait_for_tasks(self._shared.member, self._writer._end, WITHOUT_LIMIT)
        if result > 0:
            raise LostItem(result)
        if result < 0:
            raise failure(result)


class SimpleQueue(SharedPipe, queues.SimpleQueue):  # type: ignore[type-arg] # the same
    """multiprocessing.SimpleQueue on an elastic pipe: `put()` itself writes, and waits where the pipe is full."""

    _counts = False
    _patience = None

    def __init__(self, *, ctx: BaseContext, capacity: int | str = "auto", chunk: int | str = "auto") -> None:
        self._make_pipe(capacity, chunk, UNLIMITED)

    def __getstate__(self) -> Any:
        context.assert_spawning(self)
        return self._reader, self._writer, self._shared

    def __setstate__(self, state: Any) -> None:
        self._adopt(*state)

    def close(self) -> None:
        """Close both ends in this process."""
        self._reader.close()
        self._writer.close()

    def get(self) -> Any:
        """Wait for the next item; raises EOFError when nobody can put any more, LostItem, TruncatedItem, BadFrame."""
        return self._receiver.get(WITHOUT_LIMIT)

    def put(self, obj: object) -> None:
        """Put an item, waiting until all of it is in the pipe; raises NotPicklable, BrokenPipeError.

        Waits, too, while another process has begun an item that does not fit in the pipe.
        """
        try:
            payload = encoded(obj)
        except Exception as error:
            raise refusal(obj, error) from error.__cause__
        self._sender.send(payload)
