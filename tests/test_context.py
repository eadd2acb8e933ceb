"""get_context(): what it makes, and with which settings."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

import pipecap

METHODS = ["fork", "spawn", "forkserver"]
KINDS = ["Queue", "JoinableQueue", "SimpleQueue"]
fork = pipecap.get_context("fork")
pytestmark = pytest.mark.usefixtures("forkserver")


def test_the_default_method_is_the_interpreter_s() -> None:
    assert pipecap.get_context().get_start_method() == multiprocessing.get_start_method()
    ctx = pipecap.get_context("fork", capacity="128K", exit_warning=None)
    other = ctx.get_context("spawn")
    assert (other.get_start_method(), other.capacity, other.exit_warning) == ("spawn", "128K", None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_capacity_is_set_at_the_start(kind: str) -> None:
    queue = getattr(pipecap.get_context("fork", capacity="256K"), kind)()
    assert pipecap.capacity(queue) == 256 * 1024
    queue.close()


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot find context"):
        pipecap.get_context("thread")
    with pytest.raises(pipecap.InvalidSize):
        pipecap.get_context("fork", capacity="lots")
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
