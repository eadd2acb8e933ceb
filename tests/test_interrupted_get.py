"""Exceptions out of signal handlers amid get() and get_many(): every item comes once, to the next call at the latest.

A partly received item goes on with the next call; a whole one that was not returned is given back.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from queue import Empty
from typing import Any

import pytest
from children import Thread, and_stay, ended, finish, forked, get, put, stop, wait_until
from interruptions import Interrupt, after, interrupted, interrupted_asleep, moments
from items import Array
from scenes import DEADLINE, wait_until_asleep_in, wait_until_blocked

import pipecap
from pipecap.kernel.limits import PAGE_SIZE

MIB = 1 << 20
LARGE = 200_000  # more than the pipe of `small` holds
fork: Any = pipecap.get_context("fork")
small: Any = pipecap.get_context("fork", capacity=65_536, exit_warning=None)
roomy: Any = pipecap.get_context("fork", capacity=MIB, exit_warning=None)
one_page: Any = pipecap.get_context("fork", capacity=PAGE_SIZE, exit_warning=None)

kinds = pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
queues = pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
errors = pytest.mark.parametrize("raised", [Interrupt, TimeoutError])
ITEMS = {
    "small": b"y" * 30,
    "page": b"y" * 4000,
    "64 KiB": b"y" * 65_536,
    "list": [b"y" * LARGE, "z", b"z" * LARGE],
    "array": Array(bytearray(b"y" * LARGE)),
    "arrays": [Array(bytearray(b"y" * 20_000)), "z", Array(bytearray(b"z" * LARGE))],
    "bytearray": bytearray(b"y" * LARGE),
}
items = pytest.mark.parametrize("item", ITEMS.values(), ids=ITEMS.keys())
# A handler that raises may do so in a callback of the garbage collector (Hypothesis has one): nobody can catch that.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def assert_owns_no_lock(queue: Any, hit: object) -> None:
    """Fail where this process owns the read lock for nothing."""
    state = queue.debug_state()
    assert state["reading"] != os.getpid() or state["partly_received"], hit


def assert_is_empty(queue: Any, hit: object) -> None:
    """Fail where anything is left: an item, a lock, a credit."""
    wait_until(lambda: not queue.debug_state()["writing"], lambda: (hit, queue.debug_state()))
    state = queue.debug_state()
    words = ("writing", "reading", "line", "partly_sent", "partly_received", "given_back")
    assert not any(state[word] for word in words), (hit, state)
    assert state["credits"] == queue._shared.maxsize, hit
    assert queue.empty(), hit
    if hasattr(queue, "qsize"):
        assert queue.qsize() == 0, hit


def do_tasks(queue: Any) -> None:
    """Call task_done() for all that was got, and see join() return at once."""
    for _ in range(queue.debug_state()["unfinished"]):
        queue.task_done()
    Thread(queue.join).result()


# ---- every moment ----


@kinds
@items
def test_a_get_loses_nothing(kind: str, item: object) -> None:
    queue = getattr(roomy, kind)()
    for moment, error, hit in moments():
        queue.put(item)
        queue.put("second")
        got: list[object] = []
        hit.append(interrupted(lambda got=got: got.append(queue.get()), moment, error))  # type: ignore[misc]
        assert_owns_no_lock(queue, hit)
        assert not queue.empty(), hit
        if kind != "SimpleQueue":
            assert queue.qsize() == 2 - len(got), hit
        while len(got) < 2:
            got.append(get(queue))
        assert got == [item, "second"], hit
        assert_is_empty(queue, hit)
        if kind == "JoinableQueue":
            do_tasks(queue)
    finish(queue)


@kinds
def test_a_get_of_several_megabytes_loses_nothing(kind: str) -> None:
    """They are under way as it is interrupted: the pipe does not hold them."""
    item = [b"1" * 3 * MIB]
    queue = getattr(small, kind)()
    for moment, error, hit in moments():
        putting = Thread(lambda: put(queue, item, "second"))
        wait_until_blocked(os.getpid())
        got: list[object] = []
        hit.append(interrupted(lambda got=got: got.append(queue.get()), moment, error))  # type: ignore[misc]
        assert_owns_no_lock(queue, hit)
        while len(got) < 2:
            got.append(get(queue))
        assert got == [item, "second"], hit
        putting.result()
        assert_is_empty(queue, hit)
    finish(queue)


@queues
@pytest.mark.parametrize("most", [2**32, 4, 1])
def test_a_get_many_loses_nothing_and_is_told_the_truth_of(kind: str, most: int) -> None:
    """Of the batch that it had, later calls get at most what they ask for."""
    queue = getattr(roomy, kind)()
    batch = [0, b"1" * 3000, [2] * 100, 3, b"4" * LARGE, 5, 6, 7]
    for moment, error, hit in moments():
        queue.put_many(batch)
        got: list[object] = []
        hit.append(interrupted(lambda got=got: got.extend(queue.get_many(most)), moment, error))  # type: ignore[misc]
        assert_owns_no_lock(queue, hit)
        assert queue.qsize() == len(batch) - len(got), hit
        while len(got) < len(batch):
            assert not queue.empty(), hit
            some = Thread(lambda: queue.get_many(3)).result()
            assert 1 <= len(some) <= 3, hit
            got += some
            assert queue.qsize() == len(batch) - len(got), hit
        assert got == batch, hit
        assert_is_empty(queue, hit)
        if kind == "JoinableQueue":
            do_tasks(queue)
    finish(queue)


class SlowToUnpickle:
    """Has moments of its own while it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return unpickled, (1,)


def unpickled(number: int) -> tuple[str, int]:
    return str(number), max(number, 2)


@kinds
def test_an_exception_out_of_a_handler_while_an_item_is_unpickled_is_no_error_of_the_item(kind: str) -> None:
    queue = getattr(fork, kind)()
    for moment, error, hit in moments():
        put(queue, SlowToUnpickle(), "second")
        got: list[object] = []
        hit.append(interrupted(lambda got=got: got.append(queue.get()), moment, error))  # type: ignore[misc]
        while len(got) < 2:
            got.append(get(queue))
        assert got == [("1", 2), "second"], hit
        assert not getattr(error, "items", None), hit
    assert_is_empty(queue, None)
    finish(queue)


# ---- a real signal, to a thread that is seen asleep ----


@kinds
@errors
@pytest.mark.parametrize("wrap", [bytes, lambda item: [item]], ids=["bytes", "list"])
def test_ctrl_c_in_the_middle_of_an_item_loses_nothing(
    kind: str, raised: type[BaseException], wrap: Callable[[bytes], object], start: Callable[..., Any]
) -> None:
    queue = getattr(fork, kind)()
    item = os.urandom(3_000_000)
    child = start(queue.put, wrap(item))
    wait_until_blocked(child)
    assert child.pid is not None
    stop(child.pid)
    try:
        interrupted_asleep(queue.get, "poll", raised())
        state = queue.debug_state()
        assert (state["reading"], state["partly_received"]) == (os.getpid(), True)
    finally:
        os.kill(child.pid, signal.SIGCONT)
    assert get(queue) == wrap(item)
    queue.put("next")
    assert get(queue) == "next"
    assert ended(child) == 0
    assert_is_empty(queue, None)
    finish(queue)


@kinds
@errors
def test_ctrl_c_while_get_waits_for_an_item_leaves_no_lock(kind: str, raised: type[BaseException]) -> None:
    queue = getattr(fork, kind)()
    interrupted_asleep(queue.get, "poll", raised())
    assert_is_empty(queue, None)
    with forked(lambda: queue.get()) as child:
        queue.put("for the child")
        assert child.result() == "for the child"
    finish(queue)


@kinds
@errors
def test_ctrl_c_while_get_waits_for_the_read_lock_leaves_no_lock(kind: str, raised: type[BaseException]) -> None:
    queue = getattr(fork, kind)()
    with forked(queue.get) as child:
        wait_until_asleep_in(child.pid, "poll")
        interrupted_asleep(queue.get, "futex", raised())
        assert queue.debug_state()["reading"] == child.pid
        queue.put("for the child")
        assert child.result() == "for the child"
    queue.put("next")
    assert get(queue) == "next"
    assert_is_empty(queue, None)
    finish(queue)


@pytest.mark.parametrize("first", ["get", "get_many"])
@pytest.mark.parametrize("whole", [0, 1, 3])
@pytest.mark.parametrize("then", ["get", "get_many"])
@errors
def test_ctrl_c_amid_some_items_loses_none_of_them(
    first: str, whole: int, then: str, raised: type[BaseException]
) -> None:
    """Whole ones came, and half of one more: the next call gets all of them, in order, in whatever way."""
    queue = one_page.Queue()
    items = [*(bytes([65 + number]) * 10 for number in range(whole)), b"p" * 6000, b"last"]
    got: list[bytes] = []

    def read() -> None:
        while True:
            got.extend([queue.get()] if first == "get" else queue.get_many())

    with forked(and_stay(lambda: queue.put_many(items))) as child:
        wait_until_blocked(child.pid)
        stop(child.pid)
        interrupted_asleep(read, "poll", raised())
        assert got == items[:whole]
        child.signal(signal.SIGCONT)
        while len(got) < len(items):
            got += [queue.get(timeout=DEADLINE)] if then == "get" else queue.get_many(timeout=DEADLINE)
        assert got == items
        assert_is_empty(queue, None)
    finish(queue)


def test_a_get_with_a_timeout_waits_for_the_rest_of_an_item(start: Callable[..., Any]) -> None:
    """As the standard library does: half an item in a process that goes away would be lost for all."""
    queue = fork.Queue()
    child = start(queue.put, b"x" * 3_000_000)
    wait_until_blocked(child)
    assert child.pid is not None
    stop(child.pid)
    getting = Thread(lambda: len(queue.get(timeout=0.01)))
    getting.join(0.3)  # 30 times that
    assert getting.is_alive()
    os.kill(child.pid, signal.SIGCONT)
    assert getting.result() == 3_000_000
    assert ended(child) == 0
    finish(queue)


# ---- what is given back ----


def given_back(queue: Any, items: list[object]) -> None:
    """Put items, and interrupt a get_many() that had them all."""
    queue.put_many(items)
    assert interrupted(queue.get_many, after("pipecap_receive"))
    assert queue.debug_state()["given_back"] == len(items)


def test_what_was_given_back_comes_before_what_is_in_the_pipe_and_is_counted() -> None:
    queue = fork.JoinableQueue()
    given_back(queue, [1, 2, 3, 4, 5])
    queue.put(6)
    assert (queue.qsize(), queue.empty()) == (6, False)
    assert queue.get_many(4) == [1, 2, 3, 4]
    assert (queue.qsize(), queue.empty()) == (2, False)
    assert queue.get_nowait() == 5
    assert queue.get_many() == [6]
    assert_is_empty(queue, None)
    do_tasks(queue)
    finish(queue)


@pytest.mark.parametrize("again", ["get", "get_many"])
def test_what_was_given_back_can_be_interrupted_again(again: str) -> None:
    queue = fork.Queue()
    for moment, error, hit in moments():
        given_back(queue, [1, 2, 3])
        got: list[object] = []

        def read(got: list[object] = got) -> None:
            got.extend([queue.get()] if again == "get" else queue.get_many(2))

        hit.append(interrupted(read, moment, error))
        assert queue.qsize() == 3 - len(got), hit
        while len(got) < 3:
            got.append(get(queue))
        assert got == [1, 2, 3], hit
        assert_is_empty(queue, hit)
    finish(queue)


def test_threads_that_drain_what_an_interrupted_get_many_gave_back_get_each_item_once() -> None:
    import sys

    queue = fork.Queue()
    count = 8_000
    given_back(queue, list(range(count // 4)))
    producer = fork.Process(target=queue.put_many, args=(range(count // 4, count),))
    producer.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        draining = [Thread(lambda: list(pipecap.drain(queue, [producer], timeout=DEADLINE))) for _ in range(4)]
        got = [item for thread in draining for item in thread.result()]
    finally:
        sys.setswitchinterval(interval)
    assert sorted(got) == list(range(count))
    assert_is_empty(queue, None)
    producer.join()
    producer.close()
    finish(queue)


def test_a_storm_of_signals_loses_no_item_and_leaves_no_lock() -> None:
    """Signals at random moments, some of them as get() returns: then an item goes with the exception."""
    queue = fork.Queue(20)
    count = 300
    expected = interruptions = in_a_row = got = 0

    def handler(*_: object) -> None:
        raise Interrupt

    def write() -> None:
        for number in range(count):
            queue.put(number.to_bytes(8, "little") * (LARGE // 8))
        put(queue, *[b""] * 10)  # one of them may go with an exception, too
        finish(queue)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with forked(write) as child:
            while True:
                try:
                    # Longer each time, or a busy machine would never let it end.
                    signal.setitimer(signal.ITIMER_REAL, (20e-6 + (interruptions * 7919 % 400) * 1e-6) * 1.5**in_a_row)
                    item = queue.get(timeout=DEADLINE)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except Interrupt:
                    interruptions += 1
                    in_a_row += 1
                    assert_owns_no_lock(queue, interruptions)
                    continue
                except Empty:
                    raise AssertionError(f"item {expected} never came") from None
                in_a_row = 0
                if not item:
                    break
                number = int.from_bytes(item[:8], "little")
                assert item == item[:8] * (LARGE // 8)
                assert number >= expected
                expected = number + 1
                got += 1
            child.result()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert got >= count - interruptions
    while not queue.empty():
        assert get(queue) == b""
    assert_is_empty(queue, None)
    finish(queue)
