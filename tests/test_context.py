"""get_context(): what it makes, and with which settings."""

from __future__ import annotations

import multiprocessing
import pickle
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import pipecap

METHODS = ["fork", "spawn", "forkserver"]
KINDS = ["Queue", "JoinableQueue", "SimpleQueue"]
fork = pipecap.get_context("fork")
pytestmark = pytest.mark.usefixtures("forkserver")


def test_the_default_method_is_the_interpreter_s() -> None:
    assert pipecap.get_context().get_start_method() == multiprocessing.get_start_method()
    ctx = pipecap.get_context("fork", capacity="128K", chunk="32K", exit_warning=None)
    other = ctx.get_context("spawn")
    settings = other.capacity, other.chunk, other.exit_warning
    assert (other.get_start_method(), *settings) == ("spawn", "128K", "32K", None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_capacity_is_set_at_the_start(kind: str) -> None:
    queue = getattr(pipecap.get_context("fork", capacity="256K"), kind)()
    assert pipecap.capacity(queue) == 256 * 1024
    queue.close()


def writes() -> int:
    """Return the calls of write(2) and its kin that this process has made: proc_pid_io(5)."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["syscw"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("chunk", "size", "count"),
    [("auto", 60_000, 1), ("auto", 200_000, 25), ("64K", 200_000, 4), (4096, 60_000, 15), ("1T", 200_000, 1)],
)
def test_a_chunk_is_the_most_of_one_write(kind: str, chunk: int | str, size: int, count: int) -> None:
    queue = getattr(pipecap.get_context("fork", capacity="1M", chunk=chunk), kind)()
    before = writes()
    queue.put(bytes(size))
    assert count <= writes() - before <= count + 1  # a first one may be a little shorter
    assert queue.get() == bytes(size)
    queue.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", ["auto", 1000, "12K", "32K", "1T"])
def test_items_of_all_sizes_come_out_whatever_the_chunk(kind: str, chunk: int | str) -> None:
    """Also those that waited in line, many of which go out in one write."""
    queue = getattr(pipecap.get_context("fork", capacity="64K", chunk=chunk), kind)()
    items = (
        [(i, "x" * (i * 97 % 3000)) for i in range(600)] + [(i, b"y" * 90_000) for i in range(600, 605)] + [7] * 5000
    )
    process = fork.Process(target=lambda: [queue.put(item) for item in items])
    process.start()
    time.sleep(0.2)
    assert [queue.get() for _ in items] == items
    process.join()
    if kind != "SimpleQueue":
        for _ in range(20):
            queue.put(b"z" * 100_000)
        left = 20 - queue.close(discard=True).items
        assert left <= 3
        for _ in range(left):
            assert len(pickle.loads(queue._reader.recv_bytes())) == 100_000
        queue.join_thread()


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot find context"):
        pipecap.get_context("thread")
    with pytest.raises(pipecap.InvalidSize):
        pipecap.get_context("fork", capacity="lots")
    for chunk in (0, "lots"):
        with pytest.raises(pipecap.InvalidSize):
            pipecap.get_context("fork", chunk=chunk)
    with pytest.raises(ValueError, match="exit_warning"):
        pipecap.get_context("fork", exit_warning=-1)
    with pytest.raises(pipecap.ResizeRefused):
        pipecap.get_context("fork", capacity=2**40).Queue()


@pytest.mark.parametrize("method", METHODS)
def test_pools_and_executors_work(method: str) -> None:
    ctx: Any = pipecap.get_context(method)
    with ctx.Pool(2) as pool:
        assert type(pool._inqueue).__module__ == "pipecap.queues.queue"
        assert pool.map(len, [b"x" * 100_000] * 20) == [100_000] * 20
    with ProcessPoolExecutor(2, mp_context=ctx) as executor:
        assert list(executor.map(abs, range(-20, 0))) == list(range(20, 0, -1))


def test_both_kinds_of_pipe() -> None:
    for duplex in (True, False):
        one, other = fork.Pipe(duplex)
        other.send("x")
        assert one.recv() == "x"
        assert (one.writable, other.readable) == (duplex, duplex)
        one.close()
        other.close()
