"""Changed transitions of the counters, for the mutations."""

from model import audit, changes
from model import counter_memory as words
from model.counter_memory import Action, CounterCase, Memory, change, change_own, own
from model.counters import Table


def ignore_changes(m: Memory, p: int, case: CounterCase) -> bool:
    if m[words.PASS] or words.is_dead(m, m[words.LOOKS_AT]):
        audit.look_further(m, p, case)
    else:
        m[own(p) + words.STEP] = words.ADD_HELD
    return True


AUDIT_AMID_CHANGES: Table = {words.CHECK_CHANGE: (("A2' do not check begun and ended", ignore_changes),)}

# ---- the sums of the second pass are used: its words are the same, but `undone` is not compared ----


def check_and_add(m: Memory, p: int, case: CounterCase) -> bool:
    looks_at, passed = m[words.LOOKS_AT], m[words.PASS]
    audit.check_change(m, p, case)
    if passed and m[own(p) + words.STEP] != words.END_AUDIT:
        m[words.LOOKS_AT] = looks_at
        m[own(p) + words.STEP] = words.ADD_HELD
    return True


def add_second(m: Memory, p: int, case: CounterCase) -> bool:
    if not m[words.PASS]:
        return audit.add_held(m, p, case)
    if not words.is_dead(m, m[words.LOOKS_AT]):
        m[words.SECOND_UNDONE] += m[own(m[words.LOOKS_AT]) + words.UNDONE]
    audit.look_further(m, p, case)
    return True


def mend_by_second(m: Memory, p: int, case: CounterCase) -> bool:
    first = (m[words.SUM_PUT] - m[words.SUM_GOT], m[words.SUM_CREDITS], m[words.SUM_UNFINISHED])
    if first != (m[words.BATCH_PUT] - m[words.GOT], m[words.CREDITS], m[words.UNFINISHED]):
        audit.leave_audit(m, p)
        return True
    m[words.SUM_UNDONE] = m[words.SECOND_UNDONE]
    return audit.mend_credits(m, p, case)


MEND_BY_SECOND_PASS: Table = {
    words.CHECK_CHANGE: (("A2 check begun and ended", check_and_add),),
    words.ADD_HELD: (("A3' add held and undone, in both passes", add_second),),
    words.MEND_CREDITS: (("A8' compare all but undone, mend credits", mend_by_second),),
}

# ---- a credit is given back before the frame is out ----

CREDIT_BEFORE_FLIP: Table = {
    words.FLIP: (("C14' give the credit back", change(words.CREDITS, 1, words.GIVE_CREDIT)),),
    words.GIVE_CREDIT: (("R12' flip turn", change(words.GOT, 1, words.COUNT_UNDONE)),),
    words.COUNT_UNDONE: (("C13 raise undone", change_own(words.UNDONE, 1, words.GET_END)),),
}

# ---- a new start changes the counters outside of a change ----


def go_to(following: int) -> Action:
    """Return a step that does nothing."""

    def action(m: Memory, p: int, case: CounterCase) -> bool:
        m[own(p) + words.STEP] = following
        return True

    return action


ANEW_WITHOUT_CHANGE: Table = {
    words.ANEW_BEGIN: (("C24' begin no change", go_to(words.FLIP_ANEW)),),
    words.ANEW_END: (("C27' end none", go_to(words.ANEW_PUT)),),
}

# ---- losses are counted before the counters change that they are computed from ----


def flip_then_count(m: Memory, p: int, case: CounterCase) -> bool:
    changes.flip_anew(m, p, case)
    m[own(p) + words.STEP] = words.COUNT_LOST
    return True


def count_lost_first(m: Memory, p: int, case: CounterCase) -> bool:
    m[words.LOST] += m[own(p) + words.LEFT]
    m[own(p) + words.STEP] = words.ANEW_CREDITS
    return True


def lower_last(m: Memory, p: int, case: CounterCase) -> bool:
    changes.anew_tasks(m, p, case)
    m[own(p) + words.LEFT] = 0
    m[own(p) + words.STEP] = words.ANEW_END
    return True


COUNT_BEFORE_CREDITS: Table = {
    words.FLIP_ANEW: (("N5 flip turn", flip_then_count),),
    words.COUNT_LOST: (("N6' count what is lost", count_lost_first),),
    words.ANEW_TASKS: (("C26 lower unfinished", lower_last),),
}


def credit_then_count(m: Memory, p: int, case: CounterCase) -> bool:
    audit.mend_credits(m, p, case)
    m[own(p) + words.STEP] = words.COUNT_UNSEEN
    return True


def count_unseen_first(m: Memory, p: int, case: CounterCase) -> bool:
    m[words.LOST_UNSEEN] += m[own(p) + words.LOST_HERE]
    m[own(p) + words.STEP] = words.MEND_TASKS
    return True


def mend_tasks_last(m: Memory, p: int, case: CounterCase) -> bool:
    audit.mend_tasks(m, p, case)
    m[own(p) + words.LOST_HERE] = 0
    audit.leave_audit(m, p)
    return True


COUNT_BEFORE_TASKS: Table = {
    words.MEND_CREDITS: (("A8 mend credits", credit_then_count),),
    words.COUNT_UNSEEN: (("A10' count what no reader reports", count_unseen_first),),
    words.MEND_TASKS: (("A9 mend unfinished", mend_tasks_last),),
}
