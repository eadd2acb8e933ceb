"""drain() and join(): whatever the producers do, what was whole comes out and nothing hangs; stock queues and ours."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from queue import Empty
from typing import Any

import pytest
from children import stop
from scenes import wait_until_asleep_in, wait_until_blocked

import pipecap
from pipecap.kernel.limits import PAGE_SIZE

STOCK = multiprocessing.get_context("fork")
OURS = pipecap.get_context("fork")
BIG = b"x" * 3_000_000  # more than a pipe can be let grow to by an ordinary user


@pytest.fixture(params=[STOCK, OURS], ids=["stock", "ours"])
def ctx(request: pytest.FixtureRequest) -> Any:
    return request.param


def put(queue: Any, *items: object) -> None:
    for item in items:
        queue.put(item)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_all_items_of_all_producers_come_out_in_their_order(
    ctx: Any, kind: str, start: Callable[..., BaseProcess]
) -> None:
    queue = getattr(ctx, kind)()
    producers = [start(put, queue, *((n, i) for i in range(50)), (n, BIG)) for n in range(3)]
    items = list(pipecap.drain(queue, producers, timeout=20))
    for n in range(3):
        assert [item[1] for item in items if item[0] == n] == [*range(50), BIG]
    assert len(items) == 153


def test_join_before_get_is_join(ctx: Any, start: Callable[..., BaseProcess]) -> None:
    """The documented deadlock: the parent would wait for a child that waits for the parent to read."""
    queue = ctx.Queue()
    producer = start(put, queue, BIG)
    assert pipecap.join(queue, [producer], timeout=20) == [BIG]
    assert producer.exitcode == 0


def test_a_producer_that_has_not_yet_written_is_waited_for(ctx: Any, start: Callable[..., BaseProcess]) -> None:
    """get_nowait() until Empty, then join, hangs when a producer writes its big item in between."""
    queue = ctx.Queue()
    go = STOCK.Event()

    def late() -> None:
        go.wait()
        queue.put(BIG)

    producer = start(late)
    with pytest.raises(Empty):
        queue.get_nowait()
    items = pipecap.drain(queue, [producer], timeout=20)
    go.set()
    assert list(items) == [BIG]


def test_producers_that_put_until_an_event_is_set_are_emptied_while_they_stop(
    ctx: Any, start: Callable[..., BaseProcess]
) -> None:
    queue = ctx.Queue()
    stop = STOCK.Event()

    def busy(n: int) -> None:
        count = 0
        while not stop.is_set() or count < 3:
            queue.put((n, count, b"x" * 300_000))
            count += 1
            time.sleep(0.002)

    producers = [start(busy, n) for n in range(5)]
    first = [queue.get()[:2] for _ in range(10)]
    stop.set()
    items = first + [item[:2] for item in pipecap.join(queue, producers, timeout=30)]
    for n in range(5):
        counts = [count for producer, count in items if producer == n]
        assert counts == list(range(len(counts)))
        assert len(counts) >= 3
    assert [producer.exitcode for producer in producers] == [0] * 5


def test_a_producer_that_was_never_started_counts_as_ended(ctx: Any) -> None:
    queue = ctx.SimpleQueue()
    queue.put(1)
    assert pipecap.join(queue, [STOCK.Process()], timeout=10) == [1]


def test_a_producer_that_ended_long_ago(ctx: Any, start: Callable[..., BaseProcess]) -> None:
    queue = ctx.Queue()
    producer = start(put, queue, "a", "b")
    producer.join()
    assert list(pipecap.drain(queue, [producer])) == ["a", "b"]


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])
def test_an_item_cut_short_is_an_error_after_the_whole_ones(
    ctx: Any, kind: str, start: Callable[..., BaseProcess]
) -> None:
    """Killed while it sent an item that no pipe holds."""
    queue = getattr(ctx, kind)()
    producer = start(put, queue, 1, 2, BIG)
    wait_until_blocked(producer)
    producer.kill()
    producer.join()
    with pytest.raises(pipecap.TruncatedItem) as caught:
        pipecap.join(queue, [producer], timeout=20)
    assert caught.value.items == [1, 2]


def test_the_others_go_on_when_one_is_killed_in_the_middle_of_an_item(
    ctx: Any, start: Callable[..., BaseProcess]
) -> None:
    """The one killed held the write lock: the others wait for it, and would for ever."""
    queue = ctx.SimpleQueue()
    killed = start(put, queue, BIG)
    wait_until_blocked(killed)
    other = start(put, queue, "after", BIG)
    wait_until_asleep_in(other, "futex")
    killed.kill()
    with pytest.raises(pipecap.TruncatedItem) as caught:
        pipecap.join(queue, [killed, other], timeout=20)
    assert caught.value.items == ["after", BIG]
    assert other.exitcode == 0


def test_a_header_that_was_read_ahead_of_a_dead_producer_is_an_item_cut_short(
    start: Callable[..., BaseProcess],
) -> None:
    """Of a pipe of one page: the first item and 2 bytes of the next one's header."""
    queue = pipecap.get_context("fork", capacity=PAGE_SIZE, exit_warning=None).Queue()
    first = b"1" * (PAGE_SIZE - 2 - 4 - len(pickle.dumps(bytes(2000))) + 2000)
    dead = start(queue.put_many, [first, b"2" * 3000])
    wait_until_blocked(dead)
    dead.kill()
    dead.join()
    live = start(queue.put, "live")
    with pytest.raises(pipecap.TruncatedItem) as caught:
        pipecap.join(queue, [dead, live], timeout=20)
    assert caught.value.items == [first, "live"]
    assert queue.qsize() == 0


def test_the_others_go_on_when_one_is_killed_owning_the_lock_between_two_items(
    ctx: Any, start: Callable[..., BaseProcess]
) -> None:
    queue = ctx.SimpleQueue()

    def take_and_die() -> None:
        queue.put("before")
        queue._wlock.acquire()
        die()

    killed = start(take_and_die)
    killed.join()
    other = start(put, queue, "after")
    assert pipecap.join(queue, [killed, other], timeout=20) == ["before", "after"]


def test_a_timeout_says_who_still_runs_and_loses_nothing(ctx: Any, start: Callable[..., BaseProcess]) -> None:
    queue = ctx.Queue()
    go = STOCK.Event()

    def two() -> None:
        queue.put(1)
        go.wait()
        queue.put(2)

    producer = start(two)
    with pytest.raises(pipecap.DrainTimeout) as caught:
        pipecap.join(queue, [producer], timeout=0.5)
    assert caught.value.pids == (producer.pid,)
    assert caught.value.items == [1]
    go.set()
    assert pipecap.join(queue, [producer], timeout=20) == [2]


def test_a_timeout_holds_in_the_middle_of_an_item(ctx: Any, start: Callable[..., BaseProcess]) -> None:
    """A producer that is stopped, not dead, has sent half of it; continued, it sends the rest."""
    queue = ctx.SimpleQueue()
    producer = start(put, queue, BIG)
    wait_until_blocked(producer)
    assert producer.pid is not None
    stop(producer.pid)
    try:
        items = pipecap.drain(queue, [producer], timeout=0.5)
        with pytest.raises(pipecap.DrainTimeout):
            next(items)
    finally:
        os.kill(producer.pid, signal.SIGCONT)
    assert pipecap.join(queue, [producer], timeout=20) == [BIG]


def test_what_is_no_queue_is_refused() -> None:
    with pytest.raises(pipecap.NotAPipe):
        pipecap.drain([], [])
    queue = STOCK.SimpleQueue()
    queue.close()
    with pytest.raises(pipecap.NotAPipe):
        pipecap.drain(queue, [])
