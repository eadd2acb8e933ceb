"""drain() and join() of queues whose locks do not know their owners: the standard library's, torch's, billiard's.

A lock is freed where its owner is dead, and taken from no process that lives. And what is no process, what is no item.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable
from multiprocessing import queues
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
from children import Thread, ended, put, stop, wait_until
from scenes import wait_until_asleep_in, wait_until_blocked

import pipecap

STOCK: Any = multiprocessing.get_context("fork")
OURS: Any = pipecap.get_context("fork")
BIG = b"x" * 3_000_000
# So long a lock must look abandoned before drain() looks who may own it; several times that.
LONG_ENOUGH = 1.5
Start = Callable[..., BaseProcess]


def get_and_report(queue: Any, reports: Any) -> None:
    reports.send(queue.get())


def take_and_die(lock: Any) -> None:
    lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def take_and_stay(lock: Any, ready: Any) -> None:
    with lock:
        ready.set()
        signal.pause()


# ---- who lives keeps his lock ----


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_a_stopped_consumer_that_lives_keeps_the_read_lock(kind: str, start: Start) -> None:
    """It waits in get(), stopped; a producer that is gone has put an item, which is the consumer's once it goes on."""
    queue = getattr(STOCK, kind)()
    reports, report = STOCK.Pipe(duplex=False)
    consumer = start(get_and_report, queue, report)
    wait_until_asleep_in(consumer, "pipe_read")
    stop(consumer.pid)
    producer = start(put, queue, "item")
    assert ended(producer) == 0
    with pytest.raises(pipecap.DrainTimeout) as caught:
        pipecap.join(queue, [producer], timeout=LONG_ENOUGH)
    assert caught.value.items == []
    assert not queue._rlock.acquire(block=False)
    assert consumer.pid is not None
    os.kill(consumer.pid, signal.SIGCONT)
    assert reports.recv() == "item"
    assert pipecap.join(queue, [producer], timeout=20) == []
    queue._reader.close()
    queue._writer.close()


def test_a_consumer_stopped_amid_an_item_keeps_the_read_lock(start: Start) -> None:
    queue = STOCK.SimpleQueue()
    reports, report = STOCK.Pipe(duplex=False)
    producer = start(put, queue, BIG, "next")
    wait_until_asleep_in(producer, "pipe_write")
    stop(producer.pid)
    consumer = start(get_and_report, queue, report)
    wait_until(lambda: not pipecap.unread(queue))
    wait_until_asleep_in(consumer, "pipe_read")
    stop(consumer.pid)
    assert producer.pid is not None
    assert consumer.pid is not None
    os.kill(producer.pid, signal.SIGCONT)
    with pytest.raises(pipecap.DrainTimeout):
        pipecap.join(queue, [producer], timeout=LONG_ENOUGH)
    os.kill(consumer.pid, signal.SIGCONT)
    reading = Thread(lambda: pipecap.join(queue, [producer], timeout=20))
    assert reports.recv() == BIG
    assert reading.result() == ["next"]
    queue.close()


def test_a_stopped_producer_that_lives_keeps_the_write_lock_though_another_one_was_killed(start: Start) -> None:
    """Amid an item, with all that it wrote read: nothing is in the pipe."""
    queue = STOCK.SimpleQueue()
    killed = start(signal.pause)
    living = start(put, queue, BIG)
    wait_until_asleep_in(living, "pipe_write")
    stop(living.pid)
    killed.kill()
    killed.join()
    with pytest.raises(pipecap.DrainTimeout):
        pipecap.join(queue, [killed, living], timeout=LONG_ENOUGH)
    assert not queue._wlock.acquire(block=False)
    assert living.pid is not None
    os.kill(living.pid, signal.SIGCONT)
    assert pipecap.join(queue, [killed, living], timeout=20) == [BIG]
    queue.close()


def test_a_living_process_that_only_has_the_lock_keeps_it(start: Start) -> None:
    """It is not even in a read or a write."""
    for name in ("_rlock", "_wlock"):
        queue = STOCK.SimpleQueue()
        queue.put("item")
        ready = STOCK.Event()
        owner = start(take_and_stay, getattr(queue, name), ready)
        ready.wait()
        stop(owner.pid)
        killed = start(signal.pause)
        killed.kill()
        killed.join()
        if name == "_rlock":
            with pytest.raises(pipecap.DrainTimeout):
                pipecap.join(queue, [killed], timeout=LONG_ENOUGH)
        else:
            assert pipecap.join(queue, [killed], timeout=20) == ["item"]
        assert not getattr(queue, name).acquire(block=False)
        owner.kill()
        owner.join()
        queue.close()


def test_a_thread_of_this_process_that_reads_keeps_the_read_lock(start: Start) -> None:
    queue = STOCK.SimpleQueue()
    getting = Thread(queue.get)
    wait_until_asleep_in(os.getpid(), "pipe_read")
    producer = start(put, queue, 1, 2)
    assert sorted([*pipecap.join(queue, [producer], timeout=20), getting.result()]) == [1, 2]
    queue.close()


# ---- who is dead does not ----


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_the_read_lock_of_a_dead_consumer_is_freed(kind: str, start: Start) -> None:
    queue = getattr(STOCK, kind)()
    killed = start(take_and_die, queue._rlock)
    killed.join()
    producer = start(put, queue, 1, BIG, 3)
    assert pipecap.join(queue, [producer], timeout=20) == [1, BIG, 3]
    assert queue._rlock.acquire(block=False)
    queue._rlock.release()
    queue._reader.close()
    queue._writer.close()


def test_the_write_lock_of_a_dead_producer_is_freed(start: Start) -> None:
    queue = STOCK.SimpleQueue()
    killed = start(take_and_die, queue._wlock)
    killed.join()
    producer = start(put, queue, 1, BIG, 3)
    assert pipecap.join(queue, [killed, producer], timeout=20) == [1, BIG, 3]
    queue.put("next")
    assert queue.get() == "next"
    queue.close()


def test_beside_a_living_idle_process_the_lock_of_a_dead_one_is_freed(start: Start) -> None:
    """A process that has the queue open, and is at work elsewhere, is not its owner."""
    queue = STOCK.SimpleQueue()
    idle = start(signal.pause)
    killed = start(take_and_die, queue._rlock)
    killed.join()
    producer = start(put, queue, 1, 2)
    assert pipecap.join(queue, [producer], timeout=20) == [1, 2]
    assert idle.is_alive()
    queue.close()


# ---- errors have the items ----


class TorchLike(queues.Queue):  # type: ignore[type-arg] # generic to type checkers only
    """A queue as torch's: items are handles, resolved at their maker, which may be gone when they are unpickled."""


class Handle:
    def __reduce__(self) -> tuple[object, ...]:
        return resolve, (os.getpid(),)


def resolve(pid: int) -> int:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        raise ConnectionRefusedError(f"process {pid} that has the tensor is gone") from None
    return pid


def torch_like() -> Any:
    return TorchLike(ctx=STOCK)


@pytest.mark.parametrize("make", [torch_like, STOCK.SimpleQueue, OURS.Queue, OURS.SimpleQueue])
def test_an_item_whose_producer_is_gone_is_its_error_with_the_items(make: Callable[[], Any], start: Start) -> None:
    queue = make()
    producer = start(put, queue, 1, 2, Handle(), 4)
    assert ended(producer) == 0
    producer.join()
    with pytest.raises(ConnectionRefusedError) as caught:
        pipecap.join(queue, [producer], timeout=20)
    assert caught.value.items == [1, 2]  # type: ignore[attr-defined] # documented
    assert pipecap.join(queue, [producer], timeout=20) == [4]
    queue._reader.close()
    queue._writer.close()


class NoRoom(Exception):
    """An exception that has no room for another attribute is passed on all the same."""

    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


def fail() -> object:
    raise NoRoom


class Fails:
    def __reduce__(self) -> tuple[object, ...]:
        return fail, ()


@pytest.mark.parametrize("ctx", [STOCK, OURS], ids=["stock", "ours"])
def test_an_exception_without_room_for_items_is_passed_on(ctx: Any) -> None:
    queue = ctx.SimpleQueue()
    put(queue, 1, Fails(), 3)
    with pytest.raises(NoRoom):
        pipecap.join(queue, [], timeout=20)
    assert pipecap.join(queue, [], timeout=20) == [3]
    queue.close()


# ---- what died in feeders ----


def test_items_that_died_in_a_feeder_are_counted_and_reported_once(start: Start) -> None:
    queue = OURS.Queue()

    def put_five() -> None:
        put(queue, "first", BIG, BIG, 4, 5)
        signal.pause()

    producer = start(put_five)
    wait_until(lambda: queue.qsize() == 5)
    wait_until_blocked(producer)
    producer.kill()
    producer.join()
    got: list[object] = []
    reported = 0
    for _ in range(3):
        try:
            got += pipecap.join(queue, [producer], timeout=20)
        except pipecap.TruncatedItem as error:
            got += error.items
            reported += 1
        except pipecap.LostItem as error:
            got += error.items
            reported += error.count
    assert (got, reported) == (["first"], 4)
    assert queue.qsize() == 0
    queue.close()


# ---- arguments ----


def test_the_old_order_of_join_works_with_a_warning(start: Start) -> None:
    for ctx in (STOCK, OURS):
        queue = ctx.SimpleQueue()
        producer = start(put, queue, 1)
        with pytest.warns(DeprecationWarning, match=r"join\(queue, processes\)"):
            assert pipecap.join([producer], queue, timeout=20) == [1]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert pipecap.join(queue, [producer], timeout=20) == []
        queue.close()


@pytest.mark.parametrize("call", [pipecap.drain, pipecap.join])
@pytest.mark.parametrize("ctx", [STOCK, OURS], ids=["stock", "ours"])
@pytest.mark.parametrize("what", [1, None, "a process", [1], [None], ["process"], [object()], os])
def test_what_is_no_process_is_an_invalid_value(call: Callable[..., Any], ctx: Any, what: Any) -> None:
    queue = ctx.SimpleQueue()
    queue.put("stays")
    with pytest.raises(pipecap.InvalidValue) as caught:
        call(queue, what)
    assert caught.value.parameter == "processes"
    assert queue.get() == "stays"
    queue.close()


@pytest.mark.parametrize("call", [pipecap.drain, pipecap.join])
def test_a_lone_process_is_an_invalid_value_that_says_what_to_write(call: Callable[..., Any], start: Start) -> None:
    queue = STOCK.SimpleQueue()
    process = start(time.sleep, 0)
    with pytest.raises(pipecap.InvalidValue, match="list of processes") as caught:
        call(queue, process)
    assert "[process]" in caught.value.hint
    queue.close()
