"""What diagnose() returns."""

from __future__ import annotations

from dataclasses import dataclass

from pipecap.results import Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    Verdict: TypeAlias = Literal["deadlock", "stall", "quiet"]


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
