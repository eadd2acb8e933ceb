"""diagnose(): which pipe hangs a program, proven where it can be, with the evidence, the cause and what to do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence

from pipecap.diagnosis import evidence, parties, patterns, waits
from pipecap.diagnosis.evidence import Evidence
from pipecap.diagnosis.find import Case, Key, find
from pipecap.diagnosis.finding import VERDICTS, Diagnosis, Finding, Moving, Party, PipeNow, Place
from pipecap.diagnosis.growth import plan
from pipecap.diagnosis.movement import PATIENCE, Movement
from pipecap.diagnosis.named import Named
from pipecap.diagnosis.wakers import note_wakers
from pipecap.errors import AccessDenied, ProcessGone
from pipecap.kernel.limits import limits
from pipecap.proc import procfs, snapshot, sockets, stacks
from pipecap.proc.checks import require_process, require_seconds
from pipecap.proc.procfs import ThreadMemory
from pipecap.proc.stacks import place

WINDOW = 0.3
_MOST_REPEATS = 3
_MOST_STACKS = 16  # processes whose Python lines are taken
_LOG_HEAD = 128  # bytes of a blocked write in which a log record shows


def diagnose(
    pid: int | None = None,
    *,
    window: float = WINDOW,
    patience: float = PATIENCE,
    stacks: bool | None = None,
    progress: Callable[[float], object] | None = None,
    proc: str = "/proc",
) -> Diagnosis:
    """Take two samples of a process and its descendants, `window` seconds apart, and say what hangs.

    Without `pid`, of all processes of this user; as root, of everybody's. Where a writer waits for room and that is not
    proven to last, samples go on for up to `patience` seconds, or until something moves; `progress` is called with the
    seconds so far. Reads /proc and opens a pipe for some microseconds; stops nobody, changes nothing. `stacks`: take
    the Python lines by py-spy in its non-blocking mode (extra `stacks`); None: where it is installed.

    Raises ProcessGone, AccessDenied where that process may not be read (takes ptrace access: its user, or
    CAP_SYS_PTRACE), Unsupported where procfs is missing, InvalidValue for a PID, window or patience that is none.
    """
    if pid is not None:
        require_process(pid, proc)
    require_seconds("window", window, usual=WINDOW)
    require_seconds("patience", patience, usual=PATIENCE, zero=True)
    begin = time.monotonic()
    seen = evidence.gather(window=window, proc=proc)
    scope = _scope(seen, pid)
    for _ in range(_MOST_REPEATS):
        if not evidence.is_between_rounds(seen, scope):
            break
        seen = evidence.gather(window=window, proc=proc)
        scope = _scope(seen, pid)
    return judge(seen, scope, pid, patience=patience, stacks=stacks, progress=progress, begin=begin)


def _scope(seen: Evidence, pid: int | None) -> set[int]:
    if pid is None:
        me = os.geteuid()
        return {process.pid for process in seen.now.processes.values() if me in (0, process.uid)}
    process = seen.now.processes.get(pid)
    if process is None or process.has_ended:
        raise ProcessGone(pid)
    if process.closed:
        raise AccessDenied(f"process {pid} may not be read")
    return seen.now.tree(pid)


def judge(
    seen: Evidence,
    scope: Collection[int],
    pid: int | None,
    *,
    patience: float = PATIENCE,
    stacks: bool | None = None,
    progress: Callable[[float], object] | None = None,
    begin: float | None = None,
    movement: Movement | None = None,
) -> Diagnosis:
    """Draw the conclusions that touch a process in `scope`; with `movement`, on earlier samples, without waiting."""
    begin = time.monotonic() - seen.window if begin is None else begin
    note_wakers(seen)
    cases = _touching(find(seen), scope)
    reasons = _take_stacks(seen, cases, scope, pid, stacks)
    if seen.stacks:
        cases = _touching(find(seen), scope)
    seen, cases, moving = _settle(seen, cases, patience, progress, movement)
    _note_log_writers(seen, cases)
    findings = [_finding(seen, case, moving.get(case.key), pid) for case in cases]
    findings.sort(key=lambda finding: VERDICTS.index(finding.verdict))
    unknown = (
        seen.now.unknown(seen.suspects) if any(not each.problem or each.verdict == "stall" for each in findings) else []
    )
    places: tuple[Place, ...] = ()
    if pid is not None and not any(finding.problem for finding in findings):
        places = tuple(
            Place(thread.pid, thread.tid, place(seen.stacks[thread.tid]))
            for each in sorted(scope)
            for thread in seen.now.processes[each].threads
            if thread.tid in seen.stacks
        )[:_MOST_STACKS]
    shown = tuple(findings)
    return Diagnosis(pid, time.monotonic() - begin, shown, (*unknown, *reasons), _footnote(seen, shown), places)


def _touching(cases: Iterable[Case], scope: Collection[int]) -> list[Case]:
    return [case for case in cases if any(thread.pid in scope for thread in case.threads)]


def _take_stacks(
    seen: Evidence, cases: Collection[Case], scope: Collection[int], pid: int | None, wanted: bool | None
) -> tuple[str, ...]:
    """Take the Python lines of all that is in it at once; return why some are missing."""
    if wanted is False or (wanted is None and stacks.find_program() is None):
        own = {os.getpid()} & {thread.pid for case in cases for thread in case.threads}
        seen.stacks = stacks.own() if own else {}
        return ()
    pids = dict.fromkeys(thread.pid for case in cases for thread in case.threads)
    pids |= dict.fromkeys(pid for case in cases for file in case.files for pid in sorted(seen.readers(file)))
    if pid is not None and not any(case.verdict in ("deadlock", "stall") for case in cases):
        pids |= dict.fromkeys(sorted(scope))
    seen.stacks, reasons = stacks.take([*pids][:_MOST_STACKS])
    return reasons if wanted else ()


def _settle(
    seen: Evidence,
    cases: list[Case],
    patience: float,
    progress: Callable[[float], object] | None,
    movement: Movement | None,
) -> tuple[Evidence, list[Case], dict[Key, Moving]]:
    """Observe the candidates for a stall: those that move are busy, if a pipe is full; else they are nothing.

    `movement`: what earlier samples have observed, of a caller that takes one after the other and does not wait.
    """
    candidates = [case for case in cases if case.candidate]
    observed = movement or Movement()
    observed.watch(seen, candidates)
    if movement is None and candidates:
        observed.wait(patience, progress)
    lasting = {
        case.key
        for case in candidates
        if observed.moved(case) is None and (movement is None or observed.unmoved(case) >= patience)
    }
    moving = {case.key: moved for case in candidates if (moved := observed.moved(case)) and case.writers}
    if lasting and movement is None and patience >= seen.window:  # what is reported was so at the end, too
        now = snapshot.take(proc=seen.now.proc, ignored=seen.now.ignored)
        later = evidence.compare(seen.now, now, patience)
        note_wakers(later)
        later.stacks = seen.stacks
        seen, cases = later, _touching(find(later), {thread.pid for case in cases for thread in case.threads})
    settled = []
    for case in cases:
        if case.key in moving:
            settled.append(Case("busy", case.threads, case.writers, case.files))
        elif not case.candidate or case.key in lasting:
            settled.append(case)
    return seen, settled, moving


def _note_log_writers(seen: Evidence, cases: Collection[Case]) -> None:
    """Find log records by the head of what is being written: it is read from the writer's memory, not from the pipe."""
    for writer in (writer for case in cases for writer in case.writers):
        if writer.wait.address is None or not writer.wait.count:
            continue
        memory = ThreadMemory(writer.pid, writer.tid, seen.now.proc)
        head = memory.read(writer.wait.address, min(writer.wait.count, _LOG_HEAD))
        if head and b"logging" in head and b"LogRecord" in head:
            seen.log_writers.add(writer.tid)


def _footnote(seen: Evidence, findings: Collection[Finding]) -> str:
    """Say what a proof leaves out."""
    unread = sum(bool(process.closed) for process in seen.now.processes.values())
    if not (unread or seen.now.hides) or not any(finding.verdict == "deadlock" for finding in findings):
        return ""
    many = f"{unread:,} process{'es' if unread > 1 else ''}" if unread else "processes"
    return f"{many} of other users could not be read: one could hold an end only if a descriptor was passed to it"


def _finding(seen: Evidence, case: Case, moving: Moving | None, pid: int | None) -> Finding:
    if case.verdict == "busy":
        named = patterns.slow(seen, case, moving)
    else:
        named = patterns.name(seen, case) if case.writers and case.verdict != "idle" else waits.name(seen, case)
    pipes = tuple(parties.pipe_now(seen, file) for file in case.files)
    shown = parties.of(seen, case)
    program = parties.program(seen, case, pid)
    can, rescue = _rescue(case, named, pipes, shown, program.pid if pid is None else pid)
    cause = named.cause
    if any(party.weak for party in shown):
        cause += " (weaker evidence: /proc/PID/syscall may not be read, so this rests on wchan and state)"
    if case.verdict == "stall":
        cause += f" (not proven: {parties.unproven(seen, case)})"
    return Finding(
        verdict=case.verdict,
        pattern=named.pattern,
        pid=program.pid,
        command=program.command,
        user=procfs.user(program.uid),
        age=procfs.age(program.start, seen.now.proc),
        unless=case.unless,
        pipes=pipes,
        parties=shown,
        others=len({thread.tid for thread in case.threads} - {party.tid for party in shown}),
        cause=cause,
        fix=named.fix,
        rescuable=can,
        rescue=rescue,
        no_growth=bool(named.no_growth),
        moving=moving if case.verdict == "busy" else None,
    )


def _rescue(case: Case, named: Named, pipes: Sequence[PipeNow], shown: Sequence[Party], pid: int) -> tuple[bool, str]:
    """Return whether growing can free it, as far as can be told without trying, and how or why not."""
    if named.no_growth:
        return False, named.no_growth
    host, most = limits(), sockets.largest()
    for pipe in pipes:
        writers = [party for party in shown if party.role == "writer" and party.file == pipe.file]
        if writers:
            planned = plan(pipe, writers, host, most)
            if not planned.works:
                return False, planned.refused
    return True, f"python -m pipecap rescue {pid}"
