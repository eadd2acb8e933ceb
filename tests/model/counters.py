"""Credits, tasks and the audit as a model (counters.c).

A frame is one step into the pipe or out of it here. What matters is the order of the changes of the counters, a death
between any two of them, and the loads of an audit among them.
"""

from collections.abc import Mapping

from model.audit import (
    add_held,
    begin_audit,
    check_change,
    count_unseen,
    difference,
    end_audit,
    load_word,
    mend_credits,
    mend_tasks,
    see_change_end,
)
from model.changes import (
    anew_credits,
    anew_put,
    anew_tasks,
    count_lost,
    count_put,
    count_task,
    count_undone,
    drop_task,
    end_put,
    find_both_dead,
    find_credit,
    flip_anew,
    free_reading,
    free_writing,
    lock_reading,
    lock_reading_amid_frame,
    lock_writing,
    own_both,
    publish,
    report_skipped,
    settle_batch_put,
    settle_put,
    skip_task,
    take_credit,
    unlock_reading,
    unlock_writing,
)
from model.counter_memory import (
    ADD_HELD,
    ANEW_BEGIN,
    ANEW_CREDITS,
    ANEW_END,
    ANEW_PUT,
    ANEW_TASKS,
    AUDITING,
    AUDITS,
    BATCH_PUT,
    BEGUN,
    CHANGE_UNDER_WAY,
    CHECK_CHANGE,
    COUNT_HELD,
    COUNT_LOST,
    COUNT_PUT,
    COUNT_TASK,
    COUNT_UNDONE,
    COUNT_UNSEEN,
    CREDITS,
    DEAD,
    DEATHS,
    DONE,
    DONE_BEGIN,
    DONE_END,
    DROP_TASK,
    END_AUDIT,
    END_WITHOUT,
    ENDED,
    FINISHED,
    FLIP,
    FLIP_ANEW,
    FREE_READING,
    FREE_WRITING,
    GET_BEGIN,
    GET_END,
    GIVE_CREDIT,
    GOT,
    HELD,
    JOIN,
    LEFT,
    LOAD_CREDITS,
    LOAD_GOT,
    LOAD_PUT,
    LOAD_UNFINISHED,
    LOST,
    LOST_UNSEEN,
    LOWER_HELD,
    LOWER_UNDONE,
    MEND_CREDITS,
    MEND_TASKS,
    OWN_BOTH,
    PIPED,
    PROCESS_WIDTH,
    PROCESSES,
    PUBLISH,
    PUBLISH_BEGIN,
    PUBLISH_END,
    PUT_BEGIN,
    PUT_END,
    PUT_END_QUEUED,
    REPORTED,
    RESUMES,
    SETTLE_BATCH_PUT,
    SETTLE_PUT,
    SKIP,
    SKIP_BEGIN,
    SKIP_CREDIT,
    SKIP_END,
    SKIP_TASK,
    STEP,
    SUM_CREDITS,
    SUM_GOT,
    SUM_PUT,
    SUM_UNFINISHED,
    TAKE_CREDIT,
    TAKEN,
    UNDONE,
    UNFINISHED,
    UNLOCK_READING,
    UNLOCK_WRITING,
    WAIT_FOR_CREDIT,
    WANT_TO_READ,
    WANT_TO_WRITE,
    WRITE,
    Action,
    CounterCase,
    change,
    change_own,
    own,
    uses_line,
)
from model.memory import Violation

Table = Mapping[int, tuple[tuple[str, Action], ...]]
_AUDIT = ("A1 begin an audit", begin_audit)

TABLE: Table = {
    PUT_BEGIN: (("C1 begin a change", change_own(BEGUN, 1, TAKE_CREDIT)),),
    TAKE_CREDIT: (("C2 take a credit", take_credit),),
    END_WITHOUT: (("C3 end the change: no credit", change_own(ENDED, 1, WAIT_FOR_CREDIT)),),
    WAIT_FOR_CREDIT: (("C4 find a credit", find_credit), _AUDIT),
    COUNT_TASK: (("C5 count the task", count_task),),
    COUNT_HELD: (("C6 raise held", change_own(HELD, 1, PUT_END_QUEUED)),),
    PUT_END_QUEUED: (("C7 end the change: in line", change_own(ENDED, 1, WANT_TO_WRITE)),),
    WANT_TO_WRITE: (("W1 own the write lock", lock_writing),),
    PUBLISH_BEGIN: (("C8 begin a change", change_own(BEGUN, 1, PUBLISH)),),
    LOWER_HELD: (("C9 lower held", change_own(HELD, -1, PUBLISH_END)),),
    PUBLISH: (("W4 publish batch_put", publish),),
    PUBLISH_END: (("C10 end the change", change_own(ENDED, 1, WRITE)),),
    WRITE: (("W6 write(2)", change(PIPED, 1, COUNT_PUT)),),
    COUNT_PUT: (("W8 publish put", count_put),),
    UNLOCK_WRITING: (("W14 free the write lock", unlock_writing),),
    PUT_END: (("C11 end the change", end_put),),
    SETTLE_BATCH_PUT: (("S1 settle batch_put", settle_batch_put),),
    SETTLE_PUT: (("S2 settle put", settle_put),),
    WANT_TO_READ: (
        ("R1 own the read lock", lock_reading),
        ("T6 own the read lock amid a frame", lock_reading_amid_frame),
        ("N1 own the write lock: both are dead", find_both_dead),
    ),
    SKIP_BEGIN: (("C20 begin a change", change_own(BEGUN, 1, SKIP)),),
    SKIP: (("R12 flip turn behind a skipped frame", change(GOT, 1, SKIP_CREDIT)),),
    SKIP_CREDIT: (("C21 give the credit back", change(CREDITS, 1, SKIP_TASK)),),
    SKIP_TASK: (("C22 lower unfinished", skip_task),),
    SKIP_END: (("C23 end the change, report the loss", report_skipped),),
    FREE_READING: (("R14 free the read lock", free_reading),),
    OWN_BOTH: (("N2 own the read lock, too", own_both),),
    ANEW_BEGIN: (("C24 begin a change", change_own(BEGUN, 1, FLIP_ANEW)),),
    FLIP_ANEW: (("N5 flip turn", flip_anew),),
    ANEW_CREDITS: (("C25 give the credits back", anew_credits),),
    ANEW_TASKS: (("C26 lower unfinished", anew_tasks),),
    COUNT_LOST: (("N6 count what is lost", count_lost),),
    ANEW_END: (("C27 end the change", change_own(ENDED, 1, ANEW_PUT)),),
    ANEW_PUT: (("N9 settle batch_put and put", anew_put),),
    FREE_WRITING: (("S7 free the write lock", free_writing),),
    GET_BEGIN: (("C12 begin a change", change_own(BEGUN, 1, FLIP)),),
    FLIP: (("R12 flip turn", change(GOT, 1, COUNT_UNDONE)),),
    COUNT_UNDONE: (("C13 raise undone", count_undone),),
    GIVE_CREDIT: (("C14 give the credit back", change(CREDITS, 1, GET_END)),),
    GET_END: (("C15 end the change", change_own(ENDED, 1, UNLOCK_READING)),),
    UNLOCK_READING: (("R14 free the read lock", unlock_reading),),
    DONE_BEGIN: (("C16 begin a change", change_own(BEGUN, 1, DROP_TASK)),),
    DROP_TASK: (("C17 lower unfinished", drop_task),),
    LOWER_UNDONE: (("C18 lower undone", change_own(UNDONE, -1, DONE_END)),),
    DONE_END: (("C19 end the change", change_own(ENDED, 1, WANT_TO_READ)),),
    JOIN: (_AUDIT,),
    CHECK_CHANGE: (("A2 check begun and ended", check_change),),
    ADD_HELD: (("A3 add held and undone", add_held),),
    LOAD_PUT: (("A4 load batch_put", load_word(BATCH_PUT, SUM_PUT, LOAD_GOT)),),
    LOAD_GOT: (("A5 load got", load_word(GOT, SUM_GOT, LOAD_CREDITS)),),
    LOAD_CREDITS: (("A6 load credits", load_word(CREDITS, SUM_CREDITS, LOAD_UNFINISHED)),),
    LOAD_UNFINISHED: (("A7 load unfinished", load_word(UNFINISHED, SUM_UNFINISHED, CHECK_CHANGE)),),
    MEND_CREDITS: (("A8 mend credits", mend_credits),),
    MEND_TASKS: (("A9 mend unfinished", mend_tasks),),
    COUNT_UNSEEN: (("A10 count what no reader reports", count_unseen),),
    END_AUDIT: (("A11 free auditing", end_audit),),
    CHANGE_UNDER_WAY: (("A12 the change ended", see_change_end),),
}

# Credits and tasks that a process alone knows of, at its step: what is in no counter yet, or (below 0) in two.
CREDIT_IN_HAND = {COUNT_TASK: 1, COUNT_HELD: 1, COUNT_UNDONE: 1, GIVE_CREDIT: 1, LOWER_HELD: -1, SKIP_CREDIT: 1}
TASK_IN_HAND = {COUNT_HELD: 1, COUNT_UNDONE: 1, LOWER_HELD: -1, LOWER_UNDONE: -1, SKIP_CREDIT: 1, SKIP_TASK: 1}


class Counters:
    """Processes that change the counters, and audit them. `changed` replaces transitions of the table: a mutation."""

    def __init__(self, case: CounterCase, changed: Table | None = None) -> None:
        self.name = case.name
        self.case = case
        self._table = {**TABLE, **(changed or {})}
        self._own = [(p, own(p)) for p in range(1, len(case.roles) + 1)]

    def first(self) -> bytes:
        """Return a new queue, whose processes have all their work before them."""
        m = bytearray(PROCESSES + PROCESS_WIDTH * len(self.case.roles))
        m[CREDITS], m[DEATHS], m[AUDITS] = self.case.maxsize, self.case.deaths, self.case.audits
        for (_, at), (step, puts) in zip(self._own, self.case.roles, strict=True):
            m[at + STEP], m[at + LEFT] = step, puts
        return bytes(m)

    def successors(self, state: bytes, canonical: bool) -> list[tuple[str, bytes]]:
        """Return what each enabled transition leads to; the processes' order counts, as an audit goes by it."""
        found = []
        for p, at in self._own:
            for label, action in self._table.get(state[at], ()):
                m = bytearray(state)
                try:
                    if action(m, p, self.case):
                        found.append((f"P{p} {label}", bytes(m)))
                except ValueError:
                    raise Violation("counts: a word falls below 0") from None
        if state[DEATHS]:
            found += [(f"P{p} dies", self._died(state, p, at)) for p, at in self._own if state[at] > FINISHED]
        return found

    def _died(self, state: bytes, p: int, at: int) -> bytes:
        m = bytearray(state)
        m[at : at + PROCESS_WIDTH] = bytes(PROCESS_WIDTH)
        m[DEATHS] -= 1
        if m[AUDITING] == p:
            m[SUM_CREDITS:PROCESSES] = bytes(PROCESSES - SUM_CREDITS)
        return bytes(m)

    def goes_on(self, state: bytes, count: int) -> bool:
        """Return whether there is a step besides the deaths."""
        return count > (sum(state[at] > FINISHED for _, at in self._own) if state[DEATHS] else 0)

    def check(self, state: bytes) -> None:
        """Check what holds in every state: of credits there are never too many, of tasks never too few."""
        if state[GOT] > state[BATCH_PUT]:
            raise Violation("counts: more frames are got than put")
        credits, tasks = difference(state, self.case)
        for p, at in self._own:
            step = state[at]
            # A direct put waits for the write lock, and settles what a dead writer left, with its credit in hand.
            waits = step in (WANT_TO_WRITE, SETTLE_BATCH_PUT, SETTLE_PUT, PUBLISH) and not uses_line(p, self.case)
            direct = waits and state[at + RESUMES] != UNLOCK_WRITING
            anew = state[at + LEFT]
            credits -= CREDIT_IN_HAND.get(step, 0) + direct + (anew if step == ANEW_CREDITS else 0)
            tasks -= TASK_IN_HAND.get(step, 0) + direct + (anew if step in (ANEW_CREDITS, ANEW_TASKS) else 0)
        if credits < 0:
            raise Violation("credits: more than maxsize, with the items in the pipe and in the living's hands")
        if tasks < 0 and self.case.tasks:
            raise Violation("tasks: fewer than items in the pipe and in the living's hands")
        if state[DONE] + state[REPORTED] + state[LOST] + state[LOST_UNSEEN] > state[TAKEN]:
            raise Violation("accounts: an item is reported twice, or after it was done")

    def check_end(self, state: bytes) -> None:
        """Check what holds when every living process is finished or waits: an audit leaves no difference."""
        steps = [state[at] for _, at in self._own]
        waits = [step for step in steps if step not in (DEAD, FINISHED)]
        if any(step not in (JOIN, WANT_TO_READ, WAIT_FOR_CREDIT) for step in waits):
            raise Violation("progress: a process is stuck")
        consumes = WANT_TO_READ in waits
        if consumes and (state[GOT] != state[PIPED] or (WAIT_FOR_CREDIT in waits and JOIN in waits)):
            raise Violation("progress: a process waits for what is there")
        if (JOIN in waits or WAIT_FOR_CREDIT in waits) and difference(state, self.case) != (0, 0):
            raise Violation("audit: credits or tasks of the dead do not come back")
