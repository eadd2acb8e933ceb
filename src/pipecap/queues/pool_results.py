"""What a Pool does to its results: the one home of what the result classes of multiprocessing.pool keep private."""

from __future__ import annotations

import copy
import sys
import threading
from collections import deque
from collections.abc import Callable, MutableMapping
from multiprocessing.pool import IMapIterator, MapResult
from typing import Any

from pipecap.errors import WorkerLost
from pipecap.queues.pool_worker import Outcome

Cache = MutableMapping[int, Any]


class InTurn:
    """Runs actions one at a time and in order, callbacks of the user among them.

    Each in the thread that asks for it or, where one is under way, in that one's thread: no thread waits for another's.
    """

    def __init__(self) -> None:
        self._line: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._lock = threading.Lock()

    def __call__(self, action: Callable[..., None], *args: Any) -> None:
        """Run an action, or leave it to the thread that runs one."""
        self._line.append((action, args))
        while self._line and self._lock.acquire(blocking=False):
            try:
                while self._line:
                    action, args = self._line.popleft()
                    action(*args)
                    args = ()
            finally:
                self._lock.release()


def deliver(cache: Cache, job: int, index: int, outcome: Outcome) -> None:
    """Put the outcome of a task where its result is waited for.

    A map that lost a worker is ready at once; what else of it is under way goes on. An exception that a callback raises
    is printed, as that of a thread: the result is ready nevertheless.
    """
    result = cache.get(job)
    if result is None:
        return
    value = outcome[1]
    try:
        result._set(index, outcome)
        if isinstance(value, WorkerLost) and _is_map(result) and result._value is value:
            _fail_early(result)
    except Exception:
        _print_exception()
        _finish(cache, job, result)


def _fail_early(result: Any) -> None:
    if result.ready():
        return
    callback, result._error_callback = result._error_callback, None
    result._event.set()
    if callback:
        callback(result._value)


def _finish(cache: Cache, job: int, result: Any) -> None:
    if _is_map(result) and result._number_left > 0:
        return
    result._event.set()  # an imap has no callbacks
    if job in cache:
        del cache[job]
    result._pool = None


def set_length(cache: Cache, result: Any, length: int) -> None:
    """Say how many items an imap has, unless it has failed."""
    if result._job in cache:
        result._set_length(length)


def fail_all(cache: Cache, error: Exception) -> None:
    """Raise an error from every result that is still waited for: a copy, as a traceback refers to who waits."""
    for job, result in list(cache.items()):
        try:
            if isinstance(result, IMapIterator):
                _fail_iterator(result, copy_of(error))
            else:
                _fail_result(result, copy_of(error))
        except Exception:
            _print_exception()
        if job in cache:
            del cache[job]


def copy_of(error: Exception) -> Exception:
    """Return an error that can be raised without changing this one."""
    other = copy.copy(error)
    other.__cause__ = error.__cause__
    return other


def _fail_iterator(result: Any, error: Exception) -> None:
    with result._cond:
        result._unsorted.clear()
        result._items.append((False, error))
        result._index += 1
        result._length = result._index
        result._cond.notify_all()
        result._pool = None


def _fail_result(result: Any, error: Exception) -> None:
    if getattr(result, "_success", True):
        result._success = False
        result._value = error
    callback, result._error_callback = result._error_callback, None
    is_late = result.ready()
    result._event.set()
    result._pool = None
    if callback and not is_late:
        callback(result._value)


def _is_map(result: Any) -> bool:
    return isinstance(result, MapResult)


def _print_exception() -> None:
    kind, value, traceback = sys.exc_info()
    assert kind is not None
    threading.excepthook(threading.ExceptHookArgs((kind, value, traceback, threading.current_thread())))
