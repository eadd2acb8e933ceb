"""List the pipes of live processes: how full, who holds each end, who waits, what moves; trouble on top."""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from pipecap.cli import arguments
from pipecap.cli.render import WIDTH, Block, Line, Table, answer
from pipecap.cli.trouble import complain, printable
from pipecap.diagnosis import evidence, text
from pipecap.diagnosis.diagnose import judge
from pipecap.diagnosis.finding import Diagnosis
from pipecap.proc import snapshot
from pipecap.proc.checks import require_seconds
from pipecap.proc.listing import Holder, Listing, LivePipe, Looks, Waiter

WINDOW = 0.3
_MOST_WAITERS = 5  # shown of one pipe
NARROWEST = 13  # "4194304:12 +3"
MOST_NARROW, WIDEST = 60, 120  # columns of a table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the processes and how long to look."""
    add_processes(parser)
    parser.add_argument(
        "--window",
        metavar="S",
        type=float,
        default=WINDOW,
        help=f"seconds between two samples, to see what moves; 0: one sample (default: {WINDOW})",
    )


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Declare PID..."""
    parser.add_argument("pids", metavar="PID", nargs="*", type=arguments.pid, help="default: all that may be read")
    parser.add_argument("--tree", action="store_true", help="also their descendants")
    parser.add_argument("--all", action="store_true", help="also the pipes that this command itself holds")


def run(options: argparse.Namespace) -> int:
    """Look twice and show; status 1 if a process could not be looked into."""
    return show(options, options.window)


def show(options: argparse.Namespace, window: float) -> int:
    """Answer `ps`."""
    require_seconds("window", window, usual=WINDOW, zero=True)
    looks = Looks(options.pids, tree=options.tree)
    begin, before = time.monotonic(), snapshot.take()
    found, judged = looks.look(before), None
    if window and looks.scope:
        time.sleep(max(0.0, window - (time.monotonic() - begin)))
        now = snapshot.take()
        found = looks.look(now)
        judged = judge(evidence.compare(before, now, window), looks.scope, None)
    if options.json:
        found = Listing(found.pipes, (*found.unknown, *map(str, looks.failed)))
    else:
        for error in looks.failed:
            complain(error)
    pipes = found.pipes if options.all else tuple(pipe for pipe in found.pipes if not _is_our_own(pipe))
    shown = [*_blocks(Listing(pipes, found.unknown)), *_verdict(pipes, judged)] if looks.scope else []
    answer("ps", found.to_dict(), shown, as_json=options.json)
    return 1 if looks.failed else 0


def _is_our_own(pipe: LivePipe) -> bool:
    """Whether this command itself holds it: its stdout, say, of the shell's pipeline that shows it."""
    me = os.getpid()
    return any(holder.pid == me for holder in (*pipe.readers, *pipe.writers)) and not pipe.full


def _blocks(found: Listing) -> Iterator[Block]:
    width = min(max(MOST_NARROW, shutil.get_terminal_size((WIDTH, 24)).columns), WIDEST) - 2
    if found.pipes:
        yield _table(found.pipes, width)
    waiters = list(waiting_rows(found.pipes, width))
    if waiters:
        yield Line()
        yield Line("Waiting threads", "heading")
        yield Table(WAITING_HEADS, waiters)
    names = [Line(f"  {pipe.inode} is the FIFO {pipe.name}", drawn=True) for pipe in found.pipes if pipe.name]
    unknown = [Line(f"  {what}") for what in chain(found.unknown, _unknown(found.pipes))]
    for heading, lines in (("Names", names), ("Unknown", unknown)):
        if lines:
            yield Line()
            yield Line(heading, "heading")
            yield from lines
    if found.pipes:
        yield Line()


_FULL = {True: "yes", False: "no", None: "unknown"}


def _table(pipes: Sequence[LivePipe], width: int) -> Table:
    heads = ["program", "writers", "readers", ">unread", ">capacity", "full", ">waiting", ">unmoved", ">inode"]
    rows = [
        [
            "",
            "",
            "",
            number(pipe.unread),
            number(pipe.capacity),
            _FULL[pipe.full],
            str(len(pipe.waiting)) if pipe.waiting else "",
            unmoved(pipe),
            str(pipe.inode),
        ]
        for pipe in pipes
    ]
    for head in (">capacity", ">waiting"):  # what a narrow terminal has no room for
        if taken(heads, rows) + 2 * NARROWEST + 8 - len("programwritersreaders") > width:
            at = heads.index(head)
            for row in (heads, *rows):
                del row[at]
    free = width - taken(heads, rows) + len("programwritersreaders")
    each = max(NARROWEST, free // 3)
    for row, pipe in zip(rows, pipes, strict=True):
        row[:3] = program(pipe, each), listed(pipe.writers, each), listed(pipe.readers, each)
    return Table(heads, rows)


def program(pipe: LivePipe, width: int) -> str:
    """Name the program that writes, or else reads: its command without the folder."""
    holder = next(iter((*pipe.writers, *pipe.readers)), None)
    return _shortened(_without_folder(holder.command if holder else ""), width)


def _without_folder(command: str) -> str:
    name, _, arguments = command.partition(" ")
    return f"{name.rpartition('/')[2]} {arguments}".strip()


def number(value: int | None) -> str:
    """Write a number, or that it is not known."""
    return "unknown" if value is None else f"{value:,}"


def unmoved(pipe: LivePipe) -> str:
    """Write for how long, at least, the count has not moved."""
    if pipe.unmoved is None:
        return ""
    return f">={pipe.unmoved:,.1f} s" if pipe.unmoved else "moves"


def listed(holders: Iterable[Holder], width: int) -> str:
    """Write PID:FD of as many as fit in the width, and how many more there are."""
    names = [f"{holder.pid}:{holder.fd}" for holder in holders]
    text = ", ".join(names)
    if len(text) <= width:
        return text or "none seen"
    for shown in range(len(names) - 1, 0, -1):
        for more in (f" +{len(names) - shown} more", f" +{len(names) - shown}"):
            text = ", ".join(names[:shown]) + more
            if len(text) <= width:
                return text
    return f"{len(names)} of them"


WAITING_HEADS = ("command", ">process", ">thread", "waits in", ">inode")


def waiting_rows(pipes: Iterable[LivePipe], width: int) -> Iterator[tuple[str, ...]]:
    """Give a row of WAITING_HEADS for each thread that waits, some of each pipe, to fit in a width."""
    rows = [row for pipe in pipes for row in _waiting(pipe)]
    free = max(10, width - taken(WAITING_HEADS[1:], [row[1:] for row in rows]) - 2)
    for command, *cells in rows:
        yield _shortened(command, free), *cells


def taken(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Give the width of columns, each with the gap before it."""
    return sum(
        2 + max(len(text) for text in (head.strip(">"), *(row[at] for row in rows))) for at, head in enumerate(heads)
    )


def _waiting(pipe: LivePipe) -> Iterator[tuple[str, ...]]:
    commands = {holder.pid: holder.command for holder in (*pipe.readers, *pipe.writers)}
    for waiter in pipe.waiting[:_MOST_WAITERS]:
        call = _shortened(_call(waiter), 48)
        yield _without_folder(commands.get(waiter.pid, "")), str(waiter.pid), str(waiter.tid), call, str(pipe.inode)
    if len(pipe.waiting) > _MOST_WAITERS:
        yield "", "", "", f"+{len(pipe.waiting) - _MOST_WAITERS:,} more", str(pipe.inode)


def _call(waiter: Waiter) -> str:
    if waiter.call.startswith(("read", "write", "a ")):
        return waiter.call
    return f"{waiter.call}, to {'write' if waiter.writes else 'read'}"


def _shortened(text: str, width: int) -> str:
    shown = printable(text)
    return shown if len(shown) <= width else shown[: width - 3] + "..."


def _unknown(pipes: Iterable[LivePipe]) -> Iterator[str]:
    """Say of which pipes something is not known, by reason."""
    reasons: defaultdict[str, list[int]] = defaultdict(list)
    for pipe in pipes:
        if pipe.unknown:
            reasons[pipe.unknown].append(pipe.inode)
    for reason, inodes in reasons.items():
        more = f" and {len(inodes) - 5:,} more" if len(inodes) > 5 else ""
        yield f"pipe{'s' if len(inodes) > 1 else ''} {', '.join(map(str, inodes[:5]))}{more}: {reason}"


def _verdict(pipes: Sequence[LivePipe], judged: Diagnosis | None) -> Iterator[Line]:
    """Say what `doctor` says, in a line for each problem."""
    problems = [finding for finding in judged.findings if finding.problem] if judged is not None else []
    for finding in problems:
        yield Line(f"[problem] {text.heading(finding)}", "problem")
        yield Line(f"  -> python -m pipecap doctor {finding.pid}", "action")
    if not pipes:
        yield Line("No pipes.")
    elif not problems:
        count = f"{len(pipes):,} pipes" if len(pipes) > 1 else "1 pipe"
        yield Line(f"[ok] {count}, no hang found." if judged is not None else f"[ok] {count}.", "ok")
        yield Line("  -> python -m pipecap doctor", "action")
