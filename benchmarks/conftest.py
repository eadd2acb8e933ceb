"""Time ours and a named peer in turns; show the ratios as one table at the end of the run.

Machines differ and are noisy, so no time is shown or asserted: a round times the peer, then ours, and gives one ratio;
the table has the median of the rounds and their middle half. `--benchmark-verbose` adds pytest-benchmark's own table;
`--benchmark-json FILE` records every round of ours, with the row of our table as `extra_info`.
"""

from __future__ import annotations

import faulthandler
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import quantiles
from timeit import Timer

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from pipecap.cli.render import Table, show

Code = str | Callable[[], object]


@dataclass(frozen=True, slots=True)
class Row:
    """Ours takes `ratio` times the time of `peer`; `low` to `high` in the middle half of the rounds."""

    what: str
    peer: str
    low: float
    ratio: float
    high: float
    aim: float | None
    placement: str


ROWS = pytest.StashKey[list[Row]]()


@dataclass(frozen=True, slots=True)
class Against:
    """The fixture `against`."""

    benchmark: BenchmarkFixture
    rows: list[Row]

    def __call__(
        self,
        peer: tuple[str, Code],
        ours: tuple[str, Code],
        *,
        rounds: int,
        calls: int = 1,
        aim: float | None = None,
        names: Mapping[str, object] | None = None,
        prepare: Callable[[], object] = lambda: None,
    ) -> None:
        """Time `peer`, then `ours`, in every round, `calls` times each, both after `prepare()`.

        They are pairs of name and code. Code as text may use `names`; it is timed without the cost of one more call.
        """
        (peer_name, peer_code), (our_name, our_code) = peer, ours
        peer_timer, our_timer = (Timer(code, globals=dict(names or {})) for code in (peer_code, our_code))
        peer_times: list[float] = []
        our_times: list[float] = []

        def time_peer() -> None:
            prepare()
            peer_times.append(peer_timer.timeit(calls))
            prepare()

        def time_ours() -> None:
            our_times.append(our_timer.timeit(calls))

        # pytest's watchdog is a thread, and system calls take longer in a process that has two.
        faulthandler.cancel_dump_traceback_later()
        self.benchmark.pedantic(  # type: ignore[no-untyped-call] # pytest-benchmark says it is typed, and is not
            time_ours, setup=time_peer, rounds=rounds, warmup_rounds=1
        )
        if self.benchmark.enabled:
            _, *warm = (mine / theirs for mine, theirs in zip(our_times, peer_times, strict=True))
            low, ratio, high = quantiles(warm, n=4)
            row = Row(our_name, peer_name, low, ratio, high, aim, placement())
            self.benchmark.extra_info.update(asdict(row), calls=calls)
            self.rows.append(row)


@pytest.fixture
def against(benchmark: BenchmarkFixture, pytestconfig: pytest.Config) -> Against:
    """Time ours against a peer."""
    return Against(benchmark, pytestconfig.stash[ROWS])


def placement() -> str:
    """Tell on which CPUs this process and its children may run: all, or those of `taskset -c 0,1 python -m pytest`."""
    allowed = os.sched_getaffinity(0)
    if len(allowed) == os.cpu_count():
        return f"free, {len(allowed)} CPUs"
    return f"pinned to CPU {', '.join(map(str, sorted(allowed)))}"


def pytest_configure(config: pytest.Config) -> None:
    """Keep pytest-benchmark's table of times back."""
    config.option.benchmark_quiet = True
    config.stash[ROWS] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the ratios."""
    if rows := config.stash[ROWS]:
        text = io.StringIO()
        show([_table(rows)], text)
        terminalreporter.section("ours takes so many times the time of the peer")
        terminalreporter.write(text.getvalue())


def _table(rows: list[Row]) -> Table:
    return Table(
        ("what", "peer", ">time ratio", ">middle half", ">aim", "placement"),
        [
            (
                row.what,
                row.peer,
                f"{_number(row.ratio)}x",
                f"{_number(row.low)} to {_number(row.high)}",
                "-" if row.aim is None else f"{_number(row.aim)}x",
                row.placement,
            )
            for row in rows
        ],
    )


def _number(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.2f}"
