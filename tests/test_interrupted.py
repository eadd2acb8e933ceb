"""Exceptions out of signal handlers amid everything but put() and get(): connections, tasks, join(), drain(), the rest.

tests/test_interrupted_put.py and tests/test_interrupted_get.py have those two.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

import pytest
from children import Thread, finish, forked, get, put
from interruptions import Interrupt, after, interrupted, interrupted_asleep, moments
from scenes import DEADLINE, wait_until_blocked

import pipecap

MIB = 1 << 20
LARGE = 200_000
fork: Any = pipecap.get_context("fork")
small: Any = pipecap.get_context("fork", capacity=65_536, exit_warning=None)
STOCK = multiprocessing.get_context("fork")

errors = pytest.mark.parametrize("raised", [Interrupt, TimeoutError])
duplexes = pytest.mark.parametrize("duplex", [False, True], ids=["pipe", "socket"])
MESSAGES = {"small": b"y" * 30, "64 KiB": b"y" * 65_536, "large": b"y" * 3 * MIB}
messages = pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES.keys())
# A handler that raises may do so in a callback of the garbage collector (Hypothesis has one): nobody can catch that.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def stock(end: Any, *, readable: bool) -> connection.Connection:
    """Return a connection of the standard library to the same pipe."""
    return connection.Connection(os.dup(end.fileno()), readable=readable, writable=not readable)


# ---- Connection ----

SENDS: dict[str, Callable[[Any, bytes], object]] = {
    "send": lambda writer, message: writer.send(message),
    "send_bytes": lambda writer, message: writer.send_bytes(message),
    "a part": lambda writer, message: writer.send_bytes(bytearray(b"-" + message + b"-"), 1, len(message)),
}
RECEIVES: dict[str, Callable[[Any, bytearray], object]] = {
    "recv": lambda reader, _: reader.recv(),
    "recv_bytes": lambda reader, _: reader.recv_bytes(),
    "recv_bytes_into": lambda reader, buffer: bytes(buffer[: reader.recv_bytes_into(buffer)]),
}


@duplexes
@messages
@pytest.mark.parametrize("send", SENDS.values(), ids=SENDS.keys())
def test_a_send_sends_once_or_not_at_all(duplex: bool, message: bytes, send: Callable[[Any, bytes], object]) -> None:
    """The other end is a stock one: bytes that were out of step would be garbage to it."""
    reader, writer = fork.Pipe(duplex)
    receive = "recv" if send is SENDS["send"] else "recv_bytes"
    with stock(reader, readable=True) as other:
        for moment, error, hit in moments():
            reading = Thread(lambda: list(iter(getattr(other, receive), b"last")))
            hit.append(interrupted(lambda: send(writer, message), moment, error))
            Thread(lambda: send(writer, b"last")).result()
            assert reading.result() in ([message], []), hit
            assert hit[0] or reading.result() == [message]
            assert not writer._sender._alive, hit
    reader.close()
    writer.close()


@duplexes
@messages
@pytest.mark.parametrize("receive", RECEIVES.values(), ids=RECEIVES.keys())
def test_a_recv_loses_nothing(duplex: bool, message: bytes, receive: Callable[[Any, bytearray], object]) -> None:
    reader, writer = fork.Pipe(duplex)
    send = "send" if receive is RECEIVES["recv"] else "send_bytes"
    with stock(writer, readable=False) as other:
        for moment, error, hit in moments():
            sending = Thread(lambda: [getattr(other, send)(each) for each in (message, b"next")])
            if len(message) < 1000:
                sending.result()  # so that the next one is there, too, when this one is read
            else:
                assert reader.poll(DEADLINE)
            got: list[object] = []
            buffer = bytearray(len(message))

            def read(got: list[object] = got, buffer: bytearray = buffer) -> None:
                got.append(receive(reader, buffer))

            hit.append(interrupted(read, moment, error))
            in_buffer = buffer == message  # the exception may come as recv_bytes_into() returns
            while b"next" not in got:
                assert reader.poll(DEADLINE), hit
                Thread(read).result()
            assert got == [message, b"next"] or (in_buffer and got == [b"next"]), hit
            sending.result()
            assert not reader.poll(), hit
    reader.close()
    writer.close()


@duplexes
@errors
def test_ctrl_c_in_the_middle_of_a_message_loses_nothing(duplex: bool, raised: type[BaseException]) -> None:
    reader, writer = fork.Pipe(duplex)
    interrupted_asleep(lambda: writer.send_bytes(b"1" * 9 * MIB), "poll", raised())
    reading = Thread(lambda: [reader.recv_bytes(), reader.recv_bytes()])
    writer.send_bytes(b"next")
    assert reading.result() == [b"1" * 9 * MIB, b"next"]
    interrupted_asleep(reader.recv_bytes, "poll", raised())
    interrupted_asleep(lambda: reader.poll(None), "poll", raised())
    assert not reader.poll()
    writer.send_bytes(b"last")
    assert reader.recv_bytes() == b"last"
    reader.close()
    writer.close()


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue", "Pipe"])
def test_poll_and_empty_change_nothing(kind: str) -> None:
    queue = fork.SimpleQueue() if kind == "Pipe" else getattr(fork, kind)()
    for moment, error, hit in moments(least=3):
        queue.put("item")
        hit.append(interrupted(queue._reader.poll if kind == "Pipe" else queue.empty, moment, error))
        assert not queue.empty(), hit
        assert get(queue) == "item", hit
        assert queue.debug_state()["reading"] == 0, hit
    queue.close()


# ---- tasks ----


def test_a_task_done_counts_once_or_not_at_all() -> None:
    for moment, error, hit in moments(least=1):
        queue = fork.JoinableQueue()
        queue.put_many([1, 2])
        assert queue.get_many() == [1, 2]
        hit.append(interrupted(queue.task_done, moment, error))
        left = queue.debug_state()["unfinished"]
        assert left in (1, 2), hit
        assert hit[0] or left == 1
        for _ in range(left):
            queue.task_done()
        Thread(queue.join).result()
        with pytest.raises(ValueError, match="too many"):
            queue.task_done()
        queue.close()


def test_a_join_of_tasks_leaves_nothing_behind() -> None:
    for moment, error, hit in moments(least=1):
        queue = fork.JoinableQueue()
        queue.put(1)
        queue.get()
        done = Thread(queue.task_done)
        hit.append(interrupted(queue.join, moment, error))
        done.result()
        Thread(queue.join).result()
        assert queue.debug_state()["unfinished"] == 0
        queue.close()


@errors
def test_ctrl_c_while_join_waits_for_tasks_leaves_them(raised: type[BaseException]) -> None:
    queue = fork.JoinableQueue()
    queue.put(1)
    queue.get()
    interrupted_asleep(queue.join, "futex", raised())
    assert queue.debug_state()["unfinished"] == 1
    queue.task_done()
    Thread(queue.join).result()
    queue.close()


# ---- drain and join ----


@pytest.mark.parametrize("ctx", [STOCK, fork], ids=["stock", "ours"])
@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])
def test_a_drain_loses_nothing(ctx: Any, kind: str) -> None:
    """What came out before the exception is the caller's; another drain() has the rest."""
    items = [1, b"2" * 30_000, [3]]
    for moment, error, hit in moments():
        queue = getattr(ctx, kind)()
        producer = STOCK.Process()  # one that was not started counts as ended
        for item in items:
            if hasattr(queue, "_sem"):  # of a stock queue, a thread would send it
                queue._sem.acquire()
                queue._writer.send(item)
            else:
                queue.put(item)
        got: list[object] = []

        def read(queue: Any = queue, producer: Any = producer, got: list[object] = got) -> None:
            for item in pipecap.drain(queue, [producer], timeout=DEADLINE):
                got.append(item)  # noqa: PERF402 -- list() loses what it has with an exception

        hit.append(interrupted(read, moment, error))
        rest = Thread(lambda queue=queue, producer=producer: list(pipecap.drain(queue, [producer], timeout=DEADLINE)))  # type: ignore[misc]
        got += rest.result()
        assert got == items, hit
        if ctx is fork:
            state = queue.debug_state()
            assert (state["reading"], state["given_back"], state["partly_received"]) == (0, 0, False), hit
        else:
            assert queue._rlock.acquire(block=False), hit
            queue._rlock.release()
        producer.close()
        queue.close()


@errors
@pytest.mark.parametrize("ctx", [STOCK, fork], ids=["stock", "ours"])
def test_ctrl_c_while_join_reads_has_the_items_in_the_exception(
    ctx: Any, raised: type[BaseException], start: Callable[..., Any]
) -> None:
    queue = ctx.SimpleQueue()
    go = STOCK.Event()

    def produce() -> None:
        put(queue, 1, b"2" * 3 * MIB)
        go.wait()
        put(queue, 3)

    producer = start(produce)
    error = raised()
    wait_until_blocked(producer)

    def join() -> None:
        pipecap.join(queue, [producer], timeout=DEADLINE)

    interrupted_asleep(join, "poll", error)
    items = error.items  # type: ignore[attr-defined] # documented
    go.set()
    items += pipecap.join(queue, [producer], timeout=DEADLINE)
    assert items == [1, b"2" * 3 * MIB, 3]
    queue.close()


# ---- several threads, and who closes ----


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])
def test_threads_that_put_at_once_do_not_go_on_with_each_other_s_items(kind: str) -> None:
    """One is partly sent and its writer at work: it was not interrupted."""
    queue = getattr(small, kind)()

    def put_twenty(number: int) -> None:
        for _ in range(20):
            queue.put(bytes([number]) * LARGE)

    putting = [Thread(lambda number=number: put_twenty(number)) for number in range(3)]  # type: ignore[misc]
    got = [get(queue) for _ in range(60)]
    assert sorted(item[0] for item in got) == [0] * 20 + [1] * 20 + [2] * 20
    assert all(item == item[:1] * LARGE for item in got)
    for thread in putting:
        thread.result()
    finish(queue)


def test_a_close_amid_a_partly_received_item_leaves_no_lock(start: Callable[..., Any]) -> None:
    queue = small.SimpleQueue()
    with forked(lambda: put(queue, b"1" * LARGE, "next")) as child:
        wait_until_blocked(child.pid)
        assert interrupted(queue.get, after("pipecap_receive"))
        reader, writer = queue._reader, queue._writer
        keep = os.dup(reader.fileno())  # the writer must not get a broken pipe
        queue.close()
        assert (reader.closed, writer.closed) == (True, True)
        assert queue.debug_state()["reading"] != os.getpid()
        os.close(keep)
