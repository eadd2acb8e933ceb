"""Changes of the counters by put, get and task_done(), and the settling of what a dead writer left (counters.c)."""

from model.counter_memory import (
    ANEW_BEGIN,
    ANEW_CREDITS,
    ANEW_END,
    ANEW_PUT,
    ANEW_TASKS,
    BATCH_PUT,
    BLOCKER,
    COUNT_HELD,
    COUNT_LOST,
    COUNT_TASK,
    CREDITS,
    DONE,
    DONE_BEGIN,
    END_WITHOUT,
    ENDED,
    FINISHED,
    FREE_READING,
    FREE_WRITING,
    GET_BEGIN,
    GIVE_CREDIT,
    GOT,
    LEFT,
    LOST,
    LOWER_HELD,
    LOWER_UNDONE,
    NOBODY,
    OWN_BOTH,
    PIPED,
    PUBLISH,
    PUBLISH_BEGIN,
    PUT,
    PUT_BEGIN,
    PUT_END,
    READING,
    REPORTED,
    RESUMES,
    SETTLE_BATCH_PUT,
    SETTLE_PUT,
    SKIP_BEGIN,
    SKIP_END,
    STEP,
    TAKEN,
    UNDONE,
    UNFINISHED,
    UNLOCK_WRITING,
    WANT_TO_READ,
    WANT_TO_WRITE,
    WRITE,
    WRITING,
    CounterCase,
    Memory,
    is_dead,
    own,
    uses_line,
)


def take_credit(m: Memory, p: int, case: CounterCase) -> bool:
    if m[CREDITS]:
        m[CREDITS] -= 1
        m[TAKEN] += 1
        m[own(p) + STEP] = COUNT_TASK
    else:
        m[own(p) + STEP] = END_WITHOUT
    return True


def find_credit(m: Memory, p: int, case: CounterCase) -> bool:
    if not m[CREDITS]:
        return False
    m[own(p) + STEP] = PUT_BEGIN
    return True


def count_task(m: Memory, p: int, case: CounterCase) -> bool:
    m[UNFINISHED] += case.tasks
    m[own(p) + STEP] = COUNT_HELD if uses_line(p, case) else WANT_TO_WRITE
    return True


def lock_writing(m: Memory, p: int, case: CounterCase) -> bool:
    if m[WRITING] != NOBODY and not is_dead(m, m[WRITING]):
        return False
    settles = m[WRITING] != NOBODY
    m[WRITING] = p
    m[own(p) + RESUMES] = PUBLISH_BEGIN if uses_line(p, case) else PUBLISH
    m[own(p) + STEP] = SETTLE_BATCH_PUT if settles else m[own(p) + RESUMES]
    return True


def settle_batch_put(m: Memory, p: int, case: CounterCase) -> bool:
    if m[PIPED] != m[BATCH_PUT]:
        m[BATCH_PUT] = m[PUT]
    m[own(p) + STEP] = SETTLE_PUT
    return True


def settle_put(m: Memory, p: int, case: CounterCase) -> bool:
    m[PUT] = m[BATCH_PUT]
    m[own(p) + STEP] = m[own(p) + RESUMES]
    return True


def publish(m: Memory, p: int, case: CounterCase) -> bool:
    m[BATCH_PUT] = m[PUT] + 1
    m[own(p) + STEP] = LOWER_HELD if uses_line(p, case) else WRITE
    return True


def count_put(m: Memory, p: int, case: CounterCase) -> bool:
    m[PUT] = m[BATCH_PUT]
    m[own(p) + STEP] = UNLOCK_WRITING
    return True


def next_put(m: Memory, p: int) -> None:
    """Go to the next put, if there is one."""
    m[own(p) + LEFT] -= 1
    m[own(p) + STEP] = PUT_BEGIN if m[own(p) + LEFT] else FINISHED


def unlock_writing(m: Memory, p: int, case: CounterCase) -> bool:
    m[WRITING] = NOBODY
    if m[own(p) + RESUMES] == UNLOCK_WRITING:  # an audit settles only
        m[own(p) + STEP], m[own(p) + RESUMES] = m[own(p) + BLOCKER], 0
        m[own(p) + BLOCKER] = 0
        return True
    m[own(p) + RESUMES] = 0
    if uses_line(p, case):
        next_put(m, p)
    else:
        m[own(p) + STEP] = PUT_END
    return True


def end_put(m: Memory, p: int, case: CounterCase) -> bool:
    m[own(p) + ENDED] += 1
    next_put(m, p)
    return True


# ---- get ----


def lock_reading(m: Memory, p: int, case: CounterCase) -> bool:
    if m[GOT] == m[PIPED] or (m[READING] != NOBODY and not is_dead(m, m[READING])):
        return False
    m[READING] = p
    m[own(p) + STEP] = GET_BEGIN
    return True


def lock_reading_amid_frame(m: Memory, p: int, case: CounterCase) -> bool:
    """Take over from a reader that had a part of the frame in private memory: the frame is skipped."""
    if m[GOT] == m[PIPED] or not is_dead(m, m[READING]):
        return False
    m[READING] = p
    m[own(p) + STEP] = SKIP_BEGIN
    return True


def count_undone(m: Memory, p: int, case: CounterCase) -> bool:
    m[own(p) + UNDONE] += case.tasks
    m[own(p) + STEP] = GIVE_CREDIT
    return True


def skip_task(m: Memory, p: int, case: CounterCase) -> bool:
    m[UNFINISHED] -= case.tasks
    m[own(p) + STEP] = SKIP_END
    return True


def unlock_reading(m: Memory, p: int, case: CounterCase) -> bool:
    m[READING] = NOBODY
    m[DONE] += not case.tasks
    m[own(p) + STEP] = DONE_BEGIN if case.tasks else WANT_TO_READ
    return True


def report_skipped(m: Memory, p: int, case: CounterCase) -> bool:
    m[own(p) + ENDED] += 1
    m[REPORTED] += 1
    m[own(p) + STEP] = FREE_READING
    return True


def free_reading(m: Memory, p: int, case: CounterCase) -> bool:
    m[READING] = NOBODY
    m[own(p) + STEP] = WANT_TO_READ
    return True


def drop_task(m: Memory, p: int, case: CounterCase) -> bool:
    m[UNFINISHED] -= 1
    m[DONE] += 1
    m[own(p) + STEP] = LOWER_UNDONE
    return True


# ---- start anew: whether both died in a system call is not modelled, so it may be at any time when both are dead ----


def find_both_dead(m: Memory, p: int, case: CounterCase) -> bool:
    if not is_dead(m, m[WRITING]) or not is_dead(m, m[READING]):
        return False
    m[WRITING] = p
    m[own(p) + STEP] = OWN_BOTH
    return True


def own_both(m: Memory, p: int, case: CounterCase) -> bool:
    if not is_dead(m, m[READING]):
        m[own(p) + STEP] = ANEW_PUT  # only to give the write lock back, settled
        return True
    m[READING] = p
    m[own(p) + STEP] = ANEW_BEGIN
    return True


def flip_anew(m: Memory, p: int, case: CounterCase) -> bool:
    m[own(p) + LEFT] = m[BATCH_PUT] - m[GOT]
    m[GOT] = m[PIPED] = m[BATCH_PUT]
    m[own(p) + STEP] = ANEW_CREDITS
    return True


def anew_credits(m: Memory, p: int, case: CounterCase) -> bool:
    m[CREDITS] += m[own(p) + LEFT]
    m[own(p) + STEP] = ANEW_TASKS
    return True


def anew_tasks(m: Memory, p: int, case: CounterCase) -> bool:
    m[UNFINISHED] -= m[own(p) + LEFT] if case.tasks else 0
    m[own(p) + STEP] = COUNT_LOST
    return True


def count_lost(m: Memory, p: int, case: CounterCase) -> bool:
    m[LOST] += m[own(p) + LEFT]
    m[own(p) + LEFT] = 0
    m[own(p) + STEP] = ANEW_END
    return True


def anew_put(m: Memory, p: int, case: CounterCase) -> bool:
    if m[PIPED] != m[BATCH_PUT]:
        m[BATCH_PUT] = m[PUT]
    m[PUT] = m[BATCH_PUT]
    m[own(p) + STEP] = FREE_WRITING
    return True


def free_writing(m: Memory, p: int, case: CounterCase) -> bool:
    m[WRITING] = NOBODY
    m[own(p) + STEP] = FREE_READING if m[READING] == p else WANT_TO_READ
    return True
