"""Show the pipes of live processes, again and again: how full, what moves, who waits; a deadlock as it happens."""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import termios
import textwrap
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from types import FrameType

from pipecap.cli import ps
from pipecap.cli.render import bar
from pipecap.cli.trouble import printable
from pipecap.diagnosis import diagnose, evidence
from pipecap.diagnosis.movement import Movement
from pipecap.errors import Unsupported
from pipecap.proc import snapshot
from pipecap.proc.checks import require_seconds
from pipecap.proc.listing import Listing, LivePipe, Looks

TYPE_CHECKING = False  # typing takes 2 ms to load, rich more, and only a terminal needs it
if TYPE_CHECKING:
    from typing import Literal, Self

    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

    from pipecap.diagnosis.finding import Diagnosis, Finding
    from pipecap.proc.snapshot import Snapshot

_INTERVAL = 1.0
_BAR = 12
_WIDE = 100  # columns, from which on all is shown
_NARROW = 80
_DROPPED = ("", ">capacity", ">waiting", ">in", ">out")
_MOST_FINDINGS = 3  # told in full
_ENDED_BY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the processes and how often to look."""
    parser.epilog = "q ends it. --json: one look, as `pipecap ps --json`."
    ps.add_processes(parser)
    parser.add_argument(
        "--interval", metavar="S", type=float, default=_INTERVAL, help=f"seconds (default: {_INTERVAL:.0f})"
    )


def run(arguments: argparse.Namespace) -> int:
    """Look and show until `q`, Ctrl-C or another signal ends it."""
    require_seconds("interval", arguments.interval, usual=_INTERVAL)
    window = min(diagnose.WINDOW, arguments.interval)
    if arguments.json:
        return ps.show(arguments, window)
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        raise Unsupported("top draws on a terminal, and stdout is none that it can draw on", hint="use `pipecap ps`")
    looks = Looks(arguments.pids, tree=arguments.tree)
    begin, seen = time.monotonic(), snapshot.take()
    first = looks.look(seen)
    if looks.failed:
        raise looks.failed[0]
    return _watch(looks, first, seen, begin, arguments.interval)


def _watch(looks: Looks, first: Listing, seen: Snapshot, begin: float, interval: float) -> int:
    from rich.console import Console
    from rich.live import Live

    console = Console(file=sys.stdout, highlight=False)
    screen = Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    with _Ending() as ending, _keys(ending) as keys, screen as live:
        live.update(_Screen(looks, first, None, interval), refresh=True)
        before, movement = seen, Movement()
        while not keys.ends_within(interval - (time.monotonic() - begin)):
            begin = time.monotonic()
            now = snapshot.take()
            listing = looks.look(now)
            pair = evidence.compare(before, now, interval)
            found = diagnose.judge(pair, looks.scope, None, stacks=False, movement=movement)
            before = now
            live.update(_Screen(looks, listing, found, interval), refresh=True)
    return 0 if ending.number in (0, signal.SIGINT) else 128 + ending.number


# ---- how it ends ----


class _Ending:
    """The signals that end it: each makes a pipe readable (signal.set_wakeup_fd), and interrupts nothing else.

    A sample that is under way is finished first.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        self.woken, self._wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._woke_before = signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        for number in _ENDED_BY:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # what signal() gave
        signal.set_wakeup_fd(self._woke_before)
        os.close(self._wakes)
        os.close(self.woken)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.number = number


class _Keys:
    """The keyboard, None where stdin is no terminal, and the signals."""

    def __init__(self, fd: int | None, ending: _Ending) -> None:
        self._fd = fd
        self._ending = ending

    def ends_within(self, seconds: float) -> bool:
        """Wait for some seconds; return whether a `q` or a signal came, or the terminal has gone."""
        end = time.monotonic() + seconds
        watched = [self._ending.woken, *([] if self._fd is None else [self._fd])]
        while not self._ending.number:
            left = max(0.0, end - time.monotonic())
            ready = select.select(watched, [], [], left)[0]
            if self._fd in ready and self._fd is not None:
                try:
                    typed = os.read(self._fd, 64)
                except OSError:
                    typed = b""
                if not typed or b"q" in typed.lower():
                    return True
            elif self._ending.woken in ready:
                os.read(self._ending.woken, 64)  # other signals make it readable, too
            elif not left or time.monotonic() >= end:
                return False
        return True


@contextmanager
def _keys(ending: _Ending) -> Iterator[_Keys]:
    """Have keys at once and unechoed, and no Ctrl-Z, which would leave the terminal as it is now; put all back."""
    fd = 0
    try:
        before = termios.tcgetattr(fd)
    except termios.error:
        yield _Keys(None, ending)
        return
    try:
        tty.setcbreak(fd, termios.TCSANOW)
        now = termios.tcgetattr(fd)
        now[6][termios.VSUSP] = b"\0"
        termios.tcsetattr(fd, termios.TCSANOW, now)
        yield _Keys(fd, ending)
    finally:
        with suppress(termios.error):  # the terminal has gone
            termios.tcsetattr(fd, termios.TCSANOW, before)


# ---- how it looks ----


class _Screen:
    """One sample, drawn to fit whatever size the terminal has by now."""

    def __init__(self, looks: Looks, listing: Listing, found: Diagnosis | None, interval: float) -> None:
        self._looks = looks
        self._listing = listing
        self._found = found
        self._interval = interval

    def __rich_console__(self, console: Console, _: object) -> Iterator[RenderableType]:
        width, height = console.size
        pipes = self._listing.pipes
        yield _text(self._head(), "bold")
        above = [*self._findings(width), *(_text(str(error), "yellow") for error in self._looks.failed)]
        below = [
            _text("in, out: bytes per second, at least: a sample shows only what one exceeded the other by", "dim"),
            *(_text(f"unknown: {what}", "dim") for what in self._listing.unknown[:2]),
        ]
        yield from above
        yield _text()
        free = height - len(above) - len(below) - 6  # besides head, gaps and the heads of both tables
        waiters = list(ps.waiting_rows(pipes, width))
        rows = max(1, free - min(len(waiters), free // 3))
        yield self._table(pipes[:rows], width, ascii_only=console.options.ascii_only)
        if len(pipes) > rows:
            below.insert(0, _text(f"+{len(pipes) - rows:,} more pipes", "dim"))
        yield _text()
        room = free - min(len(pipes), rows) - 1
        if waiters and room > 0:
            yield _table(ps.WAITING_HEADS, [[_text(cell) for cell in row] for row in waiters[:room]])
        yield from below

    def _head(self) -> str:
        pipes = self._listing.pipes
        full = sum(bool(pipe.full) for pipe in pipes)
        count = f"{len(pipes):,} pipe{'' if len(pipes) == 1 else 's'}, {full:,} full"
        return f"pipecap top: {count}; every {self._interval:g} s; q ends it"

    def _findings(self, width: int) -> Iterator[Text]:
        problems = [finding for finding in self._found.findings if finding.problem] if self._found else []
        for finding in problems[:_MOST_FINDINGS]:
            yield from _finding(finding, width)
        if len(problems) > _MOST_FINDINGS:
            yield _text(f"+{len(problems) - _MOST_FINDINGS:,} more: python -m pipecap doctor", "bold red")

    def _table(self, pipes: tuple[LivePipe, ...], width: int, *, ascii_only: bool) -> Table:
        heads = ["program", "writers", "readers", "", ">unread", ">capacity", "full", ">in", ">out"]
        heads += [">waiting", ">unmoved", ">inode"]
        rows = [self._row(pipe, ascii_only=ascii_only) for pipe in pipes]
        hidden = () if width >= _WIDE else (">capacity", ">waiting") if width >= _NARROW else _DROPPED
        shown = [at for at, head in enumerate(heads) if head not in hidden]
        used = ps.taken([heads[at] for at in shown], [[row[at] for at in shown] for row in rows])
        each = max(ps.NARROWEST, (width - used + len("programwritersreaders")) // 3)
        for row, pipe in zip(rows, pipes, strict=True):
            row[:3] = ps.program(pipe, each), ps.listed(pipe.writers, each), ps.listed(pipe.readers, each)
        styles = ("bold red" if pipe.stalled else "red" if pipe.full else "default" for pipe in pipes)
        return _table(
            [heads[at] for at in shown],
            [
                [_text(row[at], style if heads[at] in ("", "full") else "default") for at in shown]
                for row, style in zip(rows, styles, strict=True)
            ],
        )

    def _row(self, pipe: LivePipe, *, ascii_only: bool) -> list[str]:
        """Give the cells, but for the holders, which take what room is left."""
        share = (pipe.unread or 0) / (pipe.capacity or 1)
        growth = self._looks.growth(pipe.file) or 0.0
        return [
            "",
            "",
            "",
            ("#" * round(share * _BAR) if ascii_only else bar(share, _BAR)).ljust(_BAR),
            ps.number(pipe.unread),
            ps.number(pipe.capacity),
            {True: "FULL", False: "", None: "?"}[pipe.full],
            f">={growth:,.0f}" if growth > 0 else "",
            f">={-growth:,.0f}" if growth < 0 else "",
            str(len(pipe.waiting)) if pipe.waiting else "",
            ps.unmoved(pipe),
            str(pipe.inode),
        ]


def _finding(finding: Finding, width: int) -> Iterator[Text]:
    yield _text(f"{finding.verdict.upper()}: {finding.pattern}", "bold red")
    for what in (finding.cause, f"fix: {finding.fix}"):
        yield from (_text(f"  {line}") for line in textwrap.wrap(printable(what), max(20, width - 2)))
    yield _text(f"  -> {finding.rescue}" if finding.rescuable else f"  no rescue: {finding.rescue}", "cyan")


@cache
def _overflow() -> Literal["ellipsis", "crop"]:
    """Cut with an ellipsis, where the terminal has one."""
    try:
        "…".encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return "crop"
    return "ellipsis"


def _text(text: str = "", style: str = "default") -> Text:
    """Make one line that stays one: what does not fit is cut."""
    import rich.text

    return rich.text.Text(printable(text), style=style, no_wrap=True, overflow=_overflow())


def _table(heads: Sequence[str], rows: list[list[Text]]) -> Table:
    import rich.table

    table = rich.table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads:
        right = head.startswith(">")
        table.add_column(head.strip(">"), justify="right" if right else "left", no_wrap=True, overflow=_overflow())
    for row in rows:
        table.add_row(*row)
    return table
