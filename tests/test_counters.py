"""Credits and tasks: among threads, processes, and the dead."""

from __future__ import annotations

import os
import pickle
import signal
import struct
from collections.abc import Callable
from contextlib import ExitStack
from queue import Full
from typing import Any

import pytest
from children import Thread, and_stay, forked, place, state, wait_until, wait_until_in
from ours import CAPACITY, MIB, made, participants

import pipecap
from pipecap import LostItem


def is_full(call: Callable[[], object]) -> bool:
    try:
        call()
    except Full:
        return True
    return False


# ---- credits ----


def test_credits_run_out_and_come_back() -> None:
    with made("Queue", 3) as queue:
        assert [is_full(lambda: queue.put(1, block=False)) for _ in range(5)] == [False, False, False, True, True]
        assert is_full(lambda: queue.put(1, timeout=0.01))
        assert is_full(lambda: queue.put(1, timeout=-1))
        assert queue.full()
        assert [queue.get(), queue.get()] == [1, 1]
        assert queue.debug_state()["credits"] == 2
        assert [is_full(lambda: queue.put(1, block=False)) for _ in range(3)] == [False, False, True]


def test_several_credits_are_taken_at_once_as_many_as_there_are() -> None:
    with made("Queue", 3) as queue:
        queue.put("first")
        with pytest.raises(Full) as caught:
            queue.put_many(range(5), timeout=0.01)
        assert caught.value.put == 2  # type: ignore[attr-defined] # documented
        assert queue.debug_state()["credits"] == 0
        assert queue.get_many() == ["first", 0, 1]
        assert queue.debug_state()["credits"] == 3


def test_what_a_foreign_writer_sent_gives_no_more_credits_than_there_are() -> None:
    with made("Queue", 2) as queue:
        pickled = pickle.dumps("foreign")
        queue.put("ours")
        os.write(queue._writer.fileno(), (struct.pack("!i", len(pickled)) + pickled) * 2)
        assert [queue.get() for _ in range(3)] == ["ours", "foreign", "foreign"]
        assert queue.debug_state()["credits"] == 2
        assert (queue.qsize(), queue.empty(), queue.full()) == (0, True, False)


def test_who_waits_for_a_credit_wakes_when_another_process_gives_one() -> None:
    with made("Queue", 1) as queue:
        queue.put("first")
        waiting = [Thread(lambda: queue.put("waited")) for _ in range(3)]
        for each in waiting:
            wait_until_in("futex", os.getpid(), each.native_id)
        for left in (2, 1, 0):
            with forked(queue.get) as child:
                child.result()
            wait_until(lambda left=left: sum(each.is_alive() for each in waiting) == left)  # type: ignore[misc]
        assert [each.result() for each in waiting] == [None] * 3
        assert queue.get() == "waited"


def test_many_processes_never_have_more_items_in_the_queue_than_there_are_credits() -> None:
    """The kernel says how many bytes are in the pipe."""

    def work() -> tuple[int, int]:
        most = 0, 0
        for _ in range(300):
            queue.put(1)
            most = max(most[0], pipecap.unread(queue)), max(most[1], queue.qsize())
            queue.get()
        return most

    with made("Queue", 2) as queue, ExitStack() as children:
        frame = 4 + len(pickle.dumps(1))
        under_way = [children.enter_context(forked(work)) for _ in range(4)]
        unread, size = map(max, zip(*(child.result() for child in under_way), strict=True))
        assert unread <= 2 * frame
        assert size <= 2
        assert queue.debug_state()["credits"] == 2


def stopped(child: Any) -> None:
    child.signal(signal.SIGSTOP)
    wait_until(lambda: state(child.pid) == "T")


def test_a_credit_is_not_lost_on_who_was_killed_as_it_woke() -> None:
    """Given credits wake as many waiters; when those die first, others who wait must find what is free."""
    with made("Queue", 1) as queue:
        queue.put("first")
        with forked(lambda: queue.put(1)) as first, forked(lambda: queue.put(2)) as second:
            wait_until_in("futex", first.pid)
            wait_until_in("futex", second.pid)
            stopped(first)
            stopped(second)
            second.signal(signal.SIGCONT)
            wait_until_in("futex", second.pid)
            queue.get()
            first.end()
            second.result()
        assert queue.get() == 2


def test_credits_that_a_killed_process_held_come_back() -> None:
    """Of items that waited in its feeder, behind one that was partly in the pipe."""
    with made("Queue", 3, capacity=CAPACITY) as queue:

        def put_three() -> None:
            for number in range(3):
                queue.put(bytes([number]) * MIB)
            signal.pause()

        with forked(put_three) as child:
            wait_until(lambda: participants(queue).get(child.pid, {}).get("held") == 2)
            assert queue.debug_state()["credits"] == 0
            waiting = Thread(lambda: queue.put("waited"))
            wait_until_in("futex", os.getpid(), waiting.native_id)
            child.end()
            with pytest.raises(pipecap.TruncatedItem):
                queue.get()
            waiting.result()
        assert queue.get() == "waited"
        for number in range(3):
            queue.put(number, timeout=5)
        assert queue.debug_state()["credits"] == 0
        assert [queue.get() for _ in range(3)] == [0, 1, 2]
        assert queue.debug_state()["credits"] == 3


# ---- tasks ----


def test_join_waits_until_each_task_is_done() -> None:
    with made("JoinableQueue", 9) as queue:
        queue.put_many([1, 2])
        with ExitStack() as stack:
            waiting = [stack.enter_context(forked(queue.join)) for _ in range(2)]
            for each in waiting:
                wait_until_in("futex", each.pid)
            queue.get()
            queue.task_done()
            assert ["futex" in place(each.pid) for each in waiting] == [True, True]
            queue.get()
            queue.task_done()
            assert [each.result() for each in waiting] == [None, None]


def test_join_without_tasks_does_not_wait_and_more_done_than_put_is_refused() -> None:
    with made("JoinableQueue", 9) as queue:
        queue.join()
        with pytest.raises(ValueError, match="too many times"):
            queue.task_done()
        queue.put(1)
        queue.task_done()
        with pytest.raises(ValueError, match="too many times"):
            queue.task_done()
        queue.join()


def test_join_returns_though_new_tasks_came_before_it_checked() -> None:
    """It counts the moments at which nothing was left, so it cannot sleep through one."""
    with made("JoinableQueue", 9) as queue:
        queue.put(1)
        with forked(queue.join) as child:
            wait_until_in("futex", child.pid)
            stopped(child)
            queue.get()
            queue.task_done()
            queue.put(2)
            child.signal(signal.SIGCONT)
            child.result()


def test_tasks_of_a_killed_consumer_are_lost_once() -> None:
    with made("JoinableQueue") as queue:
        queue.put_many(range(3))
        with forked(and_stay(lambda: [queue.get(), queue.get()])) as child:
            wait_until(lambda: participants(queue).get(child.pid, {}).get("undone") == 2)
            joining = Thread(queue.join)
            wait_until_in("futex", os.getpid(), joining.native_id)
            child.end()
            assert queue.get() == 2
            queue.task_done()
            with pytest.raises(LostItem) as caught:
                joining.result()
        assert caught.value.count == 2
        queue.join()
        assert queue.debug_state()["unfinished"] == 0


def test_who_did_a_task_may_be_another_process_than_who_got_it() -> None:
    with made("JoinableQueue") as queue:
        queue.put_many(range(3))
        with forked(lambda: [queue.get() for _ in range(3)]) as child:
            child.result()
        with forked(lambda: [queue.task_done() for _ in range(2)]) as child:
            child.result()
        joining = Thread(queue.join)
        wait_until_in("futex", os.getpid(), joining.native_id)
        queue.task_done()
        joining.result()
