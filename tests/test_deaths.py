"""Processes that die with a part of a queue in their hands: what they had is reported once, the others go on."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from children import Thread, and_stay, ended, finish, forked, get, put, stop, wait_until
from scenes import DEADLINE, wait_until_asleep_in, wait_until_blocked
from wire import frame

import pipecap
from pipecap.kernel.limits import PAGE_SIZE

MIB = 1 << 20
KINDS = ["Queue", "JoinableQueue", "SimpleQueue"]
fork: Any = pipecap.get_context("fork")
one_page: Any = pipecap.get_context("fork", capacity=PAGE_SIZE, exit_warning=None)
small: Any = pipecap.get_context("fork", capacity=65_536, exit_warning=None)


def test_a_reader_that_dies_waiting_leaves_the_others_their_items(start: Callable[..., BaseProcess]) -> None:
    """A stock queue is lost then: the dead reader owns its lock."""
    queue = fork.Queue()
    dies = start(queue.get)
    wait_until_asleep_in(dies, "poll")
    dies.kill()
    dies.join()
    queue.put("still here")
    assert queue.get(timeout=DEADLINE) == "still here"


def wait_until_in_an_item(queue: Any, reader: BaseProcess) -> None:
    """Return once a reader is asleep, amid an item."""
    wait_until(lambda: queue.debug_state()["reading"] == reader.pid)
    wait_until(lambda: not pipecap.unread(queue) or reader.exitcode is not None)
    wait_until_asleep_in(reader, "poll")


def kill_a_reader_amid_an_item(queue: Any, writer: BaseProcess, start: Callable[..., BaseProcess]) -> int:
    """Stop the writer of an item that the pipe does not hold, and kill its reader; return the PID of the writer."""
    wait_until_blocked(writer)
    assert writer.pid is not None
    stop(writer.pid)
    dies = start(queue.get)
    wait_until_in_an_item(queue, dies)
    dies.kill()
    dies.join()
    return writer.pid


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrap", [bytes, lambda item: [item]], ids=["bytes", "list"])
def test_a_reader_that_dies_in_an_item_loses_that_item_and_no_other(
    kind: str, wrap: Callable[[bytes], object], start: Callable[..., BaseProcess]
) -> None:
    """Its error comes once, to the next reader; all that follow come as ever."""
    queue = getattr(fork, kind)()
    writer = start(put, queue, wrap(b"1" * 3_000_000), wrap(b"2" * 3_000_000), "3")
    stopped = kill_a_reader_amid_an_item(queue, writer, start)
    os.kill(stopped, signal.SIGCONT)
    with pytest.raises(pipecap.LostItem) as caught:
        get(queue)
    assert caught.value.count == 1
    assert get(queue) == wrap(b"2" * 3_000_000)
    assert get(queue) == "3"
    assert ended(writer) == 0
    if kind != "SimpleQueue":
        assert queue.qsize() == 0
    assert queue.empty()
    state = queue.debug_state()
    assert (state["reading"], state["writing"]) == (0, 0)
    finish(queue)


def test_the_lost_item_of_a_dead_reader_is_told_once_among_several_readers(start: Callable[..., BaseProcess]) -> None:
    queue = fork.Queue()
    writer = start(put, queue, b"1" * 3_000_000, *range(20))
    stopped = kill_a_reader_amid_an_item(queue, writer, start)

    def read() -> list[object]:
        got: list[object] = []
        while len(got) < 7:
            try:
                got.append(queue.get(timeout=DEADLINE))
            except pipecap.LostItem:
                got.append("lost")
        return got

    readers = [Thread(read) for _ in range(3)]
    os.kill(stopped, signal.SIGCONT)
    got = [item for reader in readers for item in reader.result()]
    assert sorted(got, key=str) == sorted([*range(20), "lost"], key=str)
    assert ended(writer) == 0
    finish(queue)


def test_join_of_tasks_raises_what_a_dead_consumer_took_with_it(start: Callable[..., BaseProcess]) -> None:
    queue = fork.JoinableQueue()
    queue.put_many([1, 2, 3])

    def take_two() -> None:
        queue.get_many(2)
        signal.pause()

    dies = start(take_two)
    wait_until(lambda: queue.qsize() == 1)
    assert queue.get() == 3
    queue.task_done()
    dies.kill()
    dies.join()
    with pytest.raises(pipecap.LostItem) as caught:
        Thread(queue.join).result()
    assert caught.value.count == 2
    Thread(queue.join).result()  # it is reported once
    queue.close()


def test_a_writer_that_dies_in_an_item_is_an_error_and_the_queue_goes_on(start: Callable[..., BaseProcess]) -> None:
    queue = fork.Queue()
    dies = start(put, queue, "first", b"x" * 3_000_000)
    wait_until_blocked(dies)
    dies.kill()
    assert queue.get() == "first"
    with pytest.raises(pipecap.TruncatedItem):
        queue.get()
    queue.put("next")
    assert queue.get(timeout=DEADLINE) == "next"
    assert queue.qsize() == 0
    queue.close()


@pytest.mark.parametrize("length", [2, 7, 11])
def test_a_writer_that_dies_in_a_header_is_an_error_and_the_queue_goes_on(length: int) -> None:
    """So many bytes of the frame of its second item fit into the pipe, behind the first one."""
    queue = one_page.Queue()
    first = b"1" * (PAGE_SIZE - length - len(pickle.dumps(bytes(2000))) + 2000 - 4)
    with forked(and_stay(lambda: queue.put_many([first, b"2" * 3000]))) as child:
        wait_until_blocked(child.pid)
        child.end()
        assert get(queue) == first
        assert not queue.empty()  # an error is owed
        with pytest.raises(pipecap.TruncatedItem):
            get(queue)
        queue.put("next")
        assert get(queue) == "next"
        assert (queue.qsize(), queue.debug_state()["writing"]) == (0, 0)
    finish(queue)


@pytest.mark.parametrize("wrap", [bytes, lambda item: [item]], ids=["bytes", "list"])
def test_a_queue_closed_amid_an_item_costs_the_other_readers_that_item(wrap: Callable[[bytes], object]) -> None:
    """The lock is not left behind for it: they get LostItem once, then what follows."""
    queue = small.Queue()
    go_on, tell = os.pipe()

    def read_too() -> list[object]:
        os.read(go_on, 1)
        with pytest.raises(pipecap.LostItem):
            queue.get(timeout=DEADLINE)
        return [queue.get(timeout=DEADLINE), queue.get(timeout=DEADLINE)]

    items = [wrap(b"a" * 300_000), wrap(b"b" * 300_000), "c"]
    with forked(read_too) as reader, forked(and_stay(lambda: put(queue, *items))) as writer:
        wait_until_blocked(writer.pid)
        stop(writer.pid)
        getting = Thread(queue.get)
        wait_until(lambda: queue.debug_state()["partly_received"] or not pipecap.unread(queue))
        wait_until_asleep_in(os.getpid(), "poll")
        queue.close()
        queue._reader.close()
        queue._writer.close()
        with pytest.raises(OSError, match="handle is closed"):
            getting.result()
        assert queue.debug_state()["reading"] == 0
        writer.signal(signal.SIGCONT)
        os.write(tell, b"x")
        assert reader.result() == items[1:]
    os.close(go_on)
    os.close(tell)


MAKER = """
import os, sys, threading, time, pipecap
def read(queue):
    try:
        queue.get()
    except OSError as error:
        print(type(error).__name__, flush=True)
if __name__ == "__main__":
    ctx = pipecap.get_context(sys.argv[1])
    queue = getattr(ctx, sys.argv[2])()
    ctx.Process(target=read, args=(queue,)).start()
    while not queue.debug_state()["participants"]:
        time.sleep(0.01)
    threading.Timer(0.3, os.abort).start()
    queue.put(bytes(1_000_000_000))
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_maker_of_a_queue_may_die_like_any_other(kind: str, method: str, tmp_path: Path) -> None:
    """Its children have the memory mapped that it had: that must not keep it alive in their eyes."""
    (tmp_path / "program.py").write_text(MAKER)
    with subprocess.Popen(
        [sys.executable, tmp_path / "program.py", method, kind], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"TruncatedItem\n"
        assert program.wait() == -signal.SIGABRT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [5_000, 60_000])
@pytest.mark.parametrize("written", ["nothing", "a part", "all"])
def test_of_both_sides_dead_in_a_system_call_the_whole_items_stay(kind: str, size: int, written: str) -> None:
    """Neither knows how far the other came. The first item is lost, in part with the reader, and what is not whole."""
    queue = getattr(pipecap.get_context("fork", capacity="1M"), kind)()
    items = [os.urandom(size) for _ in range(8)]
    for item in items[:-1]:
        queue.put(item)
    words = queue._shared.struct
    last = frame(pickle.dumps(items[-1], 5))

    def die_writing() -> None:
        assert queue._wlock.acquire()
        words.batch_begin = words.written
        words.batch_end = words.written + len(last)
        words.batch_put += 1
        if kind != "SimpleQueue":
            words.credits -= 1
        words.writer_busy = len(last)
        os.write(queue._writer.fileno(), last[: {"nothing": 0, "a part": size // 2, "all": len(last)}[written]])
        os._exit(0)

    def die_reading() -> None:
        assert queue._rlock.acquire()
        words.reader_busy = 1
        place = words.places[words.turn & 1]
        place.bytes[0:3000] = os.read(queue._reader.fileno(), 3_000)
        os._exit(0)

    for die in (die_writing, die_reading):
        dead = fork.Process(target=die)
        dead.start()
        assert ended(dead) == 0
    left = items[1:] if written == "all" else items[1:-1]
    got: list[object] = []
    lost = 0
    while len(got) < len(left):
        try:
            got.append(get(queue))
        except pipecap.LostItem as error:
            lost += error.count
    assert got == left
    while lost + len(got) < len(items):
        with pytest.raises(pipecap.LostItem) as caught:
            get(queue)
        lost += caught.value.count
    assert queue.empty()
    queue.put("on it goes")
    assert get(queue) == "on it goes"
    finish(queue)


def test_credits_of_a_killed_producer_come_back() -> None:
    """Its items wait in its feeder; the queue has room for as many again."""
    queue = small.Queue(4)
    with forked(and_stay(lambda: put(queue, *[b"x" * MIB] * 4))) as child:
        wait_until(queue.full)
        wait_until_blocked(child.pid)
        child.end()
        with pytest.raises(pipecap.TruncatedItem):
            get(queue)
        for number in range(4):
            Thread(lambda number=number: queue.put(number, timeout=DEADLINE)).result()  # type: ignore[misc]
        assert queue.full()
        assert [get(queue) for _ in range(4)] == [0, 1, 2, 3]
        assert (queue.qsize(), queue.empty()) == (0, True)
    finish(queue)
