"""What a pattern says, and the questions about processes that several patterns ask. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from pipecap.diagnosis.evidence import Evidence
from pipecap.diagnosis.find import Case
from pipecap.proc.files import File, PidFd, Socket
from pipecap.proc.snapshot import Thread

STDIN, STDOUT, STDERR = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Named:
    """A pattern, its cause, its fix; `no_growth` says why no growing of a pipe helps, empty where it does."""

    pattern: str
    cause: str
    fix: str
    no_growth: str = ""


def kind_of(file: File) -> str:
    """Return what a file is called in a sentence."""
    return "socketpair" if isinstance(file, Socket) else "pipe"


def is_python(seen: Evidence, pid: int) -> bool:
    """Whether a process runs Python, by its command."""
    words = seen.now.processes[pid].command.split() or [""]
    return "python" in words[0].rpartition("/")[2] or any(
        thread.tid in seen.stacks for thread in seen.now.processes[pid].threads
    )


def serves(seen: Evidence, pid: int) -> bool:
    """Whether it is a process of multiprocessing's own, which only cleans up."""
    return "multiprocessing.resource_tracker" in seen.now.processes[pid].command


def is_child(seen: Evidence, thread: Thread, pid: int) -> bool:
    """Whether a thread is one of a child of a process."""
    return seen.process(thread).ppid == pid


def waits_for_end_of(seen: Evidence, thread: Thread, pid: int) -> bool:
    """Whether a thread waits until a process has ended: by wait4, a pidfd, or a pipe that only that one keeps open."""
    files = [seen.file(thread, each) for each in thread.wait.fds]
    if thread.wait.kind == "child" or PidFd(pid) in files:
        return any(tid in seen.blocked and seen.blocked[tid].pid == pid for tid in seen.wakers.get(thread.tid) or ())
    written = {seen.written(other) for other in seen.blocked.values() if other.pid == pid}
    # multiprocessing's sentinel: a pipe that the child holds open and never writes to.
    wakers = seen.wakers.get(thread.tid) or set()
    if not wakers or not wakers <= seen.now.threads_of([pid]) or written & {*files}:
        return False
    return any(_is_sentinel(seen, pid, file) for file in seen.awaited(thread))


def _is_sentinel(seen: Evidence, pid: int, file: File) -> bool:
    ends = [end for holder, end in seen.holders.get(file, ()) if holder == pid]
    return all(end.writes and end.fd > STDERR for end in ends)


def waits_for(seen: Evidence, case: Case, pid: int) -> Thread | None:
    """Return a thread that waits for a process to end: one of the case, or of its parent, for no other child."""
    parent = seen.now.processes[pid].ppid
    threads = [thread for thread in case.threads if not serves(seen, thread.pid)]
    threads += [thread for thread in seen.blocked.values() if thread.pid == parent and (thread.wait.child or 0) > 0]
    return next((thread for thread in threads if thread.pid != pid and waits_for_end_of(seen, thread, pid)), None)


def unread_bytes(seen: Evidence, pids: Collection[int], files: Iterable[File]) -> tuple[File, int] | None:
    """Return a pipe with unread bytes that all of some processes could read, and nothing reads."""
    reading = {file for thread in seen.blocked.values() for file in seen.awaited(thread)}
    for file in sorted(files, key=str):
        unread = seen.unread(file)
        if unread and {*pids} <= seen.readers(file) and file not in reading:
            return file, unread
    return None
