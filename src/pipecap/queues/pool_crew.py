"""The worker processes of a Pool: started, watched, replaced, ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess

from pipecap.errors import PoolBroken

# Seconds that workers have to end after SIGTERM, and then after SIGKILL.
_GRACE = 2.0
_LAST_GRACE = 5.0
# Seconds until a worker is replaced, where those before it ended without asking for a task: doubled each time.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
# How often in a row.
_TRIES = 8
# How often a starting worker is looked at, while that goes on.
_PROBE = 0.1


class Notifier:
    """Wakes the thread that waits for its descriptor. Any thread may, at any time: it never waits."""

    _fd = -1

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Return the descriptor that is readable once it was woken."""
        return self._fd

    def put(self, _: object = None) -> None:
        """Wake it."""
        with suppress(OSError):  # a pool that is collected may find it closed before
            os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        """Forget that it was woken."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._fd)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@dataclass(eq=False, slots=True)
class Worker:
    """One worker process. `pidfd` is -1 where there is none; `strikes`, how many the crew had when it was started."""

    process: BaseProcess
    pidfd: int
    strikes: int

    @property
    def pid(self) -> int:
        """Its PID."""
        pid = self.process.pid
        assert pid is not None
        return pid

    def signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        with suppress(OSError):
            if not self.has_ended():
                os.kill(self.pid, number)

    def has_ended(self) -> bool:
        """Whether the process has ended; also where somebody else has reaped it."""
        if self.process.exitcode is not None:
            return True
        return self.pidfd >= 0 and bool(connection.wait([self.pidfd], 0))


def _open_pidfd(pid: int) -> int:
    """Open a descriptor that is readable once the process has ended; -1 where that cannot be.

    A sentinel is not always: the children of the process may hold it open. That of a fork server's child is, and brings
    its exit status.
    """
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # ChildProcessError where it is no child of ours
        return os.pidfd_open(pid)
    except OSError:
        return -1


class Crew:
    """The workers of a pool.

    `start` makes a process and starts it. `processes` are those of all workers, for the pool.
    """

    def __init__(self, start: Callable[[], BaseProcess], size: int, processes: list[BaseProcess]) -> None:
        self._start = start
        self.size = size
        self._processes = processes
        self._workers: list[Worker] = []
        self._exitcodes: dict[int, int | None] = {}  # of those that ended, the last ones
        self._strikes = 0  # how often in a row a worker ended, and no task was taken
        self._failures = 0  # how often in a row it had not even asked for one
        self._tasks_taken = 0
        self._not_before = 0.0
        self._last: int | None = None  # the PID of the one that ended last
        self._cause: Exception | None = None  # why none could be started

    def __len__(self) -> int:
        return len(self._workers)

    def pids_but_of(self, ended: list[Worker]) -> set[int]:
        """Return the PIDs of all workers but these."""
        return {worker.pid for worker in self._workers if worker not in ended}

    def exit_of(self, pids: set[int]) -> tuple[int | None, int | None]:
        """Return the PID and the exit status of the one of these that ended last; None, None where none did."""
        for pid in reversed(list(self._exitcodes)):
            if pid in pids:
                return pid, self._exitcodes[pid]
        return None, None

    # ---- starting ----

    def add(self) -> None:
        """Start a worker. Raises what that raises."""
        process = self._start()
        worker = Worker(process, -1, self._strikes)
        worker.pidfd = _open_pidfd(worker.pid)
        self._workers.append(worker)
        self._processes.append(process)

    def fill(self, has_asked: Callable[[], set[int]]) -> float | None:
        """Start workers up to the size of the crew; return the seconds until this is to be called again, None for none.

        After several that ended without a task, one at a time and only after a pause. `has_asked` returns the PIDs of
        the processes that have asked for a task.
        """
        while len(self._workers) < self.size:
            pause = self._not_before - time.monotonic()
            if pause > 0:
                return pause
            if self._strikes > 1 and not self.pids_but_of([]) <= has_asked():
                return _PROBE
            try:
                self.add()
            except Exception as error:
                self._cause = error
                self._strike()
                self._failures += 1
        return None

    def _strike(self) -> None:
        self._strikes += 1
        if self._strikes > 1:
            pause = _FIRST_PAUSE * 2.0 ** min(self._strikes - 2, 16)
            self._not_before = time.monotonic() + min(pause, _LONGEST_PAUSE)

    def has_failed(self) -> bool:
        """Whether starting more workers is of no use."""
        return self._failures >= _TRIES and not self._workers

    def failure(self) -> PoolBroken:
        """Return the error that says so."""
        if self._cause is not None:
            error = PoolBroken(f"no worker could be started: {self._cause!r}", hint="see why no process can be started")
            error.__cause__ = self._cause
            return error
        exitcode = self._exitcodes.get(self._last) if self._last is not None else None
        return PoolBroken("its workers ended before they asked for a task", pid=self._last, exitcode=exitcode)

    # ---- watching ----

    def wait(self, notifier: Notifier, timeout: float | None) -> None:
        """Wait until a worker ends, the notifier is woken, or `timeout` seconds are over."""
        connection.wait([notifier, *map(_waitable, self._workers)], timeout)  # type: ignore[list-item] # has fileno()
        notifier.clear()

    def reap(self) -> list[Worker]:
        """Return the workers that have ended, with their exit statuses noted."""
        ended = [worker for worker in self._workers if worker.has_ended()]
        for worker in ended:
            self._last = worker.pid
            self._exitcodes.pop(worker.pid, None)
            self._exitcodes[worker.pid] = worker.process.exitcode
            if len(self._exitcodes) > 1000:
                del self._exitcodes[next(iter(self._exitcodes))]
        return ended

    def remove(self, ended: list[Worker]) -> None:
        """Forget workers that have ended, and their PIDs, which may be used again from now on."""
        for worker in ended:
            worker.process.join()
            if worker.pidfd >= 0:
                os.close(worker.pidfd)
            self._workers.remove(worker)
            if worker.process in self._processes:
                self._processes.remove(worker.process)

    def judge(self, ended: list[Worker], asked: set[int], tasks_taken: int) -> None:
        """Note how workers did that ended: the PIDs that have asked for a task, and how many tasks were taken, ever."""
        if tasks_taken != self._tasks_taken:
            self._tasks_taken = tasks_taken
            self._strikes = 0
        if self._strikes == 0 or any(worker.pid in asked for worker in [*ended, *self._workers]):
            self._failures = 0
        # Of those started together, one counts.
        if any(worker.strikes == self._strikes for worker in ended):
            self._strike()
            if all(worker.pid not in asked for worker in ended):
                self._failures += 1
                self._cause = None

    # ---- ending ----

    def end(self) -> None:
        """End all workers: SIGTERM, also of a stopped one; SIGKILL for what does not end by it."""
        for worker in self._workers:
            worker.signal(signal.SIGTERM)
            worker.signal(signal.SIGCONT)
        self._wait_for_all(_GRACE)
        for worker in self._workers:
            worker.signal(signal.SIGKILL)
        self._wait_for_all(_LAST_GRACE)

    def _wait_for_all(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            self.remove(self.reap())
            left = deadline - time.monotonic()
            if not self._workers or left <= 0:
                return
            connection.wait(list(map(_waitable, self._workers)), left)


def _waitable(worker: Worker) -> int:
    return worker.pidfd if worker.pidfd >= 0 else worker.process.sentinel
