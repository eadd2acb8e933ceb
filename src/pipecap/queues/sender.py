"""Sending, for connections and queues alike: payloads into the record in C, which writes them.

What does not go at once waits in a line, in C. A small payload is copied there; a larger one stays where it is, and
`_alive` keeps it, by the ticket it has in the line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count, islice
from typing import Any

from pipecap.queues import native
from pipecap.queues.buffers import Outgoing
from pipecap.queues.native import AGAIN, COPIED, IN_LINE, QUEUED, WITHOUT_LIMIT, failure
from pipecap.queues.pickling import Borrowed, Payload, size_of

_ROUND = 500_000_000
_NO_TICKET = 0
# What one batch of put_many() takes: items, bytes.
_BATCH_ITEMS = 1000
_BATCH_BYTES = 64 << 10


class Sender:
    """The sending side of one end in this process: struct pipecap_sender, and what it points to.

    `shared`, `counts` and `tasks` as of a Receiver. `chunk`: most bytes of one write(2), 0 for what suits the frame.
    `patience`: nanoseconds that a put waits for room before its rest is left to the line.
    """

    __slots__ = ("__weakref__", "_alive", "_end", "_shared", "_tickets", "struct")

    def __init__(
        self,
        end: Any,
        shared: Any = None,
        *,
        counts: bool = False,
        tasks: bool = False,
        chunk: int = 0,
        patience: int = _ROUND,
    ) -> None:
        self._end = end
        self._shared = shared
        member = native.NULL if shared is None else shared.member
        fields = {"end": end, "member": member, "counts": counts, "tasks": tasks, "chunk": chunk, "patience": patience}
        self.struct = native.new_sender(fields)
        self._tickets = count(1)
        self._alive: dict[int, Outgoing | bytes] = {}
        native.reset_in_children(self)

    def forked(self) -> None:
        """Forget the line, in the child of a fork: it is the parent's to send."""
        native.sender_forked(self.struct)
        self._alive = {}

    def closed(self, _closed: Callable[[Any], None] = native.sender_closed) -> None:
        """Abandon what is in line, after the end was closed."""
        _closed(self.struct)

    # ---- without waiting for all of it: Queue ----

    def put(self, payload: Payload, deadline: int) -> int:
        """Send one payload, now or later: 0, QUEUED, or why not."""
        if type(payload) is not bytes:
            result = self._put_frames(_outgoing(payload), deadline)
            return QUEUED if result > 0 and result & IN_LINE else min(result, 0)
        ticket = next(self._tickets)
        self._alive[ticket] = payload
        result = AGAIN
        try:
            while result == AGAIN:
                result = native.put(self.struct, payload, len(payload), ticket, deadline)
            if result != QUEUED:
                del self._alive[ticket]
        except BaseException:  # out of a signal handler
            self._let_go(ticket)
            raise
        return result

    def put_many(self, payloads: Sequence[Payload], deadline: int) -> int:
        """Send the first of some payloads, now or later: how many, or why not."""
        first = payloads[0]
        if type(first) is not bytes or len(first) >= _BATCH_BYTES:
            return _count(self._put_frames(_outgoing(first), deadline))
        batch: list[bytes] = []
        room = _BATCH_BYTES
        for payload in islice(payloads, _BATCH_ITEMS):
            if type(payload) is not bytes or len(payload) > room:
                break
            room -= len(payload)
            batch.append(payload)
        return _count(self._put_frames(Outgoing([b"".join(batch)], list(map(len, batch))), deadline))

    def _put_frames(self, frames: Outgoing, deadline: int) -> int:
        if frames.is_borrowed:
            return self._put_borrowed(frames, deadline)
        ticket = next(self._tickets)
        self._alive[ticket] = frames
        result = AGAIN
        try:
            while result == AGAIN:
                result = native.put_frames(self.struct, *frames.arrays, ticket, deadline)
            if result < 0 or not result & IN_LINE:
                del self._alive[ticket]
        except BaseException:
            self._let_go(ticket)
            raise
        return result

    def _put_borrowed(self, frames: Outgoing, deadline: int) -> int:
        """Send memory that its owner may change afterwards: what must wait is copied."""
        result = AGAIN
        try:
            while result == AGAIN:
                result = native.put_frames(self.struct, *frames.arrays, _NO_TICKET, deadline)
        finally:
            frames.release()
        return result

    def _let_go(self, ticket: int) -> None:
        """Keep the memory of what is in line, and of nothing else."""
        if not native.is_in_line(self.struct, ticket):
            _release(self._alive.pop(ticket, None))

    # ---- waiting until all of it is in the pipe: SimpleQueue, Connection ----

    def send(self, payload: Payload) -> None:
        """Send one payload. Raises what failure() returns; BlockingIOError for an end with O_NONBLOCK.

        After an exception out of a signal handler, what has begun is sent before the next payload; what has not is not
        sent.
        """
        if type(payload) is not bytes:
            self.send_frames(_outgoing(payload))
            return
        ticket = next(self._tickets)
        if len(payload) > COPIED:
            self._alive[ticket] = payload
        try:
            result = AGAIN
            while result == AGAIN:
                result = native.put(self.struct, payload, len(payload), ticket, WITHOUT_LIMIT)
            if result:
                self._wait_for(ticket, result)
            if len(payload) > COPIED:
                self._let_go(ticket)
        except BaseException:
            self._take_back(ticket)
            raise

    def send_frames(self, frames: Outgoing) -> None:
        """Send memory that its owner may change afterwards, as send() does."""
        ticket = next(self._tickets)
        self._alive[ticket] = frames
        try:
            result = AGAIN
            while result == AGAIN:
                result = native.put_frames(self.struct, *frames.arrays, ticket, WITHOUT_LIMIT)
            if result < 0 or result & IN_LINE:
                self._wait_for(ticket, QUEUED if result > 0 else result)
            self._let_go(ticket)
        except BaseException:
            self._take_back(ticket)
            raise

    def _wait_for(self, ticket: int, result: int) -> None:
        """Wait until what is in line is sent; raise what another result stands for."""
        if result == QUEUED:
            result = AGAIN
        while result == AGAIN:  # between two rounds the interpreter runs its signal handlers, which may raise
            result = native.flush(self.struct, ticket, WITHOUT_LIMIT)
        if result:
            raise failure(result)

    def _take_back(self, ticket: int) -> None:
        native.withdraw(self.struct, ticket)
        self._let_go(ticket)

    # ---- the line ----

    def reap(self) -> tuple[int, int]:
        """Let go of what was sent out of the line; return how many frames failed, and -errno of the last."""
        while ticket := native.finished(self.struct):
            _release(self._alive.pop(ticket, None))
        return native.failures(self.struct), self.struct.failure

    def line(self) -> Any:
        """Return a struct pipecap_line: what waits."""
        waiting = native.new_line()
        native.line(self.struct, waiting)
        return waiting

    def discard(self) -> Any:
        """Drop what waits and has not begun; return a struct pipecap_line of it."""
        dropped = native.new_line()
        native.discard(self.struct, dropped)
        return dropped


def _count(result: int) -> int:
    return result & ~IN_LINE if result > 0 else result


def _release(kept: Outgoing | bytes | None) -> None:
    if isinstance(kept, Outgoing):
        kept.release()


def _outgoing(payload: Payload) -> Outgoing:
    pieces = [payload] if isinstance(payload, bytes) else payload
    return Outgoing(pieces, [size_of(payload)], is_borrowed=type(payload) is Borrowed)
