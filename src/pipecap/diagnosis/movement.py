"""Whether anything moves at a full pipe: samples of the few processes at its ends, until something does.

A writer that was woken, or another count of unread bytes, is movement. So is work of a process that could read: CPU
time, or its main thread running. That does not count where a thread of that process waits for the writer to exit: an
event loop or a heartbeat beside it does not read the pipe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass

from pipecap.diagnosis.evidence import Evidence
from pipecap.diagnosis.find import Case, Key
from pipecap.diagnosis.finding import Moving
from pipecap.diagnosis.lines import only_serves
from pipecap.kernel.pipes import PipeState
from pipecap.proc import peek, procfs, sockets
from pipecap.proc.files import File, Socket
from pipecap.proc.snapshot import Thread

PATIENCE = 3.0
_INTERVAL = 0.25
_CPU_SHARE = 0.05  # of the time: what a reader that only waits does not use


@dataclass(frozen=True, slots=True)
class _Sample:
    when: float
    count: object  # of unread bytes
    writers: tuple[object, ...]
    readers_ran: tuple[object, ...]
    cpu: float
    read: int | None
    reader_waits: bool


@dataclass
class _Watched:
    case: Case
    first: _Sample
    samples: int = 1
    reader_waited: int = 0
    moved: Moving | None = None


class Movement:
    """Watches writers that wait for room, from one evidence to the next, and says of each whether anything moved."""

    def __init__(self) -> None:
        self._watched: dict[Key, _Watched] = {}
        self._seen: Evidence

    def watch(self, seen: Evidence, cases: Collection[Case]) -> None:
        """Take a sample of each case; forget those that are none any more."""
        self._seen = seen
        known = self._watched
        self._watched = {}
        for case in cases:
            sample = self._sample(case)
            watched = known.get(case.key) or _Watched(case, sample, 0)
            watched.samples += 1
            watched.reader_waited += sample.reader_waits
            self._compare(watched, sample)
            self._watched[case.key] = watched

    def moved(self, case: Case) -> Moving | None:
        """Return what has moved since a case was first seen, or since it last moved; None for nothing."""
        return self._watched[case.key].moved

    def unmoved(self, case: Case) -> float:
        """Return for how many seconds, at least, nothing has moved."""
        return time.monotonic() - self._watched[case.key].first.when

    def wait(self, patience: float, progress: Callable[[float], object] | None = None) -> None:
        """Take samples of the same evidence until each case has moved, or `patience` seconds are over."""
        begin = time.monotonic()
        while (left := begin + patience - time.monotonic()) > 0:
            cases = [watched.case for watched in self._watched.values() if watched.moved is None]
            if not cases:
                return
            time.sleep(min(_INTERVAL, left))
            if progress is not None:
                progress(time.monotonic() - begin)
            done = {key: watched for key, watched in self._watched.items() if watched.moved is not None}
            self.watch(self._seen, cases)
            self._watched |= done

    def _compare(self, watched: _Watched, now: _Sample) -> None:
        first = watched.first
        seconds = now.when - first.when
        moved = (now.count, now.writers) != (first.count, first.writers)
        works = now.readers_ran != first.readers_ran or now.cpu - first.cpu > _CPU_SHARE * seconds
        if moved or (works and not self._waits_for_the_writer(watched.case)):
            read = None if None in (now.read, first.read) else (now.read or 0) - (first.read or 0)
            watched.moved = Moving(seconds, read, watched.samples, watched.samples, watched.reader_waited)
            watched.first = now

    def _sample(self, case: Case) -> _Sample:
        seen = self._seen
        readers = self._could_read(case)
        mains = tuple(
            _ran(thread, seen.now.proc)
            for pid in readers
            for thread in seen.now.processes[pid].threads
            if thread.tid == pid
        )
        read = [_read_bytes(pid, seen.now.proc) for pid in readers]
        return _Sample(
            when=time.monotonic(),
            count=tuple(self._count(file) for file in case.files),
            writers=tuple(_ran(thread, seen.now.proc) for thread in case.writers or case.threads),
            readers_ran=mains,
            cpu=sum(self._cpu_seconds(pid) for pid in self._may_work(case, readers)),
            read=None if None in read or not read else sum(filter(None, read)),
            reader_waits=any(self._waits_to_read(pid, case.files) for pid in readers),
        )

    def _cpu_seconds(self, pid: int) -> float:
        """Return the CPU time of the threads of a process that may come to read."""
        total = 0.0
        for thread in self._seen.now.processes[pid].threads:
            if not only_serves(self._seen.stacks.get(thread.tid, ())):
                with suppress(OSError, ValueError, IndexError):
                    total += procfs.cpu_seconds(pid, thread.tid, self._seen.now.proc)
        return total

    def _count(self, file: File) -> object:
        if isinstance(file, Socket):
            return sockets.unix_sockets().get(file.inode)
        state = peek.state_of(file, self._seen.holders.get(file, ()), proc=self._seen.now.proc)
        return (state.unread, state.capacity) if isinstance(state, PipeState) else None

    def _could_read(self, case: Case) -> list[int]:
        """Return the processes on the other side, without the waiters' own."""
        if not case.writers:
            return []
        waiters = {thread.pid for thread in case.threads}
        return sorted(set().union(*map(self._seen.readers, case.files)) - waiters)

    def _may_work(self, case: Case, readers: Collection[int]) -> set[int]:
        """Return the processes that could read, and those that work for them."""
        writing = {thread.pid for thread in case.threads}
        return self._seen.now.tree(*readers) - self._seen.now.tree(*writing)

    def _waits_to_read(self, pid: int, files: Collection[File]) -> bool:
        return any(
            file in files for thread in self._seen.now.processes[pid].threads for file in self._seen.awaited(thread)
        )

    def _waits_for_the_writer(self, case: Case) -> bool:
        """Whether a process that could read waits until the writer's has ended."""
        seen = self._seen
        writing = {thread.pid for thread in case.writers}
        return any(
            thread.wait.kind == "child" and writing & _pids_of(seen, seen.wakers.get(thread.tid))
            for pid in self._could_read(case)
            for thread in seen.now.processes[pid].threads
            if thread.tid in seen.blocked
        )


def _pids_of(seen: Evidence, tids: Collection[int] | None) -> set[int]:
    return {seen.blocked[tid].pid for tid in tids or () if tid in seen.blocked} | set(tids or ())


def _ran(thread: Thread, proc: str) -> object:
    """Return what is another value once a thread has run; of one that waits in rounds, once it has moved bytes."""
    path = f"{proc}/{thread.pid}/task/{thread.tid}"
    with suppress(OSError, KeyError):
        if thread.wait.rounds:
            moved = procfs.fields(f"{path}/io")
            return moved["rchar"], moved["wchar"]
        status = procfs.status(path)
        return status["voluntary_ctxt_switches"], status["nonvoluntary_ctxt_switches"]
    return None


def _read_bytes(pid: int, proc: str) -> int | None:
    try:
        return int(procfs.fields(f"{proc}/{pid}/io")["rchar"])
    except (OSError, KeyError, ValueError):
        return None
