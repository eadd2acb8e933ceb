"""What a thread waits for, by its Python stack: on stacks made by hand, and on those of real threads that wait."""

from __future__ import annotations

import ast
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context, pool
from pathlib import Path
from typing import Any

import pytest
from children import Thread, finish, wait_until

import pipecap
from pipecap.diagnosis.lines import _MEANINGS, Meaning, meaning, mentions
from pipecap.proc import stacks
from pipecap.proc.stacks import Stack

LIBRARY = "/usr/lib/python3.12"
fork = get_context("fork")


def stack(*places: str) -> Stack:
    """Make a stack of "file:function", the innermost first; a file without a directory in front is the user's."""
    rows = (place.split(":") for place in places)
    return tuple((f"{LIBRARY}/{file}" if "!" not in file else file.replace("!", ""), 1, name) for file, name in rows)


USER = "!/home/me/app.py:main"


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        # A queue of multiprocessing: at its lock, in its pipe, for a credit, its feeder thread, its tasks.
        (["multiprocessing/synchronize.py:SemLock.__enter__", "multiprocessing/queues.py:Queue.get"], "get"),
        (["multiprocessing/queues.py:SimpleQueue.get", "multiprocessing/pool.py:worker"], "get"),
        (
            [
                "multiprocessing/connection.py:Connection._recv",
                "multiprocessing/connection.py:Connection._recv_bytes",
                "multiprocessing/connection.py:_ConnectionBase.recv_bytes",
                "multiprocessing/queues.py:Queue.get",
            ],
            "get",
        ),
        (["multiprocessing/queues.py:Queue.put", USER], "put"),
        (["multiprocessing/queues.py:JoinableQueue.put", USER], "put"),
        (
            [
                "multiprocessing/connection.py:Connection._send",
                "multiprocessing/connection.py:Connection._send_bytes",
                "multiprocessing/connection.py:_ConnectionBase.send_bytes",
                "multiprocessing/queues.py:Queue._feed",
                "threading.py:Thread.run",
            ],
            "feed",
        ),
        (["multiprocessing/synchronize.py:SemLock.__enter__", "multiprocessing/queues.py:Queue._feed"], "feed"),
        (["multiprocessing/synchronize.py:Condition.wait", "multiprocessing/queues.py:JoinableQueue.join"], "tasks"),
        # A pool or an executor.
        (
            ["threading.py:Condition.wait", "threading.py:Event.wait", "multiprocessing/pool.py:ApplyResult.wait"],
            "result",
        ),
        (["threading.py:Condition.wait", "multiprocessing/pool.py:IMapIterator.next", USER], "result"),
        (["multiprocessing/pool.py:Pool._help_stuff_finish", "multiprocessing/pool.py:Pool._terminate_pool"], "pool"),
        (["threading.py:Condition.wait", "concurrent/futures/_base.py:Future.result", USER], "result"),
        (["threading.py:Condition.wait", "concurrent/futures/_base.py:Future.exception", USER], "result"),
        (["threading.py:Condition.wait", "threading.py:Event.wait", "concurrent/futures/_base.py:wait"], "result"),
        (["threading.py:Condition.wait", "concurrent/futures/_base.py:as_completed", USER], "result"),
        (["concurrent/futures/thread.py:_worker", "threading.py:Thread.run"], "idle"),
        # A thread.
        (["threading.py:Thread._wait_for_tstate_lock", "threading.py:Thread.join", USER], "thread"),
        (["threading.py:Thread.join", "concurrent/futures/process.py:ProcessPoolExecutor.shutdown"], "thread"),
        (["threading.py:Thread.join", "concurrent/futures/thread.py:ThreadPoolExecutor.shutdown"], "thread"),
        (["threading.py:_shutdown"], "thread"),
        # A queue of threads.
        (["threading.py:Condition.wait", "queue.py:Queue.get", USER], "queue"),
        (["threading.py:Condition.wait", "queue.py:Queue.put", USER], "queue"),
        (["threading.py:Condition.wait", "queue.py:Queue.join", USER], "queue"),
        # What anything may set.
        (["threading.py:Condition.wait", "threading.py:Event.wait", USER], "event"),
        (["threading.py:Condition.wait", "threading.py:Condition.wait_for", USER], "event"),
        (["threading.py:Condition.wait", "threading.py:Barrier._wait", "threading.py:Barrier.wait"], "event"),
        (["multiprocessing/synchronize.py:Condition.wait", "multiprocessing/synchronize.py:Event.wait", USER], "event"),
        (["multiprocessing/synchronize.py:Condition.wait_for", USER], "event"),
        # Nothing of these.
        ([], ""),
        ([USER], ""),
        (["multiprocessing/synchronize.py:SemLock.__enter__", USER], ""),
        (["multiprocessing/pool.py:Pool._handle_results", "threading.py:Thread.run"], ""),
        (["!/home/me/app.py:get", "!/home/me/app.py:wait", "!/home/me/app.py:join"], ""),
    ],
)  # fmt: skip
def test_what_each_kind_of_wait_is(frames: list[str], expected: Meaning) -> None:
    """As Python 3.11 names its functions, with their class; py-spy leaves the class out."""
    assert meaning(stack(*frames)) == expected
    assert meaning(tuple((file, line, name.rpartition(".")[2]) for file, line, name in stack(*frames))) == expected


def test_far_out_on_the_stack_is_not_what_a_thread_waits_for() -> None:
    """A worker's own code is called by get() of a pool, and whatever waits there says more."""
    near = stack(*[USER] * 3, "multiprocessing/queues.py:Queue.get")
    far = stack(*[USER] * 4, "multiprocessing/queues.py:Queue.get")
    assert (meaning(near), meaning(far)) == ("get", "")


def test_what_a_forked_child_has_on_its_stack_from_before_the_fork_does_not_count() -> None:
    frames = stack(
        USER,
        "multiprocessing/process.py:BaseProcess._bootstrap",
        "multiprocessing/pool.py:ApplyResult.get",
    )
    assert meaning(frames) == ""


def test_a_module_is_mentioned_wherever_it_is_on_the_stack() -> None:
    frames = stack("selectors.py:EpollSelector.select", "asyncio/base_events.py:BaseEventLoop._run_once", USER)
    assert mentions(frames, "/asyncio/", "/uvloop/")
    assert not mentions(frames, "/uvloop/")
    assert not mentions((), "/asyncio/")


@pytest.mark.parametrize(("tail", "name"), _MEANINGS)
def test_each_function_is_one_of_the_standard_library(tail: str, name: str) -> None:
    """Held to its source, so that a renamed function is noticed."""
    module = tail.strip("/").removesuffix(".py").replace("/", ".")
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    found = {
        node.name for node in ast.walk(ast.parse(Path(spec.origin).read_text())) if isinstance(node, ast.FunctionDef)
    }
    assert name in found or name == "_wait_for_tstate_lock"  # until Python 3.12


# ---- threads that wait ----


def first_of(futures: list[Future[object]]) -> object:
    return next(as_completed(futures))


def with_lock(condition: threading.Condition) -> object:
    with condition:
        return condition.wait()


def awake(condition: threading.Condition) -> None:
    with condition:
        condition.notify_all()


class Waits:
    """A call that waits, how to end its wait, and what is left to close."""

    def __init__(
        self, call: Callable[[], object], end: Callable[[], object], close: Callable[[], object] = lambda: None
    ) -> None:
        self.call, self.end, self.close = call, end, close


def of_a_queue(made: object, name: str) -> Waits:
    """Wait in get(), put() or join() of a queue, of multiprocessing, of pipecap or of threads."""
    one: Any = made

    def close() -> None:
        while name == "put" and not one.empty():
            one.get()
        if hasattr(one, "close"):
            finish(one)

    def done() -> None:
        one.get()
        one.task_done()

    if name == "get":
        return Waits(one.get, lambda: one.put(1), close)
    one.put(1)
    if name == "put":
        return Waits(lambda: one.put(2), one.get, close)
    return Waits(one.join, done, close)


def of_a_future(call: Callable[[Future[object]], object]) -> Waits:
    future: Future[object] = Future()
    return Waits(lambda: call(future), lambda: future.set_result(1))


def of_a_thread() -> Waits:
    gate = threading.Event()
    other = Thread(gate.wait)
    return Waits(other.join, gate.set, other.result)


def of_a_pool() -> Waits:
    gate = threading.Event()
    threads = pool.ThreadPool(1)

    def close() -> None:
        threads.close()
        threads.join()

    return Waits(lambda: threads.apply(gate.wait), gate.set, close)


def of_an_event(made: threading.Event) -> Waits:
    return Waits(made.wait, made.set)


def of_a_condition(made: threading.Condition) -> Waits:
    return Waits(lambda: with_lock(made), lambda: awake(made))


WAITS: dict[str, tuple[Callable[[], Waits], Meaning]] = {
    "get of multiprocessing": (lambda: of_a_queue(fork.Queue(), "get"), "get"),
    "get of a simple queue": (lambda: of_a_queue(fork.SimpleQueue(), "get"), "get"),
    "put of multiprocessing": (lambda: of_a_queue(fork.Queue(1), "put"), "put"),
    "join of multiprocessing": (lambda: of_a_queue(fork.JoinableQueue(), "join"), "tasks"),
    "get of pipecap": (lambda: of_a_queue(pipecap.get_context("fork").Queue(), "get"), "get"),
    "get of a simple queue of pipecap": (lambda: of_a_queue(pipecap.get_context("fork").SimpleQueue(), "get"), "get"),
    "put of pipecap": (lambda: of_a_queue(pipecap.get_context("fork").Queue(1), "put"), "put"),
    "join of pipecap": (lambda: of_a_queue(pipecap.get_context("fork").JoinableQueue(), "join"), "tasks"),
    "get of threads": (lambda: of_a_queue(queue.Queue(), "get"), "queue"),
    "put of threads": (lambda: of_a_queue(queue.Queue(1), "put"), "queue"),
    "join of threads": (lambda: of_a_queue(queue.Queue(), "join"), "queue"),
    "result of a future": (lambda: of_a_future(lambda future: future.result()), "result"),
    "exception of a future": (lambda: of_a_future(lambda future: future.exception()), "result"),
    "wait for futures": (lambda: of_a_future(lambda future: wait([future])), "result"),
    "first of futures": (lambda: of_a_future(lambda future: first_of([future])), "result"),
    "result of a pool": (of_a_pool, "result"),
    "join of a thread": (of_a_thread, "thread"),
    "event of multiprocessing": (lambda: of_an_event(fork.Event()), "event"),  # type: ignore[arg-type] # alike
    "event of threads": (lambda: of_an_event(threading.Event()), "event"),
    "condition of multiprocessing": (lambda: of_a_condition(fork.Condition()), "event"),  # type: ignore[arg-type]
    "condition of threads": (lambda: of_a_condition(threading.Condition()), "event"),
}


def seen(thread: threading.Thread) -> Meaning:
    return meaning(stacks.own().get(thread.native_id or 0, ()))


@pytest.mark.parametrize("name", WAITS)
def test_what_a_real_thread_waits_for(name: str) -> None:
    """Held to the interpreter that runs these tests: the stack of a thread that waits there now."""
    make, expected = WAITS[name]
    waits = make()
    thread = Thread(waits.call)

    try:
        wait_until(partial(seen, thread))
        found = seen(thread)
    finally:
        waits.end()
        thread.result()
        waits.close()
        del waits, thread
    assert found == expected


def test_an_idle_thread_of_an_executor() -> None:
    with ThreadPoolExecutor(1) as threads:
        worker = threads.submit(threading.get_native_id).result()
        wait_until(lambda: meaning(stacks.own()[worker]) == "idle")


def test_a_feeder_thread_that_waits_for_room() -> None:
    """Seen in a write of four calls of connection.py within _feed()."""
    made = fork.Queue()
    before = {thread.native_id for thread in threading.enumerate()}
    made.put(bytes(1_000_000))
    (feeder,) = (thread for thread in threading.enumerate() if thread.native_id not in before)
    try:
        wait_until(lambda: seen(feeder) == "feed")
    finally:
        made.get()
        finish(made)
