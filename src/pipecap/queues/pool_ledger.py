"""Which tasks of a Pool are lost, by what the processes of its queues publish.

The pool is the only writer of its task queue, so a task is known by the number of its frame. It is lost when its frame
came out, no living worker is at it, and its result is not among those that were put until then: a worker puts its
result before it moves on. This needs no message from a process that may die before it sends it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from pipecap.queues import native
from pipecap.queues.queue import SimpleQueue


@dataclass(frozen=True, slots=True)
class Task:
    """One task: the job it is of, its place in it, its function, and of a map how many items it has."""

    job: int
    index: int
    func: Callable[..., Any]
    items: int | None

    def __str__(self) -> str:
        name = f"{getattr(self.func, '__qualname__', None) or type(self.func).__name__}()"
        if self.items is None:
            return f"task {self.index} of {name}" if self.index else name
        return f"chunk {self.index} of {name}, {self.items:,} item{'s' if self.items > 1 else ''}"


@dataclass(slots=True)
class _Inquest:
    suspects: dict[int, set[int]]  # their numbers, and the PIDs of the workers that may have had them
    results: int = -1  # results that must have been read before; -1: not known yet


class Ledger:
    """The tasks that were put and whose results have not come."""

    def __init__(self, tasks: SimpleQueue, results: SimpleQueue) -> None:
        self._tasks = tasks
        self._results = results
        self._under_way: dict[int, Task] = {}
        self._inquests: list[_Inquest] = []
        self._lock = threading.Lock()
        self._seen = 0

    # ---- tasks and results ----

    def next_serial(self) -> int:
        """Return the number of the frame that is put next."""
        return int(self._tasks._shared.struct.batch_put)

    def add(self, serial: int, task: Task) -> None:
        """Note a task, before it is put."""
        self._under_way[serial] = task

    def remove(self, serial: int) -> Task | None:
        """Forget a task, whose result came; None where there is none with this number."""
        return self._under_way.pop(serial, None)

    def has_seen(self) -> None:
        """Note that all results which came out so far were looked at. For their only reader."""
        self._seen = _frames_out(self._results)

    def tasks_taken(self) -> int:
        """Return how many frames came out of the task queue."""
        return _frames_out(self._tasks)

    # ---- the lost ----

    def inquire(self, living: Collection[int], ended: Collection[int], *, strictly: bool) -> None:
        """Look for lost tasks. `living`: PIDs of the workers whose end was not noticed; `ended`: of those just noticed.

        The task of a worker that has ended since is lost when its end is noticed, with its exit status. `strictly`: its
        entry may be that of a worker which ended long ago, and whose PID a living one has now; then it is lost at once.
        """
        suspects = self._amid_receiving()
        out = self.tasks_taken()  # before: a worker is at a frame before it comes out
        held = self._held_by(living, strictly)
        suspects += [serial for serial in list(self._under_way) if serial < out and serial not in held]
        if suspects:
            with self._lock:
                self._inquests.append(_Inquest({serial: self._had_by(serial, ended) for serial in suspects}))

    def is_waiting(self) -> bool:
        """Whether some task is suspected to be lost."""
        return bool(self._inquests)

    def lost(self) -> list[tuple[Task, set[int]]]:
        """Return the tasks that are lost for certain, each once, with the PIDs of the ended that were at it last."""
        lost: list[tuple[Task, set[int]]] = []
        if not self._inquests:
            return lost
        with self._lock:
            if not self._all_results_are_counted():
                return lost
            put = int(self._results._shared.struct.put)
            for inquest in self._inquests:
                if inquest.results < 0:
                    inquest.results = put
            judged = [inquest for inquest in self._inquests if inquest.results <= self._seen]
            self._inquests = [inquest for inquest in self._inquests if inquest.results > self._seen]
            for inquest in judged:
                for serial, pids in inquest.suspects.items():
                    task = self.remove(serial)
                    if task is not None:
                        lost.append((task, pids))
        return lost

    def _all_results_are_counted(self) -> bool:
        """Whether no ended worker owns the write lock of the results: what it left is then counted, or dropped."""
        return _is_free_of_the_dead(self._results, reading=False)

    def _amid_receiving(self) -> list[int]:
        """Return the number of a frame that a worker died amid receiving: nobody can receive all of it any more."""
        shared, lock = self._tasks._shared, self._tasks._rlock
        owner = shared.struct.reading & ~native.WAITERS
        if not owner or native.is_alive(shared.member, owner) or not lock.acquire(block=False):
            return []
        try:
            words = shared.struct
            place = words.places[words.turn & 1]
            return [int(place.got)] if words.consumed - place.boundary > place.limit else []
        finally:
            lock.release()

    def _held_by(self, living: Collection[int], strictly: bool) -> set[int]:
        shared = self._tasks._shared
        return {
            int(entry.at) - 1
            for index, entry in _entries(shared)
            if entry.at and entry.pid in living and (not strictly or native.is_alive(shared.member, index))
        }

    def _had_by(self, serial: int, ended: Collection[int]) -> set[int]:
        """Return the PIDs at a frame; where its entry is free again, of those among the ended that have none."""
        entries = [entry for _, entry in _entries(self._tasks._shared)]
        at_it = {int(entry.pid) for entry in entries if entry.pid and entry.at == serial + 1}
        return at_it or set(ended) - {int(entry.pid) for entry in entries}

    def pids(self) -> set[int]:
        """Return the PIDs of the processes that asked for a task, ever."""
        return {int(entry.pid) for _, entry in _entries(self._tasks._shared)}


def _entries(shared: Any) -> list[tuple[int, Any]]:
    words = shared.struct
    return [(index, words.participants[index]) for index in range(1, words.highest + 1)]


def _frames_out(queue: SimpleQueue) -> int:
    words = queue._shared.struct
    return int(words.places[words.turn & 1].got)


def _is_free_of_the_dead(queue: SimpleQueue, *, reading: bool) -> bool:
    shared = queue._shared
    owner = (shared.struct.reading if reading else shared.struct.writing) & ~native.WAITERS
    if not owner or native.is_alive(shared.member, owner):
        return True
    lock = queue._rlock if reading else queue._wlock
    if not lock.acquire(block=False):
        return False
    lock.release()
    return True
