"""Any process of a queue may be killed, at any moment: the others continue, and every loss is reported once.

All cells: `python -m pytest tests/test_kills.py --kill-matrix -o faulthandler_timeout=0 -s`.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import Full
from typing import Any

import pytest
from children import forked, wait_until
from kill_workers import KINDS, METHODS, PAYLOADS, SIZES, VICTIMS, Cell
from kills import HEADING, run_cell

import pipecap

MATRIX = [Cell(*values) for values in itertools.product(KINDS, SIZES, PAYLOADS, VICTIMS, METHODS)]
KILLS = 100
SAMPLE = [
    Cell("Queue", 65_536, "bytes", "both", "fork"),
    Cell("Queue", 100, "array", "consumer", "fork"),
    Cell("JoinableQueue", 65_536, "array", "one of 3 + 3", "fork"),
    Cell("JoinableQueue", 1 << 20, "bytes", "producer", "fork"),
    Cell("SimpleQueue", 1 << 20, "bytes", "consumer", "fork"),
    Cell("SimpleQueue", 65_536, "bytes", "both", "spawn"),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every cell of the matrix, or of the sample."""
    if "cell" in metafunc.fixturenames:
        cells = MATRIX if metafunc.config.getoption("--kill-matrix") else SAMPLE
        metafunc.parametrize("cell", cells, ids=lambda cell: " ".join(str(cell).split()))


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    return KILLS if request.config.getoption("--kill-matrix") else 6


def test_the_survivors_continue_and_every_loss_is_reported_once(
    cell: Cell, kills: int, tmp_path: Path, capsys: Any
) -> None:
    is_matrix = kills == KILLS
    outcome = run_cell(cell, kills, tmp_path, limit=2.0 if is_matrix else 10.0)  # which runs beside other tests
    if is_matrix:
        with capsys.disabled():
            print(f"\n{HEADING}\n{outcome}")  # noqa: T201 -- the table is what the matrix is run for
    assert outcome.problems == []
    assert outcome.usable == outcome.kills >= kills


def test_credits_of_killed_processes_come_back(request: pytest.FixtureRequest) -> None:
    """More of them than the table of participants has entries, with --kill-matrix."""
    pairs = 600 if request.config.getoption("--kill-matrix") else 25
    made = pipecap.get_context("fork", exit_warning=None).Queue(16)
    delays = random.Random(16)

    def put() -> None:
        while True:
            made.put(bytes(20_000))

    def get() -> None:
        while True:
            with suppress(pipecap.LostItem, pipecap.TruncatedItem):
                made.get()

    for _ in range(pairs):
        with forked(put), forked(get):
            consumed = made.debug_state()["consumed"]
            wait_until(lambda: made.debug_state()["consumed"] != consumed)  # noqa: B023 -- called at once
            time.sleep(delays.uniform(0, 0.005))
    reported = 0
    for item in taken(made):
        if isinstance(item, Exception):
            reported += 1
        else:
            assert item == bytes(20_000)
    assert made.qsize() == 0
    for number in range(16):
        made.put_nowait(number)
        assert made.qsize() == number + 1
    with pytest.raises(Full):
        made.put_nowait(16)
    assert [made.get() for _ in range(16)] == list(range(16))
    made.close()
    made.join_thread()


def taken(made: Any) -> Iterator[Any]:
    """Drain a queue; yield its errors, too."""
    while True:
        try:
            yield from pipecap.drain(made, [])
        except (pipecap.LostItem, pipecap.TruncatedItem) as error:
            yield error
        else:
            return
