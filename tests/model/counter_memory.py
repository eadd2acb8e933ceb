"""A state of the counters' model: one bytearray, one byte a word."""

from collections.abc import Callable
from dataclasses import dataclass

Memory = bytearray
NOBODY = 0

# Words of shared memory; `piped`: frames that went into the pipe, as FIONREAD and the positions show.
CREDITS, UNFINISHED, BATCH_PUT, PUT, GOT, PIPED, WRITING, READING, AUDITING, LOST, LOST_UNSEEN = range(11)
# Only the checks read these.
# How many processes may still die, and audits begin though no counter is wrong; items put, done, and reported at once.
DEATHS, AUDITS, TAKEN, DONE, REPORTED = range(11, 16)
# What the owner of `auditing` has added up, and the participant that it looks at.
SUM_CREDITS, SUM_UNFINISHED, SUM_PUT, SUM_GOT, SUM_HELD, SUM_UNDONE, SECOND_UNDONE, PASS, LOOKS_AT = range(16, 25)
CHANGES = 25  # `begun` of each participant in the first pass, 255 for a dead one
MOST_PROCESSES = 5

PROCESSES = CHANGES + MOST_PROCESSES
# Words of a process. LEFT: puts that it has to make, or items that it found lost; LOST_HERE: likewise, in an audit.
STEP, BEGUN, ENDED, HELD, UNDONE, LEFT, BLOCKER, RESUMES, LOST_HERE = range(9)
PROCESS_WIDTH = 9

(
    DEAD,
    FINISHED,
    PUT_BEGIN,
    TAKE_CREDIT,
    END_WITHOUT,
    WAIT_FOR_CREDIT,
    COUNT_TASK,
    COUNT_HELD,
    PUT_END_QUEUED,
    WANT_TO_WRITE,
    PUBLISH_BEGIN,
    PUBLISH,
    LOWER_HELD,
    PUBLISH_END,
    WRITE,
    COUNT_PUT,
    UNLOCK_WRITING,
    PUT_END,
    WANT_TO_READ,
    GET_BEGIN,
    FLIP,
    COUNT_UNDONE,
    GIVE_CREDIT,
    GET_END,
    UNLOCK_READING,
    SKIP_BEGIN,
    SKIP,
    SKIP_CREDIT,
    SKIP_TASK,
    SKIP_END,
    OWN_BOTH,
    ANEW_BEGIN,
    FLIP_ANEW,
    ANEW_CREDITS,
    ANEW_TASKS,
    COUNT_LOST,
    ANEW_END,
    ANEW_PUT,
    FREE_WRITING,
    FREE_READING,
    DONE_BEGIN,
    DROP_TASK,
    LOWER_UNDONE,
    DONE_END,
    JOIN,
    CHECK_CHANGE,
    ADD_HELD,
    LOAD_PUT,
    LOAD_GOT,
    LOAD_CREDITS,
    LOAD_UNFINISHED,
    MEND_CREDITS,
    MEND_TASKS,
    COUNT_UNSEEN,
    END_AUDIT,
    CHANGE_UNDER_WAY,
    SETTLE_BATCH_PUT,
    SETTLE_PUT,
) = range(58)


@dataclass(frozen=True)
class CounterCase:
    """Who uses the queue: writers without a line and with one, with how many puts each, then consumers and joiners."""

    name: str
    maxsize: int
    direct: tuple[int, ...]
    queued: tuple[int, ...]
    consumers: int
    joiners: int
    deaths: int
    audits: int
    tasks: bool = True  # of a JoinableQueue

    @property
    def roles(self) -> tuple[tuple[int, int], ...]:
        """Return the first step and the number of puts of each process."""
        puts = [(PUT_BEGIN, count) for count in self.direct + self.queued]
        return (*puts, *[(WANT_TO_READ, 0)] * self.consumers, *[(JOIN, 0)] * self.joiners)


Action = Callable[[Memory, int, CounterCase], bool]


def own(process: int) -> int:
    """Return where the words of a process begin."""
    return PROCESSES + PROCESS_WIDTH * (process - 1)


def is_dead(m: Memory | bytes, process: int) -> bool:
    """Return what a liveness check returns."""
    return process != NOBODY and m[own(process) + STEP] == DEAD


def uses_line(process: int, case: CounterCase) -> bool:
    """Return whether a writer's items wait in its line first."""
    return len(case.direct) < process <= len(case.direct) + len(case.queued)


def change(word: int, by: int, following: int) -> Action:
    """Return a step that adds to a shared word."""

    def action(m: Memory, p: int, case: CounterCase) -> bool:
        m[word] += by
        m[own(p) + STEP] = following
        return True

    return action


def change_own(word: int, by: int, following: int) -> Action:
    """Return a step that adds to a word of the process's entry in the table."""

    def action(m: Memory, p: int, case: CounterCase) -> bool:
        m[own(p) + word] += by
        m[own(p) + STEP] = following
        return True

    return action
