"""What the process that took a lock over has to settle (lock.c), numbered as in PROTOCOL.md."""

from model import steps
from model.memory import (
    BATCH_BEGIN,
    BATCH_END,
    BATCH_PUT,
    BOUNDARY,
    BYTES,
    CONSUMED,
    DEPTH,
    DROPPED,
    GOT,
    LOST,
    MOVED,
    NOBODY,
    NOTE,
    OTHER,
    OUTCOME,
    PUT,
    READER_BUSY,
    STEP,
    UNSEEN,
    VICTIM,
    WRITER_BUSY,
    WRITING,
    WRITTEN,
    Case,
    Memory,
    Transition,
    other_place,
    own,
    place,
    set_place,
)
from model.reading import decide, flip_turn, take


def forget(m: Memory, p: int, step: int) -> None:
    """Leave a takeover for another step."""
    m[own(p) + VICTIM] = m[own(p) + NOTE] = m[own(p) + OTHER] = m[own(p) + MOVED] = 0
    m[own(p) + STEP] = step


# ---- what a dead writer left, as owner of the write lock ----


def position_of(m: Memory, p: int, case: Case) -> int:
    """Return where the dead writer's bytes end: a reader read them all."""
    return m[own(p) + NOTE] if p <= case.writers else m[CONSUMED]


def settle_batch_put(m: Memory, p: int, case: Case) -> bool:
    position, put = position_of(m, p, case), m[PUT]
    if position == m[BATCH_END] and position != m[BATCH_BEGIN]:
        put = m[BATCH_PUT]
    elif position != m[BATCH_BEGIN]:
        put = m[place(m) + GOT]
    # The frame that this process returns TRUNCATED or LOST for is not missing: its credit is given back.
    m[UNSEEN] += m[BATCH_PUT] - put - (m[own(p) + OUTCOME] != 0)
    m[BATCH_PUT] = put
    m[own(p) + STEP] = steps.SETTLE_PUT
    return True


def settle_put(m: Memory, p: int, case: Case) -> bool:
    m[PUT] = m[BATCH_PUT]
    m[own(p) + STEP] = steps.SETTLE_END
    return True


def settle_end(m: Memory, p: int, case: Case) -> bool:
    m[BATCH_END] = position_of(m, p, case)
    m[own(p) + STEP] = steps.SETTLE_BEGIN
    return True


def settle_begin(m: Memory, p: int, case: Case) -> bool:
    m[BATCH_BEGIN] = position_of(m, p, case)
    m[own(p) + STEP] = steps.SETTLE_WRITTEN
    return True


def settle_written(m: Memory, p: int, case: Case) -> bool:
    m[WRITTEN] = position_of(m, p, case)
    m[own(p) + STEP] = steps.SETTLE_BUSY
    return True


def settle_busy(m: Memory, p: int, case: Case) -> bool:
    m[WRITER_BUSY] = 0
    forget(m, p, steps.BATCH_BEGINS if p <= case.writers else steps.GIVE_WRITING_BACK)
    return True


def give_writing_back(m: Memory, p: int, case: Case) -> bool:
    m[WRITING] = NOBODY
    if m[own(p) + OUTCOME]:
        m[own(p) + STEP] = steps.UNLOCK_READING
    else:
        decide(m, p, case)
    return True


# ---- both died inside a system call ----


def drop_pipe(m: Memory, p: int, case: Case) -> bool:
    take(m, DEPTH)
    m[DROPPED] = 1
    m[own(p) + STEP] = steps.PREPARE_ANEW
    return True


def base_of(m: Memory) -> int:
    """Return the position from which the stream continues."""
    return max(m[BATCH_END], m[WRITTEN])


def prepare_anew(m: Memory, p: int, case: Case) -> bool:
    other = other_place(m)
    m[own(p) + OTHER] = m[BATCH_PUT] - m[place(m) + GOT]
    set_place(m, other, base_of(m), m[BATCH_PUT])
    m[other + BYTES : other + BYTES + DEPTH] = bytes(DEPTH)
    m[own(p) + STEP] = steps.FLIP_ANEW
    return True


def flip_anew(m: Memory, p: int, case: Case) -> bool:
    flip_turn(m)
    m[own(p) + STEP] = steps.COUNT_LOST
    return True


def count_lost(m: Memory, p: int, case: Case) -> bool:
    m[LOST] += m[own(p) + OTHER]
    m[own(p) + OTHER] = 0
    m[own(p) + STEP] = steps.ANEW_CONSUMED
    return True


def anew_consumed(m: Memory, p: int, case: Case) -> bool:
    m[CONSUMED] = m[place(m) + BOUNDARY]
    m[own(p) + STEP] = steps.ANEW_READER_BUSY
    return True


def anew_reader_busy(m: Memory, p: int, case: Case) -> bool:
    m[READER_BUSY] = 0
    m[own(p) + STEP] = steps.ANEW_PUT
    return True


def anew_put(m: Memory, p: int, case: Case) -> bool:
    m[PUT] = m[BATCH_PUT]
    m[own(p) + STEP] = steps.ANEW_BEGIN
    return True


def anew_begin(m: Memory, p: int, case: Case) -> bool:
    m[BATCH_BEGIN] = m[CONSUMED]
    m[own(p) + STEP] = steps.SETTLE_BATCH_PUT
    return True


_NOT_SEEN = True

TRANSITIONS: dict[int, tuple[Transition, ...]] = {
    steps.SETTLE_BATCH_PUT: (Transition("S1", "settle batch_put", settle_batch_put, _NOT_SEEN),),
    steps.SETTLE_PUT: (Transition("S2", "settle put", settle_put, _NOT_SEEN),),
    steps.SETTLE_END: (Transition("S3", "settle batch_end", settle_end, _NOT_SEEN),),
    steps.SETTLE_BEGIN: (Transition("S4", "settle batch_begin", settle_begin, _NOT_SEEN),),
    steps.SETTLE_WRITTEN: (Transition("S5", "settle written", settle_written),),
    steps.SETTLE_BUSY: (Transition("S6", "clear writer_busy", settle_busy),),
    steps.GIVE_WRITING_BACK: (Transition("S7", "free the write lock", give_writing_back),),
    steps.DROP_PIPE: (Transition("N3", "read all that is in the pipe", drop_pipe),),
    steps.PREPARE_ANEW: (Transition("N4", "prepare the other place", prepare_anew, _NOT_SEEN),),
    steps.FLIP_ANEW: (Transition("N5", "flip turn", flip_anew),),
    steps.COUNT_LOST: (Transition("N6", "count what is lost", count_lost, _NOT_SEEN),),
    steps.ANEW_CONSUMED: (Transition("N7", "set consumed", anew_consumed),),
    steps.ANEW_READER_BUSY: (Transition("N8", "clear reader_busy", anew_reader_busy),),
    steps.ANEW_PUT: (Transition("N9", "settle put", anew_put, _NOT_SEEN),),
    steps.ANEW_BEGIN: (Transition("N10", "settle batch_begin", anew_begin, _NOT_SEEN),),
}
