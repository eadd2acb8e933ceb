"""A queue among threads and forks of one process, and a put within a put of one thread."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from queue import Empty
from typing import Any

import pytest
from children import Thread, ended, finish, forked, get, put, wait_until
from scenes import DEADLINE

import pipecap

MIB = 1 << 20
KINDS = ["Queue", "JoinableQueue", "SimpleQueue"]
fork: Any = pipecap.get_context("fork")
small: Any = pipecap.get_context("fork", capacity=65_536, exit_warning=None)
kinds = pytest.mark.parametrize("kind", KINDS)


def test_several_threads_and_processes_get_each_item_once(start: Callable[..., BaseProcess]) -> None:
    queue, results = fork.Queue(), fork.Queue()

    def consume() -> None:
        def one() -> None:
            while (item := queue.get()) is not None:
                assert item[1] == bytes([item[0] % 251]) * len(item[1])
                results.put((item[0], len(item[1])))

        threads = [threading.Thread(target=one) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    consumers = [start(consume) for _ in range(2)]
    sizes = [(n * 7919) % 90_000 for n in range(400)]
    for n, size in enumerate(sizes):
        queue.put((n, bytes([n % 251]) * size))
    for _ in range(6):
        queue.put(None)
    assert sorted(pipecap.join(results, consumers, timeout=DEADLINE)) == list(enumerate(sizes))
    assert [consumer.exitcode for consumer in consumers] == [0, 0]
    finish(queue)


# ---- a put within a put ----


def sink(queue: Any) -> list[Any]:
    return list(iter(queue.get, None))


@contextmanager
def signals(handler: Callable[[], object]) -> Iterator[None]:
    """Send signals to the main thread, one after the other, each once the handler of the last one has ended."""
    main = threading.main_thread().ident or 0
    idle, done = threading.Event(), threading.Event()

    def handle(*_: object) -> None:
        if not done.is_set():
            handler()
        idle.set()

    def disturb() -> None:
        while not done.is_set():
            idle.clear()
            signal.pthread_kill(main, signal.SIGUSR1)
            idle.wait(DEADLINE)
            done.wait(0.0003)

    before = signal.signal(signal.SIGUSR1, handle)
    disturbing = Thread(disturb)
    try:
        yield
    finally:
        done.set()
        disturbing.result()
        signal.signal(signal.SIGUSR1, before)


@kinds
def test_a_signal_handler_may_put_while_its_thread_puts(kind: str) -> None:
    """Both items arrive, whole and once; at whatever moment."""
    queue = getattr(small, kind)()
    inside: list[int] = []

    def handler() -> None:
        number = len(inside)
        inside.append(number)
        queue.put(("inner", number))

    with forked(lambda: sink(queue)) as child:
        with signals(handler):
            for number in range(300):
                queue.put(("outer", number, bytes(100_000)))
        Thread(lambda: queue.put(None)).result()
        got = child.result()
    assert [item[1] for item in got if item[0] == "outer"] == list(range(300))
    assert sorted(item[1] for item in got if item[0] == "inner") == inside
    assert queue.debug_state()["writing"] == 0
    finish(queue)


@kinds
def test_a_finalizer_may_put_while_its_thread_puts(kind: str) -> None:
    """The garbage collector calls it, which runs in the middle of anything."""
    queue = getattr(small, kind)()
    count = 0

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            nonlocal count
            count += 1
            queue.put("inner")

    threshold = gc.get_threshold()
    with forked(lambda: sink(queue)) as child:
        gc.set_threshold(3)
        try:
            for number in range(300):
                Cycle()
                queue.put([number, b"x" * 70_000, b"y" * 50_000])
        finally:
            gc.set_threshold(*threshold)
        gc.collect()
        Thread(lambda: queue.put(None)).result()
        got = child.result()
    assert [item[0] for item in got if item != "inner"] == list(range(300))
    assert got.count("inner") == count == 300
    finish(queue)


class Putting:
    """Puts when it is pickled, and when it is unpickled, too."""

    def __init__(self, queue: Any, items: list[object]) -> None:
        self.queue = queue
        self.items = items

    def __reduce__(self) -> tuple[object, ...]:
        put(self.queue, *self.items)
        return str, ("outer",)


@kinds
@pytest.mark.parametrize("size", [10, 100_000])
def test_pickling_an_item_may_put(kind: str, size: int) -> None:
    queue = getattr(fork, kind)()
    inner: list[object] = [b"1" * size, [b"2" * size, "two"]]
    putting = Thread(lambda: queue.put(Putting(queue, inner)))
    assert [get(queue) for _ in range(3)] == [*inner, "outer"]
    putting.result()
    if kind != "SimpleQueue":
        queue.put_many([1, Putting(queue, inner), 3])
        assert [get(queue) for _ in range(5)] == [*inner, 1, "outer", 3]
    assert queue.empty()
    finish(queue)


received: Any = None


class Getting:
    """Gets and puts in its queue when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return get_and_put, ()


def get_and_put() -> object:
    received.put("from within")
    return received.get()


@kinds
def test_unpickling_an_item_may_get_and_put(kind: str) -> None:
    global received
    queue = received = getattr(fork, kind)()
    put(queue, Getting(), "second", "third")
    assert get(queue) == "second"
    assert [get(queue), get(queue)] == ["third", "from within"]
    assert queue.empty()
    received = None
    finish(queue)


@kinds
def test_a_signal_handler_may_get_while_its_thread_gets(kind: str) -> None:
    queue = getattr(small, kind)()
    inner: list[int] = []
    outer: list[int] = []
    count = 200

    def handler() -> None:
        if len(outer) + len(inner) < count and not queue.empty():
            inner.append(queue.get()[0])

    def produce() -> None:
        for number in range(count + 1):  # one is left for the outer get(), whose item the handler may have taken
            queue.put([number, bytes(100_000)])
        finish(queue)  # a forked child ends without waiting for its feeder thread

    with forked(produce) as child:
        with signals(handler):
            while len(outer) + len(inner) < count:
                if not queue.empty():
                    outer.append(queue.get()[0])
        while len(outer) + len(inner) <= count:
            outer.append(queue.get()[0])
        child.result()
    assert sorted(outer + inner) == list(range(count + 1))
    assert queue.debug_state()["reading"] == 0
    finish(queue)


# ---- os.fork() beside threads at work ----


class Busy:
    """Threads that put into a queue and get from it until the end, two of each."""

    def __init__(self, queue: Any) -> None:
        self.queue = queue
        self.done = threading.Event()
        self.of_children: list[int] = []
        self.putting = [Thread(self._put) for _ in range(2)]
        self.getting = [Thread(self._get) for _ in range(2)]

    def _put(self) -> None:
        while not self.done.is_set():
            self.queue.put((-1, b"x" * 150_000))

    def _get(self) -> None:
        while (item := self.queue.get()) is not None:
            number, data = item
            assert data == data[:1] * 150_000
            if number >= 0:
                self.of_children.append(number)

    def end(self) -> None:
        self.done.set()
        for thread in self.putting:
            thread.result()
        put(self.queue, *[None for _ in self.getting])
        for thread in self.getting:
            thread.result()


@kinds
def test_a_fork_beside_threads_that_put_and_get_leaves_the_child_a_queue_that_works(kind: str) -> None:
    """os.fork() in user code: no thread of the parent is in the child, and nothing of what they were doing."""
    room = () if kind == "SimpleQueue" else (10,)
    queue, other = getattr(small, kind)(*room), getattr(small, kind)(*room)
    busy = Busy(queue)

    def in_child(number: int) -> object:
        queue.put((number, b"c" * 150_000))
        finish(queue)
        other.put(number)
        return other.get()

    for number in range(25):
        with forked(lambda number=number: in_child(number)) as child:  # type: ignore[misc]
            assert child.result() == number
    busy.end()
    assert sorted(busy.of_children) == list(range(25))
    assert queue.debug_state()["writing"] == 0
    finish(queue)
    finish(other)


def test_a_fork_while_the_feeder_runs_sends_nothing_twice(start: Callable[..., BaseProcess]) -> None:
    queue = fork.Queue()
    put(queue, ("parent", 0, bytes(3_000_000)), ("parent", 1), ("parent", 2))  # waits in the feeder
    child = start(put, queue, ("child", 0), ("child", 1))
    items = [queue.get()[:2] for _ in range(5)]
    assert sorted(items) == [("child", 0), ("child", 1), ("parent", 0), ("parent", 1), ("parent", 2)]
    assert ended(child) == 0
    assert queue.empty()
    finish(queue)


def test_what_was_given_back_is_the_parent_s_after_a_fork() -> None:
    queue = fork.Queue()
    queue.put_many([1, Poison(), 3])
    with pytest.raises(ZeroDivisionError):
        queue.get_many()
    with forked(lambda: (queue.empty(), queue.qsize())) as child:
        assert child.result() == (True, 0)
    assert queue.get() == 3
    with pytest.raises(Empty):
        queue.get_nowait()
    finish(queue)


class Poison:
    """Pickles, and raises when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return divmod, (1, 0)


# ---- signals ----


def test_a_million_items_through_a_storm_of_signals(start: Callable[..., BaseProcess]) -> None:
    """An interval timer at 1 kHz, with a handler in Python, on both sides; how many come does not matter."""
    count = 1_000_000
    queue = fork.Queue()

    def storm() -> None:
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)

    def produce() -> None:
        storm()
        for begin in range(0, count, 1_000):
            queue.put_many(range(begin, begin + 900))
            for item in range(begin + 900, begin + 1_000):
                queue.put(item)
        signal.setitimer(signal.ITIMER_REAL, 0)

    child = start(produce)
    before = signal.getsignal(signal.SIGALRM)
    storm()
    try:
        expected = 0
        while expected < count:
            items = queue.get_many(500) if expected % 3 else [queue.get()]
            assert items == list(range(expected, expected + len(items)))
            expected += len(items)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert ended(child) == 0
    finish(queue)


def test_a_thread_that_puts_while_another_one_closes_ends(start: Callable[..., BaseProcess]) -> None:
    for _ in range(5):
        queue = fork.Queue(100)

        def put_until_closed(queue: Any = queue) -> None:
            while True:
                queue.put(1)

        putting = Thread(put_until_closed)
        wait_until(lambda queue=queue: not queue.empty())  # type: ignore[misc]
        queue.cancel_join_thread()
        queue.close()
        while queue._reader.closed is False and queue._reader.poll():
            queue._reader.recv()  # makes room
        with pytest.raises(ValueError, match="closed"):
            putting.result()
