"""Changed transitions of the stream, for the mutations."""

from model import reading, settling, steps, writing
from model.memory import (
    BATCH_BEGIN,
    BATCH_END,
    BATCH_PUT,
    BYTES,
    GOT,
    LOST,
    LOST_FRAME,
    MOVED,
    OTHER,
    OUTCOME,
    PARTIAL,
    PUT,
    STEP,
    TRUNCATED,
    WRITER_BUSY,
    WRITTEN,
    Action,
    Case,
    Memory,
    Transition,
    have,
    other_place,
    own,
    place,
)
from model.stream import Table


def change(number: str, text: str, action: Action) -> tuple[Transition, ...]:
    """Return what stands in the table instead of transition `number`."""
    return (Transition(f"{number}'", text, action),)


# ---- batch_put is published after the first byte ----


def end_then_write(m: Memory, p: int, case: Case) -> bool:
    writing.publish_end(m, p, case)
    m[own(p) + STEP] = steps.ENTER_WRITE
    return True


def written_then_count(m: Memory, p: int, case: Case) -> bool:
    first = m[WRITTEN] == m[BATCH_BEGIN] and m[own(p) + MOVED] > 0
    writing.publish_written(m, p, case)
    if first:
        m[own(p) + STEP] = steps.BATCH_COUNTED
    return True


def count_then_leave(m: Memory, p: int, case: Case) -> bool:
    writing.publish_count(m, p, case)
    m[own(p) + STEP] = steps.COUNT_PUT if m[WRITTEN] == m[BATCH_END] else steps.LEAVE_WRITE
    return True


COUNT_AFTER_WRITE: Table = {
    steps.BATCH_ENDS: change("W3", "publish batch_end", end_then_write),
    steps.WROTE: change("W7", "publish written", written_then_count),
    steps.BATCH_COUNTED: change("W4", "publish batch_put after the first byte", count_then_leave),
}

# ---- writer_busy is cleared before written is published ----


def write_then_leave(m: Memory, p: int, case: Case) -> bool:
    writing.write(m, p, case)
    m[own(p) + STEP] = steps.LEAVE_WRITE
    return True


def leave_then_publish(m: Memory, p: int, case: Case) -> bool:
    m[WRITER_BUSY] = 0
    m[own(p) + STEP] = steps.WROTE
    return True


def publish_last(m: Memory, p: int, case: Case) -> bool:
    writing.publish_written(m, p, case)
    if m[WRITTEN] == m[BATCH_END]:
        m[PUT] = m[BATCH_PUT]
    return writing.leave(m, p, case)


WRITTEN_AFTER_BUSY: Table = {
    steps.IN_WRITE: change("W6", "write(2)", write_then_leave),
    steps.LEAVE_WRITE: change("W9", "clear writer_busy", leave_then_publish),
    steps.WROTE: change("W7", "publish written", publish_last),
}

# ---- the rest of a batch is withdrawn, and put does not count its frames that are in the pipe ----


def keep_put(m: Memory, p: int, case: Case) -> bool:
    m[own(p) + STEP] = steps.WITHDRAW_BEGIN
    return True


WITHDRAW_WITHOUT_COUNT: Table = {steps.WITHDRAW_PUT: change("W10", "leave put as it is", keep_put)}

# ---- got is not committed by the flip ----


def prepare_boundary(m: Memory, p: int, case: Case) -> bool:
    reading.prepare(m, p, case)
    m[other_place(m) + GOT] -= 1
    return True


def flip_then_count(m: Memory, p: int, case: Case) -> bool:
    reading.flip(m, p, case)
    m[own(p) + STEP] = steps.CHANGED_COMMIT
    return True


def count_got(m: Memory, p: int, case: Case) -> bool:
    m[place(m) + GOT] += 1
    m[own(p) + STEP] = steps.UNLOCK_READING
    return True


GOT_AFTER_FLIP: Table = {
    steps.PREPARE: change("R11", "prepare the boundary alone", prepare_boundary),
    steps.FLIP: change("R12", "flip turn", flip_then_count),
    steps.CHANGED_COMMIT: change("R12", "store got", count_got),
}

# ---- the next header is read over the one under way ----


def read_over(m: Memory, p: int, case: Case) -> bool:
    before = m[other_place(m) + BYTES]
    reading.read(m, p, case)
    if m[own(p) + PARTIAL] and m[other_place(m) + BYTES] != before:
        m[place(m) + BYTES] = m[other_place(m) + BYTES]
    return True


HEADER_OVER_HEADER: Table = {steps.IN_READ: change("R4", "readv(2), the next header into the valid place", read_over)}

# ---- private memory is used with limit as it was ----


def keep_limit(m: Memory, p: int, case: Case) -> bool:
    m[own(p) + PARTIAL] = have(m)
    m[own(p) + STEP] = steps.ENTER_READ
    return True


LIMIT_AS_IT_WAS: Table = {steps.LOWER_LIMIT: change("R2", "do not lower limit", keep_limit)}

# ---- the write lock is taken over amid a frame ----


def assume_whole(m: Memory, p: int, case: Case) -> bool:
    m[own(p) + STEP] = steps.SWAP_WRITING
    return True


TAKE_OVER_AMID_FRAME: Table = {steps.CHECK_WHOLE: change("T14", "assume that no frame is under way", assume_whole)}

# ---- the write lock of a dead writer is freed before the place behind its frame is committed ----


def find_dead_then_settle(m: Memory, p: int, case: Case) -> bool:
    if not reading.find_writer_dead(m, p, case):
        return False
    m[own(p) + OUTCOME] = LOST_FRAME if reading.is_skipping(m, p) else TRUNCATED
    m[own(p) + STEP] = steps.SETTLE_BATCH_PUT
    return True


def unlock_then_commit(m: Memory, p: int, case: Case) -> bool:
    settling.give_writing_back(m, p, case)
    if m[own(p) + OUTCOME]:
        m[own(p) + STEP] = steps.CHANGED_COMMIT
    return True


def commit_then_return(m: Memory, p: int, case: Case) -> bool:
    reading.prepare_cut(m, p, case)
    reading.flip_cut(m, p, case)
    m[own(p) + STEP] = steps.UNLOCK_READING
    return True


def settle_once(m: Memory, p: int, case: Case) -> bool:
    """Settle, where the frame cut short may have been counted before: the boundary is before it still."""
    if m[BATCH_PUT] == m[place(m) + GOT]:
        m[own(p) + STEP] = steps.SETTLE_PUT
        return True
    return settling.settle_batch_put(m, p, case)


UNLOCK_BEFORE_COMMIT: Table = {
    steps.SETTLE_BATCH_PUT: change("S1", "settle batch_put", settle_once),
    steps.WAIT_FOR_BYTES: (
        *reading.TRANSITIONS[steps.WAIT_FOR_BYTES][:-1],
        *change("R10", "own the write lock of a dead writer", find_dead_then_settle),
    ),
    steps.GIVE_WRITING_BACK: change("S7", "free the write lock", unlock_then_commit),
    steps.CHANGED_COMMIT: change("R16", "flip turn behind a frame cut short", commit_then_return),
}

# ---- what is lost is counted before the flip ----


def count_then_flip(m: Memory, p: int, case: Case) -> bool:
    settling.prepare_anew(m, p, case)
    m[LOST] += m[own(p) + OTHER]
    m[own(p) + OTHER] = 0
    return True


COUNT_BEFORE_FLIP: Table = {steps.PREPARE_ANEW: change("N6", "count what is lost, prepare the place", count_then_flip)}
