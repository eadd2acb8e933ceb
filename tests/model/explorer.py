"""Visit every state that a model can reach.

No run may come back to a state that it has been in. So every run of the living processes ends, and it is enough to
check the states in which one can end.
"""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from model.memory import Violation

State = bytes


class Model(Protocol):
    """Something to explore."""

    name: str

    def first(self) -> State:
        """Return the state to begin with."""
        ...

    def successors(self, state: State, canonical: bool) -> list[tuple[str, State]]:
        """Return what each enabled transition leads to; `canonical`: one state for all that differ in names only."""
        ...

    def goes_on(self, state: State, count: int) -> bool:
        """Return whether one of the `count` successors is a step of a living process, and not a death."""
        ...

    def check(self, state: State) -> None:
        """Raise Violation where an invariant of every state does not hold."""
        ...

    def check_end(self, state: State) -> None:
        """Raise Violation where an invariant of a state without further steps does not hold."""
        ...


@dataclass(frozen=True)
class Result:
    """What an exhaustive exploration visited."""

    states: int
    transitions: int
    ends: int
    depth: int
    seconds: float


@dataclass(frozen=True)
class Counterexample:
    """A shortest run to a violation."""

    invariant: str
    steps: tuple[str, ...]
    states: int


def explore(model: Model) -> Result:
    """Visit all states depth first; raise Violation with the first invariant that does not hold."""
    began = time.process_time()
    first = model.first()
    is_open = {first: True}  # on the way to the state under way; False: all behind it was visited
    transitions = ends = depth = 0
    path: list[tuple[State, Iterator[tuple[str, State]]]] = []

    def enter(state: State) -> None:
        nonlocal transitions, ends, depth
        model.check(state)
        following = model.successors(state, canonical=True)
        transitions += len(following)
        if not model.goes_on(state, len(following)):
            model.check_end(state)
            ends += 1
        path.append((state, iter(following)))
        depth = max(depth, len(path))

    enter(first)
    while path:
        state, following = path[-1]
        for _, successor in following:
            seen = is_open.get(successor)
            if seen is None:
                is_open[successor] = True
                enter(successor)
                break
            if seen:
                raise Violation("progress: a run comes back to a state that it has been in")
        else:
            is_open[state] = False
            path.pop()
    return Result(len(is_open), transitions, ends, depth, time.process_time() - began)


def find_counterexample(model: Model) -> Counterexample | None:
    """Visit all states breadth first, with the processes' own names; return a shortest run to a violation."""
    first = model.first()
    parents: dict[State, tuple[State, str] | None] = {first: None}
    waiting = deque([first])
    while waiting:
        state = waiting.popleft()
        try:
            model.check(state)
            following = model.successors(state, canonical=False)
            if not model.goes_on(state, len(following)):
                model.check_end(state)
        except Violation as violation:
            return Counterexample(str(violation), _run_to(parents, state), len(parents))
        for label, successor in following:
            if successor not in parents:
                parents[successor] = (state, label)
                waiting.append(successor)
    return None


def _run_to(parents: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    steps = []
    while (parent := parents[state]) is not None:
        state, label = parent
        steps.append(label)
    return tuple(reversed(steps))
