"""The sending side of a queue in one process: straight into the pipe where it fits, else by the feeder thread.

Order holds because an item goes straight in only while none waits.
"""

from __future__ import annotations

import errno

from pipecap.queues import native, pickling
from pipecap.queues.connection import failure
from pipecap.queues.feeder import BATCH_ITEMS, Feeder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pipecap.queues.pickling import Payload

_NO_SLOT = -errno.ETIMEDOUT


def put_three_now(port: Any, payload: tuple[bytes, bytes, bytes], sent: Any) -> int:
    """Put an item with one large bytes object by pipecap_put_three_now()."""
    head, body, tail = payload
    return native.put_three_now(port, head, len(head), body, len(body), tail, len(tail), sent)


class Sender(Feeder):
    """What one process puts into one queue."""

    def put(self, payload: Payload) -> bool:
        """Take a slot and send one item, now or later; False where there is no slot. OSError where nobody can read."""
        with self._mutex:
            self._used = True
            try:
                if self._waiting or isinstance(payload, list):
                    return self._put_slowly(payload)
                if isinstance(payload, bytes):
                    result = native.put_one_now(self._port, payload, len(payload), self._progress)
                else:
                    result = put_three_now(self._port, payload, self._progress)
                return result == 0 or self._is_taken_on(payload, result)
            except BaseException:  # out of a signal handler, or what _is_taken_on() raises
                self._settle(payload)
                raise

    def _put_slowly(self, payload: Payload) -> bool:
        if native.take_one(self._port, self._progress) < 0:
            return False
        result = native.WOULD_WAIT if self._waiting else self._send_now([payload])
        return result == 0 or self._is_taken_on(payload, result)

    def _is_taken_on(self, payload: Payload, result: int) -> bool:
        """Let the thread go on with an item that did not go out at once; False where there is no slot for it."""
        if result == _NO_SLOT:
            return False
        if result != native.WOULD_WAIT:
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
                outgoing = self._writer.outgoing(pickling.pieces_of(payload), [pickling.size_of(payload)])
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

    def put_many(self, payloads: Sequence[Payload]) -> None:
        """Send items, for which slots are taken already, in few writes."""
        with self._mutex:
            self._used = True
            if self._joinable:
                native.add_unfinished(self._shared.struct, len(payloads))
            done = 0
            self._taken_up = 0
            try:
                while done < len(payloads) and not self._waiting:
                    result = self._send_now(payloads[done : done + BATCH_ITEMS])
                    if result not in (0, native.WOULD_WAIT):
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
        result = native.WOULD_WAIT
        try:
            result = native.put_now(self._port, outgoing.struct)
        finally:  # also when an exception came out of a signal handler
            frames_sent = outgoing.struct  # no function is called here: that would be a moment for the next exception
            done = frames_sent.frame == frames_sent.frame_count
            if frames_sent.sent and (done or result == native.WOULD_WAIT):
                self._taken_up = count
                self._progress.taken = 0
                if not done:
                    self._begun = outgoing
                    self._sending = count
                    self._waiting.extend(payloads[:count])
        return result
