"""What diagnose() returns: values, and the sentences made of them beside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from pipecap.results import Result

Verdict: TypeAlias = Literal["deadlock", "stall", "busy", "idle"]
VERDICTS: tuple[Verdict, ...] = ("deadlock", "stall", "busy", "idle")
PROBLEMS: tuple[Verdict, ...] = ("deadlock", "stall")


@dataclass(frozen=True, slots=True)
class PipeNow(Result):
    """A pipe of a finding, as it is now: bytes, and slots of a page each.

    `kind`: "pipe", "fifo" or "socketpair". `file`: "pipe:[INODE]", "fifo:DEVICE:INODE" or "socket:[INODE]" (the end
    that is written to). `device`: of a FIFO. Of a socketpair `capacity` is SO_SNDBUF, and there are no slots. What
    could not be seen is None, and `unknown` says why. `readers` and `writers` are PIDs.
    """

    kind: Literal["pipe", "fifo", "socketpair"]
    file: str
    device: int | None
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

    `role`: "writer", "reader" (it should read), "waits". `wait`: the kind of its wait ("write", "read", "open", "poll",
    "child", "private futex", "shared futex"), `call`: what it waits in. `fd`, `count`, `to_go`: of a blocked write its
    descriptor, its bytes, and how many of them are at least still to be written if nobody read a part of it.
    `waits_for`: the threads that could end its wait. `weak`: wchan alone says it. `line`: its place in Python (py-spy).
    """

    role: Literal["writer", "reader", "waits"]
    pid: int
    tid: int
    command: str
    wait: str
    call: str
    file: str
    fd: int | None
    count: int | None
    to_go: int | None
    waits_for: tuple[int, ...]
    weak: bool
    line: str | None = None


@dataclass(frozen=True, slots=True)
class Moving(Result):
    """How a full pipe moves: `read` bytes (by all processes that can read it, of anything) in `seconds`.

    Of `samples`, in how many a writer waited for room, and in how many a reader waited for bytes.
    """

    seconds: float
    read: int | None
    samples: int
    writer_waited: int
    reader_waited: int


@dataclass(frozen=True, slots=True)
class Finding(Result):
    """One hang, or what looks like one.

    `verdict`: "deadlock", proven: none of the parties moves again, short of a signal (`unless`: those that a party has
    a handler for); "stall": a writer waits, and nothing moved for seconds; "busy": a full pipe that moves (`moving`);
    "idle": nothing moves, and nothing waits to. `pid`, `command`, `user` and `age` (seconds) are of the program.
    `parties`: the few threads that matter, and how many `others` are in it. `pattern` is its name, `cause` says it in
    words, `fix` is the line of code; `rescuable`: whether growing the pipe can free it, `rescue` says how, or why not;
    `no_growth`: no size would, whatever the limits.
    """

    verdict: Verdict
    pattern: str
    pid: int
    command: str
    user: str
    age: float
    unless: tuple[str, ...]
    pipes: tuple[PipeNow, ...]
    parties: tuple[Party, ...]
    others: int
    cause: str
    fix: str
    rescuable: bool
    rescue: str
    no_growth: bool
    moving: Moving | None = None

    @property
    def problem(self) -> bool:
        """Whether it is a deadlock or a stall."""
        return self.verdict in PROBLEMS

    @property
    def key(self) -> tuple[str, tuple[int, ...]]:
        """What stays the same while the hang lasts: of a stall its writers, as others may come and go."""
        writers = [party.tid for party in self.parties if party.role == "writer"]
        return self.pattern, tuple(sorted(writers or [party.tid for party in self.parties]))

    def __str__(self) -> str:
        from pipecap.diagnosis.text import describe

        return "\n".join(describe(self))


@dataclass(frozen=True, slots=True)
class Place(Result):
    """Where a thread is in Python."""

    pid: int
    tid: int
    line: str


@dataclass(frozen=True, slots=True)
class Diagnosis(Result):
    """What hangs, the worst first. `pid` None: all processes of this user; `seconds`: how long they were observed.

    `unknown`: what could not be read and bears on it, and why. `footnote`: what a proof leaves out. `places`: where the
    threads of the process asked about are, where nothing hangs and py-spy is installed.
    """

    pid: int | None
    seconds: float
    findings: tuple[Finding, ...]
    unknown: tuple[str, ...]
    footnote: str
    places: tuple[Place, ...] = ()

    @property
    def problem(self) -> bool:
        """Whether there is a deadlock or a stall."""
        return any(finding.problem for finding in self.findings)

    def __str__(self) -> str:
        from pipecap.diagnosis.text import answer

        return "\n".join(line.text for line in answer(self))

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(str(self))}</pre>"
