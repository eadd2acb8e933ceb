"""Queue, JoinableQueue, SimpleQueue: drop-in for multiprocessing's, on an elastic pipe."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from multiprocessing import context, queues, util
from multiprocessing.context import BaseContext
from queue import Full
from typing import Any

from pipecap.errors import NotPicklable
from pipecap.queues import buffers, native, pickling
from pipecap.queues.buffers import Outgoing
from pipecap.queues.connection import deadline_of, failure
from pipecap.queues.feeder import Discarded
from pipecap.queues.receiver import SharedPipe
from pipecap.queues.sender import Sender, put_three_now
from pipecap.queues.shared import MOST_SLOTS, retried

_AGAIN = -errno.EINTR
_FOR_EVER = -1


def _all_pickled(objects: Sequence[object]) -> list[pickling.Payload]:
    payloads: list[pickling.Payload] = []
    try:
        pickling.pickle_all(objects, payloads)
    except Exception as error:  # pickling runs the objects' own code, which may raise anything
        if len(payloads) == len(objects):
            raise  # out of a signal handler, when all was done
        raise NotPicklable(type(objects[len(payloads)]).__name__, error) from error
    return payloads


class Queue(SharedPipe, queues.Queue):  # type: ignore[type-arg] # a generic class to type checkers only
    """multiprocessing.Queue on an elastic pipe, with direct put, batches, an exit guard and discard.

    `put()` pickles at once: what happens to the object afterwards does not change the item, and an object that cannot
    be pickled raises NotPicklable here. A small item is in the pipe when `put()` returns, if it fits; what does not fit
    is sent by a feeder thread. Items of one process come out in the order they were put.

    `capacity` is "auto": the pipe grows before an item that would not fit, as far as the kernel grants (up to
    fs.pipe-max-size and the quota), and never shrinks. Or bytes: that size from the start (InvalidSize,
    ResizeRefused). `exit_warning`: seconds after which an exit that waits for unread items says so; None for never.
    """

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
        self._sender = Sender(
            self._reader,
            self._writer,
            self._shared,
            self._write_port,
            exit_warning=self._exit_warning,
            joinable=self._joinable,
        )
        self._sender.ignore_epipe = self._ignore_epipe
        self._finish = util.Finalize(self, self._sender.finish, exitpriority=10)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")

    def put(self, obj: object, block: bool = True, timeout: float | None = None) -> None:
        """Put an item; raises Full, NotPicklable, ValueError when closed, BrokenPipeError when nobody can read."""
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        try:
            payload = pickling.pickled(obj)
        except Exception as error:  # pickling runs the object's own code, which may raise anything
            raise NotPicklable(type(obj).__name__, error) from error
        if self._sender.put(payload):
            return
        deadline = deadline_of(timeout) if block else 0
        while not self._sender.put(payload):
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
            self._sender.put_many(payloads[done : done + count])
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
            left: list[bytes] = []
            with suppress(IndexError):  # another thread takes some, too
                while len(left) < max_items:
                    left.append(self._left.pop())
            if left:
                return pickling.receive_all(left)
        incoming, _ = self._receive(deadline_of(timeout), max_items)
        try:
            return pickling.receive_all(incoming.payloads())
        finally:
            buffers.give(incoming)

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
        dropped = self._sender.discard() if discard else None
        self._finish()
        return dropped

    def join_thread(self) -> None:
        """Wait until all that was put here is in the pipe; only after close()."""
        assert self._closed, f"Queue {self!r} not closed"
        self._sender.join()

    def cancel_join_thread(self) -> None:
        """Let this process exit without waiting until all is in the pipe: what is not is lost."""
        self._sender.cancel_join()


class JoinableQueue(Queue, queues.JoinableQueue):  # type: ignore[type-arg] # the same
    """multiprocessing.JoinableQueue, as Queue is multiprocessing.Queue."""

    _joinable = True

    def task_done(self) -> None:
        """Say that an item got before is dealt with; ValueError when said more often than items were put."""
        if native.task_done(self._shared.struct, 1) < 0:
            raise ValueError("task_done() called too many times")

    def join(self) -> None:
        """Wait until task_done() was called for every item that was put."""
        result = retried(native.all_done, self._shared.struct, _FOR_EVER)
        if result < 0:
            raise failure(result)


class SimpleQueue(SharedPipe, queues.SimpleQueue):  # type: ignore[type-arg] # the same
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
            payload = pickling.pickled(obj)
        except Exception as error:
            raise NotPicklable(type(obj).__name__, error) from error
        with self._mutex:
            half_sent = self._half_sent
            if isinstance(payload, list) or half_sent:
                half_sent.append(self._rest(payload, 0))
            else:
                result = self._put_now(payload)
                if result == 0:
                    return
                if result != native.WOULD_WAIT:
                    raise failure(result)
                if not half_sent:
                    half_sent.append(self._rest(payload, 0))
            self._drive()

    def _put_now(self, payload: bytes | tuple[bytes, bytes, bytes]) -> int:
        """Put an item as far as it goes without waiting; its rest, if it is half sent, becomes first in line."""
        progress = native.new("struct pipecap_progress *")
        try:
            if isinstance(payload, bytes):
                result = native.put_one_now(self._write_port, payload, len(payload), progress)
            else:
                result = put_three_now(self._write_port, payload, progress)
            if result and progress.sent:
                self._half_sent.append(self._rest(payload, progress.sent))
        except BaseException:  # out of a signal handler
            if progress.sent and not self._half_sent:
                self._half_sent.append(self._rest(payload, progress.sent))
            raise
        return result

    def _rest(self, payload: pickling.Payload, sent: int) -> Outgoing:
        outgoing = self._writer.outgoing(pickling.pieces_of(payload), [pickling.size_of(payload)])
        if sent:
            outgoing.skip(sent)
        return outgoing

    def _drive(self) -> None:
        """Write all that is in line. What is interrupted half-way stays first, under the lock, for the next put()."""
        half_sent = self._half_sent
        while half_sent:
            outgoing = half_sent[0]
            result = 0 if outgoing.done else _AGAIN
            try:
                while result == _AGAIN:
                    result = native.put(self._write_port, outgoing.struct)
            except BaseException:
                if not outgoing.sent:
                    half_sent.remove(outgoing)
                raise
            half_sent.remove(outgoing)
            if result < 0:
                raise failure(result)
