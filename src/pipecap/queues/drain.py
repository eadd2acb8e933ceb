"""drain() and join(): read a queue until its producers are gone, whatever becomes of them.

No sentinel items and no empty(): the pipe and the processes' sentinels are waited for together, and the pipe is read to
its end after the last producer was seen gone.
"""

from __future__ import annotations

import os
import time
import warnings
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing import connection, process
from queue import Empty
from typing import Any, Protocol

from pipecap.errors import BadFrame, DrainTimeout, InvalidValue, LostItem, TruncatedItem
from pipecap.kernel import pipes
from pipecap.kernel.holders import may_be_at_work
from pipecap.queues import native
from pipecap.queues.queue import Queue, SimpleQueue
from pipecap.queues.receiver import Receiver
from pipecap.targets import QueueParts, queue_parts

# How long nothing may move before a stock lock is examined: only then, and only where no living process can own it.
_ABANDONED_AFTER = 0.5
# How often the producers are looked at, besides their sentinels: a sentinel is held open by grandchildren.
_LOOK_EVERY = 0.25
_LOCKED_PAUSE = 0.01


_NONE = object()
_WHAT_IS_A_PROCESS = "what ctx.Process() returned, in a list"


class _Source(Protocol):
    """A queue, as drain() reads it."""

    reader: Any

    def take(self) -> Any:
        """Return an item; Empty where none is whole now."""

    def free_locks(self, *, died: bool) -> None:
        """Free the locks that dead processes own. `died`: a producer did."""

    def finish(self) -> None:
        """Raise what is owed now that all producers are gone: TruncatedItem, LostItem."""


class _OwnSource:
    """One of our queues: its locks know their owners, and a get() finds out itself about a process that died."""

    def __init__(self, queue: Queue | SimpleQueue) -> None:
        self.reader = queue._reader
        self._queue = queue

    def take(self) -> Any:
        return self._queue._receiver.get(native.EAGER)

    def free_locks(self, *, died: bool) -> None:
        """Do nothing: the next owner takes them over."""

    def finish(self) -> None:
        lost = native.claim_lost(self._queue._shared.member, self.reader._end)
        if lost > 0:
            raise LostItem(lost)


# Stock queues of which a part of an item was read when the time was up: the rest is for the next drain().
_partly_read: weakref.WeakKeyDictionary[object, _StockSource] = weakref.WeakKeyDictionary()


class _StockSource:
    """A queue of multiprocessing, or one built like it: its locks do not know who owns them."""

    def __init__(self, parts: QueueParts) -> None:
        self.reader = parts.reader
        self._parts = parts
        self._receiver = Receiver(native.new_end(parts.reader.fileno(), elastic=False))
        self.locked = False
        self._item: Any = _NONE
        self._owes_credit = False
        self._cut_short = False
        self._idle_since: float | None = None
        self._unread = 0

    def take(self) -> Any:
        """Return an item. It stays here until lock and credit are given back, whatever a signal handler raises."""
        if self._item is _NONE:
            self._receive()
        self._release()
        if self._owes_credit:
            self._owes_credit = False
            self._give_credit()
        self._idle_since = None
        item, self._item = self._item, _NONE
        return item

    def _receive(self) -> None:
        if not self.locked:
            try:
                self.locked = self._parts.read_lock.acquire(block=False)
            except BaseException:  # out of a signal handler, perhaps as it was acquired
                self.locked = _is_ours(self._parts.read_lock)
                raise
            if not self.locked:
                raise Empty
        try:
            self._item = self._receiver.get(native.AT_ONCE)
            self._owes_credit = True
        except BaseException as error:
            self._cut_short |= isinstance(error, TruncatedItem)
            if not self._is_partial():
                self._release()  # else the lock stays: the rest is ours
            if isinstance(error, EOFError):
                raise Empty from None
            raise

    @property
    def is_needed(self) -> bool:
        """Whether the next drain() of the queue must continue with this."""
        return self.locked or self._item is not _NONE

    def _is_partial(self) -> bool:
        record = self._receiver.struct
        return bool(record.partial or record.have or native.owed(record))

    def _release(self) -> None:
        if self.locked:
            self.locked = False
            self._parts.read_lock.release()

    def _give_credit(self) -> None:
        if self._parts.slots is not None:
            self._parts.slots.release()

    def free_locks(self, *, died: bool) -> None:
        parts = self._parts
        if not self.locked and self.reader.poll():
            # Bytes lie there and we could not take them: another reader owns the lock, or died owning it.
            if self._is_abandoned("pipe_read"):
                parts.read_lock.release()
        elif died and not self.reader.poll() and parts.write_lock is not None:
            if parts.write_lock.acquire(block=False):
                parts.write_lock.release()
                self._idle_since = None
            elif self._is_abandoned("pipe_write"):
                self._drop_partial()
                parts.write_lock.release()
        else:
            self._idle_since = None

    def _is_abandoned(self, place: str) -> bool:
        """Whether nothing moved for a while, and no living process is amid a read, or a write, of the pipe."""
        now, fd = time.monotonic(), self.reader.fileno()
        unread = pipes.unread(fd)
        if self._idle_since is None or unread != self._unread:
            self._idle_since, self._unread = now, unread
        if now - self._idle_since <= _ABANDONED_AFTER:
            return False
        self._idle_since = now
        return not may_be_at_work(os.fstat(fd).st_ino, place)

    def _drop_partial(self) -> None:
        """Give up an item of which no more will come; the stream is between two items, as its writer died."""
        self._idle_since = None
        if self._is_partial():
            self._receiver = Receiver(native.new_end(self.reader.fileno(), elastic=False))
            self._release()
            self._give_credit()
            self._cut_short = True

    def finish(self) -> None:
        if self._is_partial():
            self._drop_partial()
        if self._cut_short:
            raise TruncatedItem()


def _is_ours(lock: Any) -> bool:
    """Whether this thread owns a multiprocessing.Lock."""
    return bool(lock._semlock._is_mine()) if hasattr(lock, "_semlock") else False


def drain(queue: object, processes: Iterable[process.BaseProcess], *, timeout: float | None = None) -> Iterator[Any]:
    """Yield the items of a queue until all `processes` that put into it have ended and it is empty.

    `queue` is a Queue, JoinableQueue or SimpleQueue of pipecap or of the standard library; other consumers may read
    beside. A process that was never started counts as ended. After all whole items came out: an item that a producer
    cut short, because it was killed while it sent it, raises TruncatedItem; items that a process took with it, in its
    feeder or half read, LostItem with their `count`; what is no item at all, BadFrame. Each is reported once: the first
    here, the others by the next drain(). After `timeout` seconds DrainTimeout; what came out before is valid
    and the queue can still be used. A lock that a killed process left taken
    is freed, so that the others can continue; of a stock queue, whose locks do not know their owners, only where no
    living process can be the owner. (A stock queue that timed out in the middle of an item can only be read by another
    drain() or join() of this process: they have the first part.)

    Call it in the process that started the producers. Raises NotAPipe for what is no queue, InvalidValue for what is no
    process.
    """
    source: _Source
    producers = _checked(processes)
    deadline = native.deadline_of(timeout)
    if isinstance(queue, Queue | SimpleQueue):
        source = _OwnSource(queue)
    else:
        parts = queue_parts(queue)
        source = _partly_read.pop(queue) if queue in _partly_read else _StockSource(parts)
    return _drained(queue, source, producers, deadline)


def _checked(processes: Iterable[process.BaseProcess]) -> list[process.BaseProcess]:
    if isinstance(processes, process.BaseProcess):
        raise InvalidValue("processes", processes, "a list of processes", hint="put it in a list: [process]")
    try:
        producers = list(processes)
    except TypeError:
        raise InvalidValue("processes", processes, "a list of processes", hint=_WHAT_IS_A_PROCESS) from None
    for producer in producers:
        if not isinstance(producer, process.BaseProcess) and not hasattr(producer, "sentinel"):
            raise InvalidValue("processes", producer, "a list of processes", hint=_WHAT_IS_A_PROCESS)
    return producers


def _drained(queue: object, source: _Source, processes: list[process.BaseProcess], deadline: int) -> Iterator[Any]:
    try:
        yield from _drain(source, processes, deadline)
    finally:
        if isinstance(source, _StockSource) and source.is_needed:
            _partly_read[queue] = source


def _first_of(failed: Exception | None, error: Exception) -> Exception:
    """Return the error to raise in the end; lost items are added up."""
    if isinstance(failed, LostItem) and isinstance(error, LostItem):
        return LostItem(failed.count + error.count)
    return failed or error


def _left(deadline: int) -> float | None:
    """Return the seconds until a deadline of deadline_of(), None without a limit."""
    if deadline == native.WITHOUT_LIMIT:
        return None
    return max(0.0, (deadline - native.deadline_in(0)) / 1e9)


def _drain(source: _Source, processes: list[process.BaseProcess], deadline: int) -> Iterator[Any]:
    failed: Exception | None = None
    while not isinstance(failed, BadFrame):
        running = [producer for producer in processes if _is_running(producer)]  # before the pipe is looked at
        left = _left(deadline)
        try:
            yield source.take()
        except Empty:
            if not running and not source.reader.poll():
                break
        except (TruncatedItem, LostItem, BadFrame) as error:
            failed = _first_of(failed, error)
            continue
        else:
            continue
        if left == 0:
            raise DrainTimeout([producer.pid for producer in running if producer.pid is not None])
        died = any(producer.exitcode for producer in processes if producer not in running)
        source.free_locks(died=died)
        _wait(source.reader, running, left, died=died)
    if failed:
        raise failed
    source.finish()  # else what it reports is left to the next drain(): each loss once


def _wait(reader: Any, running: list[process.BaseProcess], left: float | None, *, died: bool) -> None:
    """Wait until there may be something new: bytes, or an end."""
    sentinels = [producer.sentinel for producer in running]
    if reader.poll():  # what lies there is another reader's, for now
        pause, waited = _LOCKED_PAUSE, sentinels
    else:
        pause, waited = _LOOK_EVERY if not died else _ABANDONED_AFTER / 10, [reader, *sentinels]
    connection.wait(waited, pause if left is None else min(pause, left))


def _is_running(producer: process.BaseProcess) -> bool:
    """Whether it was started and has not ended."""
    return producer.pid is not None and producer.exitcode is None


def join(queue: object, processes: Iterable[process.BaseProcess], *, timeout: float | None = None) -> list[Any]:
    """Wait until all `processes` have ended, reading what they put into `queue` meanwhile; return what that was.

    As drain(), and then Process.join(). TruncatedItem, LostItem, BadFrame and DrainTimeout have an attribute `items`:
    what came out before; so has the error of an item that cannot be unpickled. The order of version 0.1, the processes
    first, still works, with a DeprecationWarning.
    """
    if not hasattr(queue, "get") and hasattr(processes, "get"):
        warnings.warn(
            "join(queue, processes): the queue comes first now, as in drain()", DeprecationWarning, stacklevel=2
        )
        queue, processes = processes, queue  # the old order
    producers = _checked(processes)
    items: list[Any] = []
    try:
        items.extend(drain(queue, producers, timeout=timeout))
    except BaseException as error:  # Ctrl-C too: what was read is in it
        with suppress(AttributeError):  # an exception class may have no room for it
            error.items = items  # type: ignore[attr-defined] # documented
        raise
    finally:
        for producer in producers:
            if producer.pid is not None and producer.exitcode is not None:
                producer.join()
    return items
