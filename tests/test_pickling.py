"""Pickling for the wire."""

from __future__ import annotations

import copyreg
import enum
import gc
import pickle
import weakref
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
from children import Thread
from hypothesis import given
from hypothesis import strategies as st

from pipecap import NotPicklable
from pipecap.queues import pickling
from pipecap.queues.pickling import encoded, pickle_all, pickled, refusal, size_of

MIB = 1 << 20


def joined(payload: pickling.Payload) -> bytes:
    return payload if isinstance(payload, bytes) else b"".join(payload)


def the_standard_librarys(obj: object, protocol: int | None = None) -> bytes:
    return bytes(ForkingPickler.dumps(obj, protocol))


OBJECTS = st.recursive(
    st.none() | st.integers() | st.text() | st.binary() | st.sampled_from([bytes(65_535), b"x" * 65_536, "y" * 70_000]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.integers(), inner, max_size=4),
    max_leaves=20,
)


@given(objects=st.lists(OBJECTS, min_size=1, max_size=3))
def test_a_pickle_is_the_standard_librarys_to_the_byte(objects: list[object]) -> None:
    """Also from a pickler that was used before: its memo is empty again."""
    payloads = [pickled(each) for each in [*objects, *objects]]
    assert [joined(payload) for payload in payloads] == [the_standard_librarys(each) for each in [*objects, *objects]]
    assert [size_of(payload) for payload in payloads] == [len(joined(payload)) for payload in payloads]


def test_around_the_size_that_keeps_a_pickler_the_pickle_is_the_same() -> None:
    for size in (*range(16_370, 16_400), 65_530, 65_536, MIB):
        item = ["shared", bytes(size), "shared"]
        assert [joined(pickled(item)), joined(pickled(item))] == [the_standard_librarys(item)] * 2


def test_large_bytes_are_not_copied() -> None:
    """The pickle of large bytes has the object itself among its pieces."""
    large = bytes(MIB)
    payload = pickled([1, large, 2])
    assert isinstance(payload, list)
    assert any(piece is large for piece in payload)


def test_a_payload_does_not_change_with_the_object() -> None:
    """What is sent later is what was put, whatever its owner does meanwhile."""
    item = {"large": bytearray(b"before" * 50_000), "small": bytearray(b"before")}
    payload = pickled(item)
    before = joined(payload)
    for each in item.values():
        each[:] = bytes(len(each))
        each.extend(b"more")
    assert joined(payload) == before


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


def _point(x: int) -> Point:
    return Point(x)


def _reduced(point: Point) -> tuple[Any, ...]:
    return _point, (point.x + 100,)


@pytest.mark.parametrize("table", ["ForkingPickler.register", "copyreg.pickle"])
def test_a_reducer_registered_after_the_first_pickle_is_used(table: str) -> None:
    assert pickle.loads(joined(pickled(Point(1)))).x == 1
    try:
        if table == "ForkingPickler.register":
            ForkingPickler.register(Point, _reduced)
        else:
            copyreg.pickle(Point, _reduced)
        assert pickle.loads(joined(pickled(Point(1)))).x == 101
    finally:
        vars(ForkingPickler)["_extra_reducers"].pop(Point, None)  # there is no other way back
        copyreg.dispatch_table.pop(Point, None)


@pytest.mark.parametrize("pickler", [pickled, encoded])
def test_nothing_is_remembered_of_a_class(pickler: Callable[[object], Any]) -> None:
    class Local:
        def __reduce__(self) -> tuple[Any, ...]:
            return _point, (3,)

    assert pickle.loads(joined(pickler(Local()))).x == 3
    copyreg.pickle(Point, _reduced)
    try:
        pickler(Point(1))
        del copyreg.dispatch_table[Point]
        copyreg.pickle(Local, lambda _: (_point, (4,)))  # type: ignore[arg-type, return-value]
        assert pickle.loads(joined(pickler(Local()))).x == 4
        assert pickle.loads(joined(pickler(Point(1)))).x == 1
    finally:
        copyreg.dispatch_table.pop(Local, None)
    gone = weakref.ref(Local)
    del Local
    gc.collect()
    assert gone() is None


class HidesReduceEx:
    def __getattribute__(self, name: str) -> Any:
        if name == "__reduce_ex__":
            raise AttributeError(name)
        return object.__getattribute__(self, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _point, (5,)


@pytest.mark.parametrize("pickler", [pickled, encoded])
def test_an_object_reduces_itself_as_for_any_pickler(pickler: Callable[[object], Any]) -> None:
    assert pickle.loads(joined(pickler(HidesReduceEx()))).x == 5
    assert pickle.loads(joined(pickler([Shade.DARK, Shade, type, len]))) == [Shade.DARK, Shade, type, len]


class Shade(enum.Enum):
    DARK = 1


class Raises:
    def __reduce__(self) -> tuple[Any, ...]:
        raise ValueError("not this one")


def test_after_a_pickle_that_failed_the_next_is_well() -> None:
    for _ in range(5):
        with pytest.raises(ValueError, match="not this one"):
            pickled(["begun", bytes(100_000), Raises()])
        with pytest.raises((pickle.PicklingError, AttributeError)):
            pickled(["begun", lambda: None])
        assert joined(pickled([1, 2])) == the_standard_librarys([1, 2])


class PicklesMore:
    """An object whose own code pickles another in the middle."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def __reduce__(self) -> tuple[Any, ...]:
        inner = joined(pickled(["shared", PicklesMore(self.depth - 1)] if self.depth else "end"))
        return bytes, (inner,)


def test_pickling_that_comes_here_again_is_well() -> None:
    payload = joined(pickled(["shared", PicklesMore(5), "shared"]))
    for _ in range(6):
        first, inner, *_ = pickle.loads(payload)
        assert first == "shared"
        payload = inner
    assert pickle.loads(payload) == "end"


def test_several_threads_pickle_at_once() -> None:
    def work(seed: int) -> bool:
        items = [[seed, number, "x" * (number % 50), {seed: number}] for number in range(2000)]
        return all(pickle.loads(joined(pickled(item))) == item for item in items)

    assert [thread.result() for thread in [Thread(lambda seed=seed: work(seed)) for seed in range(4)]] == [True] * 4  # type: ignore[misc]


def test_a_pickler_that_is_kept_keeps_nothing_that_it_pickled() -> None:
    point = Point(1)
    gone = weakref.ref(point)
    pickled([point, point])
    del point
    gc.collect()
    assert gone() is None


# ---- several at once ----


def all_pickled(objects: list[object]) -> list[pickling.Payload]:
    payloads: list[pickling.Payload] = []
    pickle_all(objects, payloads)
    return payloads


@given(objects=st.lists(OBJECTS, max_size=6))
def test_several_pickles_are_those_of_each_alone(objects: list[object]) -> None:
    """None refers to what another one had: each is an item of its own."""
    shared = ["shared"]
    together = [*objects, shared, shared]
    assert [joined(payload) for payload in all_pickled(together)] == [
        the_standard_librarys(each, 5) for each in together
    ]


@pytest.mark.parametrize("size", [16_370, 16_384, 65_536, MIB])
def test_several_around_the_size_that_keeps_a_pickler_are_the_same(size: int) -> None:
    objects: list[object] = [[1], ["shared", bytes(size), "shared"], bytes(size), [2], "shared"]
    assert [joined(payload) for payload in all_pickled(objects)] == [the_standard_librarys(each, 5) for each in objects]


def test_where_one_of_several_fails_those_before_it_are_there() -> None:
    payloads: list[pickling.Payload] = []
    with pytest.raises(ValueError, match="not this one"):
        pickle_all([1, bytes(MIB), Raises(), 4], payloads)
    assert [pickle.loads(joined(payload)) for payload in payloads] == [1, bytes(MIB)]
    assert [joined(payload) for payload in all_pickled([1, 2])] == [the_standard_librarys(each, 5) for each in (1, 2)]


def test_of_several_those_that_may_change_are_marked_where_they_are_not_copied() -> None:
    large, small = bytearray(b"before" * 50_000), bytearray(b"before")
    payloads = all_pickled([large, small, bytes(large)])
    assert [type(payload) for payload in payloads] == [pickling.Borrowed, bytes, list]
    assert any(type(piece) is memoryview and piece.obj is large for piece in payloads[0])


# ---- whose fault it was ----


class Tick(Exception):
    """What a signal handler raises."""


def error_of(call: Callable[[], object]) -> Exception:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_what_does_not_pickle_is_refused_with_its_cause() -> None:
    for culprit in (lambda: None, Raises()):
        error = error_of(lambda culprit=culprit: pickled(["begun", culprit]))  # type: ignore[misc]
        refused = refusal(culprit, error)
        assert isinstance(refused, NotPicklable)
        assert str(error) in str(refused)


def test_an_exception_that_came_from_elsewhere_meanwhile_is_not_the_objects() -> None:
    """A handler's, and a lack of memory: the object pickles well."""

    def handler() -> None:
        raise Tick

    tick, memory = error_of(handler), MemoryError()
    assert refusal([1, 2], tick) is tick
    assert refusal([1, 2], memory) is memory
    assert refusal(Raises(), memory) is memory
