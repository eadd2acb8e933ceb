"""Pool: multiprocessing's, and it survives its workers."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterable
from multiprocessing import pool, util
from typing import TYPE_CHECKING, Any

from pipecap.queues.pool_crew import Notifier
from pipecap.queues.pool_results import copy_of
from pipecap.queues.pool_threads import Threads

if TYPE_CHECKING:
    from pipecap.queues.context import Context


class Pool(pool.Pool):
    """multiprocessing.Pool, of which any worker may be killed.

    The task that an ended worker had raises WorkerLost, at once: from `apply()`, from its item of an `imap()`, and from
    a `map()`, whose other tasks still run. All other tasks are done, by the remaining workers and a new one.

    Workers that end before they ask for a task are replaced after growing pauses. After eight such failures in a row
    the pool is broken: what is not done, and later calls, raise PoolBroken. After `terminate()`, too, what was not done
    raises PoolBroken. `terminate()` sends SIGTERM to the workers, and SIGKILL to those that have not ended two seconds
    later.
    """

    if TYPE_CHECKING:  # of the base class, not published
        _state: str
        Process: Callable[..., Any]

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Context | None = None,
    ) -> None:
        self._pool: list[Any] = []
        self._state = pool.INIT
        if context is None:
            from pipecap.queues.context import get_context

            context = get_context()
        if processes is None:
            processes = getattr(os, "process_cpu_count", os.cpu_count)() or 1  # the first since Python 3.13
        if processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._ctx = context
        self._processes = processes
        self._initializer = initializer
        self._initargs = initargs
        self._maxtasksperchild = maxtasksperchild
        self._inqueue = context.SimpleQueue()
        self._outqueue = context.SimpleQueue()
        self._taskqueue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._change_notifier = Notifier()
        self._cache = pool._PoolCache(notifier=self._change_notifier)  # type: ignore[attr-defined] # not in the stubs
        threads = Threads(self)
        threads.start()
        self._worker_handler, self._task_handler, self._result_handler = threads.all
        self._threads = threads
        self._terminate = util.Finalize(self, threads.terminate, exitpriority=15)
        self._state = pool.RUN

    def _check_running(self) -> None:
        if self._threads.broken is not None:
            raise copy_of(self._threads.broken)
        super()._check_running()  # type: ignore[misc] # not in the stubs

    def _repopulate_pool(self) -> None:
        self._change_notifier.put()

    def _map_async(
        self, func: Any, iterable: Any, mapper: Any, chunksize: int | None = None, *callbacks: Any, **named: Any
    ) -> Any:
        """As the base class, which divides by the workers that there are: at times there is none."""
        if chunksize is None:
            iterable = iterable if hasattr(iterable, "__len__") else list(iterable)
            chunksize = -(-len(iterable) // (4 * self._processes))
        return super()._map_async(func, iterable, mapper, chunksize, *callbacks, **named)  # type: ignore[misc] # not in the stubs

    def close(self) -> None:
        """Take no more jobs; the workers end when those that were taken are done."""
        if self._state == pool.RUN:
            self._state = pool.CLOSE
            self._threads.close()

    def terminate(self) -> None:
        """End the workers at once. What was not done raises PoolBroken."""
        self._state = pool.TERMINATE
        self._terminate()

    def join(self) -> None:
        """Wait for the workers to end; only after close() or terminate()."""
        if self._state == pool.RUN:
            raise ValueError("Pool is still running")
        self._threads.join()
