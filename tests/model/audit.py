"""The audit: it gives back the credits and tasks of the dead (counters.c: pipecap_audit)."""

from model.counter_memory import (
    ADD_HELD,
    AUDITING,
    AUDITS,
    BATCH_PUT,
    BEGUN,
    BLOCKER,
    CHANGE_UNDER_WAY,
    CHANGES,
    CHECK_CHANGE,
    COUNT_UNSEEN,
    CREDITS,
    DEAD,
    END_AUDIT,
    ENDED,
    GOT,
    HELD,
    LOAD_PUT,
    LOOKS_AT,
    LOST_HERE,
    LOST_UNSEEN,
    MEND_CREDITS,
    MEND_TASKS,
    NOBODY,
    PASS,
    PROCESSES,
    RESUMES,
    SETTLE_BATCH_PUT,
    STEP,
    SUM_CREDITS,
    SUM_GOT,
    SUM_HELD,
    SUM_PUT,
    SUM_UNDONE,
    SUM_UNFINISHED,
    UNDONE,
    UNFINISHED,
    UNLOCK_WRITING,
    WRITING,
    Action,
    CounterCase,
    Memory,
    is_dead,
    own,
)


def difference(m: Memory | bytes, case: CounterCase) -> tuple[int, int]:
    """Return by how much credits and tasks differ from what the living have: the share of the dead."""
    credits = case.maxsize - m[CREDITS] - (m[BATCH_PUT] - m[GOT])
    tasks = m[UNFINISHED] - (m[BATCH_PUT] - m[GOT]) if case.tasks else 0
    for p in range(1, len(case.roles) + 1):
        at = own(p)
        if m[at + STEP] != DEAD:
            credits -= m[at + HELD]
            tasks -= (m[at + HELD] + m[at + UNDONE]) * case.tasks
    return credits, tasks


def begin_audit(m: Memory, p: int, case: CounterCase) -> bool:
    if m[AUDITING] != NOBODY and not is_dead(m, m[AUDITING]):
        return False
    if is_dead(m, m[WRITING]):
        m[WRITING] = p
        m[own(p) + BLOCKER], m[own(p) + RESUMES] = m[own(p) + STEP], UNLOCK_WRITING
        m[own(p) + STEP] = SETTLE_BATCH_PUT
        return True
    if not m[AUDITS] and difference(m, case) == (0, 0):
        return False
    m[SUM_CREDITS:PROCESSES] = bytes(PROCESSES - SUM_CREDITS)
    m[AUDITING] = p
    m[own(p) + RESUMES] = m[own(p) + STEP]
    m[LOOKS_AT] = 1
    m[own(p) + STEP] = CHECK_CHANGE
    return True


def leave_audit(m: Memory, p: int) -> None:
    """Clear what was added up."""
    m[SUM_CREDITS:PROCESSES] = bytes(PROCESSES - SUM_CREDITS)
    m[own(p) + STEP] = END_AUDIT


def look_further(m: Memory, p: int, case: CounterCase) -> None:
    """Look at the next participant, or at the shared words."""
    m[LOOKS_AT] += 1
    if m[LOOKS_AT] <= len(case.roles):
        m[own(p) + STEP] = CHECK_CHANGE
    elif m[PASS] == 0:
        m[own(p) + STEP] = LOAD_PUT
    else:
        m[own(p) + STEP] = MEND_CREDITS


def check_change(m: Memory, p: int, case: CounterCase) -> bool:
    i, dead = m[LOOKS_AT], is_dead(m, m[LOOKS_AT])
    if not dead and m[own(i) + BEGUN] != m[own(i) + ENDED]:
        m[own(p) + BLOCKER] = i
        leave_audit(m, p)
        return True
    begun = 255 if dead else m[own(i) + BEGUN]
    if m[PASS] and begun != m[CHANGES + i - 1]:
        leave_audit(m, p)
        return True
    m[CHANGES + i - 1] = begun
    if dead or m[PASS]:
        look_further(m, p, case)
    else:
        m[own(p) + STEP] = ADD_HELD
    return True


def add_held(m: Memory, p: int, case: CounterCase) -> bool:
    m[SUM_HELD] += m[own(m[LOOKS_AT]) + HELD]
    m[SUM_UNDONE] += m[own(m[LOOKS_AT]) + UNDONE]
    look_further(m, p, case)
    return True


def load_word(word: int, into: int, following: int) -> Action:
    """Return a step of the first pass that loads a shared word."""

    def action(m: Memory, p: int, case: CounterCase) -> bool:
        m[into] = m[word]
        m[own(p) + STEP] = following
        if following == CHECK_CHANGE:
            m[PASS], m[LOOKS_AT] = 1, 1
        return True

    return action


def tasks_missing(m: Memory) -> int:
    """Return how many tasks the dead had, as added up."""
    return m[SUM_UNFINISHED] - (m[SUM_PUT] - m[SUM_GOT]) - m[SUM_HELD] - m[SUM_UNDONE]


def mend_credits(m: Memory, p: int, case: CounterCase) -> bool:
    credits = max(case.maxsize - m[SUM_CREDITS] - (m[SUM_PUT] - m[SUM_GOT]) - m[SUM_HELD], 0)
    tasks = max(tasks_missing(m), 0)
    m[CREDITS] += credits
    m[own(p) + LOST_HERE] = tasks or (0 if m[SUM_UNFINISHED] else credits)
    m[own(p) + STEP] = MEND_TASKS
    return True


def mend_tasks(m: Memory, p: int, case: CounterCase) -> bool:
    m[UNFINISHED] -= max(tasks_missing(m), 0)
    m[own(p) + STEP] = COUNT_UNSEEN
    return True


def count_unseen(m: Memory, p: int, case: CounterCase) -> bool:
    m[LOST_UNSEEN] += m[own(p) + LOST_HERE]
    m[own(p) + LOST_HERE] = 0
    m[AUDITS] -= m[AUDITS] > 0
    leave_audit(m, p)
    return True


def end_audit(m: Memory, p: int, case: CounterCase) -> bool:
    m[AUDITING] = NOBODY
    m[own(p) + STEP] = CHANGE_UNDER_WAY if m[own(p) + BLOCKER] else m[own(p) + RESUMES]
    if not m[own(p) + BLOCKER]:
        m[own(p) + RESUMES] = 0
    return True


def see_change_end(m: Memory, p: int, case: CounterCase) -> bool:
    """Audit again in the next round, when the change that was under way is not any more."""
    blocker = m[own(p) + BLOCKER]
    if not is_dead(m, blocker) and m[own(blocker) + BEGUN] != m[own(blocker) + ENDED]:
        return False
    m[own(p) + STEP], m[own(p) + BLOCKER], m[own(p) + RESUMES] = m[own(p) + RESUMES], 0, 0
    return True
