"""The three threads of a Pool: one puts tasks, one reads results, one watches the workers.

None of them refers to the Pool, so that it can be collected; its finalizer is terminate(). The watcher alone starts and
ends workers.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import connection
from multiprocessing import pool as stock
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from pipecap.errors import LostItem, PoolBroken, TruncatedItem, WorkerLost
from pipecap.queues.native import AT_ONCE
from pipecap.queues.pool_crew import Crew
from pipecap.queues.pool_ledger import Ledger, Task
from pipecap.queues.pool_results import InTurn, deliver, fail_all, set_length
from pipecap.queues.pool_worker import LOOK, STOP, Outcome, pack, receive, send, work

if TYPE_CHECKING:
    from pipecap.queues.pool import Pool

# Seconds until the next try to take a lock over from a worker that died, where a thread is at what it left.
_SOON = 0.05
# Seconds that terminate() and join() wait for a thread that may be in code of the user's: a callback, an iterable.
_PATIENCE = 2.0

_MAPPERS = (stock.mapstar, stock.starmapstar)  # type: ignore[attr-defined] # not in the stubs


class Threads:
    """What makes a Pool work: see the module."""

    def __init__(self, pool: Pool) -> None:
        self._tasks = pool._inqueue
        self._results = pool._outqueue
        self._jobs = pool._taskqueue
        self._cache = pool._cache
        self._notifier = pool._change_notifier
        self._ledger = Ledger(self._tasks, self._results)
        self._in_turn = InTurn()
        self._crew = Crew(_starter(pool), pool._processes, pool._pool)
        self._is_closed = False
        self._is_stopped = False
        self._is_putting = False
        self._gate = threading.Lock()  # of the last two
        self._must_look = False
        self._failure: BaseException | None = None  # of a queue, or a thread
        self.broken: PoolBroken | None = None
        self._watcher = self._thread(self._watch)
        self._putter = self._thread(self._put_jobs)
        self._reader = self._thread(self._read_results)
        self.all = (self._watcher, self._putter, self._reader)

    def _thread(self, run: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                run()
            except BaseException as error:  # of the user's code, or from a queue: without this thread nothing works
                self._fail(error)

        return threading.Thread(target=guarded, daemon=True)

    def start(self) -> None:
        """Start the workers, from this thread, and the threads. Raises what that raises, with nothing left behind."""
        try:
            for _ in range(self._crew.size):
                self._crew.add()
            for thread in self.all:
                thread.start()
        except BaseException:
            self.terminate()
            raise

    # ---- tasks ----

    def _put_jobs(self) -> None:
        for tasks, note_length in iter(self._jobs.get, None):
            if not self._put_tasks(iter(tasks), note_length):
                return
            del tasks, note_length
        for _ in range(len(self._crew)):  # each takes one at most, so none goes without
            self._put(pack(STOP, None))

    def _put_tasks(self, tasks: Iterator[Any], note_length: Any) -> bool:
        count = 0
        for job, index, func, args, kwargs in tasks:
            count = index + 1
            if not self._put_task(_task(job, index, func, args), (func, args, kwargs)):
                return False
        if note_length:
            self._in_turn(set_length, self._cache, note_length.__self__, count)
        return True

    def _put_task(self, task: Task, call: tuple[Any, ...]) -> bool:
        serial = self._ledger.next_serial()
        self._ledger.add(serial, task)
        try:
            return self._put(pack(serial, call))
        except Exception as error:  # pickling runs the objects' own code, which may raise anything
            self._ledger.remove(serial)
            self._deliver(task, (False, error))
            return not self._is_stopped

    def _put(self, message: Any) -> bool:
        with self._gate:
            if self._is_stopped:
                return False
            self._is_putting = True
        try:
            send(self._tasks, message)
        finally:
            self._is_putting = False
        return True

    # ---- results ----

    def _read_results(self) -> None:
        while not self._is_stopped:
            with suppress(LostItem, TruncatedItem):  # the worker that was sending it died
                message = receive(self._results)
                if message[0] == STOP:
                    return
                self._use(*message)
                del message
            self._ledger.has_seen()
            self._deliver_lost()

    def _use(self, serial: int, is_whole: bool, value: Any) -> None:
        if serial == LOOK:
            self._look(value)
            return
        task = self._ledger.remove(serial)
        if task is not None:
            self._deliver(task, value if is_whole else (False, value))

    def _look(self, error: BaseException | None) -> None:
        if error is not None:
            self._failure = error
        self._must_look = True
        self._notifier.put()

    def _fail(self, error: BaseException) -> None:
        if threading.current_thread() is self._watcher:
            self._failure = error
            self._break()
        elif not self._is_stopped:
            self._look(error)

    def _deliver(self, task: Task, outcome: Outcome) -> None:
        self._in_turn(deliver, self._cache, task.job, task.index, outcome)

    def _deliver_lost(self) -> None:
        for task, pids in self._ledger.lost():
            self._deliver(task, (False, WorkerLost(*self._crew.exit_of(pids), str(task))))

    # ---- workers ----

    def _watch(self) -> None:
        while not self._is_stopped and (not self._is_closed or self._cache):
            timeout = self._attend_to_workers()
            if self._failure is not None or self._crew.has_failed():
                self._break()
                return
            self._crew.wait(self._notifier, timeout)
        if not self._is_stopped:
            self._jobs.put(None)
        while not self._is_stopped and len(self._crew):
            self._crew.wait(self._notifier, None)
            self._crew.remove(self._crew.reap())
        if self._is_stopped:
            self._stop(PoolBroken("it was terminated before this was done", hint="wait for the results before that"))
        else:
            self._stop_reader()

    def _attend_to_workers(self) -> float | None:
        """Part with workers that ended, and start others; return the seconds until the next time, None for no limit."""
        ended = self._crew.reap()
        if ended or self._must_look:
            strictly, self._must_look = self._must_look, False
            gone = {worker.pid for worker in ended}
            self._ledger.inquire(self._crew.pids_but_of(ended), gone, strictly=strictly)
        if ended:
            self._crew.judge(ended, self._ledger.pids(), self._ledger.tasks_taken())
            self._crew.remove(ended)
        self._deliver_lost()
        timeout = self._crew.fill(self._ledger.pids) if not self._is_stopped else None
        if self._ledger.is_waiting():
            return _SOON if timeout is None else min(timeout, _SOON)
        return timeout

    # ---- the end ----

    def close(self) -> None:
        """Let the workers end when all jobs are done."""
        self._is_closed = True
        self._notifier.put()

    def terminate(self) -> None:
        """End all at once. In a thread of the pool's own, a callback's, this only begins it."""
        with self._gate:
            self._is_stopped = True
        self._notifier.put()
        if self._watcher.ident is None:
            self._stop(PoolBroken("it did not start"))
        elif threading.current_thread() is not self._putter:
            _join(self._watcher, None)
            _join(self._reader, _PATIENCE)

    def join(self) -> None:
        """Wait for the end, after close() or terminate()."""
        _join(self._watcher, None)
        for thread in (self._putter, self._reader):
            _join(thread, _PATIENCE if self._is_stopped else None)

    def _break(self) -> None:
        if self._failure is not None:
            self.broken = PoolBroken(f"its queues cannot be used any more: {self._failure!r}")
            self.broken.__cause__ = self._failure
        else:
            self.broken = self._crew.failure()
        self._stop(self.broken)

    def _stop(self, error: PoolBroken) -> None:
        with self._gate:
            self._is_stopped = True
        self._jobs.put(None)
        self._crew.end()
        self._drain_tasks()
        self._stop_reader()
        self._in_turn(fail_all, self._cache, error)

    def _drain_tasks(self) -> None:
        """Make room for what is being put, as no worker is left to read it, until that has ended."""
        reader = self._tasks._reader.fileno()
        while self._is_putting:
            if connection.wait([reader], 0.01):
                os.read(reader, 1 << 20)

    def _stop_reader(self) -> None:
        if self._results._sender.put(pack(STOP, None), AT_ONCE):
            self._results._reader.close()  # the pipe is full: its reader is in a callback


def _starter(pool: Pool) -> Callable[[], BaseProcess]:
    make, context = pool.Process, pool._ctx
    args = (pool._inqueue, pool._outqueue, pool._initializer, pool._initargs, pool._maxtasksperchild)

    def start() -> BaseProcess:
        process: BaseProcess = make(context, target=work, args=args)
        process.name = process.name.replace("Process", "PoolWorker")
        process.daemon = True
        process.start()
        return process

    return start


def _task(job: int, index: int, func: Any, args: tuple[Any, ...]) -> Task:
    if func in _MAPPERS:
        func, items = args[0]
        return Task(job, index, func, len(items))
    return Task(job, index, func, None)


def _join(thread: threading.Thread, timeout: float | None) -> None:
    if thread.ident is not None and thread is not threading.current_thread():
        thread.join(timeout)
