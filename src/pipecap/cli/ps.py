"""List the pipes of live processes: how full, who holds each end, who waits, what moves; trouble on top."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from pipecap.cli.render import WIDTH, Block, Line, Table, answer
from pipecap.cli.trouble import complain, printable
from pipecap.proc.listing import Holder, Listing, LivePipe, Looks, Waiter

WINDOW = 0.3
_MOST_WAITERS = 5  # shown of one pipe
NARROWEST = 13  # "4194304:12 +3"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the processes and how long to look."""
    add_processes(parser)
    parser.add_argument(
        "--window",
        metavar="S",
        type=float,
        default=WINDOW,
        help=f"seconds between two looks, to see what moves; 0: one look (default: {WINDOW})",
    )


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Declare PID..."""
    parser.add_argument("pids", metavar="PID", nargs="*", type=_pid, help="default: all that may be read")
    parser.add_argument("--tree", action="store_true", help="also their descendants")


def _pid(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:20]) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is no PID")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Look twice and show; status 1 if a process could not be looked into."""
    return show(arguments, arguments.window)


def show(arguments: argparse.Namespace, window: float) -> int:
    """Answer `ps`."""
    looks = Looks(arguments.pids, tree=arguments.tree)
    found = looks.twice(window)
    if arguments.json:
        found = Listing(found.pipes, (*found.unknown, *map(str, looks.failed)))
    else:
        for error in looks.failed:
            complain(error)
    answer("ps", found.to_dict(), list(_blocks(found)) if looks.scope else [], as_json=arguments.json)
    return 1 if looks.failed else 0


def _blocks(found: Listing) -> Iterator[Block]:
    if found.pipes:
        yield _table(found.pipes)
    waiters = list(waiting_rows(found.pipes, WIDTH - 2))
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
    yield from _verdict(found.pipes)


_FULL = {True: "yes", False: "no", None: "unknown"}


def _table(pipes: Sequence[LivePipe]) -> Table:
    heads = ("inode", ">capacity", ">unread", "full", "readers", "writers", ">waiting", ">unmoved")
    rows = [
        [
            str(pipe.inode),
            number(pipe.capacity),
            number(pipe.unread),
            _FULL[pipe.full],
            "",
            "",
            str(len(pipe.waiting)) if pipe.waiting else "",
            unmoved(pipe),
        ]
        for pipe in pipes
    ]
    free = WIDTH - taken(heads, rows) + len("readers") + len("writers")
    width = max(NARROWEST, free // 2)
    for row, pipe in zip(rows, pipes, strict=True):
        row[4:6] = listed(pipe.readers, width), listed(pipe.writers, width)
    return Table(heads, rows)


def number(value: int | None) -> str:
    """Write a number, or that it is not known."""
    return "unknown" if value is None else f"{value:,}"


def unmoved(pipe: LivePipe) -> str:
    """Write for how long, at least, the count has not moved."""
    if pipe.unmoved is None:
        return ""
    return f">={pipe.unmoved:,.1f} s" if pipe.unmoved else "moved"


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


WAITING_HEADS = ("inode", ">process", ">thread", "waits in", "command")


def waiting_rows(pipes: Iterable[LivePipe], width: int) -> Iterator[tuple[str, ...]]:
    """Give a row of WAITING_HEADS for each thread that waits, some of each pipe, to fit in a width."""
    rows = [row for pipe in pipes for row in _waiting(pipe)]
    free = max(10, width - taken(WAITING_HEADS[:4], rows))
    for *cells, command in rows:
        yield *cells, _shortened(command, free)


def taken(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Give the width of columns, each with the gap before it."""
    return sum(
        2 + max(len(text) for text in (head.strip(">"), *(row[at] for row in rows))) for at, head in enumerate(heads)
    )


def _waiting(pipe: LivePipe) -> Iterator[tuple[str, ...]]:
    commands = {holder.pid: holder.command for holder in (*pipe.readers, *pipe.writers)}
    for waiter in pipe.waiting[:_MOST_WAITERS]:
        call = _shortened(_call(waiter), 48)
        yield str(pipe.inode), str(waiter.pid), str(waiter.tid), call, commands.get(waiter.pid, "")
    if len(pipe.waiting) > _MOST_WAITERS:
        yield str(pipe.inode), "", "", f"+{len(pipe.waiting) - _MOST_WAITERS:,} more", ""


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


def _verdict(pipes: Sequence[LivePipe]) -> Iterator[Line]:
    stalled = [pipe for pipe in pipes if pipe.stalled]
    if not pipes:
        yield Line("No pipes.")
    elif stalled:
        writer = stalled[0].waiting[0]
        many = f"{len(stalled):,} pipes are" if len(stalled) > 1 else f"Pipe {stalled[0].inode} is"
        yield Line(f"[problem] {many} full, with a writer that waits and nobody seen to read.", "problem")
        yield Line(f"  -> python -m pipecap doctor {writer.pid}", "action")
    else:
        count = f"{len(pipes):,} pipes" if len(pipes) > 1 else "1 pipe"
        yield Line(f"[ok] {count}, none full with a writer that waits and nobody seen to read.", "ok")
        yield Line("  -> python -m pipecap doctor", "action")
