"""The door to the C half of the queues: the only module here that touches `pipecap._native`.

The functions are bound as they are, so a call costs no more than cffi itself. csrc/pipecap.h says what each does;
csrc/PROTOCOL.md, what they do together. Each returns a result >= 0, an outcome or -errno.
"""

from __future__ import annotations

import errno
import os
import weakref
from typing import Any, Protocol

from pipecap._native import ffi, lib
from pipecap.errors import BadFrame, InvalidValue, LostItem, TruncatedItem, Unsupported

# Outcomes.
AGAIN = lib.PIPECAP_AGAIN
TIMED_OUT = lib.PIPECAP_TIMED_OUT
QUEUED = lib.PIPECAP_QUEUED
CLOSED = lib.PIPECAP_CLOSED
END_OF_FILE = lib.PIPECAP_END_OF_FILE
TRUNCATED = lib.PIPECAP_TRUNCATED
LOST = lib.PIPECAP_LOST
TOO_LONG = lib.PIPECAP_TOO_LONG
BAD_HEADER = lib.PIPECAP_BAD_HEADER
BROKEN = lib.PIPECAP_BROKEN
TABLE_FULL = lib.PIPECAP_TABLE_FULL

# Sizes.
CHUNK = lib.PIPECAP_CHUNK
WHOLE = lib.PIPECAP_WHOLE
COPIED = lib.PIPECAP_COPIED
IN_LINE = lib.PIPECAP_IN_LINE
PARTICIPANTS = lib.PIPECAP_ABANDONED  # indexes from 1 to one less are processes
WAITERS = lib.PIPECAP_WAITERS

# Deadlines: nanoseconds of the monotonic clock, or one of these.
WITHOUT_LIMIT = -1
AT_ONCE = 0
EAGER = lib.PIPECAP_EAGER

end_close = lib.pipecap_end_close
end_forked = lib.pipecap_end_forked

member_open = lib.pipecap_member_open
member_forked = lib.pipecap_member_forked
is_alive = lib.pipecap_is_alive
deadline_in = lib.pipecap_deadline_in
acquire = lib.pipecap_acquire
unlock = lib.pipecap_unlock
queue_size = lib.pipecap_queue_size
claim_lost = lib.pipecap_claim_lost
task_done = lib.pipecap_task_done
wait_for_tasks = lib.pipecap_wait_for_tasks

receive = lib.pipecap_receive
SMALL = lib.PIPECAP_SMALL
MOVED = lib.PIPECAP_MOVED
WITH_BUFFERS = lib.PIPECAP_WITH_BUFFERS
give_back = lib.pipecap_give_back
owed = lib.pipecap_owed
poll = lib.pipecap_poll
receiver_closed = lib.pipecap_receiver_closed
receiver_forked = lib.pipecap_receiver_forked

put = lib.pipecap_put
put_frames = lib.pipecap_put_frames
flush = lib.pipecap_flush
withdraw = lib.pipecap_withdraw
feed = lib.pipecap_feed
finished = lib.pipecap_finished
failures = lib.pipecap_failures
is_in_line = lib.pipecap_is_in_line
line = lib.pipecap_line
discard = lib.pipecap_discard
sender_closing = lib.pipecap_sender_closing
sender_closed = lib.pipecap_sender_closed
sender_forked = lib.pipecap_sender_forked

from_buffer = ffi.from_buffer
release = ffi.release
unpack = ffi.unpack
NULL = ffi.NULL


def new_end(fd: int, *, elastic: bool) -> Any:
    """Make a struct pipecap_end. Raises OverflowError for what is no descriptor."""
    return ffi.new("struct pipecap_end *", {"fd": fd, "elastic": elastic})


def new_member() -> Any:
    """Make a struct pipecap_member, unmapped when it goes."""
    return ffi.gc(ffi.new("struct pipecap_member *", {"fd": -1}), lib.pipecap_member_close)


def new_receiver(fields: dict[str, Any]) -> Any:
    """Make a struct pipecap_receiver. What it points to must live as long."""
    return ffi.gc(ffi.new("struct pipecap_receiver *", fields), lib.pipecap_receiver_free)


def new_sender(fields: dict[str, Any]) -> Any:
    """Make a struct pipecap_sender. What it points to must live as long."""
    return ffi.gc(ffi.new("struct pipecap_sender *", fields), lib.pipecap_sender_free)


def new_frames() -> Any:
    """Make a struct pipecap_frames."""
    return ffi.gc(ffi.new("struct pipecap_frames *"), lib.pipecap_frames_free)


def new_line() -> Any:
    """Make a struct pipecap_line."""
    return ffi.new("struct pipecap_line *")


def new_pieces(buffers: list[Any]) -> Any:
    """Make an array of pointers to what from_buffer() returned."""
    return ffi.new("const void *[]", buffers)


def new_sizes(sizes: list[int]) -> Any:
    """Make an array of uint64_t."""
    return ffi.new("uint64_t[]", sizes)


def held(frames: Any, size: int) -> memoryview:
    """Return the first `size` bytes of a struct pipecap_frames, writable; the memory stays as long as the view does."""
    data = lib.pipecap_hold(frames)
    return memoryview(ffi.buffer(ffi.gc(data, lib.pipecap_drop), size))


def view_of(frames: Any) -> memoryview:
    """Return the memory of a struct pipecap_frames, valid until PIPECAP_MOVED is told."""
    return memoryview(ffi.buffer(frames.data, frames.allocated) if frames.allocated else b"")


def failure(result: int) -> Exception:
    """Return the exception that an outcome or -errno stands for."""
    if result == END_OF_FILE:
        return EOFError()
    if result == TRUNCATED:
        return TruncatedItem()
    if result == LOST:
        return LostItem()
    if result in (TOO_LONG, BAD_HEADER):
        return BadFrame()
    if result == BROKEN:
        return BadFrame("where the next item begins is unknown: another reader found garbage in the pipe")
    if result == TABLE_FULL:
        return Unsupported(
            f"more than {PARTICIPANTS - 1:,} processes use this queue",
            hint="spread them over several queues",
        )
    if result in (-errno.EBADF, CLOSED):
        return OSError(errno.EBADF, "handle is closed")
    if result == -errno.ENOMEM:
        return MemoryError("no memory for the message")
    return OSError(-result, os.strerror(-result))


def deadline_of(timeout: float | None, *, block: bool = True) -> int:
    """Return the deadline that a timeout in seconds means: None and infinity have no limit, negative is at once.

    Raises InvalidValue for what is no number of seconds.
    """
    if not block:
        return AT_ONCE
    if timeout is None:
        return WITHOUT_LIMIT
    try:
        if timeout > 1e9:
            return WITHOUT_LIMIT  # more than 30 years
        return deadline_in(int(timeout * 1e9)) if timeout > 0 else _at_once(timeout)
    except TypeError:
        raise _no_timeout(timeout) from None


def _at_once(timeout: float) -> int:
    if timeout != timeout:
        raise _no_timeout(timeout)
    return AT_ONCE


def _no_timeout(timeout: object) -> InvalidValue:
    return InvalidValue("timeout", timeout, "seconds as a number, or None", hint="0.5, say; None for no limit")


class Forked(Protocol):
    """What holds state of calls under way, which no child of a fork has."""

    def forked(self) -> None:
        """Forget it, in the child."""


_records: weakref.WeakSet[Forked] = weakref.WeakSet()
reset_in_children = _records.add


def _reset_all() -> None:
    failed: BaseException | None = None
    lib.pipecap_blocks_forked()
    for record in list(_records):
        try:
            record.forked()
        except BaseException as error:  # the others all the same: what is left is the parent's
            failed = error
    if failed is not None:
        raise failed


os.register_at_fork(after_in_child=_reset_all)
