"""Forked children that answer, and waiting for what /proc and the kernel show instead of for time to pass."""

from __future__ import annotations

import os
import pickle
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")

DEADLINE = 10.0


class Child(Generic[Result]):
    """A forked child under way: its pid, and what its function gave or raised."""

    def __init__(self, pid: int, answer: int) -> None:
        self.pid = pid
        self._answer = answer

    def result(self) -> Result:
        """Wait for the function to return; gives what it gave, or raises what it raised."""
        if not select.select([self._answer], [], [], DEADLINE)[0]:
            raise TimeoutError(f"child {self.pid} gave no answer; it sleeps in {place(self.pid)}")
        with open(self._answer, "rb", closefd=False) as answer:
            pickled = answer.read()
        if not pickled:
            raise ChildProcessError(f"child {self.pid} died without an answer")
        succeeded, value = pickle.loads(pickled)
        if not succeeded:
            raise value
        return value  # type: ignore[no-any-return] # what the child's function gave

    def signal(self, number: int) -> None:
        """Send a signal; SIGSTOP as stop() does."""
        if number == signal.SIGSTOP:
            stop(self.pid)
        else:
            os.kill(self.pid, number)

    def end(self) -> int:
        """Kill it for good and leave it a zombie; gives its pid."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        return self.pid


@contextmanager
def forked(function: Callable[[], Result], *, close: tuple[Any, ...] = ()) -> Iterator[Child[Result]]:
    """Run a function in a forked child that first closes what belongs to its parent; kill and reap it in the end."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        outcome: tuple[bool, object]
        signal.alarm(int(DEADLINE) * 3)  # whatever becomes of the parent
        os.close(read_end)
        try:
            for end in close:
                if isinstance(end, int):
                    os.close(end)
                else:
                    end.close()
            outcome = True, function()
        except BaseException as error:
            outcome = False, error
        with suppress(BaseException):
            os.write(write_end, pickle.dumps(outcome))
        os._exit(0)
    os.close(write_end)
    try:
        yield Child(pid, read_end)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.kill(pid, signal.SIGCONT)
        os.waitpid(pid, 0)
        os.close(read_end)


def and_stay(call: Callable[[], object]) -> Callable[[], None]:
    """Give a function that calls this one and stays until it is killed."""

    def stay() -> None:
        call()
        signal.pause()

    return stay


class Thread(threading.Thread):
    """A thread with a result; daemonic, so that one which hangs does not hold up the report."""

    def __init__(self, function: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._function = function
        self.value: object = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.value = self._function()
        except BaseException as error:
            self.error = error

    def result(self) -> Any:
        """Wait for the function to return; gives what it gave, or raises what it raised."""
        self.join(DEADLINE)
        assert not self.is_alive(), f"the thread hangs in {place(os.getpid(), self.native_id)}"
        if self.error is not None:
            raise self.error
        return self.value


def ended(process: BaseProcess) -> int | None:
    """Wait until a process has ended; return its exit code, None where it does not end."""
    process.join(2 * DEADLINE)
    return process.exitcode


def put(queue: Any, *items: object) -> None:
    """Put items one by one."""
    for item in items:
        queue.put(item)


def get(queue: Any) -> Any:
    """Get in another thread, so that what hangs is a failure soon."""
    return Thread(queue.get).result()


def finish(queue: Any) -> None:
    """Close a queue and wait until its thread has ended."""
    queue.close()
    if hasattr(queue, "join_thread"):
        queue.join_thread()


def wait_until(condition: Callable[[], object], what: object = "this") -> None:
    """Return once the condition holds; give up loudly."""
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"never came: {what() if callable(what) else what}")
        time.sleep(0.001)


def place(pid: int, tid: int | None = None) -> str:
    """Tell the kernel function a thread sleeps in; "0" for none."""
    try:
        return Path(f"/proc/{pid}/task/{tid or pid}/wchan").read_text()
    except OSError as error:  # it ended
        return str(error)


def stop(pid: int | None) -> None:
    """Stop a process, and return once each of its threads is stopped.

    kill(2) returns before: until the thread that takes the signal runs, the others continue. On a busy machine a feeder
    thread that was in the middle of an item was seen to send all of it.
    """
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: all(state(pid, int(tid)) == "T" for tid in os.listdir(f"/proc/{pid}/task")))


def state(pid: int, tid: int | None = None) -> str:
    """Tell the state letter of a thread: R, S, T, Z."""
    return Path(f"/proc/{pid}/task/{tid or pid}/stat").read_text().rpartition(") ")[2][0]


def wait_until_in(function: str, pid: int, tid: int | None = None) -> None:
    """Return once a thread sleeps in a kernel function whose name contains this."""
    wait_until(lambda: function in place(pid, tid), lambda: f"{function} in {pid}/{tid}: {place(pid, tid)}")
