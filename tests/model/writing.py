"""A writer: batches of whole frames under the write lock (send.c), numbered as in PROTOCOL.md."""

from functools import cache

from model import steps
from model.memory import (
    BATCH_BEGIN,
    BATCH_END,
    BATCH_PUT,
    BATCHES,
    DEPTH,
    MOVED,
    NOBODY,
    PIPE,
    PUBLISHED,
    PUT,
    SENT,
    STARTS_AT,
    STEP,
    WRITER_BUSY,
    WRITING,
    WRITTEN,
    Case,
    Memory,
    Transition,
    byte_of,
    own,
)


@cache
def stream_of(case: Case, writer: int, batch: int) -> bytes:
    """Return the bytes of a batch."""
    frames = case.batches[writer - 1][batch]
    return bytes(byte_of(frame, offset) for frame in frames for offset in range(case.frames[frame]))


@cache
def last_bytes(case: Case) -> dict[int, int]:
    """Return the bit in SENT of each byte that ends a frame."""
    return {byte_of(frame, size - 1): 1 << frame for frame, size in enumerate(case.frames)}


def batch(m: Memory, p: int, case: Case) -> bytes:
    """Return the bytes of the batch that a writer has to send next, or is sending."""
    return stream_of(case, p, m[own(p) + BATCHES])[m[own(p) + STARTS_AT] :]


def rest_of(m: Memory, p: int, case: Case) -> bytes:
    """Return those that are not in the pipe yet."""
    return batch(m, p, case)[m[WRITTEN] - m[BATCH_BEGIN] :]


def frames_in(part: bytes) -> int:
    """Return how many frames begin in a part of the stream."""
    return sum((byte - 1) % DEPTH == 0 for byte in part)


def lock(m: Memory, p: int, case: Case) -> bool:
    if m[WRITING] != NOBODY:
        return False
    m[WRITING] = p
    m[own(p) + STEP] = steps.BATCH_BEGINS
    return True


def publish_begin(m: Memory, p: int, case: Case) -> bool:
    m[BATCH_BEGIN] = m[WRITTEN]
    m[own(p) + STEP] = steps.BATCH_ENDS
    return True


def publish_end(m: Memory, p: int, case: Case) -> bool:
    m[BATCH_END] = m[WRITTEN] + len(batch(m, p, case))
    m[own(p) + STEP] = steps.BATCH_COUNTED
    return True


def publish_count(m: Memory, p: int, case: Case) -> bool:
    count = frames_in(batch(m, p, case))
    m[BATCH_PUT] = m[PUT] + count
    m[PUBLISHED] += count
    m[own(p) + STEP] = steps.ENTER_WRITE
    return True


def enter(m: Memory, p: int, case: Case) -> bool:
    m[WRITER_BUSY] = 1
    m[own(p) + STEP] = steps.IN_WRITE
    return True


def write(m: Memory, p: int, case: Case) -> bool:
    return write_most(m, p, case, case.capacity)


def write_short(m: Memory, p: int, case: Case) -> bool:
    """Write one byte where more would fit: the kernel counts room in pages."""
    return len(rest_of(m, p, case)) > 1 and case.capacity - m[PIPE] > 1 and write_most(m, p, case, 1)


def write_most(m: Memory, p: int, case: Case, most: int) -> bool:
    rest = rest_of(m, p, case)
    unread = m[PIPE]
    part = rest[: min(most, case.capacity - unread)]
    m[PIPE + 1 + unread : PIPE + 1 + unread + len(part)] = part
    m[PIPE] = unread + len(part)
    for byte in part:
        m[SENT] |= last_bytes(case).get(byte, 0)
    m[own(p) + MOVED] = len(part)
    m[own(p) + STEP] = steps.WROTE
    return True


def publish_written(m: Memory, p: int, case: Case) -> bool:
    m[WRITTEN] += m[own(p) + MOVED]
    m[own(p) + STEP] = steps.COUNT_PUT if m[WRITTEN] == m[BATCH_END] else steps.LEAVE_WRITE
    return True


def count_put(m: Memory, p: int, case: Case) -> bool:
    m[PUT] = m[BATCH_PUT]
    m[own(p) + STEP] = steps.LEAVE_WRITE
    return True


def leave(m: Memory, p: int, case: Case) -> bool:
    m[WRITER_BUSY] = 0
    blocked = m[own(p) + MOVED] == 0
    m[own(p) + MOVED] = 0
    if m[WRITTEN] == m[BATCH_END]:
        m[own(p) + STEP] = steps.UNLOCK_WRITING
    elif not blocked:
        m[own(p) + STEP] = steps.ENTER_WRITE
    elif frames_in(rest_of(m, p, case)[:1]):
        m[own(p) + STEP] = steps.WITHDRAW_PUT
    else:
        m[own(p) + STEP] = steps.WAIT_AMID_FRAME
    return True


def withdraw_put(m: Memory, p: int, case: Case) -> bool:
    m[PUT] = m[BATCH_PUT] - frames_in(rest_of(m, p, case))
    m[own(p) + STEP] = steps.WITHDRAW_BEGIN
    return True


def withdraw_begin(m: Memory, p: int, case: Case) -> bool:
    m[own(p) + STARTS_AT] += m[WRITTEN] - m[BATCH_BEGIN]
    m[BATCH_BEGIN] = m[WRITTEN]
    m[own(p) + STEP] = steps.WITHDRAW_END
    return True


def withdraw_end(m: Memory, p: int, case: Case) -> bool:
    m[BATCH_END] = m[WRITTEN]
    m[own(p) + STEP] = steps.WITHDRAW_COUNT
    return True


def withdraw_count(m: Memory, p: int, case: Case) -> bool:
    m[PUBLISHED] -= m[BATCH_PUT] - m[PUT]
    m[BATCH_PUT] = m[PUT]
    m[own(p) + STEP] = steps.UNLOCK_WRITING
    return True


def unlock(m: Memory, p: int, case: Case) -> bool:
    m[WRITING] = NOBODY
    if m[BATCH_END] == m[BATCH_BEGIN]:
        m[own(p) + STEP] = steps.WAIT_FOR_ROOM
        return True
    m[own(p) + STARTS_AT] = 0
    m[own(p) + BATCHES] += 1
    if m[own(p) + BATCHES] == len(case.batches[p - 1]):
        m[own(p) + STEP] = steps.FINISHED
    else:
        m[own(p) + STEP] = steps.WANT_TO_WRITE
    return True


def find_room(m: Memory, p: int, case: Case) -> bool:
    if m[PIPE] == case.capacity:
        return False
    m[own(p) + STEP] = steps.WANT_TO_WRITE
    return True


def find_room_amid_frame(m: Memory, p: int, case: Case) -> bool:
    if m[PIPE] == case.capacity:
        return False
    m[own(p) + STEP] = steps.ENTER_WRITE
    return True


TRANSITIONS: dict[int, tuple[Transition, ...]] = {
    steps.WANT_TO_WRITE: (Transition("W1", "own the write lock", lock),),
    steps.BATCH_BEGINS: (Transition("W2", "publish batch_begin", publish_begin, unseen=True),),
    steps.BATCH_ENDS: (Transition("W3", "publish batch_end", publish_end, unseen=True),),
    steps.BATCH_COUNTED: (Transition("W4", "publish batch_put", publish_count, unseen=True),),
    steps.ENTER_WRITE: (Transition("W5", "set writer_busy", enter),),
    steps.IN_WRITE: (Transition("W6", "write(2)", write), Transition("W6", "write(2), a part", write_short)),
    steps.WROTE: (Transition("W7", "publish written", publish_written),),
    steps.COUNT_PUT: (Transition("W8", "publish put", count_put, unseen=True),),
    steps.LEAVE_WRITE: (Transition("W9", "clear writer_busy", leave),),
    steps.WITHDRAW_PUT: (Transition("W10", "count in put what is in the pipe", withdraw_put, unseen=True),),
    steps.WITHDRAW_BEGIN: (Transition("W11", "withdraw batch_begin", withdraw_begin, unseen=True),),
    steps.WITHDRAW_END: (Transition("W12", "withdraw batch_end", withdraw_end, unseen=True),),
    steps.WITHDRAW_COUNT: (Transition("W13", "withdraw batch_put", withdraw_count, unseen=True),),
    steps.UNLOCK_WRITING: (Transition("W14", "free the write lock", unlock),),
    steps.WAIT_FOR_ROOM: (Transition("W15", "poll(2) finds room", find_room),),
    steps.WAIT_AMID_FRAME: (Transition("W16", "poll(2) finds room, amid a frame", find_room_amid_frame),),
}
