"""Starting a process that is given a queue, under spawn, against doing so with a stock queue."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

from benchmarks.conftest import Against
from pipecap.queues.context import get_context


def test_start(against: Against) -> None:
    """What counts is start() alone: it pickles the queue for the child. The child is waited for in between."""
    compare(against, ends=False)


def test_start_to_end(against: Against) -> None:
    """The child imports what the queue needs."""
    compare(against, ends=True)


def compare(against: Against, *, ends: bool) -> None:
    """Start children in turns."""
    children: list[BaseProcess] = []

    def reap() -> None:
        while children:
            child = children.pop()
            child.join()
            assert child.exitcode == 0
            child.close()

    def start(context: Any) -> Callable[[], None]:
        queue = context.Queue()

        def start() -> None:
            child = context.Process(target=id, args=(queue,))
            child.start()
            children.append(child)
            if ends:
                child.join()

        return start

    what = "from start() to the end" if ends else "Process.start() with a queue, spawn"
    try:
        against(
            ("stock Queue", start(multiprocessing.get_context("spawn"))),
            (what, start(get_context("spawn"))),
            prepare=reap,
            rounds=20,
            aim=None if ends else 1.0,
        )
    finally:
        reap()
