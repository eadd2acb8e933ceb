"""Named child programs. Each prints `ready`; whether it is blocked is seen in /proc, never slept for."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import programs

DEADLINE = 20.0

PUT_AND_EXIT = """
import sys, multiprocessing
queue = multiprocessing.Queue()
queue.put(eval(sys.argv[1]))
print("ready", flush=True)
"""


@contextmanager
def scene(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program up to `ready`; kill it in the end."""
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            yield child
        finally:
            child.kill()


@contextmanager
def hung(name: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program of tests/hanging until it stands still; kill all of its session in the end."""
    with programs.running(programs.HERE / "hanging" / f"{name}.py") as child:
        programs.steady(child.pid)
        yield child


@contextmanager
def hung_text(program: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program's text until it stands still; kill all of its session in the end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.py"
        path.write_text(program)
        with programs.running(path) as child:
            programs.steady(child.pid)
            yield child


@contextmanager
def healthy(name: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program of tests/healthy; kill all of its session in the end."""
    with programs.running(programs.HERE / "healthy" / f"{name}.py") as child:
        yield child


def wait_until_blocked_on_a_full_pipe(pid: int) -> None:
    """Return once some thread of the process sleeps in the kernel's pipe_write()."""
    wait_until_asleep_in(pid, "pipe_write")


def wait_until_blocked(process: int | BaseProcess) -> None:
    """Return once a thread of the process waits for room in a pipe: a stock queue in write(2), ours in poll(2)."""
    wait_until_asleep_in(process, "pipe_write", "poll")


def wait_until_asleep_in(process: int | BaseProcess, *functions: str) -> None:
    """Return once some thread of the process sleeps in one of these kernel functions (part of a name will do)."""
    pid = process if isinstance(process, int) else process.pid
    assert pid is not None
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if any(function in place for place in waiting_places(pid) for function in functions):
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} is not in {' or '.join(functions)}: {waiting_places(pid)}")


def waiting_places(pid: int) -> list[str]:
    """Give the kernel functions its threads sleep in."""
    places = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
            places.append((task / "wchan").read_text())
    return places
