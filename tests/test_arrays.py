"""Arrays and their like through queues: sent from where they lie, received into memory that they own."""

from __future__ import annotations

import gc
import mmap
import pickle
import struct
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from children import Thread, and_stay, finish, forked, get, put, stop
from scenes import wait_until_blocked

import pipecap
from pipecap import BadFrame, NotPicklable
from pipecap.queues import native
from pipecap.queues.pickling import encoded, loads_with_buffers

MIB = 1 << 20
KIB_64 = 64 << 10
fork: Any = pipecap.get_context("fork")
small: Any = pipecap.get_context("fork", capacity=4096, exit_warning=None)
kinds = pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
queues = pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])


def array(size: int = MIB) -> Any:
    return np.arange(size, dtype=np.uint8)


def through(queue: Any, item: object) -> Any:
    """Put an item and get it; a SimpleQueue's put() waits until all of it is in the pipe."""
    putting = Thread(lambda: queue.put(item))
    received = get(queue)
    putting.result()
    return received


ARRAYS = {
    "none": np.zeros(0),
    "zero-size, large shape": np.zeros((0, 1_000_000)),
    "small": np.arange(10),
    "just below a buffer": array(native.SMALL - 1),
    "just a buffer": array(native.SMALL),
    "large": np.arange(300_000.0),
    "Fortran order": np.asfortranarray(np.arange(300_000).reshape(300, 1000)),
    "non-contiguous": np.arange(300_000)[::3],
    "reversed": np.arange(100_000)[::-1],
    "a column": np.arange(300_000).reshape(300, 1000)[:, 5:900],
    "object": np.array([1, "two", None, [3]], dtype=object),
    "structured": np.array([(1, 2.0, b"x")] * 20_000, dtype=[("a", "i4"), ("b", "f8"), ("c", "S3")]),
    "big-endian": np.arange(100_000, dtype=">i4"),
    "strings": np.array(["text"] * 20_000),
    "dates": np.arange("2000-01", "2005-01", dtype="datetime64[s]")[:50_000],
    "0-dimensional": np.array(5.0),
    "bools": np.arange(100_000) % 3 == 0,
    "complex, Fortran order": np.asfortranarray(np.arange(40_000).reshape(200, 200) * 1j),
    "half": np.arange(2000, dtype=np.float16).reshape(4, 5, 100),
    "long double": np.arange(20_000, dtype=np.longdouble),
    "long long": np.arange(20_000, dtype=np.longlong),
    "dtype with metadata": np.arange(20_000, dtype=np.dtype("f8", metadata={"unit": "m"})),
}


@kinds
@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_out_as_it_was(kind: str, name: str) -> None:
    queue, item = getattr(fork, kind)(), ARRAYS[name]
    received = through(queue, item)
    assert received.dtype == item.dtype
    assert received.shape == item.shape
    assert received.flags.f_contiguous >= item.flags.f_contiguous
    assert received.flags.writeable
    np.testing.assert_array_equal(received, item)
    finish(queue)


@pytest.mark.filterwarnings("error")
def test_a_broadcast_array_comes_out_writable_without_a_warning() -> None:
    queue = fork.Queue()
    received = through(queue, np.broadcast_arrays(np.ones((1, 5)), np.ones(5))[1])
    received[:] = 2
    finish(queue)


@kinds
def test_a_dict_of_arrays_comes_out_as_it_was(kind: str) -> None:
    queue = getattr(fork, kind)()
    image = np.random.default_rng(1).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    item: dict[str, Any] = {
        "images": [image, image, image.copy()],
        "label": np.int64(3),
        "name": "x" * KIB_64,
        "raw": bytes(KIB_64),
    }
    received = through(queue, item)
    assert received["images"][0] is received["images"][1]  # as it was
    for one, other in zip(received["images"], item["images"], strict=True):
        np.testing.assert_array_equal(one, other)
    assert (received["label"], received["name"], received["raw"]) == (item["label"], item["name"], item["raw"])
    finish(queue)


@queues
def test_put_many_and_get_many_take_arrays_among_other_things(kind: str) -> None:
    queue = getattr(fork, kind)()
    items = [1, array(), "two", array(KIB_64), bytearray(b"x" * KIB_64), array(100), None]
    putting = Thread(lambda: queue.put_many(items))
    received: list[Any] = []
    while len(received) < len(items):
        received += queue.get_many(timeout=10)
    putting.result()
    for one, other in zip(received, items, strict=True):
        np.testing.assert_equal(one, other)
    finish(queue)


@queues
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("most", [1, 3, 100])
def test_arrays_of_every_size_come_alone_among_small_items(kind: str, many: bool, most: int) -> None:
    """From 16 to 64 KiB several frames are in one read."""
    queue, random = getattr(fork, kind)(), Random(1)
    for _ in range(20):
        items = [
            random.choice([number, np.full(random.randrange(15_000, 66_000), number, np.uint8), bytes(20_000)])
            for number in range(12)
        ]
        putting = Thread(lambda items=items: queue.put_many(items) if many else put(queue, *items))  # type: ignore[misc]
        received: list[Any] = []
        while len(received) < len(items):
            received += queue.get_many(most, timeout=10)
        putting.result()
        for one, other in zip(received, items, strict=True):
            np.testing.assert_equal(one, other)
        assert queue.qsize() == 0
        if kind == "JoinableQueue":
            for _ in items:
                queue.task_done()
            Thread(queue.join).result()
    finish(queue)


@kinds
@pytest.mark.parametrize("size", [KIB_64, MIB, 5 * MIB])
def test_memory_is_the_arrays_own_writable_and_aligned(kind: str, size: int) -> None:
    """What was got before does not change with what comes later."""
    queue = getattr(fork, kind)()
    kept = []
    for number in range(12):
        received = through(queue, {"a": np.full(size, number, np.uint8), "b": np.full(KIB_64, number)})
        assert received["a"].ctypes.data % 64 == received["b"].ctypes.data % 64 == 0
        received["a"][0] = 100 + number
        kept.append(received)
    for number, item in enumerate(kept):
        assert item["a"][0] == 100 + number
        assert (item["a"][1:] == number).all()
        assert (item["b"] == number).all()
    finish(queue)


def test_memory_comes_back_when_its_array_dies() -> None:
    queue = fork.Queue()
    seen = set()
    for _ in range(40):
        putting = Thread(lambda: queue.put(array(3 * MIB)))
        received = queue.get()
        putting.result()
        seen.add(received.ctypes.data)
    assert len(seen) <= 10
    finish(queue)


def test_an_array_outlives_its_queue_and_what_is_got_afterwards() -> None:
    queue = fork.Queue()
    received = through(queue, array())
    part = received[1000:2000]
    del received
    finish(queue)
    gc.collect()
    other = fork.Queue()
    for _ in range(5):
        through(other, np.zeros(MIB, np.uint8))
    assert (part == array()[1000:2000]).all()
    finish(other)


def test_a_readonly_array_comes_out() -> None:
    queue, item = fork.Queue(), array()
    item.flags.writeable = False
    for each in (item, item[:10], np.frombuffer(bytes(MIB), np.uint8)):
        received = through(queue, each)
        assert (received == each).all()
        received += 1  # as with the stock queue it is the receiver's own
    finish(queue)


def test_a_mapped_file_comes_out(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(range(256)) * 1000)
    queue = fork.Queue()
    assert (through(queue, np.memmap(path, dtype=np.uint8, mode="r")) == np.tile(np.arange(256), 1000)).all()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert bytes(through(queue, pickle.PickleBuffer(mapped))) == path.read_bytes()
    finish(queue)


def test_pickle_buffers_come_out_and_those_that_cannot_raise() -> None:
    queue = fork.Queue()
    assert bytes(through(queue, pickle.PickleBuffer(bytes(KIB_64)))) == bytes(KIB_64)
    assert through(queue, pickle.PickleBuffer(bytearray(b"small"))) == b"small"
    in_pieces = pickle.PickleBuffer(memoryview(bytes(2 * KIB_64))[::2])
    released = pickle.PickleBuffer(bytes(KIB_64))
    released.release()
    for item in (in_pieces, released, [array(), released], [array(), lambda: None]):
        with pytest.raises(NotPicklable):
            queue.put(item)
        with pytest.raises(NotPicklable):
            queue.put_many([array(), item])
    assert through(queue, "the next one") == "the next one"
    finish(queue)


class Resizes:
    """Changes the size of a bytearray that was pickled before it."""

    def __init__(self, victim: bytearray) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        self.victim.extend(b"more")
        return int, (7,)


@pytest.mark.parametrize("batch", [False, True])
def test_a_bytearray_that_changes_its_size_meanwhile_raises(batch: bool) -> None:
    queue, victim = fork.Queue(), bytearray(KIB_64 * 2)
    put_it = (lambda item: queue.put_many([item])) if batch else queue.put
    with pytest.raises(NotPicklable, match="changed its size"):
        put_it([victim, Resizes(victim)])
    assert through(queue, [victim, 1]) == [victim, 1]
    finish(queue)


def test_a_small_array_does_not_keep_the_memory_of_a_large_one() -> None:
    queue, kept = fork.Queue(), []
    large = np.zeros(16 * MIB, np.uint8)
    for number in range(20):
        through(queue, large)
        kept.append(through(queue, np.full(20_000, number, np.uint8)))
    before = resident()
    for number in range(20, 30):
        through(queue, large)
        kept.append(through(queue, np.full(20_000, number, np.uint8)))
    assert resident() - before < 32 * MIB
    assert [int(each[-1]) for each in kept] == list(range(30))
    finish(queue)


def test_the_memory_of_large_arrays_goes_back_to_the_system() -> None:
    queue = fork.Queue()
    before = resident()
    for _ in range(3):
        through(queue, np.zeros(200 * MIB, np.uint8))
    gc.collect()
    assert resident() - before < 150 * MIB
    finish(queue)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class FailsHalfWay:
    """Has an array, and fails after it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return FailsHalfWay, (array(), _Raises())


class _Raises:
    def __reduce__(self) -> tuple[Any, ...]:
        raise ValueError("not this one")


def test_after_a_reducer_that_raised_half_way_the_next_has_none_of_its_memory() -> None:
    queue = fork.Queue()
    for _ in range(3):
        with pytest.raises(NotPicklable, match="not this one"):
            queue.put(FailsHalfWay())
        assert (through(queue, array(KIB_64)) == array(KIB_64)).all()
    finish(queue)


# ---- what put() leaves behind ----


@queues
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("make", [array, lambda: bytearray(array())], ids=["array", "bytearray"])
def test_what_happens_to_an_array_after_put_does_not_change_the_item(kind: str, many: bool, make: Any) -> None:
    """With no reader, a part of it is in the pipe and the rest waits: that is a copy."""
    queue, item = getattr(small, kind)(), make()
    if many:
        queue.put_many([[item, "and more"]] * 3)
    else:
        put(queue, *[[item, "and more"]] * 3)
    memoryview(item)[:] = bytes(MIB)
    for _ in range(3):
        received, more = get(queue)
        assert (bytes(received), more) == (bytes(array()), "and more")
    finish(queue)


@kinds
def test_an_array_that_another_thread_changes_meanwhile_leaves_the_frame_whole(kind: str) -> None:
    queue, item = getattr(fork, kind)(), np.zeros(8 * MIB, np.uint8)
    done: list[int] = []

    def change() -> None:
        while not done:
            item[:] = 1 - item[0]

    changing = Thread(change)
    try:
        for _ in range(10):
            assert set(np.unique(through(queue, item))) <= {0, 1}
    finally:
        done.append(1)
    changing.result()
    assert through(queue, "in step") == "in step"
    finish(queue)


@queues
def test_the_memory_of_an_array_is_free_when_put_returns(kind: str) -> None:
    """A bytearray could not be resized while somebody has a view of it."""
    queue, item = getattr(small, kind)(), bytearray(array())
    queue.put(item)
    item.append(1)
    queue.put(np.frombuffer(item, np.uint8))
    gc.collect()
    item.append(1)
    assert get(queue) == array().tobytes()
    assert get(queue)[-1] == 1
    finish(queue)


# ---- pools ----


def doubled(item: Any) -> Any:
    item *= 2  # it is the worker's own, and writable
    return item


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_takes_arrays_and_gives_them_back(method: Any) -> None:
    with pipecap.get_context(method).Pool(2) as pool:
        items = [np.full(size, 3, np.uint32) for size in (10, 10_000, 1_000_000)] * 4
        for one, other in zip(pool.map(doubled, items), items, strict=True):
            assert (one == 6).all()
            assert len(one) == len(other)
        results = [pool.apply_async(doubled, (item,)) for item in items]
        assert all((result.get(30) == 6).all() for result in results)
        assert sum(map(len, pool.imap_unordered(doubled, items))) == sum(map(len, items))
        assert (items[0] == 3).all()


def test_an_executor_gives_arrays_back() -> None:
    with ProcessPoolExecutor(2, mp_context=fork) as executor:
        for one in executor.map(doubled, [np.ones(1_000_000)] * 6):
            assert (one == 2).all()
            one += 1


# ---- what cannot be ----

GOOD = b"".join(map(bytes, encoded([array(KIB_64), array(KIB_64)])))


def damaged(at: int, layout: str, value: int) -> bytes:
    bad = bytearray(GOOD)
    struct.pack_into(layout, bad, at, value)
    return bytes(bad)


BAD = {
    "too many": damaged(4, "<I", 3),
    "absurdly many": damaged(4, "<I", 2**32 - 1),
    "too few": damaged(4, "<I", 1),
    "absurd pickle": damaged(8, "<Q", 2**64 - 1),
    "absurd size": damaged(16, "<Q", 2**64 - 1),
    "a size that overflows": damaged(16, "<Q", 2**63),
    "longer": damaged(24, "<Q", 2 * KIB_64),
    "shorter": damaged(24, "<Q", KIB_64 - 64),
    "cut": GOOD[:-1],
    "more behind it": GOOD + b"x",
    "only the first byte": bytes((native.WITH_BUFFERS,)) * 20_000,
}


@pytest.mark.parametrize("name", BAD)
def test_a_list_of_buffers_that_cannot_be_costs_its_item(name: str) -> None:
    with pytest.raises(BadFrame):
        loads_with_buffers(memoryview(bytearray(BAD[name])))
    queue = fork.Queue()
    putting = Thread(lambda: [queue._writer.send_bytes(each) for each in (GOOD, BAD[name], GOOD)])
    assert (get(queue)[0] == array(KIB_64)).all()
    with pytest.raises(BadFrame):
        get(queue)
    assert (get(queue)[1] == array(KIB_64)).all()
    putting.result()
    finish(queue)


def test_an_array_cut_short_by_the_death_of_its_sender_is_reported_once() -> None:
    queue = small.Queue()
    with forked(and_stay(lambda: queue.put(array(3 * MIB)))) as child:
        wait_until_blocked(child.pid)
        stop(child.pid)
        child.end()
        with pytest.raises(pipecap.TruncatedItem):
            get(queue)
    put(queue, "after")
    assert get(queue) == "after"
    finish(queue)
