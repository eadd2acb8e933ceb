"""The sending side of a queue in one process: straight into the pipe where it fits, else by the feeder thread.

Order holds because an item goes straight in only while none waits, and waiting items leave the line when they are sent,
not when they are taken up.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
import weakref
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from itertools import accumulate, islice
from multiprocessing import util

from pipecap._native import ffi, lib
from pipecap.errors import PipecapError
from pipecap.kernel import pipes
from pipecap.queues import frames
from pipecap.queues.frames import Outgoing
from pipecap.queues.shared import Shared
from pipecap.queues.transport import Connection, failure
from pipecap.results import Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pipecap.queues.frames import Payload

_log = logging.getLogger("pipecap")

# What the feeder joins into one go: bytes, items.
_BATCH_BYTES = 64 << 10
_BATCH_ITEMS = 1000
_NO_SLOT = -errno.ETIMEDOUT
# How long exit waits for an item that is half in the pipe after the rest was discarded.
_LAST_MOMENT = 0.2


def put_three_now(port: Any, payload: tuple[bytes, bytes, bytes], sent: Any) -> int:
    """Put an item with one large bytes object by pipecap_put_three_now()."""
    head, body, tail = payload
    return lib.pipecap_put_three_now(port, head, len(head), body, len(body), tail, len(tail), sent)


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
    """What one process puts into one queue."""

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
        self._progress = ffi.new("struct pipecap_progress *")
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

    def put(self, payload: Payload) -> bool:
        """Take a slot and send one item, now or later; False where there is no slot. OSError where nobody can read."""
        with self._mutex:
            self._used = True
            try:
                if self._waiting or isinstance(payload, list):
                    return self._put_slowly(payload)
                if isinstance(payload, bytes):
                    result = lib.pipecap_put_one_now(self._port, payload, len(payload), self._progress)
                else:
                    result = put_three_now(self._port, payload, self._progress)
                return result == 0 or self._is_taken_on(payload, result)
            except BaseException:  # out of a signal handler, or what _is_taken_on() raises
                self._settle(payload)
                raise

    def _put_slowly(self, payload: Payload) -> bool:
        if lib.pipecap_take_one(self._port, self._progress) < 0:
            return False
        result = lib.PIPECAP_WOULD_WAIT if self._waiting else self._send_now([payload])
        return result == 0 or self._is_taken_on(payload, result)

    def _is_taken_on(self, payload: Payload, result: int) -> bool:
        """Let the thread go on with an item that did not go out at once; False where there is no slot for it."""
        if result == _NO_SLOT:
            return False
        if result != lib.PIPECAP_WOULD_WAIT:
            raise failure(result)
        self._begin(payload)
        begun = self._begun is not None and len(self._waiting) == 1 and self._waiting[0] is payload
        if not begun:
            self._waiting.append(payload)
        self._progress.taken = 0
        self._call_thread(0 if begun else 1)
        return True

    def _begin(self, payload: Payload) -> None:
        """Put an item that is half sent in line, if it is; an exception may come in between, and this again."""
        if sent := self._progress.sent:
            if self._begun is None:
                outgoing = self._writer.outgoing(frames.pieces_of(payload), [frames.size_of(payload)])
                outgoing.skip(sent)
                self._begun = outgoing
            self._sending = 1
            if not self._waiting:
                self._waiting.append(payload)
            self._progress.sent = self._progress.taken = 0

    def _settle(self, payload: Payload) -> None:
        """After an exception: what is half sent goes on, of what is not sent the slot is given back."""
        self._begin(payload)
        if self._progress.taken:
            self._progress.taken = 0
            if not (self._waiting and self._waiting[-1] is payload):
                self._drop(1)
        self._call_for_waiting()

    def _call_for_waiting(self) -> None:
        if self._waiting:
            self._call_thread(0)

    def _drop(self, count: int) -> None:
        """Take back items that were not sent."""
        self._shared.give_slots(count)
        if self._joinable:
            lib.pipecap_task_done(self._shared.struct, count)

    def put_many(self, payloads: Sequence[Payload]) -> None:
        """Send items, for which slots are taken already, in few writes."""
        with self._mutex:
            self._used = True
            if self._joinable:
                lib.pipecap_add_unfinished(self._shared.struct, len(payloads))
            done = 0
            self._taken_up = 0
            try:
                while done < len(payloads) and not self._waiting:
                    result = self._send_now(payloads[done : done + _BATCH_ITEMS])
                    if result not in (0, lib.PIPECAP_WOULD_WAIT):
                        raise failure(result)
                    if not self._taken_up:
                        break
                    done, self._taken_up = done + self._taken_up, 0
            except BaseException:
                self._drop(len(payloads) - done - self._taken_up)
                self._call_for_waiting()
                raise
            self._waiting.extend(payloads[done:])
            if self._waiting:
                self._call_thread(len(payloads) - done)

    def _send_now(self, payloads: Sequence[Payload]) -> int:
        """Send the first of some payloads as far as that goes without waiting; `_taken_up` counts those.

        Where it stops half-way the frames under way become the thread's, which goes on with them, under the same lock.
        """
        outgoing, count = self._batch(payloads)
        result = lib.PIPECAP_WOULD_WAIT
        try:
            result = lib.pipecap_put_now(self._port, outgoing.struct)
        finally:  # also when an exception came out of a signal handler
            frames_sent = outgoing.struct  # no function is called here: that would be a moment for the next exception
            done = frames_sent.frame == frames_sent.frame_count
            if frames_sent.sent and (done or result == lib.PIPECAP_WOULD_WAIT):
                self._taken_up = count
                self._progress.taken = 0
                if not done:
                    self._begun = outgoing
                    self._sending = count
                    self._waiting.extend(payloads[:count])
        return result

    def _batch(self, payloads: Sequence[Payload]) -> tuple[Outgoing, int]:
        """Make frames of the first of some payloads; give them and how many they are."""
        first = payloads[0]
        if not isinstance(first, bytes) or len(first) >= _BATCH_BYTES:
            return self._writer.outgoing(frames.pieces_of(first), [frames.size_of(first)]), 1
        batch: list[Any] = list(islice(payloads, _BATCH_ITEMS))  # of bytes
        kinds = list(map(type, batch))
        if kinds.count(bytes) != len(kinds):
            del batch[next(i for i, kind in enumerate(kinds) if kind is not bytes) :]
        sizes = list(map(len, batch))
        if sum(sizes) > _BATCH_BYTES:
            count = bisect_right(list(accumulate(sizes)), _BATCH_BYTES)
            del batch[count:], sizes[count:]
        return self._writer.outgoing([b"".join(batch)], sizes), len(sizes)

    # ---- the thread ----

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
                result = lib.pipecap_put(self._port, outgoing.struct)
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
                items=len(self._waiting), size=sum(map(frames.size_of, self._waiting)), cut_short=bool(begun)
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

    # ---- the exit guard ----

    def _warn(self) -> None:
        with self._mutex:
            items, size = len(self._waiting), sum(map(frames.size_of, self._waiting))
        message = (
            f"process {os.getpid()} waits to end: {size:,} bytes of {items:,} item(s) that it put into {self}"
            f" are not sent; {self._pipe_now()}; {self._who_could_read()}. Fix: get() them before join(), or"
            " `for item in pipecap.drain(queue, [process])`, in the process that reads;"
            " or give them up in this one: queue.close(discard=True)."
            f" `python -m pipecap doctor {os.getpid()}` tells who should read"
        )
        if _log.hasHandlers():
            _log.warning("%s", message)
        sys.stderr.write(f"pipecap: {message}\n")

    def _pipe_now(self) -> str:
        try:
            state = pipes.state(self._writer.fileno())
        except (PipecapError, OSError) as error:
            return f"its pipe cannot be looked at: {error}"
        text = f"its pipe is {'' if state.full else 'not '}full ({state.unread:,} unread of {state.capacity:,} bytes)"
        if not self._writer._end.elastic:
            return f"{text}, of a fixed capacity"
        try:
            pipes.resize(self._writer.fileno(), state.capacity * 2)
        except (PipecapError, OSError) as error:
            return f"{text} and cannot grow: {error}"
        return f"{text}, and was let grow now"

    def _who_could_read(self) -> str:
        reader = self._shared.struct.last_reader
        if not reader:
            return "nobody has read from it so far"
        ended = " and has ended" if lib.pipecap_has_ended(reader) else ""
        return f"process {reader} read from it last{ended}"
