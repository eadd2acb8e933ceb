"""What cannot be pickled, what is garbage, what is not there: the documented error, and the queue goes on."""

from __future__ import annotations

import errno
import os
import resource
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
from children import Thread, ended, finish, get, put
from privilege import quota_used_up, unprivileged
from scenes import DEADLINE

import pipecap
from pipecap.kernel.limits import PAGE_SIZE
from pipecap.queues import exit_guard

MIB = 1 << 20
KINDS = ["Queue", "JoinableQueue", "SimpleQueue"]
fork: Any = pipecap.get_context("fork")
one_page: Any = pipecap.get_context("fork", capacity=PAGE_SIZE, exit_warning=None)
small: Any = pipecap.get_context("fork", capacity=65_536, exit_warning=None)


# ---- what cannot be put, what cannot be got ----


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_pickle_is_named_and_the_queue_goes_on(kind: str) -> None:
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


def fail() -> object:
    raise ZeroDivisionError("unpickled")


class Poison:
    """Pickles, and raises when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return fail, ()


@pytest.mark.parametrize("size", [10, 200_000])
def test_an_item_that_cannot_be_unpickled_costs_itself_and_not_the_batch(size: int) -> None:
    queue = fork.Queue()
    queue.put_many([1, b"x" * size, Poison(), b"y" * size, 4])
    got: list[object] = []
    with pytest.raises(ZeroDivisionError) as caught:  # noqa: PT012 -- items of 200,000 bytes come one by one
        while True:
            got += queue.get_many(timeout=DEADLINE)
    got += getattr(caught.value, "items", [])
    assert got == [1, b"x" * size]
    assert queue.qsize() == 2
    assert not queue.empty()
    assert queue.get_many(1) == [b"y" * size]
    assert queue.get() == 4
    assert (queue.qsize(), queue.empty()) == (0, True)
    queue.close()


@pytest.mark.parametrize("place", [0, 1, 4])
def test_the_error_of_an_item_in_a_batch_has_the_items_before_it(place: int) -> None:
    queue = fork.JoinableQueue()
    numbers: list[object] = list(range(5))
    queue.put_many([*numbers[:place], Poison(), *numbers[place:]])
    with pytest.raises(ZeroDivisionError) as caught:
        queue.get_many(timeout=DEADLINE)
    assert caught.value.items == numbers[:place]  # type: ignore[attr-defined] # documented
    got = queue.get_many(timeout=DEADLINE) if place < 5 else []
    assert got == numbers[place:]
    for _ in range(6):
        queue.task_done()
    Thread(queue.join).result()
    queue.close()


@pytest.mark.parametrize("kind", KINDS)
def test_an_item_that_cannot_be_unpickled_is_gone_and_the_next_one_comes(kind: str) -> None:
    queue = getattr(fork, kind)()
    put(queue, Poison(), "next")
    with pytest.raises(ZeroDivisionError):
        queue.get()
    assert get(queue) == "next"
    queue.close()


# ---- garbage ----

GARBAGE = [
    b"\x80\0\0\1 this is no message",
    b"\x80\0\0\0" + bytes(60),
    b"\xff" * 12,
    b"\xff\xff\xff\xff\x7f" + b"\xff" * 7,
]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_an_error_for_every_reader_after_what_was_whole(garbage: bytes) -> None:
    queue = fork.Queue()
    queue.put(1)
    os.write(queue._writer.fileno(), garbage)
    assert queue.get() == 1
    for _ in range(2):
        with pytest.raises(pipecap.BadFrame):
            queue.get()
    queue.close()


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_behind_a_batch_touches_no_other_queue(garbage: bytes, start: Callable[..., BaseProcess]) -> None:
    queue, other = fork.Queue(), fork.Queue()
    queue.put_many([1, 2, 3])
    os.write(queue._writer.fileno(), garbage)
    assert queue.get_many() == [1, 2, 3]
    with pytest.raises(pipecap.BadFrame):
        queue.get_many()
    other.put("an item of another queue" * 3)
    other.put("the next")
    assert [get(other), get(other)] == ["an item of another queue" * 3, "the next"]

    def read_too() -> None:
        with pytest.raises(pipecap.BadFrame):
            queue.get(timeout=DEADLINE)

    assert ended(start(read_too)) == 0
    assert queue.debug_state()["reading"] == 0
    queue.close()
    other.close()


# ---- what is not there ----


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
            sizes = [round_trip(queue, size) for size in (10, 5_000, 10)]
            queue.put(b"x" * 100_000)  # more than its two pages: the feeder has the rest
            return sizes, exit_guard.pipe_now(queue._feeder)

    sizes, said = unprivileged(poor)
    assert sizes == [10, 5_000, 10]
    assert "is full" in said
    assert "cannot grow: " in said
    assert "quota" in said


def round_trip(queue: Any, size: int) -> int:
    queue.put(b"x" * size)
    return len(queue.get())


def test_without_a_thread_the_put_fails_and_the_next_one_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a cgroup that allows no more threads: `can't start new thread`."""
    queue = one_page.JoinableQueue()
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
    finish(queue)
