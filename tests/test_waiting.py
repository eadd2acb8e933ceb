"""What waits, what never does, and whether empty() and qsize() say so."""

from __future__ import annotations

import os
import pickle
import signal
import time
from queue import Empty, Full
from typing import Any

import pytest
from children import Thread, and_stay, finish, forked, get, put, stop, wait_until
from interruptions import after, interrupted
from scenes import DEADLINE, wait_until_asleep_in, wait_until_blocked

import pipecap
from pipecap.kernel.limits import PAGE_SIZE
from pipecap.queues import native

LARGE = 3_000_000  # more than a pipe can be let grow to by an ordinary user
fork: Any = pipecap.get_context("fork")
one_page: Any = pipecap.get_context("fork", capacity=PAGE_SIZE, exit_warning=None)
kinds = pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
queues = pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])


def page_but(count: int) -> bytes:
    """Return an item that leaves `free` bytes of a page."""
    return b"1" * (PAGE_SIZE - count - 4 - len(pickle.dumps(bytes(2000))) + 2000)


def at_once(call: Any) -> Any:
    """Make a call that nobody but a stopped process could end, if it waited."""
    return Thread(call).result()


def get_nowait(queue: Any) -> Any:
    return at_once(queue.get_nowait)


# ---- get_nowait() ----


@queues
@pytest.mark.parametrize("ahead", [1, 4, 5, 100], ids=["a part of a header", "a header", "a byte", "a part"])
def test_get_nowait_does_not_wait_for_the_rest_of_what_was_read_ahead(kind: str, ahead: int) -> None:
    queue = getattr(one_page, kind)()
    items = [page_but(ahead), b"2" * 3000, b"3"]
    with forked(and_stay(lambda: queue.put_many(items))) as child:
        wait_until_blocked(child.pid)
        stop(child.pid)
        assert get_nowait(queue) == items[0]
        for _ in range(3):
            with pytest.raises(Empty):
                get_nowait(queue)
            with pytest.raises(Empty):
                at_once(lambda: queue.get(timeout=0.01))
            with pytest.raises(Empty):
                at_once(lambda: queue.get_many(timeout=0))
        assert queue.qsize() == 2
        assert queue.debug_state()["reading"] == 0
        os.kill(child.pid, signal.SIGCONT)
        assert [get(queue), get(queue)] == items[1:]
        assert (queue.qsize(), queue.empty()) == (0, True)
    finish(queue)


@queues
def test_get_nowait_does_not_wait_for_the_rest_of_an_item_that_the_pipe_cannot_hold(kind: str) -> None:
    """It takes what is there; the item is whole once its writer goes on."""
    queue = getattr(fork, kind)()
    with forked(and_stay(lambda: put(queue, [b"1" * LARGE], "next"))) as child:
        wait_until_blocked(child.pid)
        stop(child.pid)
        for _ in range(3):
            with pytest.raises(Empty):
                get_nowait(queue)
        os.kill(child.pid, signal.SIGCONT)
        assert [get(queue), get(queue)] == [[b"1" * LARGE], "next"]
    finish(queue)


@queues
def test_a_timeout_holds_while_another_process_has_the_read_lock(kind: str) -> None:
    queue = getattr(fork, kind)()
    with forked(and_stay(queue.get)) as child:
        wait_until_asleep_in(child.pid, "poll")
        stop(child.pid)
        queue.put("item")
        with pytest.raises(Empty):
            get_nowait(queue)
        with pytest.raises(Empty):
            at_once(lambda: queue.get(timeout=0.7))  # longer than the round in which the dead are looked for
        os.kill(child.pid, signal.SIGCONT)
        wait_until(queue.empty)
    finish(queue)


@queues
def test_get_nowait_does_not_wait_for_another_thread_that_gets(kind: str) -> None:
    queue = getattr(fork, kind)()
    getting = Thread(queue.get)
    wait_until_asleep_in(os.getpid(), "poll")
    with pytest.raises(Empty):
        queue.get_nowait()
    with pytest.raises(Empty):
        queue.get(timeout=0.01)
    queue.put(1)
    assert getting.result() == 1
    finish(queue)


# ---- empty() and qsize() ----


@kinds
def test_empty_is_false_while_an_error_of_a_partly_received_item_is_owed(kind: str) -> None:
    """A part of it is here, and its writer has died."""
    queue = getattr(fork, kind)()
    with forked(and_stay(lambda: put(queue, [b"1" * LARGE]))) as child:
        wait_until_blocked(child.pid)
        stop(child.pid)
        assert interrupted(lambda: queue._receiver.get(native.EAGER), after("pipecap_receive"))
        wait_until(lambda: queue.debug_state()["partly_received"])
        child.end()
    wait_until(lambda: not pipecap.unread(queue) or not queue.empty())
    assert not queue.empty()
    with pytest.raises(pipecap.TruncatedItem):
        get(queue)
    assert queue.empty()
    queue.put("next")
    assert get(queue) == "next"
    finish(queue)


@kinds
@pytest.mark.parametrize("read", [False, True], ids=["begun", "all that came read"])
def test_empty_is_false_while_the_error_of_a_dead_reader_is_owed(kind: str, read: bool) -> None:
    queue = getattr(fork, kind)()
    with forked(and_stay(lambda: put(queue, [b"1" * LARGE]))) as writer:
        wait_until_blocked(writer.pid)
        stop(writer.pid)
        with forked(queue.get) as reader:
            if read:
                wait_until(lambda: not pipecap.unread(queue))
            wait_until(lambda: queue.debug_state()["consumed"] > 4)  # more than the header: they go with the reader
            reader.end()
            assert not queue.empty() or not read
            os.kill(writer.pid, signal.SIGCONT)
            with pytest.raises(pipecap.LostItem):
                get(queue)
        assert queue.empty()
        if kind != "SimpleQueue":
            wait_until(lambda: queue.qsize() == 0)
    finish(queue)


def test_empty_is_false_while_items_were_given_back_and_the_pipe_is_empty() -> None:
    queue = fork.Queue()
    queue.put_many([1, 2, 3, 4, 5, 6])
    assert interrupted(queue.get_many, after("pipecap_receive"))
    assert pipecap.unread(queue) == 0
    assert (queue.empty(), queue.qsize()) == (False, 6)
    assert queue.get_many(4) == [1, 2, 3, 4]
    assert (queue.empty(), queue.qsize()) == (False, 2)
    assert queue.get_many(4) == [5, 6]
    assert (queue.empty(), queue.qsize()) == (True, 0)
    finish(queue)


# ---- put ----


@queues
def test_put_does_not_wait_for_another_process_that_writes(kind: str) -> None:
    """The README's promise: the item waits in this process, for its feeder thread. A simple queue waits, see below."""
    queue = getattr(fork, kind)(3)
    with forked(and_stay(lambda: put(queue, b"1" * LARGE))) as child:
        wait_until_blocked(child.pid)
        stop(child.pid)
        at_once(lambda: queue.put("second"))
        at_once(lambda: queue.put_nowait("third"))
        with pytest.raises(Full):
            at_once(lambda: queue.put_nowait("fourth"))
        with pytest.raises(Full):
            at_once(lambda: queue.put("fourth", timeout=0.01))
        os.kill(child.pid, signal.SIGCONT)
        assert [get(queue) for _ in range(3)] == [b"1" * LARGE, "second", "third"]
    finish(queue)


def test_a_simple_queue_s_put_waits_for_another_process_that_writes() -> None:
    queue = fork.SimpleQueue()
    with forked(and_stay(lambda: put(queue, b"1" * LARGE))) as child:
        wait_until_blocked(child.pid)
        stop(child.pid)
        putting = Thread(lambda: queue.put("second"))
        wait_until_asleep_in(os.getpid(), "futex")
        time.sleep(0.6)  # longer than the round in which the dead are looked for
        assert putting.is_alive()
        os.kill(child.pid, signal.SIGCONT)
        assert [get(queue), get(queue)] == [b"1" * LARGE, "second"]
        putting.result()
    queue.close()


# ---- descriptors that are another file's by now ----


def test_no_lock_is_judged_by_a_descriptor_that_is_another_file_s_by_now() -> None:
    """A writer dies amid an item, and a process that has closed the queue opens an empty pipe in its place."""
    queue = fork.JoinableQueue()
    with forked(and_stay(lambda: put(queue, b"1" * LARGE))) as writer:
        wait_until_blocked(writer.pid)

        def look_after_close() -> int:
            numbers = queue._reader.fileno(), queue._writer.fileno()
            queue._reader.close()
            queue._writer.close()
            pipe = os.pipe()
            for end, number in zip(pipe, numbers, strict=True):
                os.dup2(end, number)
            queue.qsize()
            queue.full()
            try:
                queue._wlock.acquire(timeout=1.2)
            except OSError:
                return 1
            return 0

        writer.end()
        with forked(look_after_close) as child:
            child.result()
        with pytest.raises(pipecap.TruncatedItem):
            get(queue)
        queue.put("next")
        assert get(queue) == "next"
    finish(queue)


def test_a_forked_reader_ends_at_its_timeout_though_a_writer_is_killed_all_the_time() -> None:
    queue = fork.Queue(2)
    for _ in range(5):
        with forked(and_stay(lambda: put(queue, b"1" * LARGE))) as writer:
            wait_until_blocked(writer.pid)
            writer.end()
        with pytest.raises((pipecap.TruncatedItem, pipecap.LostItem)):
            at_once(lambda: queue.get(timeout=DEADLINE))
    assert queue.qsize() == 0
    finish(queue)
