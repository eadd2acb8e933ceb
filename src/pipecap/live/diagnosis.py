"""diagnose(): which pipe hangs a program, proven where it can be, with the evidence, the cause and what to do."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from pipecap.errors import AccessDenied, InvalidSize, ProcessGone
from pipecap.kernel.limits import PAGE_SIZE, HostLimits, limits
from pipecap.kernel.slots import round_capacity
from pipecap.live import deadlock, evidence, patterns, procfs
from pipecap.live.evidence import Evidence
from pipecap.live.patterns import Case
from pipecap.live.snapshot import Thread
from pipecap.results import Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    Verdict: TypeAlias = Literal["deadlock", "stall", "quiet"]

WINDOW = 0.3


@dataclass(frozen=True, slots=True)
class PipeNow(Result):
    """A pipe of a finding, as it is now: bytes, and slots of a page each.

    `file` is "pipe:[INODE]", or "fifo:DEVICE:INODE"; a "socket:[INODE]" has neither capacity nor fullness. What could
    not be looked at is None, and `unknown` says why. `readers` and `writers` are PIDs.
    """

    file: str
    inode: int
    capacity: int | None
    slots: int | None
    unread: int | None
    full: bool | None
    readers: tuple[int, ...]
    writers: tuple[int, ...]
    unknown: str


@dataclass(frozen=True, slots=True)
class Party(Result):
    """A thread of a finding.

    `role`: "writer", "reader" (it should read), "waits". `call`: what it waits in. `fd`, `count`, `to_go`: of a blocked
    write: its descriptor, its bytes, and how many of them are at least still to be written if nobody read a part of it.
    `waits_for`: the threads that could end its wait. `weak`: told by wchan alone. `line`: its place in Python (py-spy).
    """

    role: str
    pid: int
    tid: int
    command: str
    call: str
    file: str
    fd: int | None
    count: int | None
    to_go: int | None
    waits_for: tuple[int, ...]
    weak: bool
    line: str | None = None


@dataclass(frozen=True, slots=True)
class Finding(Result):
    """One hang.

    `verdict`: "deadlock", proven: none of the parties moves again, short of a signal; "stall": a full pipe that nobody
    read while we looked; "quiet": nothing moves and nothing waits to. `pattern` is its name, `cause` says it in words,
    `fix` is the line of code; `rescuable`: whether growing the pipe can free it, and `rescue` says how or why not.
    """

    verdict: Verdict
    pattern: str
    pipes: tuple[PipeNow, ...]
    parties: tuple[Party, ...]
    cause: str
    fix: str
    rescuable: bool
    rescue: str

    @property
    def key(self) -> tuple[str, tuple[int, ...]]:
        """What stays the same while the hang lasts: of a stall its writers, as others may come and go."""
        lasting = [party.tid for party in self.parties if self.verdict != "stall" or party.role == "writer"]
        return self.pattern, tuple(sorted(lasting))


@dataclass(frozen=True, slots=True)
class Diagnosis(Result):
    """What hangs, the worst first, and `unknown`: what could not be read, and why. `pid` None: all of this user."""

    pid: int | None
    window: float
    findings: tuple[Finding, ...]
    unknown: tuple[str, ...]

    @property
    def problem(self) -> bool:
        """Whether there is a deadlock or a stall."""
        return any(finding.verdict != "quiet" for finding in self.findings)


def diagnose(pid: int | None = None, *, window: float = WINDOW, stacks: bool = False, proc: str = "/proc") -> Diagnosis:
    """Look at a process and its descendants twice, `window` seconds apart, and tell what hangs.

    Without `pid`, at all processes of this user; as root, at everybody's. Reads /proc and opens a pipe for some
    microseconds; stops nobody, changes nothing. With `stacks` each party has its Python line, by py-spy in its
    non-blocking mode (extra `stacks`).

    Raises ProcessGone, AccessDenied where that process may not be looked into (needs ptrace access: its user, or
    CAP_SYS_PTRACE), Unsupported where procfs is missing, InvalidSize for a window that is none.
    """
    if pid is not None:
        _require(pid, proc)
    if not 0 < window < 3600:
        raise InvalidSize(window, "a window is more than 0 seconds and less than an hour", hint="0.3 is usual")
    seen = evidence.gather(window=window, proc=proc)
    found = judge(seen, _scope(seen, pid), pid)
    return with_stacks(found) if stacks else found


def judge(seen: Evidence, scope: Collection[int], pid: int | None) -> Diagnosis:
    """Draw the conclusions that touch a process in `scope`."""
    host = limits()
    cases = [case for case in find(seen) if any(thread.pid in scope for thread in case.threads)]
    order = ("deadlock", "stall", "quiet")
    findings = sorted((_finding(seen, case, host, pid) for case in cases), key=lambda each: order.index(each.verdict))
    return Diagnosis(pid, seen.window, tuple(findings), tuple(seen.now.unknown()))


def with_stacks(found: Diagnosis) -> Diagnosis:
    """Add the Python line of each party, by py-spy for other processes."""
    from pipecap.live import stacks

    lines, why = stacks.lines({party.pid for finding in found.findings for party in finding.parties})
    return replace(with_lines(found, lines), unknown=(*found.unknown, *why))


def with_lines(found: Diagnosis, lines: Mapping[int, str]) -> Diagnosis:
    """Add the Python line of each party that has one, by its thread."""
    findings = tuple(
        replace(each, parties=tuple(replace(party, line=lines.get(party.tid)) for party in each.parties))
        for each in found.findings
    )
    return replace(found, findings=findings)


def _require(pid: int, proc: str) -> None:
    """Raise ProcessGone at once for what is no process."""
    procfs.require_procfs(proc)
    if type(pid) is not int or not 0 < pid < 2**31 or not os.path.exists(f"{proc}/{pid}"):
        raise ProcessGone(pid)


def _scope(seen: Evidence, pid: int | None) -> set[int]:
    if pid is None:
        me = os.geteuid()
        return {process.pid for process in seen.now.processes.values() if me in (0, process.uid)}
    process = seen.now.processes.get(pid)
    if process is None or process.state in "ZX":
        raise ProcessGone(pid)
    if process.closed:
        raise AccessDenied(f"process {pid} may not be looked into")
    return seen.now.tree(pid)


# ---- what hangs ----


def find(seen: Evidence) -> list[Case]:
    """Find all hangs, each thread in one at most."""
    stuck = deadlock.stuck(seen.movers)
    cases = []
    for group in deadlock.groups(stuck, seen.movers):
        threads = sorted((seen.blocked[tid] for tid in group), key=lambda thread: thread.tid)
        case = _stuck_case(seen, threads)
        if case:
            cases.append(case)
    cases += _stalls(seen, stuck)
    cases += _stalled_sockets(seen, stuck)
    return cases


def _stuck_case(seen: Evidence, threads: list[Thread]) -> Case | None:
    writers = [thread for thread in threads if _on_full_pipe(seen, thread)]
    if writers:
        return Case("deadlock", threads, writers, _files(seen, writers))
    waiters = [thread for thread in threads if thread.tid in seen.locks]
    if len({seen.locks[thread.tid] for thread in waiters}) > 1:
        return Case("quiet", threads, [], (), waiters)  # several locks: in a cycle, or of several queues
    if not waiters:
        reading = [thread for thread in threads if thread.wait.kind in ("read", "poll")]
        return Case("quiet", threads, [], ()) if reading else None
    unread = _nobody_reads(seen, threads, waiters)
    return Case("deadlock" if unread else "quiet", threads, [], tuple(unread), waiters)


def _on_full_pipe(seen: Evidence, thread: Thread) -> bool:
    file = seen.written(thread)
    return file.startswith(("pipe:", "fifo:")) and seen.is_full(file)


def _files(seen: Evidence, writers: Iterable[Thread]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(seen.written(writer) for writer in writers))


def _nobody_reads(seen: Evidence, threads: list[Thread], waiters: list[Thread]) -> list[str]:
    """Find the pipes with unread bytes that all who wait for the lock could read, and nobody reads.

    Whoever sits in read() of another pipe that they could read, too, holds the lock, and all is as it should be.
    """
    pids = {thread.pid for thread in waiters}
    for thread in threads:
        files = [seen.file(thread, each) for each in thread.wait.fds if each.reads]
        if any(pids <= seen.readers(file) for file in files if file.startswith(("pipe:", "fifo:"))):
            return []
    return [
        file
        for file in sorted(seen.still)
        if pids <= seen.readers(file) and (state := seen.state(file)) is not None and state.unread and not state.full
    ]


def _stalls(seen: Evidence, stuck: set[int]) -> list[Case]:
    """Find full pipes that nobody read during the window, with a writer that waited all of it."""
    by_file: defaultdict[str, list[Thread]] = defaultdict(list)
    for tid, thread in seen.blocked.items():
        if tid not in stuck and _on_full_pipe(seen, thread) and seen.written(thread) in seen.still:
            by_file[seen.written(thread)].append(thread)
    return [Case("stall", writers, writers, (file,)) for file, writers in by_file.items()]


def _stalled_sockets(seen: Evidence, stuck: set[int]) -> list[Case]:
    """Find pairs of threads that wait to send to each other by a socketpair; that a socket is full the kernel hides."""
    sending = {
        file: thread
        for thread in seen.blocked.values()
        if thread.tid not in stuck and (file := seen.written(thread)).startswith("socket:")
    }
    if len(sending) < 2:
        return []
    peers = {f"socket:[{one}]": f"socket:[{other}]" for one, other in procfs.socket_peers().items()}
    return [
        Case("stall", [thread, sending[peers[file]]], [thread, sending[peers[file]]], (file, peers[file]))
        for file, thread in sending.items()
        if peers.get(file, "") > file and peers[file] in sending
    ]


# ---- how it is told ----


def _finding(seen: Evidence, case: Case, host: HostLimits, pid: int | None) -> Finding:
    pipes = tuple(_pipe(seen, file) for file in case.files)
    parties = _parties(seen, case)
    named = patterns.name(seen, case)
    rescuable, rescue = _rescue(seen, case, host, pid)
    weaker = any(party.weak for party in parties)
    cause = named.cause
    if weaker:
        cause += " (weaker evidence: /proc/PID/syscall may not be read, so this rests on wchan and state)"
    if case.verdict == "stall":
        cause += f" (not proven: {_unproven(seen, case)})"
    return Finding(case.verdict, named.pattern, pipes, parties, cause, named.fix, rescuable, rescue)


def _pipe(seen: Evidence, file: str) -> PipeNow:
    state = seen.state(file)
    why = seen.states.get(file, "")
    inode = int("".join(filter(str.isdigit, file.rpartition(":")[2])))
    readers, writers = tuple(sorted(seen.readers(file))), tuple(sorted(seen.writers(file)))
    if state is None:
        return PipeNow(file, inode, None, None, None, None, readers, writers, why if isinstance(why, str) else "")
    return PipeNow(file, inode, state.capacity, state.slots, state.unread, state.full, readers, writers, "")


def _parties(seen: Evidence, case: Case) -> tuple[Party, ...]:
    """Tell of the writers first, then of those who should read, then of all others in it."""
    told: dict[int, Party] = {}
    for thread in case.writers:
        told[thread.tid] = _party(seen, thread, "writer")
    readers = {pid for file in case.files for pid in seen.readers(file)}
    for pid in sorted(readers):
        for thread in seen.now.processes[pid].threads:
            if thread.tid not in told and (thread in case.threads or case.verdict == "stall"):
                told[thread.tid] = _party(seen, thread, "reader")
    for thread in case.threads:
        if thread.tid not in told:
            told[thread.tid] = _party(seen, thread, "waits")
    return tuple(told.values())


def _party(seen: Evidence, thread: Thread, role: str) -> Party:
    process = seen.process(thread)
    wait = thread.wait
    file = seen.written(thread) or (seen.file(thread, wait.fds[0]) if wait.fds else "")
    state = seen.state(file)
    to_go = None
    if role == "writer" and wait.count is not None and state is not None:
        to_go = max(1, wait.count - state.unread)
    call = wait.call
    if thread.state in "Tt":
        call = "stopped by a signal" if thread.state == "T" else "stopped by a tracer"
    return Party(
        role=role,
        pid=thread.pid,
        tid=thread.tid,
        command=process.command,
        call=call,
        file=file,
        fd=wait.fds[0].fd if wait.fds else None,
        count=wait.count,
        to_go=to_go,
        waits_for=tuple(sorted(seen.movers.get(thread.tid) or ())),
        weak=wait.weak,
    )


def needed(capacity: int, to_go: int) -> int | None:
    """Give the capacity, of slots all in use, that takes so many bytes more; None above what any pipe can have."""
    return round_capacity(capacity + -(-to_go // PAGE_SIZE) * PAGE_SIZE, PAGE_SIZE)


def _unproven(seen: Evidence, case: Case) -> str:
    """Say why a stall is no deadlock: who may yet go on."""
    for writer in case.writers:
        movers = seen.movers.get(writer.tid)
        if movers is None:
            return "not all who may hold the other end are known"
        for thread in seen.now.threads():
            if thread.tid in movers and thread.tid not in seen.blocked:
                return f"thread {thread.tid} of process {thread.pid}, in {thread.wait.call}, may go on by itself"
    return "others who could end it may go on by themselves"


def _rescue(seen: Evidence, case: Case, host: HostLimits, pid: int | None) -> tuple[bool, str]:
    """Tell whether growing can free it, as far as can be told without trying."""
    if not case.writers:
        return False, "no pipe is full here: growing one helps nobody"
    most = None if host.exempt_from_max_size else host.pipe_max_size
    for writer in case.writers:
        file = seen.written(writer)
        if file.startswith("socket:"):
            return False, "it is a socketpair, which has no pipe to grow"
        state = seen.state(file)
        if state is None:
            return False, f"its pipe cannot be opened: {seen.states.get(file)}"
        to_go = max(1, (writer.wait.count or 1) - state.unread)
        wanted = needed(state.capacity, to_go)
        if wanted is None or (most is not None and wanted > max(most, state.capacity)):
            more = "more than any pipe takes" if wanted is None else f"a pipe of {wanted:,} bytes"
            limit = "" if most is None else f", and fs.pipe-max-size is {most:,}"
            return False, f"what is still to be written takes at least {more}{limit}"
    if any(seen.now.processes[pid].state in "Tt" for file in case.files for pid in seen.readers(file)):
        return False, "its reader is stopped, and goes on when it is let"
    return True, f"python -m pipecap rescue {pid or case.writers[0].pid}"
