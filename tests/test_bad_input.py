"""Timeouts that are none, items whose unpickling does anything, a full table of participants."""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from collections.abc import Callable, Iterator
from queue import Empty, Full
from typing import Any

import pytest
from children import Thread, and_stay, forked, wait_until

import pipecap
from pipecap.queues import native

fork: Any = pipecap.get_context("fork", exit_warning=None)
kinds = pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])

# ---- timeouts ----

INFINITE = float("inf")
CALLS: dict[str, Callable[[Any, Any], object]] = {
    "get": lambda made, timeout: made.get(timeout=timeout),
    "put": lambda made, timeout: made.put("second", timeout=timeout),
    "get_many": lambda made, timeout: made.get_many(timeout=timeout),
    "put_many": lambda made, timeout: made.put_many(["second"], timeout=timeout),
    "poll": lambda made, timeout: made._reader.poll(timeout),
    "drain": lambda made, timeout: list(pipecap.drain(made, [], timeout=timeout)),
    "join": lambda made, timeout: pipecap.join(made, [], timeout=timeout),
    "acquire": lambda made, timeout: made._wlock.acquire(timeout=timeout) and made._wlock.release(),
}
calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


NUMBERS = [INFINITE, 1e18, 10**400, 2**63, 1, True, 0, -1, -INFINITE, -(10**400), 5e-324]


def short(number: object) -> str:
    return repr(number)[:20]


@pytest.fixture
def made() -> Iterator[Any]:
    """Return a JoinableQueue of two with one item in it."""
    queue = fork.JoinableQueue(2)
    queue.put("first")
    yield queue
    queue.close()
    queue.join_thread()
    vars(queue).clear()  # pytest keeps the object itself


@calls
@pytest.mark.parametrize("timeout", [float("nan"), "x", b"1", [], 1j], ids=repr)
def test_what_is_no_number_of_seconds_is_an_invalid_value(
    made: Any, call: Callable[[Any, Any], object], timeout: Any
) -> None:
    with pytest.raises(pipecap.InvalidValue, match="timeout must be seconds as a number, or None"):
        call(made, timeout)
    assert made.qsize() == 1


@calls
@pytest.mark.parametrize("timeout", NUMBERS, ids=short)
def test_any_number_is_a_timeout(made: Any, call: Callable[[Any, Any], object], timeout: Any) -> None:
    """What need not wait is not affected by it."""
    Thread(lambda: call(made, timeout)).result()


@pytest.mark.parametrize("timeout", [INFINITE, 1e18, 10**400, 2**63, None], ids=short)
def test_large_timeouts_and_infinity_wait_without_limit(timeout: Any) -> None:
    assert native.deadline_of(timeout) == native.WITHOUT_LIMIT


@pytest.mark.parametrize("timeout", [0, -1, -INFINITE, -(10**400), -5e-324], ids=short)
def test_a_negative_timeout_does_not_wait(timeout: Any) -> None:
    made = fork.Queue(1)
    for get in (made.get, made.get_many):
        with pytest.raises(Empty):
            get(timeout=timeout)
    made.put("fills it")
    with pytest.raises(Full):
        made.put("second", timeout=timeout)
    with pytest.raises(Full):
        made.put_many(["second"], timeout=timeout)
    with forked(and_stay(lambda: None)) as child:
        producer = Producer(child.pid)
        with pytest.raises(pipecap.DrainTimeout):
            list(pipecap.drain(made, [producer], timeout=timeout))  # type: ignore[list-item] # like a Process
    made.close()


class Producer:
    """As drain() sees a process that runs."""

    exitcode = None

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.sentinel = os.pidfd_open(pid)

    def __del__(self) -> None:
        os.close(self.sentinel)


# ---- unpickling that does anything ----


class Unpickled:
    """Is what a call returns where it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


def throw(error: BaseException) -> None:
    raise error


queue_of_the_item: Any = None


def put_inner() -> str:
    queue_of_the_item.put("inner")
    return "outer"


def get_next() -> object:
    return queue_of_the_item.get()


def put_and_get() -> object:
    queue_of_the_item.put("inner")
    return queue_of_the_item.get()


def fork_a_child_that_puts() -> str:
    with forked(lambda: queue_of_the_item.put("inner")) as child:
        child.result()
    return "outer"


def fork_and_return_in_both() -> str:
    pid = os.fork()
    if not pid:
        return "child"
    os.waitpid(pid, 0)
    return "parent"


sizes = pytest.mark.parametrize("padding", [0, 100_000], ids=["small", "large"])
raised = pytest.mark.parametrize(
    "error",
    [
        ValueError("its own"),
        MemoryError(),
        EOFError(),
        StopIteration(),
        OSError(9, "its own"),
        pipecap.BadFrame(),
        Empty(),
    ],
    ids=lambda error: type(error).__name__,
)


@kinds
@sizes
@raised
def test_an_item_whose_unpickling_raises_costs_itself(kind: str, padding: int, error: Exception) -> None:
    made = getattr(fork, kind)()
    for item in ("before", [Unpickled(throw, error), bytes(padding)], "after"):
        made.put(item)
    assert made.get() == "before"
    with pytest.raises(type(error)):
        made.get()
    assert Thread(made.get).result() == "after"
    assert made.empty()
    made.close()


@sizes
@raised
def test_get_many_gives_what_is_before_the_item_and_keeps_what_is_after(padding: int, error: Exception) -> None:
    made = fork.Queue()
    made.put_many(["before", [Unpickled(throw, error), bytes(padding)], "after"])
    got: list[object] = []
    errors: list[Exception] = []
    while "after" not in got:
        try:
            got += made.get_many(timeout=5)
        except Exception as failed:
            errors.append(failed)
            got += failed.items  # type: ignore[attr-defined] # documented
    assert got == ["before", "after"]
    assert [type(each) for each in errors] == [type(error)]
    assert made.qsize() == 0
    made.close()
    made.join_thread()


@kinds
@sizes
@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit()], ids=lambda e: type(e).__name__)
def test_an_item_whose_unpickling_exits_costs_itself(kind: str, padding: int, error: BaseException) -> None:
    """The first time it may have been a signal handler, the second time it is the item."""
    made = getattr(fork, kind)()
    for item in ([Unpickled(throw, error), bytes(padding)], "after"):
        made.put(item)
    with pytest.raises(type(error)):
        made.get()
    try:
        assert made.get() == "after"
    except type(error):
        assert Thread(made.get).result() == "after"
    made.close()


@kinds
@sizes
def test_a_process_that_unpickling_ends_takes_no_other_item_with_it(kind: str, padding: int) -> None:
    made = getattr(fork, kind)()
    for item in ([Unpickled(sys.exit, 3), bytes(padding)], "after"):
        made.put(item)
    process = fork.Process(target=made.get)
    process.start()
    process.join()
    assert process.exitcode == 3
    assert Thread(made.get).result() == "after"
    process.close()
    made.close()
    if kind == "Queue":
        made.join_thread()


@kinds
@sizes
@pytest.mark.parametrize(
    ("function", "got"),
    [
        (put_inner, ["outer", "next", "inner"]),
        (get_next, ["next"]),
        (put_and_get, ["next", "inner"]),
        (fork_a_child_that_puts, ["outer", "next", "inner"]),
    ],
)
def test_unpickling_may_use_the_queue_it_came_through(
    kind: str, padding: int, function: Callable[[], object], got: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is unpickled under a lock."""
    made = getattr(fork, kind)()
    monkeypatch.setattr(sys.modules[__name__], "queue_of_the_item", made)
    made.put([Unpickled(function), bytes(padding)])
    made.put("next")
    items = [Thread(made.get).result()[0]] + [Thread(made.get).result() for _ in got[1:]]
    assert items == got
    assert made.empty()
    made.close()


@kinds
@sizes
def test_an_item_whose_unpickling_forks_comes_out_in_both_processes(kind: str, padding: int) -> None:
    made = getattr(fork, kind)()
    made.put([Unpickled(fork_and_return_in_both), bytes(padding)])
    got = made.get()
    if got[0] == "child":
        made.put("from the child")
        os._exit(0)
    assert got == ["parent", bytes(padding)]
    assert Thread(made.get).result() == "from the child"
    assert made.empty()
    made.close()


# ---- a table of participants that is full ----


def fill_the_table(made: Any) -> None:
    """Be every participant that there is room for: own their byte locks, write this PID into their entries."""
    words = made._shared.struct
    fd = os.open(f"/proc/self/fd/{made._shared.member.fd}", os.O_RDWR | os.O_CLOEXEC)
    for index in range(1, native.PARTICIPANTS):
        if not words.participants[index].pid:
            lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, index, 1, 0)
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
            words.participants[index].has_lock = 1
            words.participants[index].pid = os.getpid()
    words.highest = native.PARTICIPANTS - 1


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_a_process_too_many_is_refused_and_the_others_are_not(kind: str) -> None:
    """It is let in once one of them has ended."""
    made = getattr(fork, kind)()
    uses = [made.get, lambda: made.put("one"), lambda: made.put(bytes(100_000))]
    if kind != "SimpleQueue":
        uses += [made.get_nowait, made.get_many, lambda: made.put_many(["one"]), made._rlock.acquire]
    if kind == "JoinableQueue":
        uses += [made.task_done, made.join]
    made.put("before")
    with forked(and_stay(lambda: fill_the_table(made))) as child:
        wait_until(lambda: made._shared.struct.highest == native.PARTICIPANTS - 1)
        for use in uses:
            with forked(use) as late, pytest.raises(pipecap.Unsupported, match="processes use this queue"):
                late.result()
        assert made.get() == "before"
        made.put("mine")
        assert made.get() == "mine"
        assert made.empty()
        child.end()
        with forked(lambda: made.put("late")) as late:
            late.result()
        assert Thread(made.get).result() == "late"
        if kind != "SimpleQueue":
            assert made.qsize() == 0
    made.close()
