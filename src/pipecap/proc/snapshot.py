"""All processes at one moment: their threads and what each waits in, who holds which end of which pipe.

A snapshot is read off /proc, without stopping anything. peek.py reads the state of the pipes found.
"""

from __future__ import annotations

import os
import platform
import re
import stat
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from pipecap.proc import procfs, syscalls
from pipecap.proc.files import EventFd, Fifo, File, PidFd, Pipe, Ring, Socket
from pipecap.proc.syscalls import Wait
from pipecap.words import first_of

_GONE = (FileNotFoundError, ProcessLookupError)
_BLOCKED = ("write", "read", "open", "poll", "child", "private futex", "shared futex")
_REMOTE = ("nfs", "cifs", "smb", "fuse", "9p", "ceph", "afs", "gfs", "glusterfs", "lustre")
_INODES: dict[str, type[Pipe] | type[Socket]] = {"pipe": Pipe, "socket": Socket}
_PRIVILEGE = "run as the user who owns it, or as root with CAP_SYS_PTRACE"


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread and what it waits in.

    `line` and `switches` are equal in two snapshots if it did not run in between, or, waiting in rounds, moved no byte.
    """

    pid: int
    tid: int
    start: int
    name: str
    state: str
    wait: Wait
    line: str
    switches: str

    @property
    def blocked(self) -> bool:
        """Whether it sleeps in a call that only certain others can end."""
        return self.state in "SD" and self.wait.kind in _BLOCKED


@dataclass(frozen=True, slots=True)
class End:
    """An open descriptor by which threads may wait for one another."""

    fd: int
    file: File
    reads: bool
    writes: bool

    @property
    def is_pipe(self) -> bool:
        """Whether it is of a pipe or FIFO."""
        return isinstance(self.file, Pipe | Fifo)


@dataclass(frozen=True, slots=True)
class Process:
    """A process. `closed` says why its threads and descriptors may not be read; empty where they may."""

    pid: int
    ppid: int
    session: int
    start: int
    uid: int
    state: str
    command: str
    threads: tuple[Thread, ...]
    ends: tuple[End, ...]
    closed: str = ""
    has_io_uring: bool = False
    hidden: bool = False  # by hidepid: its parent and session are not known either
    names: dict[int, str] = field(default_factory=dict)  # of FIFOs, by fd

    @property
    def has_ended(self) -> bool:
        """Whether only its exit status is left."""
        return self.state in "ZX"

    def end(self, fd: int) -> End | None:
        """Find what a descriptor is."""
        return next((end for end in self.ends if end.fd == fd), None)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was seen, and where it was read from."""

    proc: str
    processes: dict[int, Process]
    ignored: frozenset[int]  # threads of our own that only look
    hides: bool = False  # mounted with hidepid=2 or 4: who is hidden does not show at all

    def threads(self) -> Iterator[Thread]:
        """Give all threads."""
        for process in self.processes.values():
            yield from process.threads

    def threads_of(self, pids: Iterable[int], *, but: int = 0) -> set[int]:
        """Give the threads of some processes."""
        return {
            thread.tid
            for pid in pids
            if pid in self.processes
            for thread in self.processes[pid].threads
            if thread.tid != but
        }

    def holders(self) -> dict[File, list[tuple[int, End]]]:
        """Return the holders of each file: processes and their ends."""
        found: defaultdict[File, list[tuple[int, End]]] = defaultdict(list)
        for process in self.processes.values():
            for end in process.ends:
                found[end.file].append((process.pid, end))
        return dict(found)

    def children(self, pid: int) -> list[Process]:
        """Give the children of a process."""
        return [process for process in self.processes.values() if process.ppid == pid]

    def ended_children(self, pid: int) -> list[int]:
        """Return the children of a process that have ended, and wait to be reaped."""
        return [child.pid for child in self.children(pid) if child.has_ended]

    def tree(self, *pids: int) -> set[int]:
        """Give processes and their descendants."""
        found = {*pids}
        border = [*pids]
        by_parent: defaultdict[int, list[int]] = defaultdict(list)
        for process in self.processes.values():
            by_parent[process.ppid].append(process.pid)
        while border:
            new = [child for child in by_parent[border.pop()] if child not in found]
            found.update(new)
            border += new
        return found

    def unknown(self, pids: Collection[int] | None = None) -> list[str]:
        """Say what could not be read, of all processes or of some, and what would help."""
        reasons: defaultdict[str, list[int]] = defaultdict(list)
        for process in self.processes.values():
            if process.closed and (pids is None or process.pid in pids):
                reasons[process.closed].append(process.pid)
        told = [f"{first_of(pids)}: {reason}" for reason, pids in reasons.items()]
        if self.hides and (pids is None or pids):
            told.append(f"processes of other users: hidden by hidepid: {_PRIVILEGE}")
        return told


def take(*, proc: str = "/proc", ignored: Collection[int] = ()) -> Snapshot:
    """Look at every process that may be looked at. Raises Unsupported where procfs is missing."""
    procfs.require_procfs(proc)
    machine = platform.machine()
    remote = _remote_mounts(proc)
    processes: dict[int, Process] = {}
    hidden = frozenset(ignored)
    for pid in procfs.pids(proc):
        with suppress(*_GONE):
            process = _process(pid, proc, machine, remote, hidden)
            if process is not None:
                processes[pid] = process
    return Snapshot(proc, processes, hidden, _hides(proc))


def _hides(proc: str) -> bool:
    """Whether that procfs leaves out processes of others, and this process is not exempt: it does not see PID 1."""
    if os.path.exists(f"{proc}/1"):
        return False
    with suppress(OSError):
        for line in procfs.text(f"{proc}/self/mountinfo").splitlines():
            row = line.split(" ")
            if _unescaped(row[4]) == proc and "hidepid=" in row[-1]:
                return True
    return False


def _process(pid: int, proc: str, machine: str, remote: tuple[str, ...], ignored: frozenset[int]) -> Process | None:
    path = f"{proc}/{pid}"
    try:
        seen = procfs.stat(path)
    except PermissionError:  # hidepid=1
        return Process(
            pid, 0, 0, 0, os.stat(path).st_uid, "?", "", (), (), closed=f"hidden by hidepid: {_PRIVILEGE}", hidden=True
        )
    if seen.kernel:
        return None  # threads of the kernel hold no descriptors
    uid = os.stat(path).st_uid
    state, first = seen.state, pid
    if state in "ZX":
        first, state = _living_thread(pid, proc) or (pid, state)
    facts = (pid, seen.ppid, seen.session, seen.start, uid, state)
    if state in "ZX":
        return Process(*facts, f"({seen.name})", (), ())
    command = procfs.command(pid, proc) or f"({seen.name})"
    names: dict[int, str] = {}
    try:
        ends = tuple(_ends(first, proc, remote, names))
    except PermissionError:
        if procfs.has_ended(pid, proc):
            return Process(*facts[:5], "Z", command, (), ())
        return Process(*facts, command, (), (), closed=f"may not be looked into: {_PRIVILEGE}")
    threads = tuple(_threads(pid, proc, machine, ignored))
    ring = any(end.file == Ring() for end in ends)
    return Process(*facts, command, threads, ends, names=names, has_io_uring=ring)


def _living_thread(pid: int, proc: str) -> tuple[int, str] | None:
    """Find a thread that outlives the first one of its process, and its state: the descriptors are seen through it."""
    for tid in procfs.threads(pid, proc):
        with suppress(*_GONE):
            state = procfs.stat(f"{proc}/{pid}/task/{tid}").state
            if state not in "ZX":
                return tid, state
    return None


def _ends(pid: int, proc: str, remote: tuple[str, ...], names: dict[int, str]) -> Iterator[End]:
    for each in procfs.descriptors(pid, proc):
        kind, _, number = each.link.partition(":[")
        if kind in _INODES:
            if each.reads or each.writes:
                yield End(each.fd, _INODES[kind](int(number.rstrip("]"))), each.reads, each.writes)
        elif each.link == str(Ring()):
            yield End(each.fd, Ring(), False, False)
        elif each.link == "anon_inode:[pidfd]":
            with suppress(KeyError, ValueError, *_GONE):
                yield End(each.fd, PidFd(procfs.pidfd(pid, each.fd, proc)), True, False)
        elif each.link == "anon_inode:[eventfd]":
            with suppress(KeyError, ValueError, *_GONE):
                yield End(each.fd, EventFd(int(procfs.fdinfo(pid, each.fd, proc)["eventfd-id"])), True, True)
        elif each.link.startswith("/") and (each.reads or each.writes) and not each.link.startswith(remote):
            # What is on a dead network or FUSE mount would never answer a stat.
            with suppress(OSError):
                status = os.stat(f"{proc}/{pid}/fd/{each.fd}")
                if stat.S_ISFIFO(status.st_mode):
                    names[each.fd] = each.link
                    yield End(each.fd, Fifo(status.st_dev, status.st_ino), each.reads, each.writes)


def _remote_mounts(proc: str) -> tuple[str, ...]:
    """Give where what may hang is mounted, besides /dev, which has no FIFOs worth a look."""
    try:
        rows = [line.split(" ") for line in procfs.text(f"{proc}/self/mountinfo").splitlines()]
    except OSError:
        rows = []
    return ("/dev/", *(_unescaped(row[4]) + "/" for row in rows if row[row.index("-") + 1].startswith(_REMOTE)))


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _threads(pid: int, proc: str, machine: str, ignored: frozenset[int]) -> Iterator[Thread]:
    for tid in procfs.threads(pid, proc):
        if tid not in ignored:
            try:
                yield _thread(pid, tid, proc, machine)
            except _GONE:  # it may have started another one, which is not listed
                yield Thread(pid, tid, 0, "", "R", syscalls.RUNNING, "", "")


def _thread(pid: int, tid: int, proc: str, machine: str) -> Thread:
    path = f"{proc}/{pid}/task/{tid}"
    line, wait = "", None
    with suppress(PermissionError, FileNotFoundError):
        line = procfs.text(f"{path}/syscall")
        wait = syscalls.decode(line, machine, procfs.ThreadMemory(pid, tid, proc))
    if wait is None:
        line = procfs.wchan(path)
        wait = syscalls.from_wchan(line)
    seen = procfs.stat(path)
    switches = ""
    if wait.rounds:
        line = ""
        try:
            moved = procfs.fields(f"{path}/io")
            switches = f"{moved['rchar']} {moved['wchar']}"
        except (PermissionError, FileNotFoundError, KeyError):  # whether it moves bytes cannot be seen
            wait = syscalls.Wait("unknown", wait.call)
    elif wait.kind in _BLOCKED:
        switches = procfs.status(path).get("voluntary_ctxt_switches", "")
    return Thread(pid, tid, seen.start, seen.name, seen.state, wait, line, switches)
