"""Time ours and a named peer in turns; show the ratios as one table at the end of the run.

Machines differ and are noisy, so no time is shown or asserted: a round times the peer, then ours, and gives one ratio;
the table has the median of the rounds and their middle half. `--benchmark-verbose` adds pytest-benchmark's own table;
`--benchmark-json FILE` records every round of ours, with the row of our table as `extra_info`.

A contest is the same among several: in a round each has its turn, ours last. Its table says how many times as fast as a
peer ours is.
"""

from __future__ import annotations

import faulthandler
import io
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from timeit import Timer

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.contenders import (
    RAW,
    Contender,
    Placement,
    Processes,
    Sides,
    compile_raw_pipe,
    in_turns,
    items_in,
    missing,
    raw_pipe,
)
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


@dataclass(frozen=True, slots=True)
class Score:
    """Ours is `speed` times as fast as the peer; `low` to `high` in the middle half of the rounds."""

    low: float
    speed: float
    high: float
    aim: float | None

    def __str__(self) -> str:
        if self.aim is None:
            return f"{_number(self.speed)}x"
        return f"{_number(self.speed)}x of {_number(self.aim)}{' missed' if self.speed < self.aim else ''}"


@dataclass(frozen=True, slots=True)
class Result:
    """How ours did in one contest, by name of the peer."""

    what: str
    placement: str
    scores: dict[str, Score]


@dataclass(frozen=True, slots=True)
class Peak:
    """What ours and the stock queue hold at their peak, in items; and how many ours may."""

    what: str
    ours: float
    stock: float
    most: float


ROWS = pytest.StashKey[list[Row]]()
RESULTS = pytest.StashKey[list[Result]]()
PEAKS = pytest.StashKey[list[Peak]]()

# What a turn of a contest takes, about; how many count, after one that does not.
TURN = 0.1
ROUNDS = 6
# Bytes through the raw pipe to find out how it is best written to.
TRIAL = 32_000_000


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


@dataclass(frozen=True, slots=True)
class Contest:
    """The fixture `contest`."""

    benchmark: BenchmarkFixture
    results: list[Result]
    program: Path | None

    def __call__(
        self,
        what: str,
        ours: Contender,
        peers: Sequence[Contender],
        *,
        item: object,
        placement: Placement,
        aims: Mapping[str, float | None],
        producers: int = 1,
        raw: int = 0,
    ) -> None:
        """Let all move `item` in turns, a bare pipe in C `raw` bytes, if any; `aims` by name of the peer."""
        sides: list[Sides] = []
        with ExitStack() as stack:
            if raw and self.program:
                sides.append(raw_pipe(self.program, raw, placement, trial=TRIAL if self.benchmark.enabled else 0))
            absent = missing()
            for contender in (*peers, ours):
                if contender.name not in absent:
                    sides.append(Processes(contender, item, placement, producers))
                    stack.callback(sides[-1].close)
            self.between(what, sides, str(placement), aims)

    def between(self, what: str, sides: Sequence[Sides], placement: str, aims: Mapping[str, float | None]) -> None:
        """Let these have their turns, ours last."""
        faulthandler.cancel_dump_traceback_later()
        real = self.benchmark.enabled
        theirs: list[list[float]] = []
        mine: list[list[float]] = []
        counts = [items_in(TURN, one) for one in sides] if real else [4] * len(sides)
        self.benchmark.pedantic(  # type: ignore[no-untyped-call] # as above
            lambda: mine.append(in_turns(sides[-1:], counts[-1:])),
            setup=lambda: theirs.append(in_turns(sides[:-1], counts[:-1])),
            rounds=ROUNDS,
            warmup_rounds=1,
        )
        if real:
            self._note(what, placement, sides, [[*a, *b] for a, b in zip(theirs, mine, strict=True)][1:], aims)

    def _note(
        self,
        what: str,
        placement: str,
        sides: Sequence[Sides],
        rounds: list[list[float]],
        aims: Mapping[str, float | None],
    ) -> None:
        times = {one.name: [turns[i] for turns in rounds] for i, one in enumerate(sides)}
        *peers, ours = times
        scores = {}
        for peer in peers:
            ratios = [theirs / mine for theirs, mine in zip(times[peer], times[ours], strict=True)]
            low, speed, high = quantiles(ratios, n=4)
            scores[peer] = Score(low, speed, high, aims.get(peer))
        result = Result(what, placement, scores)
        self.results.append(result)
        self.benchmark.extra_info.update(
            asdict(result), seconds_per_item={name: median(turns) for name, turns in times.items()}
        )


@pytest.fixture(scope="session")
def raw_program(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """Compile raw_pipe.c, where there is a compiler."""
    return None if RAW in missing() else compile_raw_pipe(tmp_path_factory.mktemp("raw"))


@pytest.fixture
def contest(benchmark: BenchmarkFixture, pytestconfig: pytest.Config, raw_program: Path | None) -> Contest:
    """Let queues compete."""
    return Contest(benchmark, pytestconfig.stash[RESULTS], raw_program)


def spread() -> Placement:
    """Pin the two sides to two CPUs."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("one CPU only: there is no second one to pin the other side to")
    return Placement(cpus[0], cpus[1])


@pytest.fixture(params=["free", "pinned"])
def placed(request: pytest.FixtureRequest) -> Placement:
    """Where the two sides run."""
    return spread() if request.param == "pinned" else Placement()


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
    config.stash[RESULTS] = []
    config.stash[PEAKS] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the ratios, and loudly which peers are not here."""
    for title, table in (
        ("ours takes so many times the time of the peer", _table(config.stash[ROWS])),
        ("ours is so many times as fast as the peer (of what it is to be)", _results(config.stash[RESULTS])),
        ("peak memory, in items", _peaks(config.stash[PEAKS])),
    ):
        if table.rows:
            text = io.StringIO()
            show([table], text)
            terminalreporter.section(title)
            terminalreporter.write(text.getvalue())
    for name, reason in missing().items():
        terminalreporter.write_line(f"WITHOUT {name}: {reason}", red=True)


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


def _results(results: list[Result]) -> Table:
    peers = list(dict.fromkeys(peer for result in results for peer in result.scores))
    return Table(
        ("what", *(f">{peer}" for peer in peers), "placement"),
        [(result.what, *(str(result.scores.get(peer, "-")) for peer in peers), result.placement) for result in results],
    )


def _peaks(peaks: list[Peak]) -> Table:
    return Table(
        ("what", ">ours", ">stock Queue", ">aim, at most"),
        [
            (
                peak.what,
                f"{peak.ours:.2f}{' missed' if peak.ours > peak.most else ''}",
                f"{peak.stock:.2f}",
                f"{peak.most:.2f}",
            )
            for peak in peaks
        ],
    )


def _number(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.2f}"
