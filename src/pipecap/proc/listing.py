"""list_pipes(): the pipes of processes: their state, who holds which end, which threads wait on them, what moves."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from pipecap.errors import AccessDenied, PipecapError, ProcessGone
from pipecap.kernel.pipes import PipeState
from pipecap.proc import peek, snapshot
from pipecap.proc.checks import require_process, require_seconds
from pipecap.proc.files import Fifo, File, Pipe
from pipecap.proc.snapshot import End, Process, Snapshot, Thread
from pipecap.results import Result


@dataclass(frozen=True, slots=True)
class Holder(Result):
    """A process that holds one end of a pipe, by which descriptor; `command` is its command line."""

    pid: int
    fd: int
    command: str


@dataclass(frozen=True, slots=True)
class Waiter(Result):
    """A thread that waits to write to a pipe (`writes`) or for something to read; `call` is what it waits in.

    One that polls with a time limit is none: it goes on by itself.
    """

    pid: int
    tid: int
    call: str
    writes: bool


@dataclass(frozen=True, slots=True)
class LivePipe(Result):
    """A pipe or FIFO in use.

    `file` is "pipe:[INODE]" or "fifo:DEVICE:INODE", `kind` "pipe" or "fifo", `name` the path a FIFO was opened by.
    `capacity` and `unread` are bytes, `slots` pages; `full`: no slot is free. They are None where the pipe could not be
    looked at, and `unknown` says why. `readers` and `writers` hold its ends; a process that may not be looked into may
    hold one, too. `waiting`: the threads that wait on it, writers first.

    `unmoved`: for so many seconds, at least, the count of unread bytes has not moved; 0.0 where it has, or where only
    the last look found the pipe; None after one look. What moves and is back at the same count in each look is told
    apart only where a thread waits in a read or write: that one ran in between.
    """

    file: str
    inode: int
    kind: str
    name: str | None
    capacity: int | None
    slots: int | None
    unread: int | None
    full: bool | None
    readers: tuple[Holder, ...]
    writers: tuple[Holder, ...]
    waiting: tuple[Waiter, ...]
    unmoved: float | None
    unknown: str

    @property
    def blocked(self) -> bool:
        """Whether a writer waits on it while it is full, or may not be looked at: it sleeps there all the same."""
        return self.full is not False and any(waiter.writes for waiter in self.waiting)

    @property
    def stalled(self) -> bool:
        """Whether it is full, a writer waits and no thread waits to read, and it was not seen to move."""
        return bool(self.full) and self.blocked and self.unmoved != 0 and all(each.writes for each in self.waiting)


def _trouble_first(pipe: LivePipe) -> tuple[int, float, int]:
    rank = 4
    if pipe.stalled:
        rank = 0
    elif pipe.full or pipe.blocked:
        rank = 1
    elif pipe.unread:
        rank = 2
    elif pipe.unknown:
        rank = 3
    return rank, -(pipe.unread or 0) / (pipe.capacity or 1), pipe.inode


@dataclass(frozen=True, slots=True)
class Listing(Result):
    """Pipes, trouble on top, and `unknown`: what could not be read, and why."""

    pipes: tuple[LivePipe, ...]
    unknown: tuple[str, ...]


def list_pipes(
    pid: int | None = None, *, tree: bool = False, window: float = 0.0, proc: str = "/proc"
) -> list[LivePipe]:
    """List the pipes and FIFOs that a process holds, those of all processes without `pid`; trouble on top.

    On top is what is full, with a blocked writer and nobody reading; then what is full, then what has unread bytes.
    With `tree`, also the pipes of its descendants. With a `window`, looks twice, so many seconds apart, to see which
    move. Reads /proc and opens a pipe for some microseconds; stops nobody, changes nothing.

    Raises ProcessGone, AccessDenied where that process may not be looked into (needs ptrace access: its user, or
    CAP_SYS_PTRACE), Unsupported where procfs is missing, InvalidValue for what is no PID or no window.
    """
    if pid is not None:
        require_process(pid, proc)
    looks = Looks(() if pid is None else (pid,), tree=tree, proc=proc)
    found = looks.twice(window)
    if looks.failed:
        raise looks.failed[0]
    return [*found.pipes]


@dataclass(frozen=True, slots=True)
class _Look:
    """A pipe at one look: `begin` and `end` enclose the moment, `since` is when its count was first seen the same."""

    begin: float
    end: float
    since: float
    state: PipeState
    threads: dict[int, Thread]  # that wait in a read or write of it


class Looks:
    """Looks again and again at the pipes of some processes, of all without `pids`; knows since when each is the same.

    `scope`: the processes that the last look was at. `failed`: why it was not at some of `pids`: ProcessGone,
    AccessDenied. A PID that is used again is gone.
    """

    def __init__(self, pids: Sequence[int] = (), *, tree: bool = False, proc: str = "/proc") -> None:
        self.scope: set[int] = set()
        self.failed: list[PipecapError] = []
        self._pids = dict.fromkeys(pids)
        self._tree = tree
        self._proc = proc
        self._starts: dict[int, int] = {}
        self._before: dict[File, _Look] | None = None
        self._growth: dict[str, float] = {}

    def twice(self, window: float) -> Listing:
        """Look twice, `window` seconds apart, or once if that is 0. Raises InvalidValue, Unsupported."""
        require_seconds("window", window, usual=0.3, zero=True)
        begin = time.monotonic()
        found = self.look(snapshot.take(proc=self._proc))
        if window and self.scope:
            time.sleep(max(0.0, window - (time.monotonic() - begin)))
            found = self.look(snapshot.take(proc=self._proc))
        return found

    def look(self, seen: Snapshot) -> Listing:
        """Look at the pipes of a snapshot as they are now."""
        self._find_scope(seen)
        files = dict.fromkeys(end.file for pid in sorted(self.scope) for end in seen.processes[pid].ends if end.is_pipe)
        holders = seen.holders()
        begin = time.monotonic()
        states = {file: peek.state_of(file, holders[file], proc=seen.proc) for file in files}
        end = time.monotonic()
        waiting, untold = _waiting(seen, states)
        looks: dict[File, _Look] = {}
        pipes = []
        for file, state in states.items():
            if isinstance(state, str) and _is_gone(holders[file], seen):
                continue
            unmoved = None
            if isinstance(state, PipeState):
                looks[file] = self._look(file, begin, end, state, waiting.get(file, []))
                unmoved = None if self._before is None else max(0.0, begin - looks[file].since)
            pipes.append(_live(seen, file, holders[file], state, waiting.get(file, []), unmoved))
        self._growth = {
            str(file): (look.state.unread - before.state.unread) / (look.end - before.begin)
            for file, look in looks.items()
            if (before := (self._before or {}).get(file))
        }
        self._before = looks
        return Listing(tuple(sorted(pipes, key=_trouble_first)), (*seen.unknown(), *untold))

    def growth(self, file: str) -> float | None:
        """Give the bytes per second by which the unread ones grew from one look to the next, negative if they shrank.

        What came in was at least that, and what went out at least what is missing. None after one look.
        """
        return self._growth.get(file)

    def _find_scope(self, seen: Snapshot) -> None:
        self.failed = []
        self.scope = set()
        for pid in self._pids:
            process = seen.processes.get(pid)
            if process is None or process.has_ended or self._starts.setdefault(pid, process.start) != process.start:
                self.failed.append(ProcessGone(pid))
            elif process.closed:
                self.failed.append(AccessDenied(f"process {pid} may not be looked into"))
            else:
                self.scope |= seen.tree(pid) if self._tree else {pid}
        if not self._pids:
            self.scope = {*seen.processes}

    def _look(
        self, file: File, begin: float, end: float, state: PipeState, waiting: Collection[tuple[Thread, bool]]
    ) -> _Look:
        threads = {thread.tid: thread for thread, _ in waiting if thread.wait.kind != "poll"}
        before = (self._before or {}).get(file)
        since = end
        if before is not None and (before.state.unread, before.state.capacity) == (state.unread, state.capacity):
            # One that waited then and waits now, but not the same all the time, has moved something.
            if all(before.threads.get(tid, thread) == thread for tid, thread in threads.items()):
                since = before.since
        return _Look(begin, end, since, state, threads)


def _is_gone(holders: Collection[tuple[int, End]], seen: Snapshot) -> bool:
    """Whether all who held a pipe have closed it since."""
    return not any(
        os.path.lexists(f"{seen.proc}/{pid}/task/{thread.tid}/fd/{end.fd}")
        for pid, end in holders
        for thread in seen.processes[pid].threads
    )


def _live(
    seen: Snapshot,
    file: File,
    holders: Collection[tuple[int, End]],
    state: PipeState | str,
    waiting: Collection[tuple[Thread, bool]],
    unmoved: float | None,
) -> LivePipe:
    known = state if isinstance(state, PipeState) else None
    names = (seen.processes[pid].names.get(end.fd) for pid, end in holders)
    unknown = "; ".join(known.unknown.values()) if known else str(state)
    waiters = {
        (thread.tid, writes): Waiter(thread.pid, thread.tid, thread.wait.call, writes) for thread, writes in waiting
    }

    def held(writes: bool) -> tuple[Holder, ...]:
        return tuple(
            Holder(pid, end.fd, seen.processes[pid].command)
            for pid, end in sorted(holders, key=lambda each: (each[0], each[1].fd))
            if (end.writes if writes else end.reads)
        )

    return LivePipe(
        file=str(file),
        inode=file.inode if isinstance(file, Pipe | Fifo) else 0,
        kind="fifo" if isinstance(file, Fifo) else "pipe",
        name=next((name for name in names if name), None),
        capacity=known.capacity if known else None,
        slots=known.slots if known else None,
        unread=known.unread if known else None,
        full=known.full if known else None,
        readers=held(writes=False),
        writers=held(writes=True),
        waiting=tuple(sorted(waiters.values(), key=lambda waiter: (not waiter.writes, waiter.pid, waiter.tid))),
        unmoved=unmoved,
        unknown=unknown,
    )


def _waiting(
    seen: Snapshot, states: dict[File, PipeState | str]
) -> tuple[dict[File, list[tuple[Thread, bool]]], list[str]]:
    """Tell which threads wait on which of these pipes, to write or not; and of which that cannot be told."""
    found: defaultdict[File, list[tuple[Thread, bool]]] = defaultdict(list)
    untold = []
    for process in seen.processes.values():
        pipes = {end.fd: end for end in process.ends if end.is_pipe}
        if not pipes:
            continue
        for thread in process.threads:
            if thread.state in "Tt":
                continue  # stopped: it waits for nobody's bytes
            if thread.wait.weak:
                files = _could_be(process, thread, states)
                if len(files) == 1:
                    found[files.pop()].append((thread, thread.wait.kind == "write"))
                elif not files.isdisjoint(states):
                    untold.append(
                        f"thread {thread.tid} of process {thread.pid}: in {thread.wait.call}, of which pipe may not be"
                        " read: run as root with CAP_SYS_PTRACE"
                    )
            else:
                for file, writes in _awaited(thread, pipes):
                    found[file].append((thread, writes))
    return found, untold


def _awaited(thread: Thread, pipes: dict[int, End]) -> Iterator[tuple[File, bool]]:
    for each in thread.wait.fds:
        if each.fd in pipes:
            if each.writes:
                yield pipes[each.fd].file, True
            if each.reads:
                yield pipes[each.fd].file, False


def _could_be(process: Process, thread: Thread, states: dict[File, PipeState | str]) -> set[File]:
    """Where the call may not be read: the pipes of its process that could make it wait."""
    if thread.wait.kind not in ("write", "read"):
        return set()
    writes = thread.wait.kind == "write"

    def could_block(file: File) -> bool:
        state = states.get(file)
        if not isinstance(state, PipeState):
            return True
        return state.full is not False if writes else not state.unread

    ends = (end for end in process.ends if end.is_pipe and (end.writes if writes else end.reads))
    return {end.file for end in ends if could_block(end.file)}
