"""Measure how fast items of a size move, over capacities and chunks, and recommend the cheapest that is fast."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipecap.cli.fit import literal
from pipecap.cli.render import Block, Line, Table, answer, bar
from pipecap.cli.trouble import say
from pipecap.kernel.fit import pickled_size
from pipecap.results import Result
from pipecap.tuning.grid import PIPECAP, STOCK
from pipecap.tuning.recommendation import Choice, Recommendation, megabytes, recommend, size_text
from pipecap.tuning.sweep import Sweep, tune

TYPE_CHECKING = False  # typing takes 2 ms to load
if TYPE_CHECKING:
    from pipecap.tuning.sweep import Progress

SUFFIXES = (".png", ".svg")
_SECONDS = 12.0
_LONGEST = 86400.0


@dataclass(frozen=True, slots=True)
class Tuning(Result):
    """The answer of `tune`: what was measured, what follows, and the file that shows it, None without --plot."""

    sweep: Sweep
    recommendation: Recommendation
    plot: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the item, the time to take and where to draw."""
    parser.usage = "pipecap tune [-h] [--json] [--seconds S] [--rounds N] [--plot FILE] (SIZE | --object EXPR)"
    parser.add_argument("size", metavar="SIZE", nargs="?", help='pickled bytes of one item: 4096, "64K", "1MB"')
    parser.add_argument(
        "--object",
        metavar="EXPR",
        help="a Python literal, \"{'label': 3}\", or an array, numpy:float64:131072: pickling is then part of it",
    )
    parser.add_argument(
        "--seconds", metavar="S", type=float, default=_SECONDS, help=f"how long it may take (default: {_SECONDS:.0f})"
    )
    parser.add_argument("--rounds", metavar="N", type=int, help="measurements of each cell (default: 5 to 15)")
    parser.add_argument("--plot", metavar="FILE", help="draw stock, recommended and best to a .png or .svg file")


def run(arguments: argparse.Namespace) -> int:
    """Measure, recommend, show."""
    trouble = _usage_trouble(arguments)
    if trouble:
        say(trouble)
        return 2
    item = arguments.size
    if arguments.object is not None:
        try:
            item = literal(arguments.object)
        except ValueError as error:
            say(str(error))
            return 2
        if isinstance(item, int | str):
            item = pickled_size(item)  # else it would be a size
    if arguments.plot is not None:
        from pipecap.cli.plot import check

        check(arguments.plot)  # before it takes seconds to have something to draw
    with _progress_bar() as progress:
        sweep = tune(item, seconds=arguments.seconds, rounds=arguments.rounds, progress=progress)
    found = Tuning(sweep=sweep, recommendation=recommend(sweep), plot=arguments.plot)
    if arguments.plot is not None:
        from pipecap.cli.plot import draw

        draw(found.sweep, found.recommendation, arguments.plot)
    answer("tune", found.to_dict(), list(_blocks(found)), as_json=arguments.json)
    return 0


def _usage_trouble(arguments: argparse.Namespace) -> str:
    if (arguments.size is None) == (arguments.object is None):
        return "tune takes a SIZE or --object EXPR"
    if not 0 < arguments.seconds <= _LONGEST or math.isnan(arguments.seconds):
        return f"--seconds is a number above 0 and up to {_LONGEST:,.0f}"
    if arguments.rounds is not None and not 1 <= arguments.rounds <= 1000:
        return "--rounds is a number from 1 to 1,000"
    if arguments.plot is not None and not arguments.plot.lower().endswith(SUFFIXES):
        return f"--plot takes a file that ends in {' or '.join(SUFFIXES)}, for that is the format"
    return ""


@contextmanager
def _progress_bar() -> Iterator[Progress | None]:
    """Show on stderr how far the sweep is, if that is a terminal; what it draws is gone afterwards."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    # No thread of its own, which would disturb what is measured: refreshed between two measurements.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as shown:
        task = shown.add_task("measuring", total=None)
        yield _updater(lambda done, total: shown.update(task, completed=done, total=total, refresh=True))


def _updater(show: Callable[[int, int], object]) -> Progress:
    """Pass on a hundred steps of all."""
    last = -1

    def update(done: int, total: int) -> None:
        nonlocal last
        if done * 100 // total != last:
            last = done * 100 // total
            show(done, total)

    return update


def _blocks(found: Tuning) -> Iterator[Block]:
    sweep, advised = found.sweep, found.recommendation
    yield Line(
        f"{_what(sweep)}, in MB/s:"
        f" medians of {sweep.rounds} to {max(cell.rounds for cell in sweep.cells)} interleaved measurements."
    )
    for placement in sweep.placements:
        yield Line()
        yield Line(_where(placement, sweep), "heading")
        yield _table(sweep, advised.choice, placement)
    yield Line()
    recommended = "; > is recommended" if advised.worthwhile else ", and recommended"
    yield Line(f"[ ] is the baseline, the stock Connection on a new pipe{recommended}.")
    for left_out in sweep.left_out:
        value = "" if left_out.value is None else f" {left_out.value:,}"
        yield Line(f"Not measured: {left_out.kind}{value}: {left_out.why}")
    if found.plot is not None:
        yield Line(f"Drawn to {found.plot}.")
    yield Line()
    yield Line("Verdict", "heading")
    for advice in advised.verdict:
        yield Line(f"  [{advice.level}] {advice.text}", advice.level)
        yield Line(f"    -> {advice.action}", "action")


def _what(sweep: Sweep) -> str:
    if sweep.kind is None:
        return f"Items of {sweep.item:,} pickled bytes from Connection to Connection"
    return f"Items, each a {sweep.kind} of {sweep.item:,} pickled bytes, pickled, sent and unpickled as by a queue"


def _where(placement: str, sweep: Sweep) -> str:
    if placement == "pinned" and sweep.cpus:
        return f"Pinned: producer on CPU {sweep.cpus[0]}, consumer on CPU {sweep.cpus[1]}"
    return "Free: the kernel places both processes"


def _table(sweep: Sweep, choice: Choice, placement: str) -> Table:
    """One row a capacity; the stock connection, then pipecap's by chunk; a bar for the best of the row."""
    moved = {
        (cell.side, cell.capacity, cell.chunk): cell.throughput for cell in sweep.cells if cell.placement == placement
    }
    best = max(moved.values())
    chunks = sorted({chunk for _, _, chunk in moved if chunk is not None})
    columns = [(STOCK, None), *((PIPECAP, chunk) for chunk in chunks)]
    marks = {
        (choice.side, choice.capacity, choice.chunk): "> {}",
        (STOCK, sweep.default_capacity, None): "[{}]",
    }
    rows = []
    for capacity in sorted({capacity for _, capacity, _ in moved}):
        cells = [(side, capacity, chunk) for side, chunk in columns]
        fastest = max(moved.get(cell, 0) for cell in cells)
        rows.append(
            (
                size_text(capacity),
                *(marks.get(cell, "{}").format(megabytes(moved[cell])) if cell in moved else "" for cell in cells),
                bar(fastest / best, 16),
            )
        )
    heads = (
        f">{'whole' if chunk >= sweep.frame else f'by {size_text(chunk)}'}" for _, chunk in columns if chunk is not None
    )
    return Table((">capacity", ">stock", *heads, "best of the row"), rows)
