"""drain() and join(): read a queue until its producers are gone, whatever becomes of them.

No sentinel items and no empty(): the pipe and the processes' sentinels are waited for together, and the pipe is read to
its end after the last producer was seen gone.
"""

from __future__ import annotations

import errno
import time
import weakref
from collections.abc import Iterable, Iterator
from multiprocessing import connection, process
from queue import Empty
from typing import Any, Protocol

from pipecap.errors import BadFrame, DrainTimeout, TruncatedItem
from pipecap.queues import buffers, native, pickling
from pipecap.queues.connection import deadline_of, failure
from pipecap.queues.queue import Queue, SimpleQueue
from pipecap.targets import QueueParts, queue_parts

# How long nothing may move before a lock is taken to be held by a process that died: only where the lock itself cannot
# tell, and only after a producer did not end well.
_ABANDONED_AFTER = 0.5
# How often those that are waited for are looked at, besides their sentinels: a sentinel is held open by grandchildren.
_LOOK_EVERY = 0.25
_LOCKED_PAUSE = 0.01
# How long the rest of an item is waited for before the producers are looked at again.
_REST = 0.05


class _Source(Protocol):
    """A queue, as drain() reads it."""

    reader: Any

    def take(self, timeout: float | None) -> Any:
        """Give an item; Empty where none is there now. `timeout` is for one whose rest is still on its way."""

    def free_locks(self, *, died: bool, all_gone: bool) -> None:
        """Free the locks that dead processes hold. `died`: a producer did; `all_gone`: none is left."""

    def finish(self) -> list[Any]:
        """Give an item that is half here, of a producer not named; TruncatedItem where its rest never comes."""


class _OwnSource:
    """One of our queues: its locks know their holders, and a get() finds out itself about a writer that died."""

    def __init__(self, queue: Queue | SimpleQueue) -> None:
        self.reader = queue._reader
        self._queue = queue

    def take(self, timeout: float | None) -> Any:
        queue = self._queue
        if not self._begun() and not queue._left and not self.reader.poll():
            raise Empty
        rest = _REST if timeout is None else min(timeout + 0.001, _REST)
        return queue._one(deadline_of(rest), may_stop=True)

    def _begun(self) -> bool:
        """Whether an item was read in part: here, or its header along with the item before."""
        return bool(self._queue._half_received or self._queue._shared.struct.ahead_count)

    def free_locks(self, *, died: bool, all_gone: bool) -> None:
        shared = self._queue._shared
        native.free_abandoned(shared.struct, self.reader.fileno(), shared.me, False)

    def finish(self) -> list[Any]:
        queue = self._queue
        if not self._begun() and not queue._shared.struct.cut_short:
            return []
        return [queue._one(0)]


# Stock queues of which half an item was read when the time was up: the rest is for the next drain().
_half_read: weakref.WeakKeyDictionary[object, _StockSource] = weakref.WeakKeyDictionary()


class _StockSource:
    """A queue of multiprocessing, or one built like it: its locks do not know who holds them."""

    def __init__(self, parts: QueueParts) -> None:
        self.reader = parts.reader
        self._parts = parts
        self._end = native.new("struct pipecap_end *", {"fd": parts.reader.fileno()})
        self._incoming = buffers.take()
        self.locked = False
        self._quiet_since: float | None = None

    def take(self, timeout: float | None) -> Any:
        if not self.locked:
            if not self._parts.read_lock.acquire(block=False):
                raise Empty
            self.locked = True
        size = native.receive_now(self._end, self._incoming.struct, buffers.LONGEST)
        if size in (-errno.EAGAIN, -errno.EINTR, native.END_OF_FILE) and self._incoming.amid_frame:
            raise Empty  # the lock stays: the rest is ours
        self._release()
        if size < 0:
            if size in (-errno.EAGAIN, -errno.EINTR, native.END_OF_FILE):
                raise Empty
            raise failure(size)
        self._quiet_since = None
        self._give_slot()
        return pickling.loads(self._incoming.payload(size))

    def _release(self) -> None:
        if self.locked:
            self.locked = False
            self._parts.read_lock.release()

    def _give_slot(self) -> None:
        if self._parts.slots is not None:
            self._parts.slots.release()

    def free_locks(self, *, died: bool, all_gone: bool) -> None:
        parts = self._parts
        if all_gone and not self.locked and self.reader.poll():
            # Bytes lie there and we could not take them: another reader holds the lock, or died holding it.
            if self._nothing_moves():
                parts.read_lock.release()
        elif died and not self.reader.poll() and parts.write_lock is not None:
            if parts.write_lock.acquire(block=False):
                parts.write_lock.release()
                self._quiet_since = None
            elif self._nothing_moves():
                self._drop_half()
                parts.write_lock.release()
        else:
            self._quiet_since = None

    def _nothing_moves(self) -> bool:
        """Whether it has been like this for so long that whoever holds the lock must be dead."""
        now = time.monotonic()
        if self._quiet_since is None:
            self._quiet_since = now
        return now - self._quiet_since > _ABANDONED_AFTER

    def _drop_half(self) -> None:
        """Give up an item of which no more will come; the stream is between two items, as its writer died."""
        self._quiet_since = None
        if self._incoming.amid_frame:
            self._incoming = buffers.take()
            self._release()
            self._give_slot()
            self._cut_short = True

    _cut_short = False

    def finish(self) -> list[Any]:
        if self._incoming.amid_frame:
            self._drop_half()
        if self._cut_short:
            raise TruncatedItem()
        return []


def drain(queue: object, processes: Iterable[process.BaseProcess], *, timeout: float | None = None) -> Iterator[Any]:
    """Give the items of a queue until all `processes` that put into it have ended and it is empty.

    `queue` is a Queue, JoinableQueue or SimpleQueue of pipecap or of the standard library; other consumers may read
    beside. A process that was never started counts as ended. An item that a producer cut short, because it was killed
    while it sent it, raises TruncatedItem after all whole items came out; so does what is no item at all (BadFrame).
    After `timeout` seconds DrainTimeout; what came out before is valid and the queue goes on. A lock that a killed
    producer left taken is freed, so that the others can go on. (A stock queue that timed out in the middle of an item
    can only be read by another drain() or join() of this process: they have the first half.)

    Call it in the process that started the producers. Raises NotAPipe for what is no queue.
    """
    source: _Source
    if isinstance(queue, Queue | SimpleQueue):
        source = _OwnSource(queue)
    else:
        parts = queue_parts(queue)
        source = _half_read.pop(queue) if queue in _half_read else _StockSource(parts)
    deadline = None if timeout is None else time.monotonic() + timeout
    return _drained(queue, source, list(processes), deadline)


def _drained(
    queue: object, source: _Source, processes: list[process.BaseProcess], deadline: float | None
) -> Iterator[Any]:
    try:
        yield from _drain(source, processes, deadline)
    finally:
        if isinstance(source, _StockSource) and source.locked:
            _half_read[queue] = source


def _drain(source: _Source, processes: list[process.BaseProcess], deadline: float | None) -> Iterator[Any]:
    failed: Exception | None = None
    while not isinstance(failed, BadFrame):
        running = [producer for producer in processes if _is_running(producer)]  # before the pipe is looked at
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            yield source.take(left)
        except Empty:
            if not running and not source.reader.poll():
                break
        except (TruncatedItem, BadFrame) as error:
            failed = failed or error
            continue
        else:
            continue
        if left == 0:
            raise DrainTimeout([producer.pid for producer in running if producer.pid is not None])
        died = any(producer.exitcode for producer in processes if producer not in running)
        source.free_locks(died=died, all_gone=not running)
        _wait(source.reader, running, left, died=died)
    try:
        yield from source.finish()
    except Empty:
        pass  # another reader was faster
    except (TruncatedItem, EOFError) as error:
        failed = failed or error
    if failed:
        raise failed


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


def join(processes: Iterable[process.BaseProcess], queue: object, *, timeout: float | None = None) -> list[Any]:
    """Wait until all `processes` have ended, reading what they put into `queue` meanwhile; give what that was.

    As drain(), and then Process.join(). TruncatedItem, BadFrame and DrainTimeout have an attribute `items`: what came
    out before.
    """
    producers = list(processes)
    items: list[Any] = []
    try:
        items.extend(drain(queue, producers, timeout=timeout))
    except (TruncatedItem, BadFrame, DrainTimeout) as error:
        error.items = items
        raise
    finally:
        for producer in producers:
            if producer.pid is not None and producer.exitcode is not None:
                producer.join()
    return items
