"""The processes of a queue, and which of them are alive: by what the kernel releases when a process ends."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from children import Child, and_stay, forked, state, wait_until
from ours import made, member_of, own_descriptors, participants

from pipecap import LostItem, Unsupported
from pipecap._native import lib
from pipecap.queues.shared import Shared


@pytest.fixture
def queue() -> Iterator[Any]:
    with made("SimpleQueue") as queue:
        yield queue


def user_of(queue: Any) -> Callable[[], None]:
    """Return a function that uses a queue and stays until it is killed."""
    return and_stay(lambda: queue.put("used"))


def is_alive(queue: Any, child: Child[Any]) -> bool:
    """Whether a participant is alive, as this process sees it."""
    alive: bool = participants(queue)[child.pid]["alive"]
    return alive


def test_a_process_takes_part_once_it_uses_the_queue(queue: Any) -> None:
    assert participants(queue) == {}
    queue.put(1)
    me = {"pid": os.getpid(), "alive": True, "known_by": "lock", "held": 0, "undone": 0}
    assert queue.debug_state()["participants"] == [me]
    queue.get()
    assert queue.debug_state()["participants"] == [me]


def test_a_forked_child_takes_part_in_its_own_name(queue: Any) -> None:
    queue.put("the parent's")
    with forked(user_of(queue)) as child:
        wait_until(lambda: len(participants(queue)) == 2)
        assert set(participants(queue)) == {os.getpid(), child.pid}
        assert is_alive(queue, child)


def test_processes_that_begin_at_once_are_as_many_participants(queue: Any) -> None:
    go, going = os.pipe()

    def begin() -> None:
        os.read(go, 1)
        queue.put(os.getpid())
        signal.pause()

    with ExitStack() as stack:
        children = [stack.enter_context(forked(begin, close=(going,))) for _ in range(8)]
        os.write(going, bytes(8))
        pids = {child.pid for child in children}
        assert {queue.get() for _ in children} == pids
        assert set(participants(queue)) == {*pids, os.getpid()}
        assert all(is_alive(queue, child) for child in children)
    os.close(go)
    os.close(going)


# ---- who is alive ----


def test_who_has_ended_is_told_from_who_lives(queue: Any) -> None:
    with forked(user_of(queue)) as child:
        wait_until(lambda: participants(queue))
        assert is_alive(queue, child)
        child.signal(signal.SIGSTOP)
        wait_until(lambda: state(child.pid) == "T")
        assert is_alive(queue, child)
        child.end()
        assert state(child.pid) == "Z"
        assert not is_alive(queue, child)
    assert not is_alive(queue, child)


def test_a_process_that_runs_another_program_is_dead_to_the_queue(queue: Any) -> None:
    def become_another() -> None:
        queue.put("used")
        os.execlp("sleep", "sleep", "60")

    with forked(become_another) as child:
        wait_until(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n")
        wait_until(lambda: not is_alive(queue, child))  # execve(2) closes files on its very last steps
        assert state(child.pid) in "RS"


def test_to_close_other_descriptors_of_the_memory_changes_nothing(queue: Any) -> None:
    """Of POSIX locks, as those of lockf(3), a process loses all when it closes any descriptor of the file."""

    def use() -> None:
        queue.put("used")
        for fd in own_descriptors("memfd:pipecap"):
            os.close(os.dup(fd))
            os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDWR))
        os.write(done, b"!")
        signal.pause()

    wait, done = os.pipe()
    with forked(use) as child:
        os.read(wait, 1)
        assert is_alive(queue, child)
    os.close(wait)
    os.close(done)


def test_a_child_does_not_keep_its_dead_parent_alive(queue: Any) -> None:
    """It inherits the descriptor that shows the parent alive, and closes it as it begins."""

    def use() -> None:
        queue.put("used")
        if not os.fork():
            os.close(lives_on)
            signal.alarm(60)
            os.write(answer, b"!")
            signal.pause()
        signal.pause()

    wait, answer = os.pipe()
    lives, lives_on = os.pipe()
    with forked(use) as child:
        os.read(wait, 1)
        os.close(lives)
        try:
            assert is_alive(queue, child)
            (grandchild,) = map(int, Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split())
            child.end()
            assert not is_alive(queue, child)
            assert state(grandchild) in "RS"
        finally:
            os.kill(grandchild, signal.SIGKILL)
    for fd in (wait, answer, lives_on):
        os.close(fd)


# ---- without what it takes ----


def known_by_pid(queue: Any) -> Callable[[], None]:
    """Return a function that uses a queue where byte locks are refused, and stays until it is killed."""

    def use() -> None:
        member_of(queue).can_lock = 0
        queue.put("used")

    return and_stay(use)


def test_where_locks_are_refused_pid_and_start_time_tell(queue: Any) -> None:
    with forked(known_by_pid(queue)) as child:
        wait_until(lambda: participants(queue))
        assert participants(queue)[child.pid]["known_by"] == "pid"
        assert is_alive(queue, child)
        child.end()
        assert not is_alive(queue, child)
    assert not is_alive(queue, child)


def test_a_pid_that_was_used_again_is_another_process(queue: Any) -> None:
    """A process with that number runs, but began at another time."""
    with forked(known_by_pid(queue)) as child:
        wait_until(lambda: participants(queue))
        assert is_alive(queue, child)
        entry = queue._shared.struct.participants[1]
        assert entry.pid == child.pid
        entry.start_time += 1
        assert not is_alive(queue, child)


def test_a_process_of_another_pid_namespace_is_never_called_dead_by_its_pid(queue: Any) -> None:
    """Its number would mean another process here."""

    def use() -> None:
        member_of(queue).can_lock = 0
        member_of(queue).namespace_ = 1
        queue._rlock.acquire()

    with forked(and_stay(use)) as child:
        wait_until(lambda: queue.debug_state()["reading"] == child.pid)
        child.end()
        assert is_alive(queue, child)
        assert not queue._rlock.acquire(timeout=0.6)
        assert queue.debug_state()["reading"] == child.pid


def without_descriptors() -> None:
    """Use up the descriptors of this process."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with suppress(OSError):
        while True:
            os.dup(0)


@pytest.mark.parametrize("user", [user_of, known_by_pid], ids=["lock", "pid"])
def test_without_descriptors_the_dead_are_still_told_from_the_living(
    queue: Any, user: Callable[[Any], Callable[[], None]]
) -> None:
    """A pidfd takes one; a lock, and kill(2), do not."""

    def look() -> tuple[bool, bool]:
        without_descriptors()
        before = is_alive(queue, child)
        os.write(ask, b"!")
        os.read(answer, 1)
        return before, is_alive(queue, child)

    asked, ask = os.pipe()
    answer, answered = os.pipe()
    with ExitStack() as stack:
        child = stack.enter_context(forked(user(queue)))
        wait_until(lambda: participants(queue))
        with forked(look) as other:
            os.read(asked, 1)
            stack.close()
            os.write(answered, b"!")
            assert other.result() == (True, False)
    for fd in (asked, ask, answer, answered):
        os.close(fd)


def test_a_zombie_is_told_dead_without_descriptors(queue: Any) -> None:
    """kill(2) would call it alive."""

    def look() -> bool:
        without_descriptors()
        taken: bool = queue._rlock.acquire(block=False)
        return taken

    with forked(and_stay(queue._rlock.acquire)) as child:
        wait_until(lambda: queue.debug_state()["reading"] == child.pid)
        child.end()
        with forked(look) as other:
            assert other.result() is True


def test_a_child_forked_without_a_free_descriptor_uses_the_queue_all_the_same(queue: Any) -> None:
    def fork_one() -> int:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        pid = os.fork()
        if not pid:
            queue.put(queue.get() + 1)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    queue.put(1)
    with forked(fork_one) as child:
        assert child.result() == 0
    assert queue.get() == 2
    assert sorted(each["known_by"] for each in participants(queue).values()) == ["lock", "pid"]


# ---- the table ----

ENTRIES = 1022


@contextmanager
def entries_taken(queue: Any, count: int) -> Iterator[Child[None]]:
    """Fork a process that uses `count` entries of a queue's table, and stays until it is killed."""

    def take() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2000)), hard))
        fd = os.dup(member_of(queue).fd)
        kept = []
        for _ in range(count):
            kept.append(Shared(1, os.dup(fd)))
            assert lib.pipecap_participate(kept[-1].member) == 0
        os.write(taken, b"!")
        signal.pause()

    wait, taken = os.pipe()
    with forked(take, close=(wait,)) as child:
        os.close(taken)
        assert os.read(wait, 1) == b"!"
        yield child
    os.close(wait)


needs_descriptors = pytest.mark.skipif(
    1200 > resource.getrlimit(resource.RLIMIT_NOFILE)[1] > 0,
    reason="this host allows too few descriptors: `ulimit -Hn`",
)


@needs_descriptors
def test_one_process_more_than_the_table_has_entries_is_refused_until_one_ends(queue: Any) -> None:
    with entries_taken(queue, ENTRIES) as child:
        assert len(queue.debug_state()["participants"]) == ENTRIES
        for call in (lambda: queue.put(1), queue.get, lambda: queue._rlock.acquire(block=False)):
            with pytest.raises(Unsupported, match=f"more than {ENTRIES:,} processes"):
                call()
        assert queue.empty()
        child.end()
        queue.put(1)
        assert queue.get() == 1


@needs_descriptors
def test_an_entry_that_is_used_again_does_not_hide_what_its_process_lost() -> None:
    with made("JoinableQueue") as queue:
        with forked(lambda: queue.put("lost")) as producer:
            producer.result()
        with forked(and_stay(queue.get)) as consumer:
            wait_until(lambda: participants(queue).get(consumer.pid, {}).get("undone") == 1)
        with entries_taken(queue, ENTRIES - 1):  # all but the consumer's: the producer's is free
            queue.put("last")
            assert consumer.pid not in participants(queue)
            assert queue.get() == "last"
            queue.task_done()
            with pytest.raises(LostItem) as caught:
                queue.join()
            assert caught.value.count == 1
            queue.join()
