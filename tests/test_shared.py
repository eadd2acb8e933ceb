"""Locks and counters in shared memory: among threads, processes, and the dead."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from children import DEADLINE, Child, Thread, and_stay, forked, place, state, wait_until, wait_until_in

from pipecap import BadFrame
from pipecap._native import lib
from pipecap.queues.connection import deadline_of, one_way
from pipecap.queues.shared import MOST_SLOTS, Shared, SharedLock

READING, WRITING = 1, 0
NOW, FOR_EVER = 0, -1
WAITERS = 1 << 31


class Scene:
    """A pipe and what the processes of its queue share."""

    def __init__(self, slots: int = MOST_SLOTS) -> None:
        self.shared = Shared(slots)
        self.reader, self.writer = one_way("auto")
        self.read_lock = SharedLock(self.shared, self.writer._end, reading=True)
        self.write_lock = SharedLock(self.shared, self.writer._end, reading=False)
        self.struct = self.shared.struct

    def lock(self, side: int) -> SharedLock:
        return self.read_lock if side == READING else self.write_lock

    def holder(self, side: int) -> int:
        """Give the pid in a lock."""
        return int((self.struct.reading if side == READING else self.struct.writing) & ~WAITERS)


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.reader.close()
    made.writer.close()
    vars(made).clear()  # pytest keeps the object itself


sides = pytest.mark.parametrize("side", [READING, WRITING], ids=["read lock", "write lock"])


# ---- locks ----


@sides
def test_a_lock_holds_the_pid_of_its_holder(scene: Scene, side: int) -> None:
    assert scene.holder(side) == 0
    with scene.lock(side):
        assert scene.holder(side) == os.getpid()
    assert scene.holder(side) == 0

    with forked(and_stay(scene.lock(side).acquire)) as child:
        wait_until(lambda: scene.holder(side) == child.pid)
        assert not scene.lock(side).acquire(timeout=0.001)


@sides
def test_a_lock_that_is_held_is_not_to_be_had_in_time(scene: Scene, side: int) -> None:
    lock = scene.lock(side)
    assert lock.acquire()
    for arguments in ({"block": False}, {"timeout": 0}, {"timeout": -1}, {"timeout": 0.01}):
        assert lock.acquire(**arguments) is False
    lock.release()
    assert lock.acquire(block=False)
    lock.release()


@sides
def test_what_nobody_holds_cannot_be_released(scene: Scene, side: int) -> None:
    with pytest.raises(ValueError, match="too many times"):
        scene.lock(side).release()


@sides
def test_the_locks_of_the_two_sides_are_two(scene: Scene, side: int) -> None:
    with scene.lock(side):
        assert scene.lock(not side).acquire(block=False)
        scene.lock(not side).release()


@sides
def test_any_thread_may_release_a_lock(scene: Scene, side: int) -> None:
    assert scene.lock(side).acquire()
    waiting = Thread(scene.lock(side).acquire)
    wait_until_in("futex", os.getpid(), waiting.native_id)
    Thread(scene.lock(side).release).result()
    assert waiting.result() is True
    scene.lock(side).release()


@sides
def test_one_process_at_a_time_is_inside(scene: Scene, side: int) -> None:
    """Each reads a number, is slow, and writes the next one; without the lock they would lose steps."""
    number = Shared(0)
    steps = 400

    def count() -> None:
        for step in range(steps):
            with scene.lock(side):
                before = number.struct.unfinished
                if step % 50 == 0:
                    time.sleep(0)  # let the other one have this CPU
                number.struct.unfinished = before + 1

    with ExitStack() as children:
        under_way = [children.enter_context(forked(count)) for _ in range(3)]
        threads = [Thread(count) for _ in range(2)]
        for child in under_way:
            child.result()
        for thread in threads:
            thread.result()
    assert number.struct.unfinished == 5 * steps
    assert scene.holder(side) == 0


@sides
def test_who_waits_wakes_as_soon_as_it_is_released_by_another_process(scene: Scene, side: int) -> None:
    def hold() -> None:
        with scene.lock(side):
            os.read(go, 1)

    go, going = os.pipe()
    with forked(hold, close=(going,)) as child:
        wait_until(lambda: scene.holder(side) == child.pid)
        waiting = Thread(lambda: scene.lock(side).acquire(timeout=DEADLINE))
        wait_until_in("futex", os.getpid(), waiting.native_id)
        os.write(going, b"!")
        assert waiting.result() is True
        assert scene.holder(side) == os.getpid()
    os.close(go)
    os.close(going)


@sides
@pytest.mark.parametrize(
    ("wait", "reaped"), [("for ever", False), ("a moment", False), ("a moment", True), ("not at all", False)]
)
def test_a_lock_whose_holder_was_killed_between_two_frames_is_taken_over(
    scene: Scene, side: int, reaped: bool, wait: str
) -> None:
    ways: dict[str, dict[str, Any]] = {"for ever": {}, "a moment": {"timeout": 0.05}, "not at all": {"block": False}}
    with ExitStack() as stack:
        child: Child[None] = stack.enter_context(forked(and_stay(scene.lock(side).acquire)))
        wait_until(lambda: scene.holder(side) == child.pid)
        child.end()
        assert state(child.pid) == "Z"
        if reaped:
            stack.close()
        assert scene.lock(side).acquire(**ways[wait])
        assert scene.holder(side) == os.getpid()
    scene.lock(side).release()


@sides
def test_all_who_waited_for_the_dead_get_the_lock_one_after_the_other(scene: Scene, side: int) -> None:
    def once() -> bool:
        with scene.lock(side):
            return scene.holder(side) == os.getpid()

    with forked(and_stay(scene.lock(side).acquire)) as child, ExitStack() as stack:
        wait_until(lambda: scene.holder(side) == child.pid)
        waiting = [stack.enter_context(forked(once)) for _ in range(3)]
        for each in waiting:
            wait_until_in("futex", each.pid)
        child.end()
        assert [each.result() for each in waiting] == [True, True, True]
    assert scene.holder(side) == 0


def test_a_holder_that_is_stopped_keeps_its_lock(scene: Scene) -> None:
    with forked(and_stay(scene.write_lock.acquire)) as child:
        wait_until(lambda: scene.holder(WRITING) == child.pid)
        child.signal(signal.SIGSTOP)
        wait_until(lambda: state(child.pid) == "T")
        assert not scene.write_lock.acquire(timeout=0.7)
        assert scene.holder(WRITING) == child.pid


def test_a_reader_that_died_in_the_middle_of_a_frame_breaks_the_queue(scene: Scene) -> None:
    with forked(and_stay(scene.read_lock.acquire)) as child:
        wait_until(lambda: scene.holder(READING) == child.pid)
        scene.struct.reader_open = 1
        child.end()
        for _ in range(2):
            with pytest.raises(BadFrame):
                scene.read_lock.acquire()
    assert scene.holder(READING) == 0


def test_a_writer_that_died_in_the_middle_of_a_frame_keeps_its_lock_until_that_is_found(scene: Scene) -> None:
    """Half a frame lies in the pipe: whoever wrote now would write into the middle of it."""
    with forked(and_stay(scene.write_lock.acquire)) as child:
        wait_until(lambda: scene.holder(WRITING) == child.pid)
        scene.struct.frame_open = 1
        os.write(scene.writer.fileno(), b"\0\0\0\5ab")
        child.end()
        assert not scene.write_lock.acquire(timeout=0.6)
        os.read(scene.reader.fileno(), 100)  # a stock reader, that knows of no lock: nothing is left to find
        assert scene.write_lock.acquire()
    scene.write_lock.release()


def test_only_who_is_dead_is_freed_of_the_write_lock(scene: Scene) -> None:
    assert lib.pipecap_free_abandoned(scene.struct, scene.reader.fileno(), os.getpid(), False) == 0
    with scene.write_lock:
        assert lib.pipecap_free_abandoned(scene.struct, scene.reader.fileno(), os.getpid(), False) == 0
        assert scene.holder(WRITING) == os.getpid()
    with forked(and_stay(scene.write_lock.acquire)) as child:
        wait_until(lambda: scene.holder(WRITING) == child.pid)
        scene.struct.frame_open = 1
        child.end()
        assert lib.pipecap_free_abandoned(scene.struct, scene.reader.fileno(), os.getpid(), False) == 1
    assert scene.holder(WRITING) == 0
    assert scene.struct.frame_open == 0


@sides
def test_a_signal_handler_that_raises_ends_the_wait_and_the_lock_is_well(scene: Scene, side: int) -> None:
    class Tick(Exception):
        pass

    def tick(*_: object) -> None:
        raise Tick

    def wait() -> tuple[str, bool]:
        signal.signal(signal.SIGINT, tick)
        try:
            scene.lock(side).acquire()
        except Tick:
            with scene.lock(side):
                return "Tick", scene.holder(side) == os.getpid()
        return "taken", False

    with scene.lock(side), forked(wait) as child:
        wait_until_in("futex", child.pid)
        child.signal(signal.SIGINT)
        wait_until(lambda: not _pending(child.pid))
        wait_until_in("futex", child.pid)
        scene.lock(side).release()
        assert child.result() == ("Tick", True)
        assert scene.lock(side).acquire()


def _pending(pid: int) -> bool:
    with open(f"/proc/{pid}/status") as status:
        return any(int(line.split()[1], 16) for line in status if line.startswith(("SigPnd", "ShdPnd")))


def test_a_process_of_another_pid_namespace_is_never_told_dead(scene: Scene) -> None:
    """Its number would mean somebody else here."""
    assert lib.pipecap_has_ended(lib.PIPECAP_SOMEBODY) == 0
    elsewhere = Shared(5, os.dup(scene.shared.fd), namespace=1)
    assert elsewhere.me == lib.PIPECAP_SOMEBODY
    assert lib.pipecap_lock(elsewhere.struct, scene.writer.fileno(), READING, elsewhere.me, FOR_EVER) == 0
    assert not scene.read_lock.acquire(timeout=0.6)
    assert scene.holder(READING) == lib.PIPECAP_SOMEBODY


def test_a_child_takes_locks_in_its_own_name(scene: Scene) -> None:
    with forked(lambda: (scene.shared.me, os.getpid())) as child:
        assert child.result() == (child.pid, child.pid)
    assert scene.shared.me == os.getpid()


def test_who_has_ended_is_told_from_who_lives() -> None:
    assert lib.pipecap_has_ended(os.getpid()) == 0
    with forked(signal.pause) as child:
        assert lib.pipecap_has_ended(child.pid) == 0
        child.end()
        assert lib.pipecap_has_ended(child.pid) == 1
    assert lib.pipecap_has_ended(child.pid) == 1


def test_without_descriptors_the_dead_are_still_told_from_the_living() -> None:
    """A pidfd takes one; kill(2) does not, but calls a zombie alive."""

    def look() -> tuple[int, int]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        return lib.pipecap_has_ended(os.getppid()), lib.pipecap_has_ended(gone)

    with forked(signal.pause) as child:
        gone = child.pid
    with forked(look) as other:
        assert other.result() == (0, 1)


# ---- slots ----


def test_slots_run_out_and_come_back(scene: Scene) -> None:
    shared = Shared(3)
    assert [shared.take_slots(1, NOW) for _ in range(5)] == [1, 1, 1, 0, 0]
    assert shared.take_slots(1, deadline_of(0.01)) == 0
    shared.give_slots(2)
    assert [shared.take_slots(2, NOW) for _ in range(2)] == [2, 0]


def test_more_slots_than_there_are_cannot_be_given_back() -> None:
    shared = Shared(2)
    assert lib.pipecap_give_slots(shared.struct, 1, 2) == -errno.EINVAL
    shared.take_slots(1, NOW)
    assert lib.pipecap_give_slots(shared.struct, 2, 2) == -errno.EINVAL
    assert lib.pipecap_give_slots(shared.struct, 1, 2) == 0
    assert shared.struct.slots == 2


def test_who_waits_for_a_slot_wakes_when_another_process_gives_one() -> None:
    shared = Shared(1)
    shared.take_slots(1, NOW)
    waiting = [Thread(lambda: shared.take_slots(1, FOR_EVER)) for _ in range(3)]
    for each in waiting:
        wait_until_in("futex", os.getpid(), each.native_id)
    for left in (2, 1, 0):
        with forked(lambda: shared.give_slots(1)) as child:
            child.result()
        wait_until(lambda left=left: sum(each.is_alive() for each in waiting) == left)  # type: ignore[misc]
    assert [each.result() for each in waiting] == [True] * 3


def test_many_processes_never_take_more_slots_than_there_are() -> None:
    shared, inside = Shared(2), Shared(0)

    def work() -> int:
        most = 0
        for _ in range(300):
            shared.take_slots(1, FOR_EVER)
            lib.pipecap_add_unfinished(inside.struct, 1)
            most = max(most, inside.struct.unfinished)
            lib.pipecap_task_done(inside.struct, 1)
            shared.give_slots(1)
        return most

    with ExitStack() as children:
        under_way = [children.enter_context(forked(work)) for _ in range(4)]
        assert max(child.result() for child in under_way) <= 2
    assert shared.struct.slots == 2


def test_a_slot_is_not_lost_on_who_was_killed_as_it_woke() -> None:
    """Given slots wake as many waiters; when those die first, others who wait must find what is free."""
    shared = Shared(1)
    shared.take_slots(1, NOW)
    with (
        forked(lambda: shared.take_slots(1, FOR_EVER)) as first,
        forked(lambda: shared.take_slots(1, FOR_EVER)) as second,
    ):
        wait_until_in("futex", first.pid)
        wait_until_in("futex", second.pid)
        first.signal(signal.SIGSTOP)
        wait_until(lambda: state(first.pid) == "T")
        second.signal(signal.SIGSTOP)
        wait_until(lambda: state(second.pid) == "T")
        second.signal(signal.SIGCONT)
        wait_until_in("futex", second.pid)
        shared.give_slots(1)
        first.end()
        assert second.result() == 1


# ---- tasks ----


def test_join_waits_until_each_task_is_done() -> None:
    shared = Shared(9)
    lib.pipecap_add_unfinished(shared.struct, 2)
    assert lib.pipecap_all_done(shared.struct, deadline_of(0.01)) == -errno.ETIMEDOUT
    with ExitStack() as stack:
        waiting = [stack.enter_context(forked(lambda: lib.pipecap_all_done(shared.struct, FOR_EVER))) for _ in range(2)]
        for each in waiting:
            wait_until_in("futex", each.pid)
        assert lib.pipecap_task_done(shared.struct, 1) == 0
        assert ["futex" in place(each.pid) for each in waiting] == [True, True]
        assert lib.pipecap_task_done(shared.struct, 1) == 0
        assert [each.result() for each in waiting] == [0, 0]


def test_join_without_tasks_does_not_wait_and_more_done_than_put_is_refused() -> None:
    shared = Shared(9)
    assert lib.pipecap_all_done(shared.struct, FOR_EVER) == 0
    assert lib.pipecap_task_done(shared.struct, 1) == -errno.EINVAL
    lib.pipecap_add_unfinished(shared.struct, 1)
    assert lib.pipecap_task_done(shared.struct, 2) == -errno.EINVAL
    assert lib.pipecap_task_done(shared.struct, 1) == 0


def test_join_returns_though_new_tasks_came_before_it_looked() -> None:
    """It counts the moments at which nothing was left, so it cannot sleep through one."""
    shared = Shared(9)
    lib.pipecap_add_unfinished(shared.struct, 1)
    with forked(lambda: lib.pipecap_all_done(shared.struct, FOR_EVER)) as child:
        wait_until_in("futex", child.pid)
        child.signal(signal.SIGSTOP)
        wait_until(lambda: state(child.pid) == "T")
        lib.pipecap_task_done(shared.struct, 1)
        lib.pipecap_add_unfinished(shared.struct, 1)
        child.signal(signal.SIGCONT)
        assert child.result() == 0


# ---- the memory ----


def _take_all(shared: Shared, answer: Any) -> None:
    taken = 0
    while shared.take_slots(1, NOW):
        taken += 1
    answer.send((taken, shared.me == os.getpid()))
    answer.close()


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_the_memory_lives_in_a_child_though_its_maker_dropped_it(method: str) -> None:
    """The standard library unlinks its semaphores too early for that: a spawned child then finds no file."""
    context: Any = multiprocessing.get_context(method)
    shared = Shared(5)
    shared.take_slots(1, NOW)
    reader, writer = one_way("auto")
    child = context.Process(target=_take_all, args=(shared, writer))
    child.start()
    del shared
    child._args = ()  # else the Process object keeps it
    writer.close()
    try:
        assert reader.poll(DEADLINE)
        assert reader.recv() == (4, True)
    finally:
        reader.close()
        child.join(DEADLINE)
        child.close()


def test_dropping_it_gives_back_memory_and_descriptors() -> None:
    for _ in range(3):
        fd = Shared(1).fd
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


@pytest.mark.parametrize("left", [0, 1])
def test_without_descriptors_it_says_so_and_keeps_none(left: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with suppress(OSError):
            while True:
                held.append(os.dup(0))
        for _ in range(left):
            os.close(held.pop())
        with pytest.raises(OSError, match="Too many open files"):
            Shared(1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in held:
            os.close(fd)


def test_it_is_not_inherited_by_other_programs() -> None:
    assert not os.get_inheritable(Shared(1).fd)


def test_the_struct_is_what_the_header_says_after_a_pickle_to_itself() -> None:
    """Through the descriptor's server, as over a Connection: both ends are the same memory."""
    from multiprocessing import resource_sharer
    from multiprocessing.reduction import ForkingPickler

    shared = Shared(7)
    copy = pickle.loads(ForkingPickler.dumps(shared))
    resource_sharer.stop(timeout=DEADLINE)  # the thread that handed the descriptor out
    copy.take_slots(1, NOW)
    assert (shared.struct.slots, copy.slots, copy.me) == (6, 7, shared.me)
