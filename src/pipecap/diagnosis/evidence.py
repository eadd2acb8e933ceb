"""Two snapshots of all processes, a window apart: which threads did not run meanwhile, and what they wait for.

All that counts as blocked was so during the whole window, so at one moment all of it was: what follows from it together
is true of that moment.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from pipecap.kernel import shared
from pipecap.kernel.pipes import PipeState
from pipecap.proc import peek, procfs, snapshot, sockets
from pipecap.proc.files import Fifo, File, Pipe, Socket
from pipecap.proc.snapshot import End, Process, Snapshot, Thread
from pipecap.proc.sockets import SocketState
from pipecap.proc.stacks import Stack
from pipecap.proc.syscalls import Watched

State: TypeAlias = PipeState | SocketState | str


@dataclass(frozen=True, slots=True)
class Lock:
    """What a thread waits for in shared memory.

    `memory` names the mapping, empty where any process may open it or it may not be read; `offset` is the place in it.
    `word`: which word of a queue of pipecap it is ("writing", "reading", "credits", "all_done"), empty for any other
    semaphore. `owner`: the process that has taken it, where the word says so.
    """

    memory: str
    offset: int
    word: str = ""
    owner: int | None = None


@dataclass
class Evidence:
    """What two snapshots show together.

    `blocked`: threads, by number, that slept in the same call in both and never ran in between. `states`: the pipes and
    sockets that they wait for; a text says why one could not be seen. `locks`: of those that wait in shared memory.
    `wakers`: of each blocked thread, the threads that could end its wait; None where somebody else could.
    `suspects`: processes that may not be read, and may be wakers. `stacks`: the Python lines, where they were taken.
    `log_writers`: the threads that write a log record.
    """

    before: Snapshot
    now: Snapshot
    window: float
    blocked: dict[int, Thread]
    states: dict[File, State]
    locks: dict[int, Lock] = field(default_factory=dict)
    wakers: dict[int, set[int] | None] = field(default_factory=dict)
    suspects: set[int] = field(default_factory=set)
    stacks: dict[int, Stack] = field(default_factory=dict)
    log_writers: set[int] = field(default_factory=set)

    @cached_property
    def holders(self) -> dict[File, list[tuple[int, End]]]:
        """The processes that hold each file, and their descriptors."""
        return self.now.holders()

    def process(self, thread: Thread) -> Process:
        """Return the process of a thread."""
        return self.now.processes[thread.pid]

    def state(self, file: File | None) -> PipeState | SocketState | None:
        """Return the state of a pipe or socket; None where it could not be seen."""
        found = self.states.get(file) if file is not None else None
        return None if isinstance(found, str) else found

    def unread(self, file: File) -> int | None:
        """Return how many bytes wait to be read behind a read end or in a socket."""
        state = self.state(file)
        return None if state is None else state.unread

    def is_full(self, file: File | None, *, polled: bool = False) -> bool:
        """Whether a writer sleeps: no slot is free, or it could not be seen, as the writer sleeps all the same."""
        found = self.states.get(file) if file is not None else None
        if isinstance(found, str):
            return not polled
        return found is not None and bool(found.full)

    # -- what a thread waits for --

    def file(self, thread: Thread, watched: Watched) -> File | None:
        """Return what is behind a descriptor that a thread waits for; None where that is of no interest."""
        end = self.process(thread).end(watched.fd)
        return end.file if end else None

    def written(self, thread: Thread) -> File | None:
        """Return the full pipe or socket that a blocked thread waits for room in: in a write, or polling for one."""
        if thread.tid not in self.blocked:
            return None
        if thread.wait.kind == "write":
            file = self._only_full(thread) if thread.wait.weak else self.file(thread, thread.wait.fds[0])
            return file if isinstance(file, Pipe | Fifo | Socket) and self.is_full(file) else None
        if thread.wait.kind == "poll":
            files = (self.file(thread, each) for each in thread.wait.fds if each.writes)
            full = (file for file in files if isinstance(file, Pipe | Fifo | Socket))
            return next((file for file in full if self.is_full(file, polled=True)), None)
        return None

    def _only_full(self, thread: Thread) -> File | None:
        """Where the call may not be read: the one full pipe that its process can write to."""
        files = {end.file for end in self.process(thread).ends if end.is_pipe and end.writes}
        full = [file for file in files if self.state(file) and self.is_full(file)]
        return full[0] if len(full) == 1 else None

    def awaited(self, thread: Thread) -> list[File]:
        """Return the pipes and sockets that a blocked thread waits to read from."""
        if thread.wait.kind not in ("read", "poll"):
            return []
        files = [self.file(thread, each) for each in thread.wait.fds if each.reads]
        return [file for file in files if isinstance(file, Pipe | Fifo | Socket)]

    # -- who is at its ends --

    def source(self, file: File) -> File | None:
        """Return what the bytes that are read from a file are written to: of a pipe itself, of a socket its peer."""
        if not isinstance(file, Socket):
            return file
        state = self.state(file)
        return Socket(state.peer) if isinstance(state, SocketState) and state.peer is not None else None

    def readers(self, file: File | None) -> set[int]:
        """Return the processes that can read what is written to a file."""
        source = self.source(file) if file is not None else None
        return {pid for pid, end in self.holders.get(source, ()) if end.reads} if source is not None else set()

    def writers(self, file: File | None) -> set[int]:
        """Return the processes that can write what is read from a file."""
        source = self.source(file) if file is not None else None
        return {pid for pid, end in self.holders.get(source, ()) if end.writes} if source is not None else set()


def gather(*, window: float, proc: str = "/proc", ignored: Collection[int] = ()) -> Evidence:
    """Take two snapshots, `window` seconds apart. Raises Unsupported where procfs is missing."""
    begin = time.monotonic()
    before = snapshot.take(proc=proc, ignored=ignored)
    time.sleep(max(0.0, window - (time.monotonic() - begin)))
    return compare(before, snapshot.take(proc=proc, ignored=ignored), window)


def compare(before: Snapshot, now: Snapshot, window: float) -> Evidence:
    """Return what two snapshots show together."""
    waiting = {thread.tid: thread for thread in before.threads() if thread.blocked}
    blocked = {thread.tid: thread for thread in now.threads() if waiting.get(thread.tid) == thread}
    seen = Evidence(before, now, window, blocked, {})
    seen.states = _states(seen)
    seen.locks = dict(_locks(seen))
    return seen


def is_between_rounds(seen: Evidence, pids: Collection[int]) -> bool:
    """Whether a thread of these processes waits in rounds, and was met between two of them: another sample is due."""
    before = {thread.tid: thread for thread in seen.before.threads() if thread.pid in pids}
    return any(
        now.wait.rounds != before[now.tid].wait.rounds and "running" in (now.wait.kind, before[now.tid].wait.kind)
        for pid in pids
        for now in seen.now.processes[pid].threads
        if now.tid in before
    )


def _states(seen: Evidence) -> dict[File, State]:
    """See the pipes and sockets that matter: those that blocked threads wait for, and those of lock waiters."""
    files: set[File] = set()
    for thread in seen.blocked.values():
        ends = seen.process(thread).ends
        if thread.wait.kind == "shared futex" or thread.wait.weak:
            files |= {end.file for end in ends if end.is_pipe}
        else:
            watched = {each.fd for each in thread.wait.fds}
            files |= {end.file for end in ends if end.fd in watched and isinstance(end.file, Pipe | Fifo | Socket)}
    known = sockets.unix_sockets() if any(isinstance(file, Socket) for file in files) else {}
    found: dict[File, State] = {}
    for file in files:
        if isinstance(file, Socket):
            state = known.get(file.inode)
            found[file] = state or "it is no Unix socket of this network namespace"
            if state is not None and state.peer in known:
                found[Socket(state.peer)] = known[state.peer]
        else:
            found[file] = peek.state_of(file, seen.holders[file], proc=seen.now.proc)
    return found


def _locks(seen: Evidence) -> Iterator[tuple[int, Lock]]:
    """Find what threads wait for in shared memory. One that is not shared is a lock of its process alone."""
    for thread in seen.blocked.values():
        if thread.wait.kind != "shared futex" or thread.wait.address is None:
            continue
        try:
            place = procfs.shared_mapping(thread.pid, thread.wait.address, seen.now.proc)
        except OSError:
            yield thread.tid, Lock("", 0)
            continue
        if place is not None and place.is_named:
            yield thread.tid, Lock("", 0)
        elif place is not None:
            yield thread.tid, _lock(seen, thread, place)


def _lock(seen: Evidence, thread: Thread, place: procfs.Mapping) -> Lock:
    word = shared.word_at(place.offset) if place.is_pipecap else ""
    owner = None
    if word in ("writing", "reading") and thread.wait.address is not None:
        memory = procfs.ThreadMemory(thread.pid, thread.tid, seen.now.proc)
        data = memory.read(thread.wait.address - place.offset, shared.SIZE)
        owner = shared.owner(data, word) if data else None
    return Lock(place.file, place.offset, word, owner)


def mapping(seen: Evidence) -> dict[str, set[int]]:
    """Return the processes that map the memory of each lock that a thread waits for."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    if seen.locks:
        for process in seen.now.processes.values():
            if process.threads:
                with suppress(OSError):
                    for file in procfs.shared_files(process.pid, seen.now.proc):
                        found[file].add(process.pid)
    return found


def pids(threads: Iterable[Thread]) -> list[int]:
    """Return the processes of threads, in order."""
    return list(dict.fromkeys(thread.pid for thread in threads))
