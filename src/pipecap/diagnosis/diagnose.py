"""diagnose(): which pipe hangs a program, proven where it can be, with the evidence, the cause and what to do."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace

from pipecap.diagnosis import evidence, patterns
from pipecap.diagnosis.evidence import Evidence
from pipecap.diagnosis.find import find
from pipecap.diagnosis.finding import Diagnosis, Finding, Party, PipeNow
from pipecap.diagnosis.growth import rescuable
from pipecap.diagnosis.patterns import Case
from pipecap.errors import AccessDenied, InvalidSize, ProcessGone
from pipecap.kernel.limits import HostLimits, limits
from pipecap.proc import procfs
from pipecap.proc.snapshot import Thread

WINDOW = 0.3


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
    from pipecap.proc import stacks

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


# ---- how it is told ----


def _finding(seen: Evidence, case: Case, host: HostLimits, pid: int | None) -> Finding:
    pipes = tuple(_pipe(seen, file) for file in case.files)
    parties = _parties(seen, case)
    named = patterns.name(seen, case)
    free, rescue = rescuable(seen, case, host, pid)
    weaker = any(party.weak for party in parties)
    cause = named.cause
    if weaker:
        cause += " (weaker evidence: /proc/PID/syscall may not be read, so this rests on wchan and state)"
    if case.verdict == "stall":
        cause += f" (not proven: {_unproven(seen, case)})"
    return Finding(case.verdict, named.pattern, pipes, parties, cause, named.fix, free, rescue)


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
