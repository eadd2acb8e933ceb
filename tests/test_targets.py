"""Any object -> its pipes: of the standard library under every start method, of its forks, and what is no target."""

from __future__ import annotations

import asyncio
import concurrent.futures
import fcntl
import importlib
import io
import multiprocessing
import os
import queue
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing import pool
from typing import Any

import pytest
from privilege import quota_used_up, unprivileged

import pipecap
from pipecap import NotAPipe, ResizeRefused

PAGE = os.sysconf("SC_PAGESIZE")
DEFAULT = 16 * PAGE
METHODS = multiprocessing.get_all_start_methods()
QUEUES = ["Queue", "JoinableQueue", "SimpleQueue"]


def size_of(connection: Any) -> int:
    """Outside oracle: the fcntl module on the connection itself."""
    return fcntl.fcntl(connection.fileno(), fcntl.F_GETPIPE_SZ)


@contextmanager
def made(make: Callable[[], Any]) -> Iterator[Any]:
    """Hold a queue and close both its ends in the end."""
    target = make()
    try:
        yield target
    finally:
        target._reader.close()
        target._writer.close()


@pytest.mark.parametrize("kind", QUEUES)
@pytest.mark.parametrize("method", METHODS)
def test_queues_of_every_start_method(method: str, kind: str) -> None:
    with made(getattr(multiprocessing.get_context(method), kind)) as target:
        assert pipecap.pipes_of(target) == {"queue": target._writer.fileno()}
        assert pipecap.resize(target, "128K") == size_of(target._reader) == pipecap.capacity(target)
        assert (pipecap.unread(target), pipecap.state(target).full) == (0, False)


@pytest.mark.parametrize("kind", QUEUES)
@pytest.mark.parametrize("package", ["billiard", "multiprocess", "torch.multiprocessing"])
def test_queues_of_forks(package: str, kind: str) -> None:
    module = pytest.importorskip(package, reason=f"{package} is not installed")
    with made(getattr(module.get_context("fork"), kind)) as target:
        assert pipecap.capacity(target) == size_of(target._writer) == DEFAULT
        target._writer.send_bytes(b"abc") if hasattr(target._writer, "send_bytes") else os.write(
            target._writer.fileno(), b"\0\0\0\3abc"
        )
        assert pipecap.unread(target) == 7


def test_torchs_own_queue_wraps_its_connections() -> None:
    torch = pytest.importorskip("torch.multiprocessing.queue", reason="torch is not installed")
    with made(lambda: torch.Queue(ctx=multiprocessing.get_context("fork"))) as target:
        assert pipecap.resize(target, "128K") == pipecap.capacity(target) == 131072


POOL = """
import sys, importlib, pipecap
with importlib.import_module(sys.argv[1]).get_context("fork").Pool(1) as pool:
    assert list(pipecap.pipes_of(pool)) == ["task queue", "result queue"]
    assert pipecap.resize(pool, "128K") == 131072
    assert pool.map(abs, [-1]) == [1]
    pool.terminate()
    pool.join()
"""


@pytest.mark.parametrize("package", ["billiard", "multiprocess"])
def test_pools_of_forks(package: str) -> None:
    """In a program of their own: billiard's keeps a file open."""
    subprocess.run([sys.executable, "-c", POOL, package], check=True, timeout=30)


@pytest.mark.parametrize("package", ["multiprocessing", "billiard", "multiprocess"])
def test_one_way_pipes_and_their_connections(package: str) -> None:
    module = importlib.import_module(package)
    reader, writer = module.Pipe(duplex=False)
    try:
        assert pipecap.pipes_of((reader, writer)) == {"pipe": writer.fileno()}
        assert pipecap.capacity((reader, writer)) == pipecap.capacity(reader) == pipecap.capacity(writer) == DEFAULT
        writer.send_bytes(b"abc")
        assert [pipecap.unread(target) for target in (reader, writer, (reader, writer))] == [7, 7, 7]
    finally:
        reader.close()
        writer.close()


@pytest.mark.parametrize("package", ["multiprocessing", "billiard", "multiprocess"])
def test_a_duplex_pipe_is_a_socketpair_and_the_error_names_the_way_out(package: str) -> None:
    ends = importlib.import_module(package).Pipe()
    try:
        for target in (ends, *ends):
            with pytest.raises(NotAPipe, match="socketpair") as caught:
                pipecap.capacity(target)
            assert "Pipe(duplex=False)" in caught.value.hint
    finally:
        for end in ends:
            end.close()


def test_descriptors_and_files(pipe: tuple[int, int]) -> None:
    with open(pipe[0], "rb", closefd=False) as file:
        for target in (pipe[0], pipe[1], pipe, list(pipe), file):
            assert pipecap.capacity(target) == DEFAULT
        assert pipecap.pipes_of(pipe[1]) == {f"fd {pipe[1]}": pipe[1]}


def test_two_pipes_in_one_sequence_are_two(pipe: tuple[int, int]) -> None:
    other = os.pipe()
    try:
        fcntl.fcntl(other[0], fcntl.F_SETPIPE_SZ, PAGE)
        os.write(pipe[1], b"abc")
        assert list(pipecap.pipes_of([*pipe, *other]).values()) == [pipe[1], other[1]]
        assert (pipecap.capacity([*pipe, *other]), pipecap.unread([*pipe, *other])) == (PAGE, 3)
    finally:
        for end in other:
            os.close(end)


def test_a_pool_has_a_task_queue_and_a_result_queue() -> None:
    with multiprocessing.get_context("fork").Pool(1) as target:
        found = pipecap.pipes_of(target)
        assert list(found) == ["task queue", "result queue"]
        assert pipecap.resize(target, "256K") == 262144
        assert size_of(target._inqueue._reader) == size_of(target._outqueue._reader) == 262144  # type: ignore[attr-defined]
        assert target.map(abs, [-1]) == [1]
        target.terminate()
        target.join()


@pytest.mark.parametrize("method", METHODS)
def test_an_executor_has_a_call_queue_and_a_result_queue(method: str) -> None:
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as target:
        assert list(pipecap.pipes_of(target)) == ["call queue", "result queue"]
        assert pipecap.resize(target, "256K") == pipecap.capacity(target) == 262144
        if method == "fork":
            assert target.submit(abs, -1).result() == 1
    with pytest.raises(NotAPipe, match="shut down"):
        pipecap.capacity(target)


def test_state_of_several_pipes_says_which() -> None:
    with concurrent.futures.ProcessPoolExecutor(1) as target, pytest.raises(NotAPipe, match="call queue, result queue"):
        pipecap.state(target)


def test_closed_queues() -> None:
    target = multiprocessing.get_context("fork").SimpleQueue()
    target.close()
    with pytest.raises(NotAPipe, match="this SimpleQueue is closed"):
        pipecap.capacity(target)


def test_a_queue_that_only_gets_is_seen_through_its_read_end() -> None:
    with made(multiprocessing.get_context("fork").Queue) as target:
        target._writer.close()
        assert pipecap.capacity(target) == DEFAULT


def test_a_queue_that_only_puts_after_close_is_seen_through_its_write_end() -> None:
    with made(multiprocessing.get_context("fork").Queue) as target:
        target.close()
        assert pipecap.capacity(target) == DEFAULT


def test_closed_connections_and_files(pipe: tuple[int, int]) -> None:
    reader, writer = multiprocessing.Pipe(duplex=False)
    file = os.fdopen(os.dup(pipe[0]), "rb")
    for target in (reader, writer, file):
        target.close()
        with pytest.raises(NotAPipe, match="has no descriptor"):
            pipecap.capacity(target)


class Strange:
    def fileno(self) -> str:
        return "three"


class Failing:
    def fileno(self) -> int:
        raise RuntimeError("no")

    @property
    def _inqueue(self) -> object:
        raise RuntimeError("no")


def popen() -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (queue.Queue, "memory of one process"),
        (queue.SimpleQueue, "memory of one process"),
        (asyncio.Queue, "memory of one process"),
        (popen, "its .stdin, .stdout or .stderr"),
        (io.BytesIO, "lives in memory"),
        (object, "pipes_of"),
        (Strange, ""),
        (Failing, ""),
        (lambda: socket.socket, ""),
        (lambda: None, "pipes_of"),
        (lambda: "7", "pipes_of"),
        (lambda: 1.0, "pipes_of"),
        (lambda: True, "pipes_of"),
        (lambda: (), "pipes_of"),
        (lambda: [None], "pipes_of"),
    ],
)
def test_what_is_no_target(make: Callable[[], object], hint: str) -> None:
    with pytest.raises(NotAPipe) as caught:
        pipecap.pipes_of(make())
    assert hint in caught.value.hint


def test_a_thread_pool_has_no_pipe() -> None:
    with pool.ThreadPool(1) as target, pytest.raises(NotAPipe) as caught:
        pipecap.capacity(target)
    target.join()
    assert "memory of one process" in caught.value.hint


def test_a_managers_queue_is_behind_a_socket() -> None:
    with multiprocessing.get_context("fork").Manager() as manager, pytest.raises(NotAPipe) as caught:
        pipecap.capacity(manager.Queue())
    assert "manager's process" in caught.value.hint


def test_a_plain_socket() -> None:
    with closing(socket.socket()) as target, pytest.raises(NotAPipe, match="socket"):
        pipecap.state(target)


@pytest.mark.parametrize("fd", [-1, 2**31, 2**100])
def test_numbers_that_are_no_descriptor(fd: int) -> None:
    for function in (pipecap.capacity, pipecap.unread, pipecap.state, pipecap.pipes_of):
        with pytest.raises(NotAPipe):
            function(fd)


def test_a_refusal_leaves_all_pipes_as_they_were(pipe: tuple[int, int]) -> None:
    """The second of two pipes is too full to shrink: the first gets its size back."""
    other = os.pipe()
    try:
        os.write(other[1], bytes(8 * PAGE))
        with pytest.raises(ResizeRefused) as caught:
            pipecap.resize([*pipe, *other], PAGE)
        assert caught.value.reason == "busy"
        assert f"it was the fd {other[1]} (2 of 2) that refused" in caught.value.__notes__
        assert [pipecap.capacity(fd) for fd in (pipe[0], other[0])] == [DEFAULT, DEFAULT]
    finally:
        for end in other:
            os.close(end)


def test_what_could_not_be_put_back_is_in_a_note() -> None:
    """Over the quota, the pages that shrinking the first pipe gave up are gone: the error says so."""

    def shrink() -> list[str]:
        with quota_used_up() as held:
            for _ in range(4):
                held.append(os.pipe()[1])
            os.set_blocking(held[1], False)
            reader = os.open(f"/proc/self/fd/{held[1]}", os.O_RDONLY | os.O_NONBLOCK)
            os.write(held[1], bytes(8 * PAGE))
            with pytest.raises(ResizeRefused) as caught:
                pipecap.resize([held[0], held[1]], 4 * PAGE)
            held.append(reader)
            return caught.value.__notes__

    assert any("could not be put back" in note for note in unprivileged(shrink))


def test_best_effort_on_several_gives_the_smallest(pipe: tuple[int, int]) -> None:
    other = os.pipe()
    try:
        pipecap.resize(other, "1M")
        assert pipecap.resize([*pipe, *other], "128K", best_effort=True) == 131072
        assert pipecap.capacity(other) == 2**20
    finally:
        for end in other:
            os.close(end)
