"""The two locks of a queue: among threads, processes, and the dead."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from children import DEADLINE, Child, Thread, and_stay, forked, state, wait_until, wait_until_in
from ours import CAPACITY, MIB, made, memory_of, stuck_writer

from pipecap import InvalidValue, LostItem, TruncatedItem
from pipecap.queues.shared import SharedLock


@pytest.fixture
def queue() -> Iterator[Any]:
    with made("SimpleQueue", capacity=CAPACITY) as queue:
        yield queue


sides = pytest.mark.parametrize("side", ["reading", "writing"])
OTHER = {"reading": "writing", "writing": "reading"}


def lock_of(queue: Any, side: str) -> SharedLock:
    lock: SharedLock = {"reading": queue._rlock, "writing": queue._wlock}[side]
    return lock


def owner(queue: Any, side: str) -> int:
    """Return the PID of a lock's owner, 0 where it is free."""
    pid: int = queue.debug_state()[side]
    return pid


@sides
def test_a_lock_knows_its_owner(queue: Any, side: str) -> None:
    assert owner(queue, side) == 0
    with lock_of(queue, side):
        assert owner(queue, side) == os.getpid()
    assert owner(queue, side) == 0

    with forked(and_stay(lock_of(queue, side).acquire)) as child:
        wait_until(lambda: owner(queue, side) == child.pid)
        assert not lock_of(queue, side).acquire(timeout=0.001)


@sides
def test_a_lock_that_is_owned_is_not_available_in_time(queue: Any, side: str) -> None:
    lock = lock_of(queue, side)
    assert lock.acquire()
    for arguments in ({"block": False}, {"timeout": 0}, {"timeout": -1}, {"timeout": 0.01}):
        assert lock.acquire(**arguments) is False
    lock.release()
    for arguments in ({"block": False}, {"timeout": -1}, {"timeout": float("inf")}, {"timeout": 1e18}):
        assert lock.acquire(**arguments)
        lock.release()


@pytest.mark.parametrize("timeout", [float("nan"), "1", b"", []])
def test_what_is_no_number_of_seconds_is_refused(queue: Any, timeout: Any) -> None:
    with pytest.raises(InvalidValue, match="timeout"):
        queue._rlock.acquire(timeout=timeout)
    assert owner(queue, "reading") == 0


@sides
def test_what_nobody_owns_cannot_be_released(queue: Any, side: str) -> None:
    with pytest.raises(ValueError, match="too many times"):
        lock_of(queue, side).release()


@sides
def test_what_another_process_owns_cannot_be_released(queue: Any, side: str) -> None:
    with forked(and_stay(lock_of(queue, side).acquire)) as child:
        wait_until(lambda: owner(queue, side) == child.pid)
        with pytest.raises(ValueError, match="too many times"):
            lock_of(queue, side).release()
        assert owner(queue, side) == child.pid


@sides
def test_the_locks_of_the_two_sides_are_two(queue: Any, side: str) -> None:
    with lock_of(queue, side):
        assert lock_of(queue, OTHER[side]).acquire(block=False)
        lock_of(queue, OTHER[side]).release()


@sides
def test_any_thread_may_release_a_lock(queue: Any, side: str) -> None:
    assert lock_of(queue, side).acquire()
    waiting = Thread(lock_of(queue, side).acquire)
    wait_until_in("futex", os.getpid(), waiting.native_id)
    Thread(lock_of(queue, side).release).result()
    assert waiting.result() is True
    lock_of(queue, side).release()


@sides
def test_one_process_at_a_time_is_inside(queue: Any, side: str) -> None:
    """Each reads a number, is slow, and writes the next one; without the lock they would lose steps."""
    steps = 400

    def count() -> None:
        for step in range(steps):
            with lock_of(queue, side):
                before = numbers.unfinished
                if step % 50 == 0:
                    time.sleep(0)  # let the other one have this CPU
                numbers.unfinished = before + 1

    with made("SimpleQueue") as other, ExitStack() as children:
        numbers = memory_of(other)
        under_way = [children.enter_context(forked(count)) for _ in range(3)]
        threads = [Thread(count) for _ in range(2)]
        for child in under_way:
            child.result()
        for thread in threads:
            thread.result()
        assert numbers.unfinished == 5 * steps
    assert owner(queue, side) == 0


@sides
def test_who_waits_wakes_as_soon_as_it_is_released_by_another_process(queue: Any, side: str) -> None:
    def hold() -> None:
        with lock_of(queue, side):
            os.read(go, 1)

    go, going = os.pipe()
    with forked(hold, close=(going,)) as child:
        wait_until(lambda: owner(queue, side) == child.pid)
        waiting = Thread(lambda: lock_of(queue, side).acquire(timeout=DEADLINE))
        wait_until_in("futex", os.getpid(), waiting.native_id)
        os.write(going, b"!")
        assert waiting.result() is True
        assert owner(queue, side) == os.getpid()
    lock_of(queue, side).release()
    os.close(go)
    os.close(going)


# ---- the dead, and those who only look like it ----


@sides
@pytest.mark.parametrize(
    ("wait", "reaped"), [("for ever", False), ("a moment", False), ("a moment", True), ("not at all", False)]
)
def test_a_lock_whose_owner_was_killed_between_two_frames_is_taken_over(
    queue: Any, side: str, reaped: bool, wait: str
) -> None:
    ways: dict[str, dict[str, Any]] = {"for ever": {}, "a moment": {"timeout": 0.05}, "not at all": {"block": False}}
    with ExitStack() as stack:
        child: Child[None] = stack.enter_context(forked(and_stay(lock_of(queue, side).acquire)))
        wait_until(lambda: owner(queue, side) == child.pid)
        child.end()
        assert state(child.pid) == "Z"
        if reaped:
            stack.close()
        assert lock_of(queue, side).acquire(**ways[wait])
        assert owner(queue, side) == os.getpid()
    lock_of(queue, side).release()


@sides
def test_all_who_waited_for_the_dead_get_the_lock_one_after_the_other(queue: Any, side: str) -> None:
    def once() -> bool:
        with lock_of(queue, side):
            return owner(queue, side) == os.getpid()

    with forked(and_stay(lock_of(queue, side).acquire)) as child, ExitStack() as stack:
        wait_until(lambda: owner(queue, side) == child.pid)
        waiting = [stack.enter_context(forked(once)) for _ in range(3)]
        for each in waiting:
            wait_until_in("futex", each.pid)
        child.end()
        assert [each.result() for each in waiting] == [True, True, True]
    assert owner(queue, side) == 0


@sides
def test_an_owner_that_is_stopped_keeps_its_lock(queue: Any, side: str) -> None:
    with forked(and_stay(lock_of(queue, side).acquire)) as child:
        wait_until(lambda: owner(queue, side) == child.pid)
        child.signal(signal.SIGSTOP)
        wait_until(lambda: state(child.pid) == "T")
        assert not lock_of(queue, side).acquire(timeout=0.7)
        assert owner(queue, side) == child.pid


@sides
def test_an_owner_that_runs_another_program_lets_go(queue: Any, side: str) -> None:
    """The memory is not mapped there any more, and the PID is still alive."""

    def become_another() -> None:
        lock_of(queue, side).acquire()
        os.execlp("sleep", "sleep", "60")

    with forked(become_another) as child:
        wait_until(lambda: owner(queue, side) == child.pid)
        wait_until(lambda: _name_of(child.pid) == "sleep")
        wait_until(lambda: lock_of(queue, side).acquire(block=False))  # execve(2) closes files on its very last steps
        assert state(child.pid) in "RS"
    lock_of(queue, side).release()


def _name_of(pid: int) -> str:
    with open(f"/proc/{pid}/comm") as comm:
        return comm.read().strip()


def test_a_reader_that_died_in_the_middle_of_a_frame_costs_that_frame_alone(queue: Any) -> None:
    with stuck_writer(queue, bytes(MIB)) as writer, forked(queue.get) as reader:
        wait_until(lambda: not queue._reader.poll())
        wait_until_in("poll", reader.pid)
        assert owner(queue, "reading") == reader.pid
        reader.end()
        with forked(lambda: queue.put("next")) as another:
            writer.signal(signal.SIGCONT)
            with pytest.raises(LostItem) as caught:
                queue.get()
            assert caught.value.count == 1
            writer.result()
            another.result()
            assert queue.get() == "next"
    assert (owner(queue, "reading"), owner(queue, "writing")) == (0, 0)
    assert queue.empty()


def test_a_writer_that_died_in_the_middle_of_a_frame_keeps_its_lock_until_that_is_found(queue: Any) -> None:
    """A part of a frame lies in the pipe: the next writer would write into the middle of it."""
    with stuck_writer(queue, bytes(MIB)) as child:
        child.end()
        assert not lock_of(queue, "writing").acquire(timeout=0.6)
        assert owner(queue, "writing") == child.pid
        with pytest.raises(TruncatedItem):
            queue.get()
        assert lock_of(queue, "writing").acquire(block=False)
        lock_of(queue, "writing").release()
        queue.put("next")
        assert queue.get() == "next"


# ---- signals ----


@sides
def test_a_signal_handler_that_raises_ends_the_wait_and_the_lock_is_well(queue: Any, side: str) -> None:
    class Tick(Exception):
        pass

    def tick(*_: object) -> None:
        raise Tick

    def wait() -> tuple[str, bool]:
        signal.signal(signal.SIGINT, tick)
        try:
            lock_of(queue, side).acquire()
        except Tick:
            with lock_of(queue, side):
                return "Tick", owner(queue, side) == os.getpid()
        return "taken", False

    with lock_of(queue, side), forked(wait) as child:
        wait_until_in("futex", child.pid)
        child.signal(signal.SIGINT)
        wait_until(lambda: not _pending(child.pid))
        wait_until_in("futex", child.pid)
        lock_of(queue, side).release()
        assert child.result() == ("Tick", True)
        assert lock_of(queue, side).acquire()


def _pending(pid: int) -> bool:
    with open(f"/proc/{pid}/status") as status:
        return any(int(line.split()[1], 16) for line in status if line.startswith(("SigPnd", "ShdPnd")))


# ---- forks ----


@sides
def test_a_lock_of_the_parent_is_not_the_childs(queue: Any, side: str) -> None:
    def try_it() -> tuple[bool, bool]:
        try:
            lock_of(queue, side).release()
        except ValueError:
            return False, lock_of(queue, side).acquire(timeout=0.01)
        return True, False

    with lock_of(queue, side), forked(try_it) as child:
        assert child.result() == (False, False)
        assert owner(queue, side) == os.getpid()


def test_while_its_own_process_owns_the_read_lock_get_goes_without_it(queue: Any) -> None:
    """As the standard library's Pool reads its queue: with the lock, then recv()."""
    queue.put(1)
    queue.put(2)
    with queue._rlock:
        assert queue._reader.recv() == 1
        assert owner(queue, "reading") == os.getpid()
        with forked(lambda: queue._rlock.acquire(timeout=0.05)) as child:
            assert child.result() is False
    assert owner(queue, "reading") == 0
    assert queue.get() == 2
