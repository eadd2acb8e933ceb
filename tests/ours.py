"""Queues of ours, made for one test and closed after it, and items that stop on their way."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from children import Child, forked, state, wait_until
from scenes import wait_until_asleep_in

import pipecap
from pipecap.queues import native

CAPACITY = 65_536
MIB = 1 << 20


@contextmanager
def made(kind: str, *arguments: object, capacity: int | str = "auto") -> Iterator[Any]:
    """Make a queue for a while; what waits in it then is dropped."""
    queue: Any = getattr(pipecap.get_context("fork", capacity=capacity, exit_warning=None), kind)(*arguments)
    try:
        yield queue
    finally:
        if kind == "SimpleQueue":
            queue.close()
        else:
            queue.close(discard=True)
            queue.join_thread()
        native._records.discard(queue)
        vars(queue).clear()  # pytest keeps the object itself


def memory_of(queue: Any) -> Any:
    """Return the struct pipecap_shared of a queue: for a moment that nothing else reaches."""
    return queue._shared.struct


def member_of(queue: Any) -> Any:
    """Return this process's struct pipecap_member of a queue."""
    return queue._shared.member


def participants(queue: Any) -> dict[int, dict[str, Any]]:
    """Return the processes that used a queue, by PID."""
    return {each["pid"]: each for each in queue.debug_state()["participants"]}


@contextmanager
def stuck_writer(queue: Any, item: object) -> Iterator[Child[None]]:
    """Fork a process that puts an item larger than the pipe, and stop it when the pipe is full of its first part."""

    def put() -> None:
        queue.put(item)
        if hasattr(queue, "join_thread"):
            queue.close()
            queue.join_thread()

    with forked(put) as child:
        wait_until(lambda: pipecap.state(queue).full)
        wait_until_asleep_in(child.pid, "poll")
        child.signal(signal.SIGSTOP)
        wait_until(lambda: state(child.pid) == "T")
        assert queue.debug_state()["writing"] == child.pid
        yield child


def own_descriptors(name: str) -> list[int]:
    """Return the descriptors of this process that lead to a file whose name has this in it."""
    return [
        int(fd)
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}") and name in os.readlink(f"/proc/self/fd/{fd}")
    ]
