"""The wait-for graph, on graphs made by hand: held to the definition, tried over all subsets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, combinations

from hypothesis import given
from hypothesis import strategies as st

from pipecap.diagnosis.graph import closure, core, groups, stuck

Movers = Mapping[int, "Iterable[int] | None"]

MOST = 8
OUTSIDE = MOST  # a thread that is never blocked
BLOCKED = st.integers(0, MOST - 1)


def graphs(*, outside: bool = True) -> st.SearchStrategy[dict[int, frozenset[int] | None]]:
    """Up to eight blocked threads and who can move each; with `outside` also somebody unknown, or not blocked."""
    inside = st.frozensets(BLOCKED, max_size=4)
    anybody = st.one_of(inside, inside.map(lambda others: others | {OUTSIDE}), st.none()) if outside else inside
    return st.dictionaries(BLOCKED, anybody, max_size=MOST)


def subsets(threads: Iterable[int]) -> Iterator[set[int]]:
    members = list(threads)
    return map(set, chain.from_iterable(combinations(members, size) for size in range(len(members) + 1)))


def holds_itself(members: set[int], movers: Movers) -> bool:
    """Whether each of them can be moved by none but them: the condition of which the greatest set is wanted."""
    return all((others := movers[thread]) is not None and set(others) <= members for thread in members)


@given(graphs())
def test_the_result_is_the_greatest_set_that_holds_itself(movers: dict[int, frozenset[int] | None]) -> None:
    found = stuck(movers)
    assert holds_itself(found, movers)
    assert found == set().union(*(each for each in subsets(movers) if holds_itself(each, movers)))


@given(graphs(), st.data())
def test_one_more_waker_never_adds_a_thread(movers: dict[int, frozenset[int] | None], data: st.DataObject) -> None:
    """Whoever the waker is: unknown, not blocked, or one of the blocked."""
    before = stuck(movers)
    if not movers:
        return
    thread = data.draw(st.sampled_from(sorted(movers)))
    waker = data.draw(st.one_of(st.none(), st.just(OUTSIDE), BLOCKED))
    others = movers[thread]
    more = {**movers, thread: None if waker is None or others is None else others | {waker}}
    assert stuck(more) <= before
    if waker in (None, OUTSIDE):
        assert thread not in stuck(more)


@given(graphs(), st.data())
def test_a_thread_that_is_not_blocked_after_all_frees_others_and_holds_nobody(
    movers: dict[int, frozenset[int] | None], data: st.DataObject
) -> None:
    if movers:
        free = data.draw(st.sampled_from(sorted(movers)))
        rest = {thread: others for thread, others in movers.items() if thread != free}
        assert stuck(rest) <= stuck(movers) - {free}


@given(graphs(outside=False))
def test_all_are_stuck_where_only_the_blocked_could_move_them(movers: dict[int, frozenset[int]]) -> None:
    among = {thread: others & movers.keys() for thread, others in movers.items()}
    assert stuck(among) == movers.keys()


@given(st.sets(BLOCKED), st.data())
def test_nothing_is_stuck_where_everybody_waits_for_one_who_is_not_blocked(
    threads: set[int], data: st.DataObject
) -> None:
    """Directly, or through a chain of others."""
    order = data.draw(st.permutations(sorted(threads)))
    movers = dict(zip(order, [[OUTSIDE], *([thread] for thread in order)], strict=False))
    assert stuck(movers) == set()


def test_a_thread_whom_nobody_can_move_is_stuck_alone() -> None:
    """All readers are gone, but the thread itself: nobody is left to do it."""
    assert stuck({1: []}) == {1}
    assert stuck({1: [], 2: None, 3: [2]}) == {1}
    assert stuck({}) == set()


def test_unknown_is_not_nobody() -> None:
    assert stuck({1: None}) == set()
    assert stuck({1: [1]}) == {1}


def test_any_kind_of_collection_will_do_and_the_same_mover_may_come_twice() -> None:
    movers: dict[str, list[str] | tuple[str, ...] | set[str]] = {"a": ["b", "b"], "b": ("c",), "c": {"a"}}
    assert stuck(movers) == {"a", "b", "c"}
    assert stuck({**movers, "b": ["c", "c", "somebody else"]}) == set()


@given(graphs())
def test_groups_are_the_weakly_connected_components(movers: dict[int, frozenset[int] | None]) -> None:
    threads = stuck(movers)
    found = groups(threads, movers)
    assert sorted(map(sorted, found)) == sorted(map(sorted, components(threads, movers)))


@given(graphs(), st.sets(BLOCKED))
def test_groups_see_only_the_threads_asked_for(movers: dict[int, frozenset[int] | None], some: set[int]) -> None:
    """Two who are held together by a third alone are two groups where that one is left out."""
    threads = some & movers.keys()
    found = groups(threads, movers)
    assert sorted(map(sorted, found)) == sorted(map(sorted, components(threads, movers)))


def components(threads: set[int], movers: Movers) -> list[set[int]]:
    """Join what has an edge between, either way, until nothing more can be joined."""
    parts = [{thread} for thread in threads]
    for thread in threads:
        for other in threads.intersection(movers[thread] or ()):
            (one,), (two,) = ([part for part in parts if each in part] for each in (thread, other))
            if one is not two:
                parts.remove(two)
                one |= two
    return parts


def is_closed(members: set[int], movers: Movers) -> bool:
    """Whether none of them waits for a thread beyond."""
    return all(set(movers.get(thread) or ()) <= members for thread in members)


@given(graphs(), st.frozensets(st.integers(0, OUTSIDE), max_size=3))
def test_the_closure_is_the_smallest_set_that_waits_for_nobody_beyond(
    movers: dict[int, frozenset[int] | None], nodes: frozenset[int]
) -> None:
    closed = [each for each in subsets(range(OUTSIDE + 1)) if nodes <= each and is_closed(each, movers)]
    assert closure(nodes, movers) == set(range(OUTSIDE + 1)).intersection(*closed)


@given(graphs(outside=False), st.frozensets(BLOCKED))
def test_the_core_is_what_waits_for_itself_or_for_nobody(
    movers: dict[int, frozenset[int]], some: frozenset[int]
) -> None:
    """Through however many others, also such as were not asked for."""
    edges = {(thread, other) for thread, others in movers.items() for other in others}
    paths: set[tuple[int, int]] = set()
    while paths != (longer := edges | {(a, d) for a, b in paths for c, d in edges if b == c}):
        paths = longer
    nodes = some & movers.keys()
    assert core(nodes, movers) == {node for node in nodes if (node, node) in paths or not movers[node]}


@given(graphs(outside=False))
def test_all_that_is_stuck_waits_for_a_core(movers: dict[int, frozenset[int]]) -> None:
    """Directly, through others, or as a part of it: without one, nothing would be stuck."""
    threads = stuck(movers)
    hard = core(threads, movers)
    assert hard <= threads
    assert all(closure([thread], movers) & hard for thread in threads)


@given(graphs(outside=False))
def test_a_core_without_the_others_is_stuck_as_it_was(movers: dict[int, frozenset[int]]) -> None:
    """Those left out only wait for it; what a member waits for is a member, or hangs on another one."""
    threads = stuck(movers)
    hard = closure(core(threads, movers), movers)
    assert stuck({thread: movers[thread] for thread in hard}) == hard


def test_who_only_waits_for_a_deadlock_is_not_in_its_core() -> None:
    """A parent that waits for a child of two that hang together; a thread that nobody can wake."""
    movers: dict[str, list[str]] = {"parent": ["a"], "a": ["b"], "b": ["a"], "alone": []}
    assert core(movers, movers) == {"a", "b", "alone"}
    assert closure(["parent"], movers) == {"parent", "a", "b"}
    assert closure([], movers) == set()


class Counted(list[int]):
    """Movers that count how often they are gone through."""

    looks = 0

    def __iter__(self) -> Iterator[int]:
        self.looks += 1
        return super().__iter__()


def test_a_ring_of_100_000_threads_is_looked_through_a_fixed_number_of_times() -> None:
    size = 100_000
    ring = {thread: Counted([(thread + 1) % size]) for thread in range(size)}
    assert len(stuck(ring)) == size
    assert max(movers.looks for movers in ring.values()) <= 2
    assert groups(ring, ring) == [set(range(size))]
    assert max(movers.looks for movers in ring.values()) <= 3


def test_a_chain_of_100_000_threads_is_freed_from_its_end() -> None:
    size = 100_000
    links = {thread: Counted([thread + 1]) for thread in range(size)}
    assert stuck(links) == set()
    assert max(movers.looks for movers in links.values()) <= 2
    assert len(stuck({**links, size: Counted()})) == size + 1


def test_a_star_of_100_000_threads_costs_no_more_than_its_edges() -> None:
    """Many workers wait for one lock: each could be moved by all who share it, so edges are what there are most of."""
    size = 100_000
    sharing = Counted(range(size))
    movers = {0: sharing, **{thread: Counted([0]) for thread in range(1, size)}}
    assert len(stuck(movers)) == size
    assert sharing.looks <= 2
    assert len(groups(movers, movers)) == 1


def test_the_core_of_a_crowd_costs_no_more_than_its_edges() -> None:
    """Workers that wait for one lock: each could be woken by all others."""
    size = 200
    crowd = {thread: Counted(other for other in range(size) if other != thread) for thread in range(size)}
    assert core(crowd, crowd) == crowd.keys()
    assert max(movers.looks for movers in crowd.values()) <= 4
