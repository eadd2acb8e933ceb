"""The stream of frames as a model: the transition tables together, deaths, and the invariants."""

from collections.abc import Iterator, Mapping
from itertools import chain

from model import reading, settling, steps, takeover, writing
from model.memory import (
    BATCH_PUT,
    BOUNDARY,
    CONSUMED,
    DEATHS,
    DELIVERED,
    DEPTH,
    DROPPED,
    GOT,
    LOST,
    NOBODY,
    OTHER,
    OUTCOME,
    PIPE,
    PLACE_WIDTH,
    PLACES,
    PRIVATE,
    PROCESS_WIDTH,
    PUBLISHED,
    PUT,
    READER_BUSY,
    READING,
    REPORTED,
    SENT,
    SILENT,
    STEP,
    TURN,
    UNSEEN,
    VICTIM,
    VICTIMS,
    WRITER_BUSY,
    WRITING,
    WRITTEN,
    Case,
    Memory,
    Transition,
    Violation,
    first_state,
    have,
    is_dead,
    own,
    place,
)

Table = Mapping[int, tuple[Transition, ...]]

_TABLES = (writing.TRANSITIONS, reading.TRANSITIONS, takeover.TRANSITIONS, settling.TRANSITIONS)
TABLE: Table = {
    step: tuple(chain.from_iterable(table.get(step, ()) for table in _TABLES))
    for step in range(steps.FINISHED + 1, steps.ANEW_BEGIN + 1)
}

# Between these steps a process owns the lock.
OWNS_WRITING = {
    *range(steps.BATCH_BEGINS, steps.UNLOCK_WRITING + 1),
    steps.WAIT_AMID_FRAME,
    *range(steps.SETTLE_BATCH_PUT, steps.GIVE_WRITING_BACK + 1),
    steps.PREPARE_CUT,
    steps.FLIP_CUT,
    *range(steps.SWAP_BOTH, steps.ANEW_BEGIN + 1),
}
OWNS_READING = {
    *range(steps.LOWER_LIMIT, steps.FLIP_CUT + 1),
    steps.SET_CONSUMED,
    steps.CLEAR_READER_BUSY,
    *range(steps.DROP_PIPE, steps.ANEW_BEGIN + 1),
}


def in_hand(m: Memory | bytes, at: int) -> int:
    """Return how many frames or errors nobody else knows of when a process dies at its step."""
    step = m[at + STEP]
    if step == steps.SETTLE_BATCH_PUT:
        return 0  # `batch_put` still counts it
    counted = m[at + OTHER] if step == steps.COUNT_LOST else 0
    return counted + (m[at + OUTCOME] != 0)


def die(m: Memory, p: int, case: Case) -> bool:
    """End a process, at any step: SIGKILL."""
    if not m[DEATHS]:
        return False
    at = own(p)
    m[DEATHS] -= 1
    m[SILENT] += in_hand(m, at)
    m[VICTIMS] += p > case.writers
    if m[READING] == p:
        m[PRIVATE : PRIVATE + DEPTH] = bytes(DEPTH)
    m[at : at + PROCESS_WIDTH] = bytes(PROCESS_WIDTH)
    return True


class Stream:
    """Writers and readers of one queue.

    `changed` replaces transitions of the table: a mutation. `reduced`: a process at a step that no other can see takes
    that step first.
    """

    def __init__(self, case: Case, changed: Table | None = None, reduced: bool = True) -> None:
        self.name = case.name
        self.case = case
        self._reduced = reduced
        table = {**TABLE, **(changed or {})}
        self._table = [table.get(step, ()) for step in range(steps.CHANGED_COMMIT + 1)]
        self._own = [(p, own(p), f"{'W' if p <= case.writers else 'R'}{p}") for p in case.processes]
        self._readers = [at for p, at, _ in self._own if p > case.writers]

    def first(self) -> bytes:
        """Return a new queue, whose processes have all their work before them."""
        return bytes(first_state(self.case, steps.WANT_TO_WRITE, steps.WANT_TO_READ))

    def successors(self, state: bytes, canonical: bool) -> list[tuple[str, bytes]]:
        """Return what each enabled transition leads to."""
        found = []
        for p, at, name in self._moving(state):
            for transition in self._table[state[at]]:
                m = bytearray(state)
                try:
                    if not transition.action(m, p, self.case):
                        continue
                except ValueError:
                    raise Violation("counts: a word falls below 0") from None
                found.append((f"{name} {transition.number} {transition.text}", self._named(m, canonical)))
        for p, _, name in self._moving(state):
            m = bytearray(state)
            if die(m, p, self.case):
                found.append((f"{name} dies", self._named(m, canonical)))
        return found

    def _moving(self, state: bytes) -> list[tuple[int, int, str]]:
        """Return the processes whose next steps differ by their order: one alone where no other can see its step."""
        living = [entry for entry in self._own if state[entry[1]] > steps.FINISHED]
        for entry in living:
            if self._reduced and self._table[state[entry[1]]][0].unseen:
                return [entry]
        return living

    def goes_on(self, state: bytes, count: int) -> bool:
        """Return whether there is a step besides the deaths."""
        return count > (len(self._moving(state)) if state[DEATHS] else 0)

    def _named(self, m: Memory, canonical: bool) -> bytes:
        """Return a state; readers do the same, so of two that differ in the readers' order one is enough."""
        if not canonical:
            return bytes(m)
        blocks = [bytes(m[at : at + PROCESS_WIDTH]) for at in self._readers]
        first = self.case.writers + 1
        keys = [(block, m[READING] == first + i, m[WRITING] == first + i) for i, block in enumerate(blocks)]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        if order == sorted(order):
            return bytes(m)
        names = {first + old: first + new for new, old in enumerate(order)}
        for at, old in zip(self._readers, order, strict=True):
            m[at : at + PROCESS_WIDTH] = blocks[old]
        for word in (READING, WRITING, *(at + VICTIM for _, at, _ in self._own)):
            m[word] = names.get(m[word], m[word])
        for at in self._readers:
            if m[at + STEP] == steps.SWAP_BOTH:
                m[at + OTHER] = names.get(m[at + OTHER], m[at + OTHER])
        return bytes(m)

    def check(self, state: bytes) -> None:
        """Check what holds in every state."""
        for p, at, _ in self._own:
            step = state[at]
            if step in OWNS_WRITING and state[WRITING] != p:
                raise Violation("exclusion: a living owner of the write lock is not the one in its word")
            if step in OWNS_READING and state[READING] != p:
                raise Violation("exclusion: a living owner of the read lock is not the one in its word")
        at = PLACES + PLACE_WIDTH * state[TURN]
        if not state[READER_BUSY]:
            if not state[WRITER_BUSY] and state[WRITTEN] - state[CONSUMED] != state[PIPE]:
                raise Violation("position: written - consumed is not FIONREAD outside of system calls")
            if state[at + BOUNDARY] > state[CONSUMED]:
                raise Violation("position: the boundary is beyond what was consumed")
        if not state[at + GOT] <= state[BATCH_PUT] or state[PUT] > state[BATCH_PUT]:
            raise Violation("counts: more frames are got than put")

    def check_end(self, state: bytes) -> None:
        """Check what holds when every living process is finished or waits."""
        m = bytearray(state)
        at = place(m)
        known = m[REPORTED] + m[SILENT] + m[LOST] + m[UNSEEN] + m[BATCH_PUT] - m[at + GOT]
        if m[PUBLISHED] != m[DELIVERED].bit_count() + known:
            raise Violation("accounts: frames are not delivered, lost or reported exactly once")
        readers = [process for process in self._living() if process > self.case.writers and m[own(process)] > 1]
        if not readers:
            return  # writers may wait for a reader, as long as there is none
        self._check_stuck(m, readers)
        if (m[SENT] & ~m[DELIVERED]).bit_count() > m[VICTIMS] and not m[DROPPED]:
            raise Violation("loss: more whole frames are gone than readers died")

    def _living(self) -> Iterator[int]:
        return iter(self.case.processes)

    def _check_stuck(self, m: Memory, readers: list[int]) -> None:
        for p in range(1, self.case.writers + 1):
            if m[own(p)] not in (steps.DEAD, steps.FINISHED):
                raise Violation("progress: a writer is stuck while a reader lives")
        for p in readers:
            waits = m[own(p)] == steps.WANT_TO_READ and m[READING] != NOBODY and not is_dead(m, m[READING])
            idle = m[own(p)] == steps.WAIT_FOR_BYTES and not m[PIPE] and have(m) == 0 and not m[LOST]
            if not waits and not idle:
                raise Violation("progress: a reader is stuck with something to read")
        position = m[CONSUMED] if m[WRITER_BUSY] else m[WRITTEN]
        if m[WRITING] != NOBODY and not (is_dead(m, m[WRITING]) and takeover.ends_whole(m, position)):
            raise Violation("progress: the write lock is owned, and the next writer could not take it over")
