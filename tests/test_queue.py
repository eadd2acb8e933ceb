"""Queue, JoinableQueue, SimpleQueue and the context that makes them, with real processes."""

from __future__ import annotations

import errno
import gc
import logging
import multiprocessing
import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing.process import BaseProcess
from queue import Empty, Full
from typing import Any

import pytest
from children import Thread, wait_until_in
from privilege import quota_used_up, unprivileged
from scenes import DEADLINE, wait_until_asleep_in

import pipecap
from pipecap.kernel.limits import PAGE_SIZE
from pipecap.queues import exit_guard

METHODS = ["fork", "spawn", "forkserver"]
KINDS = ["Queue", "JoinableQueue", "SimpleQueue"]
fork = pipecap.get_context("fork")


@pytest.fixture(scope="module", autouse=True)
def forkserver() -> Iterator[None]:
    """Start the helper process of that start method before any test looks at what is left behind, and stop it."""
    from multiprocessing import forkserver

    forkserver.ensure_running()
    yield
    forkserver._forkserver._stop()  # type: ignore[attr-defined] # there is no public way


@pytest.fixture
def start() -> Iterator[Callable[..., BaseProcess]]:
    started: list[BaseProcess] = []

    def start(target: Callable[..., object], *args: object, ctx: Any = fork) -> BaseProcess:
        process: BaseProcess = ctx.Process(target=target, args=args)
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()
        process.close()


def ended(process: BaseProcess) -> int | None:
    process.join(DEADLINE)
    return process.exitcode


# ---- travelling ----


def echo(requests: Any, replies: Any) -> None:
    while (item := requests.get()) is not None:
        replies.put((type(requests).__module__, item))


def echo_through_a_grandchild(method: str, requests: Any, replies: Any) -> None:
    ctx: Any = pipecap.get_context(method)
    grandchild = ctx.Process(target=echo, args=(requests, replies))
    grandchild.start()
    grandchild.join()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_queues_travel_to_children(method: str, kind: str, start: Callable[..., BaseProcess]) -> None:
    ctx: Any = pipecap.get_context(method)
    requests, replies = getattr(ctx, kind)(), getattr(ctx, kind)()
    child = start(echo, requests, replies, ctx=ctx)
    for item in (1, "two", b"x" * 200_000):
        requests.put(item)
        assert replies.get() == ("pipecap.queues.queue", item)
    requests.put(None)
    assert ended(child) == 0


@pytest.mark.parametrize("method", METHODS)
def test_queues_travel_to_grandchildren(method: str, start: Callable[..., BaseProcess]) -> None:
    ctx: Any = pipecap.get_context(method)
    requests, replies = ctx.Queue(), ctx.SimpleQueue()
    child = start(echo_through_a_grandchild, method, requests, replies, ctx=ctx)
    requests.put("far")
    assert replies.get()[1] == "far"
    requests.put(None)
    assert ended(child) == 0


def put_when_told(queue: Any, reply: Any) -> None:
    queue.put("here")
    reply.send(queue.get(timeout=DEADLINE))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_queue_lives_until_its_child_has_it(method: str, start: Callable[..., BaseProcess]) -> None:
    """The standard library's semaphores are unlinked with the parent's last reference: FileNotFoundError there."""
    ctx: Any = pipecap.get_context(method)
    reader, writer = ctx.Pipe(duplex=False)
    queue = ctx.Queue()
    child = start(put_when_told, queue, writer, ctx=ctx)
    del queue
    child._args = ()  # type: ignore[attr-defined] # the parent's last reference
    gc.collect()
    writer.close()
    assert reader.recv() == "here"
    reader.close()
    assert ended(child) == 0


PARENT_THAT_ENDS = """
import os, sys, pipecap
def child(queue, fd):
    queue.put(1)
    os.write(fd, b"got %d" % queue.get())
if __name__ == "__main__":
    ctx = pipecap.get_context(sys.argv[1])
    ctx.Process(target=child, args=(ctx.Queue(), 1)).start()
    os._exit(0)
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_queue_outlives_its_maker(method: str, tmp_path: Any) -> None:
    program = tmp_path / "parent.py"
    program.write_text(PARENT_THAT_ENDS)
    done = subprocess.run([sys.executable, program, method], capture_output=True, timeout=DEADLINE, check=True)
    assert done.stdout == b"got 1"


def test_nothing_is_pickled_but_to_a_child() -> None:
    import pickle

    for kind in KINDS:
        queue = getattr(fork, kind)()
        with pytest.raises(RuntimeError):
            pickle.dumps(queue)
        queue.close()


# ---- the context ----


def test_the_default_method_is_the_interpreter_s() -> None:
    assert pipecap.get_context().get_start_method() == multiprocessing.get_start_method()
    ctx = pipecap.get_context("fork", capacity="128K", exit_warning=None)
    other = ctx.get_context("spawn")
    assert (other.get_start_method(), other.capacity, other.exit_warning) == ("spawn", "128K", None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_capacity_is_set_at_the_start(kind: str) -> None:
    queue = getattr(pipecap.get_context("fork", capacity="256K"), kind)()
    assert pipecap.capacity(queue) == 256 * 1024
    queue.close()


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot find context"):
        pipecap.get_context("thread")
    with pytest.raises(pipecap.InvalidSize):
        pipecap.get_context("fork", capacity="lots")
    with pytest.raises(ValueError, match="exit_warning"):
        pipecap.get_context("fork", exit_warning=-1)
    with pytest.raises(pipecap.ResizeRefused):
        pipecap.get_context("fork", capacity=2**40).Queue()


@pytest.mark.parametrize("method", METHODS)
def test_pools_and_executors_work(method: str) -> None:
    ctx: Any = pipecap.get_context(method)
    with ctx.Pool(2) as pool:
        assert type(pool._inqueue).__module__ == "pipecap.queues.queue"
        assert pool.map(len, [b"x" * 100_000] * 20) == [100_000] * 20
    with ProcessPoolExecutor(2, mp_context=ctx) as executor:
        assert list(executor.map(abs, range(-20, 0))) == list(range(20, 0, -1))


def test_both_kinds_of_pipe() -> None:
    for duplex in (True, False):
        one, other = fork.Pipe(duplex)
        other.send("x")
        assert one.recv() == "x"
        assert (one.writable, other.readable) == (duplex, duplex)
        one.close()
        other.close()


# ---- elastic, direct put, batches ----


def test_a_small_item_is_in_the_pipe_when_put_returns() -> None:
    queue = fork.Queue()
    threads = threading.active_count()
    queue.put(1)
    assert pipecap.unread(queue) > 0
    assert threading.active_count() == threads
    assert queue.get() == 1
    queue.close()


def test_the_pipe_grows_for_what_does_not_fit_and_no_thread_is_needed() -> None:
    queue = fork.Queue()
    threads = threading.active_count()
    queue.put(b"x" * 300_000)
    assert pipecap.capacity(queue) >= 300_000
    assert threading.active_count() == threads
    assert len(queue.get()) == 300_000
    queue.close()


@pytest.mark.parametrize("method", METHODS)
def test_the_documented_deadlock_ends_by_itself(method: str, start: Callable[..., BaseProcess]) -> None:
    """https://docs.python.org/3/library/multiprocessing.html, "Joining processes that use queues"."""
    ctx: Any = pipecap.get_context(method)
    queue = ctx.Queue()
    child = start(queue_put_x, queue, ctx=ctx)
    assert ended(child) == 0
    assert queue.get() == "X" * 1_000_000


def queue_put_x(queue: Any) -> None:
    queue.put("X" * 1_000_000)


def numbered(queue: Any, name: str, sizes: list[int]) -> None:
    for number, size in enumerate(sizes):
        queue.put((name, number, b"x" * size))


def test_each_producer_s_order_holds_through_direct_puts_and_the_feeder(start: Callable[..., BaseProcess]) -> None:
    """Sizes that fit at once, after a moment, or only by the feeder; three processes with two threads each."""
    queue = fork.Queue()
    sizes = [10, 100_000, 10, 4_082, 4_096, 2_000_000, 10, 10, 70_000, 10] * 6

    def produce(n: int) -> None:
        threads = [threading.Thread(target=numbered, args=(queue, f"{n}.{i}", sizes)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    producers = [start(produce, n) for n in range(3)]
    items = [(name, number, len(data)) for name, number, data in pipecap.drain(queue, producers, timeout=30)]
    for name in {name for name, _, _ in items}:
        assert [item[1:] for item in items if item[0] == name] == list(enumerate(sizes))
    assert len(items) == 6 * len(sizes)


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
def test_batches_are_the_same_items(kind: str, start: Callable[..., BaseProcess]) -> None:
    queue = getattr(fork, kind)()
    items = [*range(5_000), b"x" * 100_000, *range(50), b"y" * 2_000_000, None]

    def produce() -> None:
        queue.put_many(items)
        queue.put("last")

    child = start(produce)
    got: list[Any] = []
    while not got or got[-1] != "last":
        some = queue.get_many(7, timeout=DEADLINE) if len(got) % 2 else queue.get_many(timeout=DEADLINE)
        assert some
        got += some
    assert got == [*items, "last"]
    assert ended(child) == 0
    assert queue.qsize() == 0


def test_get_many_takes_no_more_than_it_may() -> None:
    queue = fork.Queue()
    queue.put_many(range(10))
    assert queue.get_many(4) == [0, 1, 2, 3]
    assert queue.get() == 4
    assert queue.get_many() == [5, 6, 7, 8, 9]
    with pytest.raises(Empty):
        queue.get_many(timeout=0.01)
    with pytest.raises(ValueError, match="max_items"):
        queue.get_many(0)
    queue.close()


def test_put_many_waits_for_room_and_says_how_many_were_put() -> None:
    queue = fork.Queue(3)
    with pytest.raises(Full) as caught:
        queue.put_many(range(5), timeout=0.05)
    assert caught.value.put == 3  # type: ignore[attr-defined] # documented
    assert queue.get_many() == [0, 1, 2]
    queue.close()


# ---- as the standard library documents ----


def test_maxsize_full_empty_and_qsize() -> None:
    queue = fork.Queue(2)
    assert (queue.qsize(), queue.empty(), queue.full()) == (0, True, False)
    queue.put(1)
    queue.put(2)
    assert (queue.qsize(), queue.empty(), queue.full()) == (2, False, True)
    with pytest.raises(Full):
        queue.put_nowait(3)
    with pytest.raises(Full):
        queue.put(3, timeout=0.01)
    assert [queue.get(), queue.get_nowait()] == [1, 2]
    with pytest.raises(Empty):
        queue.get_nowait()
    with pytest.raises(Empty):
        queue.get(timeout=0.01)
    queue.close()


def test_who_waits_for_room_gets_it(start: Callable[..., BaseProcess]) -> None:
    queue = fork.Queue(1)
    child = start(numbered, queue, "n", [10] * 200)
    assert [queue.get()[1] for _ in range(200)] == list(range(200))
    assert ended(child) == 0


def test_a_closed_queue_takes_and_gives_nothing() -> None:
    queue = fork.Queue()
    queue.put(1)
    queue.close()
    queue.join_thread()
    for call in (lambda: queue.put(1), queue.get, lambda: queue.put_many([1]), queue.get_many):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_joinable_queues_wait_for_their_tasks(start: Callable[..., BaseProcess]) -> None:
    queue = fork.JoinableQueue()
    queue.put(1)
    queue.put_many([2, 3])

    def work() -> None:
        for _ in range(3):
            queue.get()
            queue.task_done()

    child = start(work)
    queue.join()
    assert ended(child) == 0
    with pytest.raises(ValueError, match="too many"):
        queue.task_done()
    queue.close()


# ---- the exit guard, discard ----

EXIT_GUARD = """
import logging, sys, pipecap
ctx = pipecap.get_context("fork", exit_warning=0.2)
queue = ctx.Queue()
queue.put(b"x" * 3_000_000)
queue.put(1)
print("ready", flush=True)
"""


def test_an_exit_that_waits_says_for_what() -> None:
    with subprocess.Popen([sys.executable, "-c", EXIT_GUARD], stderr=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            assert child.stderr is not None
            line = child.stderr.readline().decode()
        finally:
            child.kill()
    assert f"process {child.pid} waits to end" in line
    for fact in ("2 item(s)", "is full", "cannot grow: ", "nobody has read", "queue.close(discard=True)", "drain("):
        assert fact in line


def test_the_exit_guard_also_logs(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    queue = pipecap.get_context("fork", exit_warning=0.05).Queue()
    queue.put(b"x" * 3_000_000)
    queue.close()
    reader = threading.Timer(0.5, lambda: queue._reader.recv())
    with caplog.at_level(logging.WARNING, "pipecap"):
        reader.start()
        queue.join_thread()
    reader.join()
    assert len(caplog.records) == 1
    assert "waits to end" in capsys.readouterr().err


def test_discard_drops_what_was_not_sent_and_says_how_much(start: Callable[..., BaseProcess]) -> None:
    queue = fork.Queue()
    reader, writer = fork.Pipe(duplex=False)

    def give_up() -> None:
        queue.put(b"x" * 3_000_000)
        queue.put(b"y" * 1_000)
        dropped = queue.close(discard=True)
        writer.send((dropped.items, dropped.size, dropped.cut_short))

    child = start(give_up)
    assert reader.recv() == (1, len(pipecap.queues.pickling.pickled(b"y" * 1_000)), True)
    assert ended(child) == 0
    with pytest.raises(pipecap.TruncatedItem):
        queue.get()
    assert queue.qsize() == 0
    reader.close()
    writer.close()


def test_cancel_join_thread_lets_the_process_end(start: Callable[..., BaseProcess]) -> None:
    queue = fork.Queue()

    def leave() -> None:
        queue.cancel_join_thread()
        queue.put(b"x" * 3_000_000)

    assert ended(start(leave)) == 0


# ---- faults ----


def test_what_does_not_pickle_is_named_and_the_queue_goes_on() -> None:
    for kind in KINDS:
        queue = getattr(fork, kind)()
        with pytest.raises(pipecap.NotPicklable, match="function"):
            queue.put(lambda: None)
        queue.put(1)
        assert queue.get() == 1
        if kind != "SimpleQueue":
            assert queue.qsize() == 0
            with pytest.raises(pipecap.NotPicklable):
                queue.put_many([1, lambda: None])
            assert queue.empty()
        queue.close()


def test_a_reader_that_dies_waiting_leaves_the_others_their_items(start: Callable[..., BaseProcess]) -> None:
    """A stock queue is lost then: the dead reader holds its lock."""
    queue = fork.Queue()
    dies = start(queue.get)
    wait_until_asleep_in(dies, "poll")
    dies.kill()
    dies.join()
    queue.put("still here")
    assert queue.get(timeout=DEADLINE) == "still here"


def test_a_reader_that_dies_in_an_item_is_told_of(start: Callable[..., BaseProcess]) -> None:
    """Where the next item begins, nobody knows."""
    queue = fork.Queue()
    dies = start(queue.get)
    wait_until_asleep_in(dies, "poll")
    os.write(queue._writer.fileno(), b"\0\0\1\0abc")
    while pipecap.unread(queue):
        time.sleep(0.001)
    dies.kill()
    dies.join()
    with pytest.raises(pipecap.BadFrame):
        queue.get(timeout=DEADLINE)


def test_a_writer_that_dies_in_an_item_is_an_error_and_the_queue_goes_on(start: Callable[..., BaseProcess]) -> None:
    queue = fork.Queue()
    dies = start(numbered, queue, "n", [10, 3_000_000])
    wait_until_asleep_in(dies, "pipe_write")
    dies.kill()
    assert queue.get()[1] == 0
    with pytest.raises(pipecap.TruncatedItem):
        queue.get()
    queue.put("next")
    assert queue.get(timeout=DEADLINE) == "next"


def test_garbage_is_an_error_for_every_reader_after_what_was_whole() -> None:
    queue = fork.Queue()
    queue.put(1)
    os.write(queue._writer.fileno(), b"\x80\0\0\1 this is no message")
    assert queue.get() == 1
    for _ in range(2):
        with pytest.raises(pipecap.BadFrame):
            queue.get()


def test_nobody_who_can_read_is_a_broken_pipe() -> None:
    queue = fork.Queue(5)
    queue._reader.close()
    with pytest.raises(BrokenPipeError):
        queue.put(1)
    with pytest.raises(BrokenPipeError):
        queue.put_many([1, 2, 3])
    assert queue.qsize() == 0


@pytest.mark.parametrize("left", [0, 1, 2])
def test_without_descriptors_nothing_is_left_behind(left: int) -> None:
    """A queue takes three: the pipe's two and one for the memory its processes share."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for fd in taken[:left]:
            os.close(fd)
        del taken[:left]
        with pytest.raises(OSError) as caught:  # noqa: PT011 -- the number is looked at
            fork.Queue()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)
    assert caught.value.errno == errno.EMFILE


def test_over_the_quota_queues_work_and_say_why_they_cannot_grow() -> None:
    def poor() -> tuple[list[int], str]:
        with quota_used_up():
            queue = fork.Queue()
            sizes = [queue_round(queue, size) for size in (10, 5_000, 10)]
            queue.put(b"x" * 100_000)  # more than its two pages: the feeder has the rest
            return sizes, exit_guard.pipe_now(queue._writer)

    sizes, said = unprivileged(poor)
    assert sizes == [10, 5_000, 10]
    assert "is full" in said
    assert "cannot grow: " in said
    assert "quota" in said


def queue_round(queue: Any, size: int) -> int:
    queue.put(b"x" * size)
    return len(queue.get())


def test_a_fork_while_the_feeder_runs_sends_nothing_twice(start: Callable[..., BaseProcess]) -> None:
    queue = fork.Queue()
    numbered(queue, "parent", [3_000_000, 10, 10])  # waits in the feeder
    child = start(numbered, queue, "child", [10, 10])
    items = [queue.get()[:2] for _ in range(5)]
    assert sorted(items) == [("child", 0), ("child", 1), ("parent", 0), ("parent", 1), ("parent", 2)]
    assert ended(child) == 0
    assert queue.empty()
    queue.close()
    queue.join_thread()


def test_a_million_items_through_a_storm_of_signals(start: Callable[..., BaseProcess]) -> None:
    """An interval timer at 1 kHz, with a handler in Python, on both sides."""
    count = 1_000_000
    queue = fork.Queue()
    signals: list[int] = []

    def storm() -> None:
        signal.signal(signal.SIGALRM, lambda *_: signals.append(1))
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)

    def produce() -> None:
        storm()
        for begin in range(0, count, 1_000):
            queue.put_many(range(begin, begin + 900))
            for item in range(begin + 900, begin + 1_000):
                queue.put(item)
        signal.setitimer(signal.ITIMER_REAL, 0)

    child = start(produce)
    handler = signal.getsignal(signal.SIGALRM)
    storm()
    try:
        expected = 0
        while expected < count:
            items = queue.get_many(500) if expected % 3 else [queue.get()]
            assert items == list(range(expected, expected + len(items)))
            expected += len(items)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert signals
    assert ended(child) == 0


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])
@pytest.mark.parametrize("wrap", [bytes, lambda item: [item]], ids=["bytes", "list"])
def test_ctrl_c_in_the_middle_of_an_item_loses_nothing(
    kind: str, wrap: Callable[[bytes], object], start: Callable[..., BaseProcess]
) -> None:
    """A large bytes object is received straight into its own memory, others are not."""
    queue = getattr(fork, kind)()
    item = os.urandom(3_000_000)
    child = start(queue.put, wrap(item))
    wait_until_asleep_in(child, "pipe_write")
    assert child.pid is not None
    os.kill(child.pid, signal.SIGSTOP)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            queue.get()
    finally:
        signal.signal(signal.SIGALRM, handler)
        os.kill(child.pid, signal.SIGCONT)
    assert queue.get() == wrap(item)
    queue.put("next")
    assert queue.get() == "next"
    assert ended(child) == 0


@pytest.mark.parametrize(
    ("tail", "outcome"),
    [(b"\x94.", bytes(1 << 20)), (b"N.", None), (b"0.", pickle.UnpicklingError), (b"..", bytes(1 << 20))],
)
def test_a_large_bytes_object_is_what_its_pickle_says(tail: bytes, outcome: Any) -> None:
    """It begins as one; how it ends is seen after it arrived."""
    queue = fork.Queue()
    payload = b"\x80\x04B" + struct.pack("<I", 1 << 20) + bytes(1 << 20) + tail
    writing = Thread(lambda: queue._writer.send_bytes(payload))
    queue._shared.take_slots(1, 0)
    if isinstance(outcome, type):
        with pytest.raises(outcome):
            queue.get()
    else:
        assert queue.get() == outcome
    writing.result()
    queue.put("next")
    assert queue.get() == "next"


@pytest.mark.parametrize("first", ["get", "get_many"])
@pytest.mark.parametrize("whole", [0, 1, 3])
@pytest.mark.parametrize("then", ["get", "get_many"])
def test_ctrl_c_amid_some_items_loses_none_of_them(first: str, whole: int, then: str) -> None:
    """Whole ones came, and half of one more: whoever gets next gets all of them, in order, in whatever way."""
    queue = fork.Queue()
    items = [bytes([65 + number]) * (10 if number < whole else 1000) for number in range(whole + 2)]
    wire = [struct.pack("!i", len(payload)) + payload for payload in map(pickle.dumps, items)]
    head, rest = b"".join(wire[:whole]) + wire[whole][:500], wire[whole][500:] + wire[whole + 1]
    main = threading.main_thread().ident or 0

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def disturb() -> None:
        wait_until_in("poll", os.getpid())
        signal.pthread_kill(main, signal.SIGUSR1)

    for _ in items:
        queue._shared.take_slots(1, 0)
    os.write(queue._writer.fileno(), head)
    got: list[bytes] = []
    handler = signal.signal(signal.SIGUSR1, interrupt)
    try:
        disturbing = Thread(disturb)
        with suppress(KeyboardInterrupt):
            while True:
                got += [queue.get()] if first == "get" else queue.get_many()
        disturbing.result()
    finally:
        signal.signal(signal.SIGUSR1, handler)
    os.write(queue._writer.fileno(), rest)
    with suppress(Empty):
        while len(got) < len(items):
            got += [queue.get(timeout=1)] if then == "get" else queue.get_many(timeout=1)
    assert got == items
    assert queue.qsize() == 0


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
    assert sorted(pipecap.join(consumers, results, timeout=DEADLINE)) == list(enumerate(sizes))
    assert [consumer.exitcode for consumer in consumers] == [0, 0]
    queue.close()
    queue.join_thread()


def test_without_a_thread_the_put_fails_and_the_next_one_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a cgroup that allows no more threads: `can't start new thread`."""
    queue = pipecap.get_context("fork", capacity=PAGE_SIZE).JoinableQueue()
    queue.put_many([bytes(200)] * 15)
    with monkeypatch.context() as patch:

        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", refuse)
        with suppress(RuntimeError):
            while queue.qsize() < 1_000:
                queue.put(0)
    assert queue.qsize() < 1_000
    put = queue.qsize()
    queue.put("last")
    for _ in range(put):
        queue.get()
        queue.task_done()
    assert queue.get() == "last"
    queue.task_done()
    queue.join()
    queue.close()
    queue.join_thread()


def test_large_items_that_differ_all_arrive(start: Callable[..., BaseProcess]) -> None:
    """Each is begun by put(), gone on with by the feeder, and followed by one that has to wait."""
    queue = fork.Queue()
    items = [bytes([number]) * 4_000_000 for number in range(20)]

    def produce() -> None:
        for item in items:
            queue.put(item)

    child = start(produce)
    assert [queue.get()[:1] for _ in items] == [item[:1] for item in items]
    assert ended(child) == 0
    assert queue.qsize() == 0


def test_discarded_tasks_are_not_waited_for() -> None:
    queue = fork.JoinableQueue()
    queue.put(b"x" * 3_000_000)
    queue.put_many([1, 2, 3])
    assert queue.close(discard=True).items == 3
    assert (queue.qsize(), queue._shared.struct.unfinished) == (1, 1)
    assert len(queue._reader.recv()) == 3_000_000
    queue.join_thread()


def test_a_get_with_a_timeout_waits_for_the_rest_of_an_item(start: Callable[..., BaseProcess]) -> None:
    """As the standard library does: half an item in a process that goes away would be lost for all."""
    queue = fork.Queue()
    child = start(numbered, queue, "n", [3_000_000])
    wait_until_asleep_in(child, "pipe_write")
    assert child.pid is not None
    os.kill(child.pid, signal.SIGSTOP)
    timer = threading.Timer(0.5, os.kill, (child.pid, signal.SIGCONT))
    timer.start()
    assert len(queue.get(timeout=0.1)[2]) == 3_000_000
    timer.join()
    assert ended(child) == 0


def test_a_forked_child_does_not_go_on_with_its_parent_s_half_sent_item(start: Callable[..., BaseProcess]) -> None:
    queue = fork.SimpleQueue()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            queue.put(b"x" * 3_000_000)
    finally:
        signal.signal(signal.SIGALRM, handler)
    child = start(queue.put, "from the child")  # waits for the lock, which the half item holds
    rest = threading.Thread(target=queue.put, args=("from the parent",))
    rest.start()
    assert len(queue.get()) == 3_000_000
    assert {queue.get(), queue.get()} == {"from the child", "from the parent"}
    rest.join()
    assert ended(child) == 0


def test_the_page_size_is_the_kernel_s() -> None:
    queue = pipecap.get_context("fork", capacity=PAGE_SIZE).Queue()
    assert pipecap.capacity(queue) == PAGE_SIZE
    queue.close()
