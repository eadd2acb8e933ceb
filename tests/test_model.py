"""The model of csrc/PROTOCOL.md. .ci explores the large cases: python tests/model/explore.py."""

import pytest
from model.counter_memory import CounterCase
from model.counters import Counters
from model.explorer import Model, explore, find_counterexample
from model.memory import Case
from model.mutations import MUTATIONS, Mutation
from model.stream import TABLE, Stream

SMALL = Case("two writers, two readers", 2, (2, 2), (((0,),), ((1,),)), readers=2, deaths=1)
BATCH = Case("a batch", 2, (2, 3), (((0, 1),),), readers=2, deaths=1)


def ends_of(model: Stream) -> set[bytes]:
    """Return the states without a further step of a living process."""
    seen, waiting, ends = {model.first()}, [model.first()], set()
    while waiting:
        state = waiting.pop()
        following = model.successors(state, canonical=True)
        if not model.goes_on(state, len(following)):
            ends.add(state)
        new = {successor for _, successor in following} - seen
        seen |= new
        waiting += new
    return ends


@pytest.mark.parametrize(
    "model",
    [
        Stream(SMALL),
        Stream(BATCH),
        Counters(CounterCase("a direct put", 1, (1,), (), consumers=1, joiners=1, deaths=2, audits=1)),
        Counters(CounterCase("a put in line", 1, (), (1,), consumers=1, joiners=1, deaths=1, audits=1)),
    ],
    ids=lambda model: str(model.name),
)
def test_invariants_hold_wherever_a_process_dies(model: Model) -> None:
    result = explore(model)
    assert result.ends > 1
    assert result.states > 10_000


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: str(mutation.name))
def test_each_rule_is_needed(mutation: Mutation) -> None:
    found = find_counterexample(mutation.model)
    assert found is not None
    assert found.invariant.startswith(f"{mutation.breaks}:")


def test_steps_that_nobody_sees_need_no_order() -> None:
    case = Case("one death", 2, (2, 2), (((0, 1),),), readers=2, deaths=1)
    assert ends_of(Stream(case)) == ends_of(Stream(case, reduced=False))


def test_every_transition_is_taken() -> None:
    model = Stream(Case("everything", 2, (2, 3, 1), (((0, 1),), ((2,),)), readers=2, deaths=2, interruptions=1))
    missing = {transition.number for transitions in TABLE.values() for transition in transitions}
    seen, waiting = {model.first()}, [model.first()]
    while waiting and missing:
        following = model.successors(waiting.pop(), canonical=True)
        missing -= {label.split()[1] for label, _ in following}
        for _, successor in reversed(following):
            if successor not in seen:
                seen.add(successor)
                waiting.append(successor)
    assert not missing
