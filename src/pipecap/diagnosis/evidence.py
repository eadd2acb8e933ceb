"""Two looks at all processes, a window apart: who did not move meanwhile, and who could move them.

All that counts as blocked was so during the whole window, so at one moment all of it was: what follows from it together
is true of that moment.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field

from pipecap.diagnosis.unknown_holders import Outsiders
from pipecap.kernel.pipes import PipeState
from pipecap.proc import peek, procfs, snapshot
from pipecap.proc.snapshot import End, Process, Snapshot, Thread
from pipecap.proc.syscalls import Watched


@dataclass(slots=True)
class Evidence:
    """What two snapshots show together.

    `blocked`: threads, by number, that slept in the same call in both and never ran in between. `still`: pipes whose
    unread count was the same, not zero, in both. `movers`: of each blocked thread, who could end its wait; None where
    somebody unknown could. `locks`: the shared memory that waiters for a shared lock wait in.
    """

    now: Snapshot
    blocked: dict[int, Thread]
    states: dict[str, PipeState | str]
    still: set[str]
    window: float
    holders: dict[str, list[tuple[int, End]]] = field(default_factory=dict)
    movers: dict[int, set[int] | None] = field(default_factory=dict)
    locks: dict[int, tuple[str, int]] = field(default_factory=dict)

    def state(self, file: str) -> PipeState | None:
        """Give the state of a pipe, None where it could not be looked at."""
        state = self.states.get(file)
        return state if isinstance(state, PipeState) else None

    def is_full(self, file: str) -> bool:
        """Whether a pipe has no free slot, or could not be looked at: a writer sleeps in it all the same."""
        state = self.states.get(file)
        return bool(state.full) if isinstance(state, PipeState) else state is not None

    def process(self, thread: Thread) -> Process:
        """Give the process of a thread."""
        return self.now.processes[thread.pid]

    def file(self, thread: Thread, watched: Watched) -> str:
        """Give the file behind a descriptor that a thread waits for; empty where that is none of interest."""
        end = self.process(thread).end(watched.fd)
        return end.file if end else ""

    def written(self, thread: Thread) -> str:
        """Give the pipe or socket that a thread is blocked writing to; empty for all others."""
        if thread.wait.kind != "write" or thread.tid not in self.blocked:
            return ""
        if thread.wait.weak:
            return self._only_full(thread)
        return self.file(thread, thread.wait.fds[0])

    def _only_full(self, thread: Thread) -> str:
        """Where the call may not be read: the one full pipe that its process can write to."""
        files = {end.file for end in self.process(thread).ends if end.is_pipe and end.writes}
        full = [file for file in files if self.state(file) and self.is_full(file)]
        return full[0] if len(full) == 1 else ""

    def readers(self, file: str) -> set[int]:
        """Give the processes with a read end."""
        return {pid for pid, end in self.holders.get(file, ()) if end.reads}

    def writers(self, file: str) -> set[int]:
        """Give the processes with a write end."""
        return {pid for pid, end in self.holders.get(file, ()) if end.writes}


def gather(*, window: float, proc: str = "/proc", ignored: Collection[int] = ()) -> Evidence:
    """Look twice, `window` seconds apart. Raises Unsupported where procfs is missing."""
    before = snapshot.take(proc=proc, ignored=ignored)
    begin = time.monotonic()
    waiting = {thread.tid: thread for thread in before.threads() if thread.blocked}
    states = _states(before, waiting.values())
    time.sleep(max(0.0, window - (time.monotonic() - begin)))
    now = snapshot.take(proc=proc, ignored=ignored)
    blocked = {thread.tid: thread for thread in now.threads() if waiting.get(thread.tid) == thread}
    later = _states(now, blocked.values())
    still = {file for file, state in later.items() if _moved_nothing(states.get(file), state)}
    evidence = Evidence(now, blocked, later, still, window, now.holders())
    _note_locks(evidence)
    _note_movers(evidence, Outsiders(before, now))
    return evidence


def _moved_nothing(before: PipeState | str | None, now: PipeState | str) -> bool:
    if not (isinstance(before, PipeState) and isinstance(now, PipeState)):
        return isinstance(now, str)  # nobody can tell: the threads say it
    return before.unread == now.unread > 0 and before.capacity == now.capacity


def _states(seen: Snapshot, threads: Collection[Thread]) -> dict[str, PipeState | str]:
    """Look at the pipes that matter: those of processes with a thread that waits for a pipe or for a shared lock."""
    holders = seen.holders()
    files: set[str] = set()
    for thread in threads:
        ends = seen.processes[thread.pid].ends
        if thread.wait.kind == "shared futex" or thread.wait.weak:
            files |= {end.file for end in ends if end.is_pipe}
        else:
            watched = {each.fd for each in thread.wait.fds}
            files |= {end.file for end in ends if end.is_pipe and end.fd in watched}
    return {file: peek.state_of(file, holders[file], proc=seen.proc) for file in files}


def _note_locks(evidence: Evidence) -> None:
    for thread in evidence.blocked.values():
        if thread.wait.kind == "shared futex" and thread.wait.address is not None:
            try:
                place = procfs.shared_mapping(thread.pid, thread.wait.address, evidence.now.proc)
            except OSError:
                continue
            if place:
                evidence.locks[thread.tid] = place


def _note_movers(evidence: Evidence, outsiders: Outsiders) -> None:
    sharing = _Sharing(evidence, outsiders)
    rings = {process.pid for process in evidence.now.processes.values() if process.has_io_uring}
    owner = {thread.tid: thread.pid for thread in evidence.now.threads()} if rings else {}
    for thread in evidence.blocked.values():
        match thread.wait.kind:
            case "child":
                movers = _child_threads(evidence, thread)
            case "private futex":
                movers = evidence.now.threads_of([thread.pid], but=thread.tid)
            case "shared futex":
                movers = sharing.of(thread)
            case _:
                movers = _other_ends(evidence, thread, outsiders)
        # io_uring reads and writes for a process whose threads all sleep.
        if movers is not None and rings and (thread.pid in rings or any(owner.get(tid) in rings for tid in movers)):
            movers = None
        evidence.movers[thread.tid] = movers


class _Sharing:
    """Who shares a lock: those that map its memory, and their descendants, which may be about to."""

    def __init__(self, evidence: Evidence, outsiders: Outsiders) -> None:
        self._evidence = evidence
        self._outsiders = outsiders
        self._mapping = _mapping(evidence)
        self._known: dict[str, set[int] | None] = {}

    def of(self, thread: Thread) -> set[int] | None:
        place = self._evidence.locks.get(thread.tid)
        if place is None:
            return None
        file = place[0]
        if file not in self._known:
            pids = self._evidence.now.tree(*self._mapping[file])
            unknown = self._outsiders.may_share(pids)
            self._known[file] = None if unknown else self._evidence.now.threads_of(pids)
        threads = self._known[file]
        return None if threads is None else threads - {thread.tid}


def _mapping(evidence: Evidence) -> dict[str, set[int]]:
    """Tell which processes map the memory of each lock that is waited for."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    if not evidence.locks:
        return found
    for process in evidence.now.processes.values():
        if process.threads:
            try:
                for file in procfs.shared_files(process.pid, evidence.now.proc):
                    found[file].add(process.pid)
            except OSError:
                continue
    return found


def _child_threads(evidence: Evidence, thread: Thread) -> set[int] | None:
    """Give the threads of the children waited for; None where one has ended, or may not be looked into."""
    children = evidence.now.children(thread.pid)
    wanted = thread.wait.child
    if wanted is not None and wanted > 0:
        depth = len(_pids(thread.pid, evidence.now.proc))
        children = [child for child in children if _pids(child.pid, evidence.now.proc)[depth - 1 : depth] == [wanted]]
    if not children or any(child.closed or child.state == "Z" for child in children):
        return None
    return evidence.now.threads_of(child.pid for child in children)


def _pids(pid: int, proc: str) -> list[int]:
    """Give the PIDs of a process, from the namespace of this /proc down to its own."""
    try:
        return [int(each) for each in procfs.status(f"{proc}/{pid}")["NSpid"].split()]
    except (OSError, KeyError, ValueError):
        return [pid]


def _other_ends(evidence: Evidence, thread: Thread, outsiders: Outsiders) -> set[int] | None:
    """Give the threads that hold the other ends of all that a thread reads, writes or polls."""
    movers: set[int] = set()
    watched = thread.wait.fds
    if thread.wait.weak:
        file = evidence.written(thread)
        if not file:
            return None
        return _movers_of(evidence, thread, file, outsiders, reads=False)
    for each in watched:
        end = evidence.process(thread).end(each.fd)
        if end is None or (each.reads and not end.reads) or (each.writes and not end.writes):
            return None  # a write end that is polled for reading waits for its readers to go, say
        for reads in (True, False):
            if each.reads if reads else each.writes:
                found = _movers_of(evidence, thread, end.file, outsiders, reads=reads)
                if found is None:
                    return None
                movers |= found
        if not (each.reads or each.writes):
            return None  # for an error or the end alone
    return movers


def _movers_of(evidence: Evidence, thread: Thread, file: str, outsiders: Outsiders, *, reads: bool) -> set[int] | None:
    if file.startswith("pidfd:"):
        process = evidence.now.processes.get(int(file.removeprefix("pidfd:")))
        if process is None or process.closed or process.state == "Z":
            return None
        return evidence.now.threads_of([process.pid])
    if not file.startswith("pipe:"):
        return None  # a socket; a FIFO, which anybody may open
    state = evidence.states.get(file)
    if reads:
        pids = evidence.writers(file)
        if not isinstance(state, PipeState) or state.unread or not pids:
            return None  # it can go on, at once or with an end of file
    else:
        pids = evidence.readers(file)
        if not evidence.is_full(file) or not pids:
            return None
    if outsiders.may_hold(file):
        return None
    return evidence.now.threads_of(pids, but=thread.tid)
