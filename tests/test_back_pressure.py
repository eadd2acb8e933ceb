"""A large put() waits while a reader takes something now and then, and returns soon where none does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from children import Thread, and_stay, finish, forked, get, put, stop, wait_until
from interruptions import interrupted_asleep

import pipecap

MIB = 1 << 20
fork: Any = pipecap.get_context("fork", exit_warning=None)
small: Any = pipecap.get_context("fork", capacity=4096, exit_warning=None)
queues = pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
ITEMS: dict[str, Callable[[int], Any]] = {
    "array": lambda size: np.zeros(size, np.uint8),
    "bytes": bytes,
    "bytearray": bytearray,
    "str": lambda size: "x" * size,
    "dict of arrays": lambda size: {number: np.zeros(size // 16, np.uint8) for number in range(16)},
}


def taking(queue: Any, count: int, pause: float = 0.0) -> Callable[[], int]:
    """Return a function that gets `count` items."""

    def take() -> int:
        for _ in range(count):
            queue.get()
            time.sleep(pause)
        return count

    return take


def is_stalled(queue: Any) -> bool:
    return bool(queue._sender.struct.stalled)


def drop(queue: Any) -> None:
    """Take what is left in a queue, and close it."""
    while queue.qsize():
        with suppress(pipecap.LostItem):  # with a reader that was killed
            get(queue)
    finish(queue)


@queues
@pytest.mark.parametrize("name", ITEMS)
@pytest.mark.parametrize("size", [MIB, 6 * MIB])
def test_while_a_reader_is_at_work_nothing_piles_up(kind: str, name: str, size: int) -> None:
    """Where it does not run for 10 ms, as on a busy machine, something does: then once more."""
    queue, item = getattr(fork, kind)(), ITEMS[name](size)

    def longest_line() -> int:
        longest = 0
        with forked(taking(queue, 40, 0.001)) as reader:
            for _ in range(40):
                queue.put(item)
                longest = max(longest, queue.debug_state()["line"])
            assert reader.result() == 40
        return longest

    assert any(longest_line() <= 4 for _ in range(20))
    finish(queue)


@queues
@pytest.mark.parametrize("name", ITEMS)
def test_without_a_reader_put_returns_and_only_the_first_one_waits(kind: str, name: str) -> None:
    queue, item = getattr(small, kind)(), ITEMS[name](MIB)
    queue.put(item)
    assert is_stalled(queue)
    for number in range(2, 12):
        queue.put(item)
        assert is_stalled(queue)
        assert queue.qsize() == number
    for _ in range(11):
        assert len(get(queue)) == len(item)
    finish(queue)


def test_when_the_reader_is_at_work_again_put_waits_again() -> None:
    queue = small.Queue()
    for _ in range(5):
        queue.put(bytes(MIB))
    with forked(taking(queue, 25)) as reader:
        wait_until(lambda: queue.qsize() < 5)
        for _ in range(20):
            queue.put(np.zeros(MIB, np.uint8))
            assert queue.debug_state()["line"] <= 5
        assert reader.result() == 25
    finish(queue)


def test_a_reader_that_stops_for_good_does_not_keep_put() -> None:
    queue = small.Queue()
    with forked(and_stay(taking(queue, 2))) as reader:
        for _ in range(2):
            queue.put(bytes(MIB))
        wait_until(lambda: queue.qsize() == 0)
        stop(reader.pid)
        for _ in range(5):
            Thread(lambda: queue.put(bytes(MIB))).result()
    assert queue.qsize() == 5
    drop(queue)


def test_two_that_put_before_they_get_do_not_wait_for_each_other() -> None:
    """The classic deadlock of bounded buffers: each fills the other's queue first."""
    one, other = small.Queue(), small.Queue()

    def put_then_get() -> int:
        for _ in range(10):
            other.put(np.zeros(MIB, np.uint8))
        total = sum(len(one.get()) for _ in range(10))
        finish(other)
        return total

    with forked(put_then_get) as child:
        for _ in range(10):
            one.put(np.zeros(MIB, np.uint8))
        assert sum(len(get(other)) for _ in range(10)) == 10 * MIB
        assert child.result() == 10 * MIB
    finish(one)
    finish(other)


def test_one_thread_may_put_what_it_gets_afterwards() -> None:
    queue = small.Queue()
    for _ in range(3):
        for number in range(4):
            queue.put(np.full(MIB, number, np.uint8))
        assert [int(queue.get()[-1]) for _ in range(4)] == [0, 1, 2, 3]
    finish(queue)


def test_several_threads_and_processes_share_a_slow_reader() -> None:
    queue = small.Queue()

    def put_all(number: int) -> None:
        for at in range(10):
            queue.put((number, at, np.full(MIB, number, np.uint8)))

    def put_in_threads() -> None:
        threads = [Thread(lambda number=number: put_all(number)) for number in (2, 3)]  # type: ignore[misc]
        for thread in threads:
            thread.result()
        queue.close()
        queue.join_thread()

    with forked(put_in_threads) as child:
        threads = [Thread(lambda number=number: put_all(number)) for number in (0, 1)]  # type: ignore[misc]
        seen: dict[int, list[int]] = {0: [], 1: [], 2: [], 3: []}
        for _ in range(40):
            number, at, array = get(queue)
            assert (array == number).all()
            seen[number].append(at)
        child.result()
        for thread in threads:
            thread.result()
    assert seen == {number: list(range(10)) for number in range(4)}
    finish(queue)


def test_a_large_put_gets_its_turn_though_small_ones_keep_coming() -> None:
    """It waits for what was in the line when it came."""
    queue, done = small.Queue(), threading.Event()

    def put_small() -> None:
        while not done.is_set():
            queue.put(bytes(4000))
            while queue.debug_state()["line"] > 50:
                time.sleep(0.0001)

    with forked(and_stay(taking(queue, 10**9))):
        putting = [Thread(put_small) for _ in range(3)]
        for _ in range(5):
            Thread(lambda: queue.put(np.zeros(MIB, np.uint8))).result()
        done.set()
        for thread in putting:
            thread.result()
        finish(queue)


@pytest.mark.parametrize("timeout", [0.001, 0.05])
def test_a_put_with_a_timeout_takes_its_credit_and_does_not_wait_beyond_it(timeout: float) -> None:
    queue = pipecap.get_context("fork", capacity=4096, exit_warning=None).Queue(2)
    for _ in range(2):
        queue.put(np.zeros(MIB, np.uint8), timeout=timeout)
    drop(queue)


def test_put_nowait_does_not_wait_for_room() -> None:
    queue = small.Queue()
    for _ in range(5):
        queue.put_nowait(np.zeros(MIB, np.uint8))
    assert not is_stalled(queue)
    for _ in range(5):
        assert len(get(queue)) == MIB
    finish(queue)


def test_a_signal_handler_runs_while_a_put_waits_for_its_turn() -> None:
    """Its exception leaves nothing behind: the item was put, or it was not."""
    queue = small.Queue()
    put(queue, *[bytes(8 * MIB)] * 10)  # a line that takes a while
    with forked(and_stay(taking(queue, 5))):
        interrupted_asleep(lambda: put(queue, *[np.zeros(MIB, np.uint8)] * 10_000), "futex")
    drop(queue)
