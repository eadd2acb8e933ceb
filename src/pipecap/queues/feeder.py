"""The line of items that wait for room in the pipe, and the thread that sends them.

Items leave the line when they are sent, not when they are taken up.
"""

from __future__ import annotations

import errno
import logging
import threading
import weakref
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from itertools import accumulate, islice
from multiprocessing import util

from pipecap.queues import exit_guard, native, pickling
from pipecap.queues.buffers import Outgoing
from pipecap.queues.connection import Connection, failure
from pipecap.queues.shared import Shared
from pipecap.results import Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pipecap.queues.pickling import Payload

_log = logging.getLogger("pipecap")

# What the feeder joins into one go: bytes, items.
_BATCH_BYTES = 64 << 10
BATCH_ITEMS = 1000
# How long exit waits for an item that is half in the pipe after the rest was discarded.
_LAST_MOMENT = 0.2


@dataclass(frozen=True, slots=True)
class Discarded(Result):
    """What close(discard=True) dropped: `items`, and their `size` in pickled bytes.

    `cut_short`: one more item was half in the pipe. It still goes out if somebody reads before the process ends;
    otherwise its reader gets TruncatedItem.
    """

    items: int
    size: int
    cut_short: bool


class Feeder:
    """What one process has put into one queue and could not send at once."""

    def __init__(
        self,
        reader: Connection,
        writer: Connection,
        shared: Shared,
        port: Any,
        *,
        exit_warning: float | None,
        joinable: bool,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._shared = shared
        self._port = port
        self._exit_warning = exit_warning
        self._joinable = joinable
        self._progress = native.new("struct pipecap_progress *")
        self._mutex = threading.Lock()
        self._wake = threading.Condition(self._mutex)
        self._waiting: deque[Payload] = deque()
        self._sending = 0  # of those that wait, how many are under way
        self._taken_up = 0  # of a batch, those that are sent or begun
        self._begun: Outgoing | None = None  # these, where put() has begun them
        self._idle = False
        self._closing = False
        self._discarded = False
        self._used = False
        self._thread: threading.Thread | None = None
        self._join: util.Finalize | None = None
        self._join_cancelled = False
        self.ignore_epipe = False

    def _drop(self, count: int) -> None:
        """Take back items that were not sent."""
        self._shared.give_slots(count)
        if self._joinable:
            native.task_done(self._shared.struct, count)

    def _batch(self, payloads: Sequence[Payload]) -> tuple[Outgoing, int]:
        """Make frames of the first of some payloads; give them and how many they are."""
        first = payloads[0]
        if not isinstance(first, bytes) or len(first) >= _BATCH_BYTES:
            return self._writer.outgoing(pickling.pieces_of(first), [pickling.size_of(first)]), 1
        batch: list[Any] = list(islice(payloads, BATCH_ITEMS))  # of bytes
        kinds = list(map(type, batch))
        if kinds.count(bytes) != len(kinds):
            del batch[next(i for i, kind in enumerate(kinds) if kind is not bytes) :]
        sizes = list(map(len, batch))
        if sum(sizes) > _BATCH_BYTES:
            count = bisect_right(list(accumulate(sizes)), _BATCH_BYTES)
            del batch[count:], sizes[count:]
        return self._writer.outgoing([b"".join(batch)], sizes), len(sizes)

    def _call_for_waiting(self) -> None:
        if self._waiting:
            self._call_thread(0)

    def _call_thread(self, new: int) -> None:
        """See to it that the thread takes up what waits; if none can be started, take the last `new` items back."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._feed, name="QueueFeederThread", daemon=True)
            try:
                self._thread.start()
                if not self._join_cancelled:
                    self._join = util.Finalize(
                        self._thread, Feeder._join_at_exit, [weakref.ref(self._thread), self], exitpriority=-5
                    )
            except BaseException as error:  # the next put() tries again; a thread that did start sees it is not the one
                self._thread = self._join = None
                if isinstance(error, RuntimeError):  # "can't start new thread"
                    for _ in range(new):
                        self._waiting.pop()
                    self._drop(new)
                raise
        elif self._idle:
            self._wake.notify()

    def _feed(self) -> None:
        with self._mutex:
            if self._thread is not threading.current_thread():
                return
        while (outgoing := self._next()) is not None:
            outgoing.struct.patient = True
            result = -errno.EINTR
            while result == -errno.EINTR:
                result = native.put(self._port, outgoing.struct)
            with self._mutex:
                lost = self._sending - outgoing.struct.frame
                for _ in range(self._sending):
                    self._waiting.popleft()
                self._sending = 0
            if result < 0:
                self._drop(lost)
                if not (self.ignore_epipe and result == -errno.EPIPE):
                    _log.error("%d item(s) of %s were lost: %s", lost, self, failure(result))
            del outgoing
        self._close_ends()

    def _next(self) -> Outgoing | None:
        """Wait for items; None when there will be no more."""
        with self._mutex:
            while not self._waiting and not self._closing:
                self._idle = True
                self._wake.wait()
                self._idle = False
            if self._begun is not None:
                outgoing, self._begun = self._begun, None
            elif self._waiting:
                outgoing, self._sending = self._batch(self._waiting)
            else:
                return None
            return outgoing

    def __repr__(self) -> str:
        return f"the queue on fd {self._writer._end.fd}"

    def _close_ends(self) -> None:
        self._reader.close()
        self._writer.close()

    # ---- the end ----

    def finish(self) -> None:
        """Send what waits, then close both ends of the pipe in this process; returns at once."""
        with self._mutex:
            self._closing = True
            if self._thread is not None:
                self._wake.notify()
            elif self._used:
                self._close_ends()

    def discard(self) -> Discarded:
        """Drop all items that the thread has not begun to send; exit will not wait for the rest either."""
        with self._mutex:
            self._discarded = True
            begun = [self._waiting.popleft() for _ in range(self._sending)]
            dropped = Discarded(
                items=len(self._waiting), size=sum(map(pickling.size_of, self._waiting)), cut_short=bool(begun)
            )
            self._waiting.clear()
            self._waiting.extend(begun)
        self._drop(dropped.items)
        return dropped

    def cancel_join(self) -> None:
        """Let the process exit without waiting for the thread."""
        self._join_cancelled = True
        if self._join is not None:
            self._join.cancel()

    def join(self) -> None:
        """Wait until all is sent; after exit_warning seconds one warning says what the wait is for."""
        if self._join is not None:
            self._join()

    @staticmethod
    def _join_at_exit(thread_ref: weakref.ref[threading.Thread], feeder: Feeder) -> None:
        thread = thread_ref()
        if thread is None:
            return
        if feeder._discarded:
            thread.join(_LAST_MOMENT)
            return
        thread.join(feeder._exit_warning)
        if thread.is_alive():
            feeder._warn()
            thread.join()

    def _warn(self) -> None:
        with self._mutex:
            items, size = len(self._waiting), sum(map(pickling.size_of, self._waiting))
        exit_guard.warn(repr(self), items, size, self._writer, self._shared)
