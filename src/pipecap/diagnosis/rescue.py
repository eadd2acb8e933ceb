"""rescue(): let a hung program go on, by growing the pipes that blocked writers wait for.

Growing wakes the writer (fs/pipe.c: pipe_set_size, Linux 5.5 and later); of a socketpair, a larger SO_SNDBUF does
(net/core/sock.c: sk_setsockopt). No byte of the program's data is read or written, no pipe is shrunk, and nothing
else is touched.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from pipecap.diagnosis import growth
from pipecap.diagnosis.diagnose import WINDOW, diagnose
from pipecap.diagnosis.finding import Diagnosis, Finding, Party, PipeNow
from pipecap.diagnosis.growth import Plan
from pipecap.diagnosis.movement import PATIENCE
from pipecap.errors import PipecapError, ProcessGone, ResizeRefused
from pipecap.kernel import pipes
from pipecap.kernel.limits import PAGE_SIZE, limits
from pipecap.proc import peek, procfs, sockets
from pipecap.proc.checks import require_process
from pipecap.proc.files import Fifo, Pipe
from pipecap.results import Result

# The window of each sample after the first: long enough to tell a blocked thread from one that just paused.
_WINDOW = 0.1
_MOST_ROUNDS = 50
_MOST_SECONDS = 15.0
_QUIET_SAMPLES = 2
_UNHELPED_SAMPLES = 5
# How long a writer that was woken may take to go on.
_PATIENCE = 3.0
_PAUSE = 0.002
_ATTEMPTS, _QUOTA_PAUSE = 4, 0.05


@dataclass(frozen=True, slots=True)
class Step(Result):
    """One pipe, and the writer it was grown for.

    `before`, `wanted` and `granted` are bytes; `granted` is None where nothing was done: in a dry run, or where it was
    refused (`refused` says why, `limit` names the sysctl). `moved`: the writer was seen to go on; None in a dry run.
    """

    file: str
    inode: int
    pid: int
    tid: int
    call: str
    before: int
    wanted: int
    granted: int | None
    moved: bool | None
    refused: str
    limit: str | None


@dataclass(frozen=True, slots=True)
class Rescue(Result):
    """What was done, or in a dry run would be. `freed`: no writer waits any more; None in a dry run.

    `left`: what still hangs after it, in a dry run: what hangs. `advice`: what else would help, with its risk.
    """

    pid: int
    dry_run: bool
    steps: tuple[Step, ...]
    freed: bool | None
    left: tuple[Finding, ...]
    advice: tuple[str, ...]


def rescue(pid: int, *, dry_run: bool = False, window: float = WINDOW, patience: float = PATIENCE) -> Rescue:
    """Grow each pipe that a blocked writer of a process, or of a descendant, hangs on; go on while that frees the next.

    It grows at least to what the write still wants, stops at the limit, and verifies that the writer moved. A busy
    program, in which nothing hangs, is left alone. `dry_run` does nothing and tells what would be done.

    Raises what diagnose() does. Takes write access to the pipe: its user, or root.
    """
    require_process(pid)  # None, all of them, is for diagnose() alone
    steps: list[Step] = []
    done_with: set[str] = set()
    found = diagnose(pid, window=window, patience=patience)
    unsure = ""
    quiet = 0  # samples in a row in which nothing hangs: a writer that was just woken may soon wait again
    unhelped = 0  # samples in a row in which something hangs that no growing helps, or not yet
    end = time.monotonic() + window + patience + _MOST_SECONDS
    for _ in range(_MOST_ROUNDS):
        if time.monotonic() > end:
            break
        hangs = [hang for hang in _hangs(found) if hang.pipe.file not in done_with]
        if dry_run:
            steps = [_plan(hang) for hang in hangs]
            break
        quiet = 0 if found.problem else quiet + 1
        unhelped = unhelped + 1 if found.problem and not hangs else 0
        if quiet == _QUIET_SAMPLES or unhelped == _UNHELPED_SAMPLES or not (steps or hangs):
            break
        for hang in hangs:
            step = _grow(hang)
            steps.append(step)
            if not step.moved:
                done_with.add(hang.pipe.file)
        try:
            found = diagnose(pid, window=_WINDOW, patience=min(patience, _PATIENCE))
        except ProcessGone:  # it has ended, and hangs no more
            found = replace(found, findings=())
        except PipecapError as error:
            unsure = f"whether it goes on could not be seen: {error}"
            break
    problems = tuple(finding for finding in found.findings if finding.problem)
    advice = [*_advice(steps, problems), *([unsure] if unsure else [])]
    freed = None if dry_run or unsure else not problems
    return Rescue(pid, dry_run, tuple(steps), freed, problems, tuple(advice))


@dataclass(frozen=True, slots=True)
class _Hang:
    """A pipe that hangs, and the writers that wait for room in it."""

    pipe: PipeNow
    writers: tuple[Party, ...]

    def plan(self) -> Plan:
        """Return how large it must become."""
        return growth.plan(self.pipe, self.writers, limits(), sockets.largest())


def _hangs(found: Diagnosis) -> list[_Hang]:
    """Return the pipes whose growth can help: of findings of which growth.py does not say no."""
    hangs = []
    for finding in found.findings:
        if not finding.problem or finding.no_growth:
            continue
        for pipe in finding.pipes:
            writers = tuple(party for party in finding.parties if party.role == "writer" and party.file == pipe.file)
            if writers and pipe.capacity is not None:
                hangs.append(_Hang(pipe, writers))
    return hangs


def _plan(hang: _Hang) -> Step:
    writer, pipe = hang.writers[0], hang.pipe
    plan = hang.plan()
    return Step(
        file=pipe.file,
        inode=pipe.inode,
        pid=writer.pid,
        tid=writer.tid,
        call=writer.call,
        before=pipe.capacity or 0,
        wanted=plan.wanted or 0,
        granted=None,
        moved=None,
        refused=plan.refused,
        limit=plan.limit,
    )


def _grow(hang: _Hang) -> Step:
    step = _plan(hang)
    if step.wanted == 0:
        return replace(step, moved=False)
    before = {writer.tid: _pulse(writer) for writer in hang.writers}
    try:
        grown = _grow_socket(hang, step) if hang.pipe.kind == "socketpair" else _grow_pipe(hang, step)
    except (FileNotFoundError, ProcessLookupError):
        return replace(step, refused="it has gone on or ended meanwhile", limit=None, moved=True)
    except PermissionError:
        return replace(
            step, refused="made by another user, who alone may open it: run as root", limit=None, moved=False
        )
    except (OSError, PipecapError) as error:
        return replace(step, refused=str(error), limit=None, moved=False)
    return replace(grown, moved=grown.granted is not None and _one_moved(hang, before))


def _grow_pipe(hang: _Hang, step: Step) -> Step:
    """Grow a pipe; where the quota refuses it, again: another process may measure the headroom just then."""
    grown, reason = _resize(hang, step)
    for _ in range(_ATTEMPTS - 1):
        if reason != "quota":
            break
        time.sleep(_QUOTA_PAUSE)
        again, reason = _resize(hang, step)
        grown = replace(again, before=grown.before, granted=again.granted or grown.granted)
    return grown


def _resize(hang: _Hang, step: Step) -> tuple[Step, str]:
    """Ask the kernel once; return also the reason of a refusal, after which as much as it grants is taken."""
    with peek.opened(_path(hang), _file(hang)) as fd:
        was = pipes.capacity(fd)
        wanted = max(step.wanted, was)
        try:
            granted, reason = pipes.resize(fd, wanted), ""
            step = replace(step, refused="", limit=None)
        except ResizeRefused as error:
            granted, reason = pipes.resize(fd, wanted, best_effort=True), error.reason
            step = replace(step, refused=str(error), limit=error.limit or error.reason)
    return replace(step, before=was, granted=granted if granted > was else None), reason


def _grow_socket(hang: _Hang, step: Step) -> Step:
    """Raise SO_SNDBUF through a duplicate of the sender's own descriptor: pidfd_getfd(2)."""
    writer = hang.writers[0]
    if writer.fd is None:
        return replace(step, refused="the descriptor of the socket is not known", limit=None)
    with sockets.duplicated(writer.pid, writer.fd, hang.pipe.inode) as end:
        was = end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        value = min(step.wanted // 2, 2**30)  # the kernel doubles it
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, value)
        granted = end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    refused, limit = ("", None) if granted >= step.wanted else (step.refused or "no larger", "net.core.wmem_max")
    return replace(step, before=was, granted=granted if granted > was else None, refused=refused, limit=limit)


def _file(hang: _Hang) -> Pipe | Fifo:
    """Return the file as peek.py knows it."""
    if hang.pipe.kind == "fifo":
        return Fifo(hang.pipe.device or 0, hang.pipe.inode)
    return Pipe(hang.pipe.inode)


def _path(hang: _Hang) -> str:
    """Find an end to open: of a writer, or, where its call may not be read, of anybody who holds one."""
    for pid in dict.fromkeys([*(writer.pid for writer in hang.writers), *hang.pipe.writers, *hang.pipe.readers]):
        with suppress(OSError):  # it has ended
            for each in procfs.descriptors(pid, "/proc"):
                if each.link == hang.pipe.file:
                    return f"/proc/{pid}/fd/{each.fd}"
    writer = hang.writers[0]
    return f"/proc/{writer.pid}/fd/{writer.fd}"


def _pulse(writer: Party) -> tuple[str, str] | None:
    """Return what changes when a thread runs; None when it is gone."""
    path = f"/proc/{writer.pid}/task/{writer.tid}"
    try:
        return procfs.text(f"{path}/wchan"), procfs.status(path)["voluntary_ctxt_switches"]
    except (OSError, KeyError):
        return None


def _one_moved(hang: _Hang, before: dict[int, tuple[str, str] | None]) -> bool:
    """Wait until one of the writers was seen to run again: growing wakes one at a time."""
    end = time.monotonic() + _PATIENCE
    while all(_pulse(writer) == before[writer.tid] for writer in hang.writers):
        if time.monotonic() > end:
            return False
        time.sleep(_PAUSE)
    return True


def _advice(steps: Sequence[Step], left: Collection[Finding]) -> list[str]:
    """Say which limit stands in the way, and the command that lifts it, with its risk."""
    advice = []
    held = [step for step in steps if step.limit]
    sizes = [step.wanted for step in held if step.limit == "fs.pipe-max-size"]
    if sizes:
        advice.append(
            f"as root: sysctl -w fs.pipe-max-size={max(sizes)}, then rescue again, or rescue as root with"
            " CAP_SYS_RESOURCE. Risk: until it is set back, every user may hold pipes of that size, in memory that the"
            " kernel cannot swap"
        )
    if any(step.limit == "net.core.wmem_max" for step in held):
        size = max(step.wanted for step in held if step.limit == "net.core.wmem_max") // 2
        advice.append(
            f"as root: sysctl -w net.core.wmem_max={size}, then rescue again. Risk: until it is set back, every user"
            " may let the kernel hold that much for each socket"
        )
    others = {step.limit for step in held if step.limit} - {"fs.pipe-max-size", "net.core.wmem_max"}
    for limit in sorted(others):
        pages = sum(step.wanted - step.before for step in held if step.limit == limit) // PAGE_SIZE
        advice.append(
            f"close pipes of that user, rescue as root, or as root raise {limit} by at least {pages:,} pages (sysctl)."
            " Risk: the user may then hold that much more memory that the kernel cannot swap"
        )
    if any(not finding.rescuable and finding.problem for finding in left):
        advice += sorted({f"{each.pattern}: {each.rescue}; {each.fix}" for each in left if not each.rescuable})
    return advice
