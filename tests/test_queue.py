"""Queue, JoinableQueue, SimpleQueue, with real processes: how they travel, what they promise, alone and in batches."""

from __future__ import annotations

import gc
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from queue import Empty, Full
from typing import Any

import pytest
from children import Thread, ended
from scenes import DEADLINE

import pipecap
from pipecap.kernel.limits import PAGE_SIZE

METHODS = ["fork", "spawn", "forkserver"]
KINDS = ["Queue", "JoinableQueue", "SimpleQueue"]
fork = pipecap.get_context("fork")
pytestmark = pytest.mark.usefixtures("forkserver")


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
    for kind in KINDS:
        queue = getattr(fork, kind)()
        with pytest.raises(RuntimeError):
            pickle.dumps(queue)
        queue.close()


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


@pytest.mark.parametrize(
    ("tail", "outcome"),
    [(b"\x94.", bytes(1 << 20)), (b"N.", None), (b"0.", pickle.UnpicklingError), (b"..", bytes(1 << 20))],
)
def test_a_large_bytes_object_is_what_its_pickle_says(tail: bytes, outcome: Any) -> None:
    """It begins as one; how it ends is seen after it arrived."""
    queue = fork.Queue()
    payload = b"\x80\x04B" + struct.pack("<I", 1 << 20) + bytes(1 << 20) + tail
    writing = Thread(lambda: queue._writer.send_bytes(payload))
    if isinstance(outcome, type):
        with pytest.raises(outcome):
            queue.get()
    else:
        assert queue.get() == outcome
    writing.result()
    queue.put("next")
    assert queue.get() == "next"


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


def test_the_page_size_is_the_kernel_s() -> None:
    queue = pipecap.get_context("fork", capacity=PAGE_SIZE).Queue()
    assert pipecap.capacity(queue) == PAGE_SIZE
    queue.close()
