"""What hangs, out of the evidence. Each thread is in one case at most.

A set of threads that only its members could wake is stuck (graph.py). It is a deadlock where it contains work that
cannot be done: a write into what is full; or a read, a lock or a child's exit, if the set stays stuck without the waits
that a person or a signal handler may end (`is_strong`). A stuck set without work is idle: a pool waiting for tasks.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from pipecap.diagnosis import graph
from pipecap.diagnosis.evidence import Evidence
from pipecap.diagnosis.finding import Verdict
from pipecap.diagnosis.lines import meaning
from pipecap.proc import procfs, sockets
from pipecap.proc.files import File, Pipe, Socket
from pipecap.proc.snapshot import Process, Thread
from pipecap.proc.syscalls import Wait

Key: TypeAlias = tuple[tuple[File, ...], tuple[tuple[int, int, Wait], ...]]


@dataclass(frozen=True, slots=True)
class Case:
    """A hang as found: its threads, of these the blocked writers, and the pipes in question.

    `candidate`: a stall that is one only if nothing moves for a while (movement.py).
    """

    verdict: Verdict
    threads: tuple[Thread, ...]
    writers: tuple[Thread, ...] = ()
    files: tuple[File, ...] = ()
    unless: tuple[str, ...] = ()  # signals whose handlers may end it
    candidate: bool = False

    @property
    def key(self) -> Key:
        """What is the same in a later sample while it lasts."""
        return self.files, tuple((thread.tid, thread.start, thread.wait) for thread in self.writers or self.threads)


def find(seen: Evidence) -> list[Case]:
    """Find all hangs, by the wakers that wakers.py has noted."""
    stuck = graph.stuck(seen.wakers)
    strong = {tid: others if is_strong(seen, seen.blocked[tid]) else None for tid, others in seen.wakers.items()}
    robust = graph.stuck(strong)
    return [
        *(case for group in graph.groups(stuck, seen.wakers) for case in _cases(seen, group, robust)),
        *_stalls(seen, stuck),
        *_ends_that_do_not_come(seen, stuck),
        *_fifos(seen),
    ]


def is_strong(seen: Evidence, thread: Thread) -> bool:
    """Whether only what /proc shows can end a wait; else a person or a signal handler may, through an Event, say.

    Python runs signal handlers in the main thread, and what an Event or a semaphore is for is known by Python lines
    alone, or where it is a word of a queue of ours.
    """
    stack = seen.stacks.get(thread.tid)
    lock = seen.locks.get(thread.tid)
    if thread.wait.kind == "shared futex" and lock is not None:
        return bool(lock.word) or (stack is not None and meaning(stack) in ("get", "put", "feed", "tasks", "pool"))
    if thread.wait.kind in ("private futex", "shared futex"):
        if thread.tid != thread.pid:
            return True
        return stack is not None and meaning(stack) != "event"
    return True


# ---- what is stuck ----


def _cases(seen: Evidence, group: set[int], robust: set[int]) -> Iterator[Case]:
    writers = _by_number(seen, (tid for tid in group if seen.written(seen.blocked[tid]) is not None))
    if writers:
        core = graph.closure([thread.tid for thread in writers], seen.wakers)
        if not _ends_otherwise(seen, core):
            yield _deadlock(seen, core, writers)
        return
    left = group & robust
    for part in graph.groups(left, seen.wakers):
        core = graph.core(part, seen.wakers)
        if core and _has_work(seen, core) and not _is_self_pipe(seen, core) and not _ends_otherwise(seen, core):
            yield _deadlock(seen, core, ())
        left -= part if core else set()
    rest = _by_number(seen, group - robust)
    waiting = [thread for thread in rest if thread.wait.kind in ("read", "poll") or thread.tid in seen.locks]
    if waiting:
        yield Case("idle", tuple(rest))


def _has_work(seen: Evidence, core: set[int]) -> bool:
    """Whether a set waits for more than locks of its own processes, which Ctrl-C or another signal may end.

    A lock of a forked child's only thread, whose parent waits for the child, nobody is left to release.
    """
    threads = [seen.blocked[tid] for tid in core]
    if any(thread.wait.kind != "private futex" and (thread.tid in seen.locks or thread.wait.fds) for thread in threads):
        return True
    if any(thread.wait.kind == "child" for thread in threads):
        return True
    return any(was_forked(seen, thread.pid) and is_waited_for(seen, thread.pid) for thread in threads)


def _ends_otherwise(seen: Evidence, core: set[int]) -> bool:
    """Whether a wait of a set ends by what its call does not show: a time limit of a socket, a traced process."""
    threads = [seen.blocked[tid] for tid in core]
    for thread in threads:
        for each in thread.wait.fds if thread.wait.kind in ("read", "write") else ():
            file = seen.file(thread, each)
            if isinstance(file, Socket) and sockets.has_time_limit(thread.pid, each.fd, file.inode):
                return True
    waiters = {str(thread.pid) for thread in threads if thread.wait.kind == "child"}
    return bool(waiters) and any(
        procfs.tracer(process.pid, seen.now.proc) in waiters for process in seen.now.processes.values()
    )


def was_forked(seen: Evidence, pid: int) -> bool:
    """Whether a process runs its parent's program: it was forked, and executed none of its own."""
    process = seen.now.processes[pid]
    parent = seen.now.processes.get(process.ppid)
    return parent is not None and parent.command == process.command


def is_waited_for(seen: Evidence, pid: int) -> bool:
    """Whether a thread of its parent waits for a process to end."""
    parent = seen.now.processes[pid].ppid
    tids = seen.now.threads_of([pid])
    return any(
        thread.pid == parent and thread.wait.kind in ("child", "poll") and tids & (seen.wakers.get(thread.tid) or set())
        for thread in seen.blocked.values()
    )


def _deadlock(seen: Evidence, core: set[int], writers: Iterable[Thread]) -> Case:
    threads = _by_number(seen, core)
    files = [file for writer in writers if (file := seen.written(writer)) is not None]
    if not files:
        read = [(thread.pid, file) for thread in threads for file in seen.awaited(thread)]
        files = [file for pid, file in read if seen.writers(file) - {pid}] or [file for _, file in read]
    unless = {name for pid in {thread.pid for thread in threads} for name in procfs.handled(pid, seen.now.proc)}
    if any(thread.wait.masked for thread in threads):
        unless.add("a signal that its call lets through")
    return Case("deadlock", tuple(threads), tuple(writers), tuple(dict.fromkeys(files)), tuple(sorted(unless)))


def _by_number(seen: Evidence, tids: Iterable[int]) -> list[Thread]:
    return sorted((seen.blocked[tid] for tid in tids), key=lambda thread: thread.tid)


def _is_self_pipe(seen: Evidence, core: set[int]) -> bool:
    """Whether it is one process that waits for its own signal handlers: to write to its own end, which never blocks."""
    threads = [seen.blocked[tid] for tid in core]
    if len({thread.pid for thread in threads}) > 1:
        return False
    process = seen.process(threads[0])
    handlers = bool(procfs.handled(process.pid, seen.now.proc)) and not seen.now.ended_children(process.pid)
    sources = [seen.source(file) for thread in threads for file in seen.awaited(thread)]
    ends = [end for end in process.ends if end.file in sources and end.writes]
    return bool(ends) and (handlers or any(_is_nonblocking(seen, process, end.fd) for end in ends))


def _is_nonblocking(seen: Evidence, process: Process, fd: int) -> bool:
    try:
        return bool(int(procfs.fdinfo(process.pid, fd, seen.now.proc)["flags"], 8) & os.O_NONBLOCK)
    except (OSError, KeyError, ValueError):
        return False


# ---- what may yet move, and does not ----


def _stalls(seen: Evidence, stuck: set[int]) -> Iterator[Case]:
    """Find writers that wait for room, and are not proven to wait for ever."""
    by_file: defaultdict[File, list[Thread]] = defaultdict(list)
    for tid, thread in seen.blocked.items():
        file = seen.written(thread) if tid not in stuck else None
        if file is not None:
            by_file[file].append(thread)
    for file, writers in by_file.items():
        verdict: Verdict = "idle" if _waits_for_a_person(seen, seen.readers(file)) else "stall"
        yield Case(verdict, tuple(writers), tuple(writers), (file,), candidate=verdict == "stall")


def _waits_for_a_person(seen: Evidence, pids: set[int]) -> bool:
    """Whether a reader waits for its terminal, as a pager does."""
    for pid in pids:
        for thread in seen.now.processes[pid].threads:
            if thread.wait.kind in ("read", "poll", "outside", "unknown"):
                fds = [each.fd for each in thread.wait.fds if each.reads]
                if any(procfs.is_terminal(pid, fd, seen.now.proc) for fd in fds):
                    return True
    return False


def _ends_that_do_not_come(seen: Evidence, stuck: set[int]) -> Iterator[Case]:
    """Find readers to the end of a pipe whose writers have left them: only orphans hold its write end.

    The child that was to write has ended; what it left behind holds its stdout or stderr, and waits for something else.
    """
    for thread in seen.blocked.values():
        if thread.tid in stuck:
            continue
        process = seen.process(thread)
        for file in seen.awaited(thread):
            holders = seen.writers(file)
            if not isinstance(file, Pipe) or seen.unread(file) or not holders or thread.pid in holders:
                continue
            if all(_is_orphan(seen, process, seen.now.processes[pid], file) for pid in holders):
                yield Case("stall", (thread,), (), (file,), candidate=True)
                break


def _is_orphan(seen: Evidence, reader: Process, holder: Process, file: File) -> bool:
    """Whether a process was started below a reader, lost its parent, and writes nothing to what it inherited."""
    parents = {reader.pid, *_ancestors(seen, reader)}
    was_reparented = holder.ppid in parents and (holder.ppid != reader.ppid or holder.ppid == reader.pid)
    began_later = holder.start >= reader.start
    inherited = any(end.file == file and end.writes and end.fd in (1, 2) for end in holder.ends)
    has_ended_child = bool(seen.now.ended_children(reader.pid))
    return was_reparented and began_later and inherited and (has_ended_child or holder.ppid != reader.pid)


def _ancestors(seen: Evidence, process: Process) -> Iterator[int]:
    known: set[int] = set()
    while process.ppid and process.ppid not in known:
        known.add(process.ppid)
        yield process.ppid
        parent = seen.now.processes.get(process.ppid)
        if parent is None:
            return
        process = parent


def _fifos(seen: Evidence) -> Iterator[Case]:
    """Find relatives that each wait in open(2) for the other to open another FIFO."""
    opening = [thread for thread in seen.blocked.values() if thread.wait.kind == "open"]
    while opening:
        first = opening.pop()
        family = {first.pid, *_ancestors(seen, seen.process(first))}
        others = [
            thread
            for thread in opening
            if thread.wait.path != first.wait.path
            and seen.process(thread).session == seen.process(first).session
            and family & {thread.pid, *_ancestors(seen, seen.process(thread))} - {1}
        ]
        if others:
            opening = [thread for thread in opening if thread not in others]
            yield Case("stall", tuple(sorted([first, *others], key=lambda each: each.tid)), candidate=True)
