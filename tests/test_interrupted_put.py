"""Exceptions out of signal handlers amid put() and put_many(): an item is put once or not at all, and nothing is kept.

What is partly sent goes on, with the next put at the latest. Whatever is counted comes out.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from children import Thread, finish, forked, get, wait_until
from interruptions import (
    Interrupt,
    Moment,
    after,
    interrupted,
    interrupted_asleep,
    moments,
    nth,
)
from items import Array
from scenes import DEADLINE, wait_until_asleep_in

import pipecap
from pipecap.kernel.limits import PAGE_SIZE

MIB = 1 << 20
LARGE = 200_000  # more than the pipe of `small` holds
fork: Any = pipecap.get_context("fork")
small: Any = pipecap.get_context("fork", capacity=65_536, exit_warning=None)
one_page: Any = pipecap.get_context("fork", capacity=PAGE_SIZE, exit_warning=None)

kinds = pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
queues = pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
ITEMS = {
    "small": b"y" * 30,
    "page": b"y" * 4000,
    "64 KiB": b"y" * 65_536,
    "large": b"y" * 3 * MIB,
    "list": [b"y" * LARGE, "z", b"z" * LARGE],
    "array": Array(bytearray(b"y" * LARGE)),
    "arrays": [Array(bytearray(b"y" * 20_000)), "z", Array(bytearray(b"z" * LARGE))],
    "bytearray": bytearray(b"y" * LARGE),
}
items = pytest.mark.parametrize("item", ITEMS.values(), ids=ITEMS.keys())
errors = pytest.mark.parametrize("raised", [Interrupt, TimeoutError])
# A handler that raises may do so in a callback of the garbage collector (Hypothesis has one): nobody can catch that.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def no_thread_in_limbo() -> Iterator[None]:
    """Forget the threads whose start() was interrupted: the standard library keeps them."""
    import threading

    yield
    threading._limbo.clear()  # type: ignore[attr-defined]


def assert_owns_no_lock(queue: Any, hit: object) -> None:
    """Fail where this process owns the write lock for nothing; a feeder thread may be at work."""

    def is_fine() -> bool:
        state = queue.debug_state()
        return bool(state["writing"] != os.getpid() or state["partly_sent"])

    wait_until(is_fine, lambda: (hit, queue.debug_state()))


def assert_is_unused(queue: Any, hit: object, *, tasks: int = 0) -> None:
    """Fail where anything is left in an empty queue: a lock, a credit, a task, memory."""
    wait_until(
        lambda: not queue._sender._alive and not queue.debug_state()["writing"], lambda: (hit, queue.debug_state())
    )
    state = queue.debug_state()
    left = {
        name: state[name] for name in ("writing", "reading", "line", "partly_sent", "partly_received", "given_back")
    }
    assert not any(left.values()), (hit, left)
    assert state["credits"] == queue._shared.maxsize, hit
    assert state["unfinished"] == tasks, hit
    assert sum(each["held"] for each in state["participants"]) == 0, hit
    assert queue.empty(), hit


def get_all(queue: Any, count: int) -> list[Any]:
    return [get(queue) for _ in range(count)]


# ---- every moment ----


@queues
@items
@pytest.mark.parametrize("already", [0, 1, 2])
def test_a_put_that_nobody_reads_is_counted_as_it_comes_out(kind: str, item: object, already: int) -> None:
    """Partly sent, with the pipe full, or others in line."""
    for moment, error, hit in moments():
        queue = getattr(one_page, kind)(1000)
        before: list[object] = [b"x" * 3900] * already  # the first one fills the pipe
        for each in before:
            queue.put(each)
        hit.append(interrupted(lambda queue=queue: queue.put(item), moment, error))  # type: ignore[misc]
        assert_owns_no_lock(queue, hit)
        counted = queue.qsize()
        assert queue.debug_state()["unfinished"] == (counted if kind == "JoinableQueue" else 0), hit
        got = get_all(queue, counted)
        assert got in ([*before, item], before), hit
        if hit == [None]:
            assert got == [*before, item]
        putting = Thread(lambda queue=queue: queue.put(b"last" * LARGE))  # type: ignore[misc]
        assert get(queue) == b"last" * LARGE, hit
        putting.result()
        assert_is_unused(queue, hit, tasks=counted + 1 if kind == "JoinableQueue" else 0)
        finish(queue)


@kinds
@items
def test_a_put_beside_a_reader_puts_once_or_not_at_all(kind: str, item: object) -> None:
    for moment, error, hit in moments():
        queue = getattr(small, kind)()
        reading = Thread(lambda queue=queue: list(iter(queue.get, "last")))  # type: ignore[misc]
        hit.append(interrupted(lambda queue=queue: queue.put(item), moment, error))  # type: ignore[misc]
        assert_owns_no_lock(queue, hit)
        Thread(lambda queue=queue: queue.put("last")).result()  # type: ignore[misc]
        assert reading.result() in ([item], []), hit
        if kind == "JoinableQueue":
            for _ in range(queue.debug_state()["unfinished"]):
                queue.task_done()
        assert_is_unused(queue, hit)
        finish(queue)


@queues
@pytest.mark.parametrize("room", [1000, 2])
def test_a_put_many_puts_the_first_of_its_items_or_all(kind: str, room: int) -> None:
    batch: Sequence[object] = [1, b"2" * 3000, [3] * 1000, b"4" * MIB, *range(5, 9)]
    for moment, error, hit in moments():
        queue = getattr(one_page, kind)(room)
        reading = Thread(lambda queue=queue: list(iter(queue.get, "last")))  # type: ignore[misc]
        hit.append(interrupted(lambda queue=queue: queue.put_many(batch), moment, error))  # type: ignore[misc]
        assert_owns_no_lock(queue, hit)
        Thread(lambda queue=queue: queue.put("last")).result()  # type: ignore[misc]
        got = reading.result()
        assert got == batch[: len(got)], hit
        assert hit != [None] or got == batch
        tasks = len(got) + 1 if kind == "JoinableQueue" else 0
        assert_is_unused(queue, hit, tasks=tasks)
        finish(queue)


class PutsWhenPickled:
    """Has moments of its own while it is pickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return tuple, ([len("abc"), max(1, 2)],)


@kinds
@pytest.mark.parametrize("item", [PutsWhenPickled(), [1, [PutsWhenPickled()] * 3]])
def test_an_exception_out_of_a_handler_while_an_item_is_pickled_is_no_error_of_the_item(
    kind: str, item: object
) -> None:
    """interrupted() passes on what is not the very exception: NotPicklable would be."""
    queue = getattr(fork, kind)()
    for moment, error, hit in moments():
        hit.append(interrupted(lambda: queue.put(item), moment, error))
        queue.put("last")
        got = list(iter(lambda: get(queue), "last"))
        assert len(got) <= 1, hit
    queue.close()


def test_an_exception_out_of_a_handler_while_a_batch_is_pickled_is_no_error_of_an_item() -> None:
    queue = fork.Queue()
    for moment, error, hit in moments():
        hit.append(interrupted(lambda: queue.put_many([1, PutsWhenPickled(), [2] * 1000, b"3" * MIB]), moment, error))
        queue.put("last")
        assert len(list(iter(lambda: get(queue), "last"))) <= 4, hit
    queue.close()


# ---- waiting for a credit ----


@queues
def test_a_put_that_waits_for_a_credit_leaves_none_behind(kind: str) -> None:
    for moment, error, hit in moments():
        queue = getattr(fork, kind)(1)
        queue.put("first")
        ended: list[bool] = []

        def make_room(queue: Any = queue, ended: list[bool] = ended) -> object:
            wait_until(lambda: queue._shared.struct.credit_waiters or queue.debug_state()["partly_sent"] or ended)
            return get(queue)

        room = Thread(make_room)
        hit.append(interrupted(lambda queue=queue: queue.put("second"), moment, error))  # type: ignore[misc]
        ended.append(True)  # perhaps before it waited
        got = [room.result()]
        while queue.qsize():
            got.append(get(queue))
        assert got in (["first"], ["first", "second"]), hit
        assert_is_unused(queue, hit, tasks=len(got) if kind == "JoinableQueue" else 0)
        queue.put("third", block=False)
        assert get(queue) == "third"
        finish(queue)


@queues
@errors
def test_a_signal_while_put_waits_for_a_credit_puts_nothing(kind: str, raised: type[BaseException]) -> None:
    queue = getattr(fork, kind)(2)
    queue.put_many([1, 2])
    interrupted_asleep(lambda: queue.put(3), "futex", raised())
    interrupted_asleep(lambda: queue.put_many([3, 4]), "futex", raised())
    assert queue.qsize() == 2
    assert get_all(queue, 2) == [1, 2]
    assert_is_unused(queue, raised, tasks=2 if kind == "JoinableQueue" else 0)
    finish(queue)


# ---- partly sent ----


def partly_sent(queue: Any, item: object) -> None:
    """Interrupt a put when the pipe is full and the rest is not sent."""
    assert interrupted(lambda: queue.put(item), after("pipecap_put"))


def test_a_partly_sent_item_goes_on_though_nobody_puts_again() -> None:
    queue = small.Queue()
    partly_sent(queue, bytes(MIB))
    assert get(queue) == bytes(MIB)
    assert_is_unused(queue, None)
    finish(queue)


def test_a_partly_sent_item_goes_on_after_the_queue_was_closed() -> None:
    queue = small.Queue()
    with forked(queue.get, close=(queue._writer,)) as child:
        partly_sent(queue, bytes(MIB))
        finish(queue)
        assert child.result() == bytes(MIB)


def test_a_put_waits_for_the_credit_of_a_partly_sent_item() -> None:
    queue = small.Queue(1)
    partly_sent(queue, bytes(MIB))
    putting = Thread(lambda: queue.put("next"))
    assert get(queue) == bytes(MIB)
    putting.result()
    assert get(queue) == "next"
    assert_is_unused(queue, None)
    finish(queue)


def test_a_put_that_was_interrupted_goes_on_as_far_as_it_came_itself() -> None:
    """Not as far as the one before it came."""
    queue = small.Queue()
    queue.put(b"a" * LARGE)
    assert get(queue) == b"a" * LARGE
    for number in range(1000):
        hit = interrupted(lambda: queue.put(b"b" * LARGE), nth(number))
        putting = Thread(lambda: queue.put(b"c" * LARGE))
        got = get(queue)
        assert got in (b"b" * LARGE, b"c" * LARGE), hit
        assert got == b"c" * LARGE or get(queue) == b"c" * LARGE, hit
        putting.result()
        if not hit:
            break
    assert_is_unused(queue, None)
    finish(queue)


@errors
def test_a_signal_in_the_middle_of_a_put_of_a_simple_queue_sends_the_rest_with_the_next_put(
    raised: type[BaseException],
) -> None:
    queue = small.SimpleQueue()
    interrupted_asleep(lambda: queue.put(b"1" * LARGE), "poll", raised())
    state = queue.debug_state()
    assert (state["writing"], state["partly_sent"]) == (os.getpid(), True)
    putting = Thread(lambda: queue.put("next"))
    assert get_all(queue, 2) == [b"1" * LARGE, "next"]
    putting.result()
    assert_is_unused(queue, raised)
    queue.close()


def test_a_simple_queue_s_put_that_was_interrupted_in_line_is_not_sent() -> None:
    """Another thread is partly sent before it: the caller may put it again."""
    queue = small.SimpleQueue()
    first = Thread(lambda: queue.put(b"1" * LARGE))
    wait_until_asleep_in(os.getpid(), "poll")
    interrupted_asleep(lambda: queue.put("second"), "futex")
    again = Thread(lambda: queue.put("second"))
    assert get_all(queue, 2) == [b"1" * LARGE, "second"]
    first.result()
    again.result()
    assert_is_unused(queue, None)
    queue.close()


def test_memory_that_was_lent_to_an_interrupted_send_is_its_owner_s_again() -> None:
    reader, writer = small.Pipe(duplex=False)
    buffer = bytearray(b"2" * LARGE)
    first = Thread(lambda: writer.send_bytes(b"1" * LARGE))
    wait_until_asleep_in(os.getpid(), "poll")
    interrupted_asleep(lambda: writer.send_bytes(buffer), "futex")
    buffer[:] = b"X" * LARGE
    buffer.append(1)  # BufferError while somebody owns a part of it
    again = Thread(lambda: writer.send_bytes(b"2" * LARGE))
    assert [Thread(reader.recv_bytes).result() for _ in range(2)] == [b"1" * LARGE, b"2" * LARGE]
    first.result()
    again.result()
    reader.close()
    writer.close()


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])
def test_a_forked_child_does_not_go_on_with_its_parent_s_partly_sent_item(kind: str, start: Callable[..., Any]) -> None:
    queue = getattr(small, kind)()
    interrupt: Moment = after("pipecap_put")
    assert interrupted(lambda: queue.put(b"x" * 3_000_000), interrupt)
    child = start(queue.put, "from the child")  # waits for the lock, which the partly sent item owns
    putting = Thread(lambda: queue.put("from the parent"))
    assert len(get(queue)) == 3_000_000
    assert set(get_all(queue, 2)) == {"from the child", "from the parent"}
    putting.result()
    child.join(DEADLINE)
    assert child.exitcode == 0
    finish(queue)


@kinds
def test_a_storm_of_signals_leaves_no_lock_and_no_credit(kind: str) -> None:
    """Signals at random moments: each put once or not at all. How many are interrupted does not matter."""
    queue = getattr(small, kind)()
    count = 400

    def handler(*_: object) -> None:
        raise Interrupt

    def read() -> list[int]:
        return [item[0] for item in iter(queue.get, None)]

    put_whole: list[int] = []
    before = signal.signal(signal.SIGALRM, handler)
    try:
        with forked(read) as child:
            for number in range(count):
                try:
                    signal.setitimer(signal.ITIMER_REAL, 20e-6 + (number * 7919 % 700) * 1e-6)
                    queue.put([number, bytes(150_000)])
                    put_whole.append(number)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except Interrupt:
                    assert_owns_no_lock(queue, number)
            signal.setitimer(signal.ITIMER_REAL, 0)
            Thread(lambda: queue.put(None)).result()
            got = child.result()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert got == sorted(set(got))
    assert set(put_whole) <= set(got)
    if kind == "JoinableQueue":
        for _ in range(queue.debug_state()["unfinished"]):
            queue.task_done()
    assert_is_unused(queue, None)
    finish(queue)
