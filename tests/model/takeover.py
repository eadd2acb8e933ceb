"""Taking a lock over from a dead owner (lock.c), numbered as in PROTOCOL.md: first its position, then the swap."""

from model import steps
from model.memory import (
    BATCH_BEGIN,
    BATCH_END,
    BOUNDARY,
    CONSUMED,
    MOVED,
    NOTE,
    OTHER,
    PIPE,
    READER_BUSY,
    READING,
    STEP,
    TURN,
    VICTIM,
    WRITER_BUSY,
    WRITING,
    WRITTEN,
    Case,
    Memory,
    Transition,
    is_dead,
    own,
    place,
)
from model.reading import decide
from model.settling import forget

# ---- the position of the dead side ----


def note_reader_dead(m: Memory, p: int, case: Case) -> bool:
    if not is_dead(m, m[READING]):
        return False
    m[own(p) + VICTIM] = m[READING]
    if m[READER_BUSY]:
        m[own(p) + NOTE] = m[WRITTEN]
        m[own(p) + STEP] = steps.ASK_UNREAD_OF_READER
    else:
        m[own(p) + NOTE] = m[CONSUMED]
        m[own(p) + STEP] = steps.SWAP_READING
    return True


def note_writer_dead(m: Memory, p: int, case: Case) -> bool:
    if not is_dead(m, m[WRITING]):
        return False
    m[own(p) + VICTIM] = m[WRITING]
    if m[WRITER_BUSY]:
        m[own(p) + NOTE] = m[CONSUMED]
        m[own(p) + STEP] = steps.ASK_UNREAD_OF_WRITER
    else:
        m[own(p) + NOTE] = m[WRITTEN]
        m[own(p) + STEP] = steps.CHECK_WHOLE
    return True


def ask_unread(m: Memory, p: int, case: Case) -> bool:
    m[own(p) + OTHER] = m[PIPE]
    reads = m[own(p) + STEP] == steps.ASK_UNREAD_OF_READER
    m[own(p) + STEP] = steps.CHECK_WRITER_BUSY if reads else steps.CHECK_READER_BUSY
    return True


def check_writer_busy(m: Memory, p: int, case: Case) -> bool:
    m[own(p) + STEP] = steps.WRITER_WAS_BUSY if m[WRITER_BUSY] else steps.CHECK_WRITTEN
    return True


def check_written(m: Memory, p: int, case: Case) -> bool:
    if m[WRITTEN] != m[own(p) + NOTE]:
        forget(m, p, steps.WANT_TO_READ)
        return True
    m[own(p) + NOTE] -= m[own(p) + OTHER]
    m[own(p) + OTHER] = 0
    m[own(p) + STEP] = steps.SWAP_READING
    return True


def retry_reading(m: Memory, p: int, case: Case) -> bool:
    if m[WRITER_BUSY] and m[READING] == m[own(p) + VICTIM]:
        return False
    forget(m, p, steps.WANT_TO_READ)
    return True


def check_reader_busy(m: Memory, p: int, case: Case) -> bool:
    m[own(p) + STEP] = steps.READER_WAS_BUSY if m[READER_BUSY] else steps.CHECK_CONSUMED
    return True


def check_consumed(m: Memory, p: int, case: Case) -> bool:
    if m[CONSUMED] != m[own(p) + NOTE]:
        forget(m, p, steps.WANT_TO_WRITE)
        return True
    m[own(p) + NOTE] += m[own(p) + OTHER]
    m[own(p) + OTHER] = 0
    m[own(p) + STEP] = steps.CHECK_WHOLE
    return True


def retry_writing(m: Memory, p: int, case: Case) -> bool:
    if m[READER_BUSY] and m[WRITING] == m[own(p) + VICTIM]:
        return False
    forget(m, p, steps.WANT_TO_WRITE)
    return True


# ---- the read lock ----


def swap_reading(m: Memory, p: int, case: Case) -> bool:
    if m[READING] != m[own(p) + VICTIM]:
        forget(m, p, steps.WANT_TO_READ)
        return True
    m[READING] = p
    m[own(p) + STEP] = steps.SET_CONSUMED
    return True


def set_consumed(m: Memory, p: int, case: Case) -> bool:
    m[CONSUMED] = m[own(p) + NOTE]
    m[own(p) + STEP] = steps.CLEAR_READER_BUSY
    return True


def clear_reader_busy(m: Memory, p: int, case: Case) -> bool:
    m[READER_BUSY] = 0
    forget(m, p, steps.WANT_TO_READ)
    decide(m, p, case)
    return True


# ---- the write lock ----


def ends_whole(m: Memory, position: int) -> bool:
    """Return whether no frame is under way at a dead writer's position."""
    if position in (m[BATCH_BEGIN], m[BATCH_END]):
        return True
    return position == m[CONSUMED] == m[place(m) + BOUNDARY]


def check_whole(m: Memory, p: int, case: Case) -> bool:
    if ends_whole(m, m[own(p) + NOTE]):
        m[own(p) + STEP] = steps.SWAP_WRITING
    else:
        m[own(p) + STEP] = steps.NOT_WHOLE
        m[own(p) + OTHER], m[own(p) + MOVED] = m[CONSUMED], m[TURN]
    return True


def retry_whole(m: Memory, p: int, case: Case) -> bool:
    """Try again in the next round, when something changed: before, it would find the same."""
    unchanged = m[CONSUMED] == m[own(p) + OTHER] and m[TURN] == m[own(p) + MOVED]
    if unchanged and m[WRITING] == m[own(p) + VICTIM]:
        return False
    forget(m, p, steps.WANT_TO_WRITE)
    return True


def swap_writing(m: Memory, p: int, case: Case) -> bool:
    if m[WRITING] != m[own(p) + VICTIM]:
        forget(m, p, steps.WANT_TO_WRITE)
        return True
    m[WRITING] = p
    m[own(p) + STEP] = steps.SETTLE_BATCH_PUT
    return True


# ---- both locks, of owners that both died inside a system call ----


def find_both_dead(m: Memory, p: int, case: Case) -> bool:
    if not m[WRITER_BUSY] or not is_dead(m, m[WRITING]) or m[READING] != m[own(p) + VICTIM]:
        return False
    m[own(p) + OTHER] = m[WRITING]
    m[WRITING] = p
    m[own(p) + STEP] = steps.SWAP_BOTH
    return True


def swap_both(m: Memory, p: int, case: Case) -> bool:
    if m[READING] != m[own(p) + VICTIM]:
        m[WRITING] = m[own(p) + OTHER]
        forget(m, p, steps.WANT_TO_READ)
        return True
    m[READING] = p
    forget(m, p, steps.DROP_PIPE)
    return True


_RETRY_READING = Transition("T5", "try again: the writer left its system call", retry_reading)
_RETRY_WRITING = Transition("T13", "try again: the reader left its system call", retry_writing)
_RETRY_WHOLE = Transition("T15", "try again: a reader went on", retry_whole)

TRANSITIONS: dict[int, tuple[Transition, ...]] = {
    steps.WANT_TO_READ: (Transition("T1", "find the reader dead", note_reader_dead),),
    steps.ASK_UNREAD_OF_READER: (Transition("T2", "FIONREAD", ask_unread),),
    steps.CHECK_WRITER_BUSY: (Transition("T3", "check writer_busy", check_writer_busy),),
    steps.CHECK_WRITTEN: (Transition("T4", "check written", check_written),),
    steps.WRITER_WAS_BUSY: (_RETRY_READING, Transition("N1", "own the write lock: both are dead", find_both_dead)),
    steps.SWAP_READING: (Transition("T6", "swap the owner of the read lock", swap_reading),),
    steps.SET_CONSUMED: (Transition("T7", "set consumed", set_consumed),),
    steps.CLEAR_READER_BUSY: (Transition("T8", "clear reader_busy", clear_reader_busy),),
    steps.WANT_TO_WRITE: (Transition("T9", "find the writer dead", note_writer_dead),),
    steps.ASK_UNREAD_OF_WRITER: (Transition("T10", "FIONREAD", ask_unread),),
    steps.CHECK_READER_BUSY: (Transition("T11", "check reader_busy", check_reader_busy),),
    steps.CHECK_CONSUMED: (Transition("T12", "check consumed", check_consumed),),
    steps.READER_WAS_BUSY: (_RETRY_WRITING,),
    steps.CHECK_WHOLE: (Transition("T14", "check that no frame is under way", check_whole),),
    steps.NOT_WHOLE: (_RETRY_WHOLE,),
    steps.SWAP_WRITING: (Transition("T16", "swap the owner of the write lock", swap_writing),),
    steps.SWAP_BOTH: (Transition("N2", "own the read lock, too", swap_both),),
}
