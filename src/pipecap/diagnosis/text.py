"""A finding in plain words, for the doctor, the log and pytest. Pure.

First sentences: who waits in what, which pipe, who should read it and what it does instead, the cause, the fix, the
command that frees it. Then the wait-for graph behind the verdict, drawn as a tree.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pipecap.diagnosis.finding import PROBLEMS, Diagnosis, Finding, Party, PipeNow
from pipecap.words import amount, ascii_only, duration, some

Style: TypeAlias = Literal["ok", "note", "problem", "action"]

_MOST_TOLD = 3
_COMMAND = 48
_FEEDER_PATTERNS = ("join before get", "exit with unread items", "logging queue without a listener")
_ASCII = str.maketrans({"│": "|", "├": "|", "└": "`", "─": "-"})
_HEADINGS = {
    "deadlock": "proof: each thread can be woken only by those drawn under it or named there, and none of them moves",
    "stall": "seen, not proven: who could wake whom",
    "busy": "who could wake whom",
    "idle": "who waits for whom",
}
_VERDICTS = {
    "deadlock": "deadlock, proven",
    "stall": "stall, seen but not proven",
    "busy": "busy, no problem by itself",
    "idle": "idle, no problem by itself",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One paragraph of an answer; a `drawn` one is not to be wrapped."""

    text: str = ""
    style: Style = "note"
    drawn: bool = False


# ---- a whole diagnosis ----


def answer(found: Diagnosis) -> list[Line]:
    """Return what the command prints."""
    said: list[Line] = []
    for finding in found.findings:
        first, *rest = describe(finding)
        said.append(Line(first, "problem" if finding.problem else "note"))
        said += [Line(line) for line in rest[: len(sentences(finding))]]
        said += [Line(line, drawn=True) for line in rest[len(sentences(finding)) :]]
        said.append(Line())
    if found.places:
        said.append(Line("Python lines:"))
        said += [
            Line(f"  process {place.pid}, thread {place.tid}: {ascii_only(place.line)}", drawn=True)
            for place in found.places
        ]
        said.append(Line())
    said += [Line(f"  [unknown] {each}") for each in found.unknown]
    return [*said, *_verdict(found)]


def _verdict(found: Diagnosis) -> Iterator[Line]:
    if not found.problem:
        whose = "in your processes" if found.pid is None else f"in process {found.pid} and its descendants"
        yield Line(f"  [ok] no hang found on a pipe {whose} (observed for {found.seconds:.1f} s)", "ok")
        return
    verdicts = [finding.verdict for finding in found.findings]
    counts = {verdict: verdicts.count(verdict) for verdict in PROBLEMS}
    named = " and ".join(f"{count} {verdict}{'s' if count > 1 else ''}" for verdict, count in counts.items() if count)
    yield Line(f"  [problem] {named} found (observed for {found.seconds:.1f} s)", "problem")
    if found.footnote:
        yield Line(f"  [note] {found.footnote}")
    freed = [each for each in found.findings if each.rescuable and each.problem]
    for pid in dict.fromkeys(found.pid if found.pid is not None else each.pid for each in freed):
        yield Line(f"    -> python -m pipecap rescue {pid}", "action")


# ---- one finding ----


def describe(finding: Finding) -> list[str]:
    """Return a finding as lines: a heading, its sentences, the drawing, which alone has characters beyond ASCII."""
    drawing = proof(finding)
    if drawing:
        drawing = [f"  {_HEADINGS[finding.verdict]}:", *(f"    {line}" for line in drawing)]
    return [heading(finding), *(f"  {sentence}" for sentence in sentences(finding)), *drawing]


def heading(finding: Finding) -> str:
    """Return the program and the verdict: its command, PID, age and user, then the pattern."""
    verdict = _VERDICTS[finding.verdict]
    if finding.unless and finding.verdict == "deadlock":
        verdict = f"deadlock, unless a signal handler ends it ({some(finding.unless)})"
    program = f"process {finding.pid}{_shown(finding.command)}"
    return f"{program}, {duration(finding.age)} old, of {finding.user}: {verdict}: {ascii_only(finding.pattern)}"


def plain(lines: Iterable[str]) -> list[str]:
    """Draw lines in ASCII alone, for a log or a terminal that takes nothing else."""
    return [line.translate(_ASCII) for line in lines]


def sentences(finding: Finding) -> list[str]:
    """Say what waits, which pipe, who should read it, cause, fix and rescue, each a paragraph."""
    return [
        *_waits(finding),
        *(_pipe(finding, pipe) for pipe in finding.pipes[:_MOST_TOLD]),
        *_more(finding.pipes, "pipe"),
        f"cause: {ascii_only(finding.cause)}",
        f"fix: {ascii_only(finding.fix)}",
        *_rescue(finding),
    ]


def _waits(finding: Finding) -> Iterator[str]:
    writers = [party for party in finding.parties if party.role == "writer"]
    told = writers or finding.parties
    for party in told[:_MOST_TOLD]:
        kind = ""
        if party.role == "writer" and _feeds(finding, party):
            kind = ", probably a queue's feeder thread," if party.line is None else ", a queue's feeder thread,"
        to_go = f", {amount(party.to_go)} to go" if party.to_go and party.to_go > 1 else ""  # 1: no more is known
        yield f"{_who(party)}{kind} waits in {_call(party, to_go)}{_shown(party.command)}"
    yield from _more(told, "thread")


def _feeds(finding: Finding, party: Party) -> bool:
    """Whether a writer is the feeder thread of a queue: py-spy says so, or nothing else writes beside a main thread."""
    if party.line is not None:
        return party.line.endswith("_feed")
    return party.tid != party.pid and finding.pattern in _FEEDER_PATTERNS


def _pipe(finding: Finding, pipe: PipeNow) -> str:
    writing = {party.pid for party in finding.parties if party.role == "writer" and party.file == pipe.file}
    return f"{_fullness(pipe)}; {_reading(finding, pipe, writing)}"


def _fullness(pipe: PipeNow) -> str:
    name = ascii_only(pipe.file)
    if pipe.capacity is None or pipe.unread is None:
        return f"how full {name} is could not be seen ({ascii_only(pipe.unknown) or 'unknown'})"
    if not pipe.unread and not pipe.full:
        return f"the {pipe.kind} is empty ({name})"
    if pipe.kind == "socketpair":
        state = "is full" if pipe.full else "is not full"
        return f"the socketpair {state} ({pipe.unread:,} bytes unread, SO_SNDBUF {pipe.capacity:,}, {name})"
    if pipe.full:
        held = f"{pipe.unread:,} of {pipe.capacity:,} bytes in {pipe.slots:,} of {pipe.slots:,} slots"
        return f"the pipe is full ({held}, {name})"
    return f"{pipe.unread:,} bytes lie unread in a pipe of {pipe.capacity:,}, which is not full ({name})"


def _reading(finding: Finding, pipe: PipeNow, writing: set[int]) -> str:
    others = [pid for pid in pipe.readers if pid not in writing]
    if not others:
        return "no other process can read it" if pipe.readers else "no process that could be seen reads it"
    if len(others) > 1:
        return f"processes {some([*map(str, others)])} could read it"
    reader = others[0]
    called = [party for party in finding.parties if party.pid == reader and party.role != "writer"]
    for party in called:
        waited = sorted({other.pid for other in finding.parties if other.tid in party.waits_for})
        if party.wait == "child" and len(waited) == 1:
            parent = " (its parent)" if writing == {*waited} else ""
            at = f", at {ascii_only(party.line)}" if party.line else ""
            return f"only process {reader}{parent} reads it, and that waits for process {waited[0]} to exit{at}"
    instead = ""
    if len(called) == 1:
        stopped = called[0].call.startswith("stopped")
        instead = f", and that {'is' if stopped else 'waits in'} {_call(called[0])}"
    return f"only process {reader} reads it{instead}"


def _rescue(finding: Finding) -> Iterator[str]:
    if finding.rescuable:
        does = "gives it room to go on, by growing what the blocked write needs"
        yield f"without a restart: {ascii_only(finding.rescue)} {does}"
    elif finding.problem:
        yield f"growing does not free it: {ascii_only(finding.rescue)}"


# ---- the drawing ----


@dataclass(slots=True)
class _Node:
    party: Party
    number: int
    under: list[_Node] = field(default_factory=list)
    named: list[str] = field(default_factory=list)


def proof(finding: Finding) -> list[str]:
    """Draw the wait-for graph: under each thread those that could wake it."""
    if len(finding.parties) < 2:
        return []
    drawn: list[str] = []
    for root in _trees(finding):
        drawn.append(_label(root))
        drawn += _branches(root, "")
    if finding.others:
        drawn.append(f"... and {finding.others:,} more thread{'s' if finding.others > 1 else ''}")
    return drawn


def _trees(finding: Finding) -> list[_Node]:
    """Lay the graph out breadth first, the writers at the roots; a party met again is named by its number."""
    parties = {party.tid: party for party in finding.parties}
    nodes: dict[int, _Node] = {}
    roots = []
    for party in parties.values():
        if party.tid in nodes:
            continue
        nodes[party.tid] = _Node(party, len(nodes) + 1)
        roots.append(nodes[party.tid])
        border = deque([nodes[party.tid]])
        while border:
            node = border.popleft()
            for tid in node.party.waits_for:
                if tid in parties and tid not in nodes:
                    nodes[tid] = _Node(parties[tid], len(nodes) + 1)
                    node.under.append(nodes[tid])
                    border.append(nodes[tid])
    for node in nodes.values():
        shown = {under.party.tid for under in node.under}
        others = [tid for tid in node.party.waits_for if tid not in shown]
        numbers = sorted(nodes[tid].number for tid in others if tid in nodes)
        unseen = [tid for tid in others if tid not in nodes]
        node.named = [f"[{number}]" for number in numbers]
        if unseen:
            node.named.append(f"{len(unseen):,} more thread{'s' if len(unseen) > 1 else ''}")
    return roots


def _branches(node: _Node, indent: str) -> Iterator[str]:
    rows: list[_Node | str] = [*node.under]
    if node.named:
        also = "also " if node.under else ""
        rows.append(f"{also}waits for {some(node.named)}")
    for at, row in enumerate(rows, 1):
        last = at == len(rows)
        yield f"{indent}{'└─ ' if last else '├─ '}{row if isinstance(row, str) else _label(row)}"
        if isinstance(row, _Node):
            yield from _branches(row, indent + ("   " if last else "│  "))


def _label(node: _Node) -> str:
    party = node.party
    what = f" on {ascii_only(party.file)}" if party.file else ""
    weak = " (weaker evidence: by wchan)" if party.weak else ""
    return f"[{node.number}] {_who(party)}: {_call(party, what)}{weak}"


def _who(party: Party) -> str:
    return f"process {party.pid}" if party.tid == party.pid else f"thread {party.tid} of process {party.pid}"


def _call(party: Party, what: str = "") -> str:
    at = f", at {ascii_only(party.line)}" if party.line else ""
    return f"{ascii_only(party.call)}{what}{at}"


def _shown(command: str) -> str:
    program, *arguments = command.split() or [""]
    shown = " ".join([program.rpartition("/")[2], *arguments])
    shown = shown if len(shown) <= _COMMAND else f"{shown[: _COMMAND - 4]} ..."
    return f" [{ascii_only(shown)}]" if shown else ""


def _more(told: Sequence[object], what: str) -> Iterator[str]:
    rest = len(told) - _MOST_TOLD
    if rest > 0:
        yield f"... and {rest:,} more {what}{'s' if rest > 1 else ''} like that"
