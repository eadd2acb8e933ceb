"""A finding in plain words, for the doctor, the log and pytest. Pure.

First sentences: who waits in what, which pipe, who should read it and what it does instead, the cause, the fix, the
command that frees it. Then the wait-for graph behind the verdict, drawn as a tree.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pipecap.diagnosis.finding import Finding, Party, PipeNow

_MOST_TOLD = 3
_MOST_DRAWN = 24
_MOST_NAMED = 6
_COMMAND = 48
_FEEDER_PATTERNS = ("join before get", "exit with unread items", "logging queue without a listener")
_ASCII = str.maketrans({"│": "|", "├": "|", "└": "`", "─": "-"})
_HEADINGS = {
    "deadlock": "proof: each can be moved only by those drawn under it or named there, and none of them moves",
    "stall": "seen, not proven: who could move whom",
    "quiet": "who waits for whom",
}
_VERDICTS = {
    "deadlock": "deadlock, proven",
    "stall": "stall, seen but not proven",
    "quiet": "quiet, no problem by itself",
}


def tell(finding: Finding) -> list[str]:
    """Give a finding as lines: a heading, its sentences, the drawing. Only the drawing has characters beyond ASCII."""
    heading = f"{_VERDICTS[finding.verdict]}: {_ascii(finding.pattern)}"
    drawing = proof(finding)
    if drawing:
        drawing = [f"  {_HEADINGS[finding.verdict]}:", *(f"    {line}" for line in drawing)]
    return [heading, *(f"  {sentence}" for sentence in sentences(finding)), *drawing]


def plain(lines: Iterable[str]) -> list[str]:
    """Draw lines in ASCII alone, for a log or a terminal that takes nothing else."""
    return [line.translate(_ASCII) for line in lines]


# ---- the sentences ----


def sentences(finding: Finding) -> list[str]:
    """Say what waits, which pipe, who should read it, cause, fix and rescue, each a paragraph."""
    return [
        *_waits(finding),
        *(_pipe(finding, pipe) for pipe in finding.pipes[:_MOST_TOLD]),
        *_more(finding.pipes, "pipe"),
        f"cause: {_ascii(finding.cause)}",
        f"fix: {_ascii(finding.fix)}",
        *_rescue(finding),
    ]


def _waits(finding: Finding) -> Iterator[str]:
    writers = [party for party in finding.parties if party.role == "writer"]
    told = writers or finding.parties
    for party in told[:_MOST_TOLD]:
        kind = ""
        if party.role == "writer" and _feeds(finding, party):
            kind = ", a queue's feeder by the look of it," if party.line is None else ", a queue's feeder,"
        to_go = f", {amount(party.to_go)} to go" if party.to_go and party.to_go > 1 else ""  # 1: no more is known
        yield f"{_who(party)}{kind} waits in {_call(party, to_go)}{_command(party)}"
    yield from _more(told, "thread")


def _feeds(finding: Finding, party: Party) -> bool:
    """Whether a writer is the feeder thread of a queue: py-spy says so, or nothing else writes beside a main thread."""
    if party.line is not None:
        return party.line.endswith("_feed")
    return party.tid != party.pid and finding.pattern in _FEEDER_PATTERNS


def _pipe(finding: Finding, pipe: PipeNow) -> str:
    writers = [party for party in finding.parties if party.role == "writer" and party.file == pipe.file]
    writing = {party.pid for party in writers}
    return f"{_fullness(pipe)}; {_reading(finding, pipe, writing)}"


def _fullness(pipe: PipeNow) -> str:
    name = _ascii(pipe.file)
    if pipe.file.startswith("socket:"):
        return f"{name} is a socket: how full it is, the kernel does not tell"
    if pipe.capacity is None or pipe.unread is None:
        return f"how full {name} is could not be seen ({_ascii(pipe.unknown) or 'unknown'})"
    if pipe.full:
        held = f"{pipe.unread:,} of {pipe.capacity:,} bytes in {pipe.slots:,} of {pipe.slots:,} slots"
        return f"the pipe is full ({held}, {name})"
    return f"{pipe.unread:,} bytes lie unread in a pipe of {pipe.capacity:,}, which is not full ({name})"


def _reading(finding: Finding, pipe: PipeNow, writing: set[int]) -> str:
    others = [pid for pid in pipe.readers if pid not in writing]
    if not others:
        return "no other process can read it" if pipe.readers else "nobody that could be seen reads it"
    if len(others) > 1:
        return f"processes {_some([*map(str, others)])} could read it"
    reader = others[0]
    for party in finding.parties:
        if party.pid == reader and party.role != "writer":
            waited = sorted({other.pid for other in finding.parties if other.tid in party.waits_for})
            if party.call.startswith(("wait4(", "waitid(")) and len(waited) == 1:
                parent = " (its parent)" if writing == {*waited} and "pidfd" not in party.call else ""
                at = f", at {_ascii(party.line)}" if party.line else ""
                return f"only process {reader}{parent} reads it, and that waits for process {waited[0]} to exit{at}"
    called = [party for party in finding.parties if party.pid == reader]
    instead = ""
    if len(called) == 1:
        instead = f", and that {'is' if called[0].call.startswith('stopped') else 'waits in'} {_call(called[0])}"
    return f"only process {reader} reads it{instead}"


def _rescue(finding: Finding) -> Iterator[str]:
    if finding.rescuable:
        does = "frees it" if finding.verdict == "deadlock" else "gives it room to go on"
        yield f"without a restart: {_ascii(finding.rescue)} {does}, by growing what the blocked write needs"
    elif finding.rescue and finding.verdict != "quiet":
        yield f"growing does not free it: {_ascii(finding.rescue)}"


# ---- the drawing ----


@dataclass(slots=True)
class _Node:
    party: Party
    number: int
    under: list[_Node] = field(default_factory=list)
    named: list[str] = field(default_factory=list)


def proof(finding: Finding) -> list[str]:
    """Draw who could move whom: each party once, with a number, under the one that waits for it."""
    drawn: list[str] = []
    for root in _trees(finding):
        drawn.append(_label(root))
        drawn += _branches(root, "")
    rest = len(finding.parties) - _MOST_DRAWN
    if rest > 0:
        drawn.append(f"... and {rest:,} more thread{'s' if rest > 1 else ''}")
    return drawn


def _trees(finding: Finding) -> list[_Node]:
    """Lay the graph out breadth first, the writers at the roots; a party met again is named by its number."""
    parties = {party.tid: party for party in finding.parties[:_MOST_DRAWN]}
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
        node.named = [f"[{number}]" for number in numbers] + [f"thread {tid}" for tid in others if tid not in nodes]
    return roots


def _branches(node: _Node, indent: str) -> Iterator[str]:
    rows: list[_Node | str] = [*node.under]
    if node.named:
        also = "also " if node.under else ""
        rows.append(f"{also}waits for {_some(node.named)}")
    for at, row in enumerate(rows, 1):
        last = at == len(rows)
        yield f"{indent}{'└─ ' if last else '├─ '}{row if isinstance(row, str) else _label(row)}"
        if isinstance(row, _Node):
            yield from _branches(row, indent + ("   " if last else "│  "))


def _label(node: _Node) -> str:
    party = node.party
    who = _who(party)
    what = f" on {_ascii(party.file)}" if party.file.startswith(("pipe:", "fifo:", "socket:")) else ""
    weak = " (weaker evidence: told by wchan)" if party.weak else ""
    return f"[{node.number}] {who}: {_call(party, what)}{weak}"


# ---- words ----


def amount(size: int) -> str:
    """Give bytes as people say them: 938 KB, 1.2 MB."""
    if size < 10_000:
        return f"{size:,} byte{'' if size == 1 else 's'}"
    scaled, unit = next(
        (size / factor, unit) for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")) if size >= factor
    )
    return f"{scaled:,.0f} {unit}" if scaled >= 10 else f"{scaled:.1f} {unit}"


def _who(party: Party) -> str:
    return f"process {party.pid}" if party.tid == party.pid else f"thread {party.tid} of process {party.pid}"


def _call(party: Party, what: str = "") -> str:
    at = f", at {_ascii(party.line)}" if party.line else ""
    return f"{_ascii(party.call)}{what}{at}"


def _command(party: Party) -> str:
    program, *arguments = party.command.split() or [""]
    shown = " ".join([program.rpartition("/")[2], *arguments])
    shown = shown if len(shown) <= _COMMAND else f"{shown[: _COMMAND - 4]} ..."
    return f" [{_ascii(shown)}]" if shown else ""


def _more(told: Sequence[object], what: str) -> Iterator[str]:
    rest = len(told) - _MOST_TOLD
    if rest > 0:
        yield f"... and {rest:,} more {what}{'s' if rest > 1 else ''} like that"


def _some(names: Sequence[str]) -> str:
    if len(names) > _MOST_NAMED:
        return f"{', '.join(names[:_MOST_NAMED])} and {len(names) - _MOST_NAMED:,} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _ascii(text: str) -> str:
    """Give text from outside in printable ASCII: a command line may hold anything, escape sequences too."""
    return "".join(
        character if " " <= character <= "~" else character.encode("unicode_escape").decode() for character in text
    )
