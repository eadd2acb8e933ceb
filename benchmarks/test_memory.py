"""Peak memory of producer and consumer, against the stock queue's: VmHWM of /proc/self/status, in fresh processes."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.conftest import PEAKS, Peak


@pytest.mark.parametrize(("what", "size", "count", "rounds"), [("4 MiB", 4 << 20, 20, 3), ("64 MiB", 64 << 20, 5, 1)])
def test_peak(
    benchmark: BenchmarkFixture, pytestconfig: pytest.Config, what: str, size: int, count: int, rounds: int
) -> None:
    """Ours may hold two items more."""
    if not benchmark.enabled:
        count = 1
    stock: list[dict[str, int]] = []
    ours: list[dict[str, int]] = []
    benchmark.pedantic(  # type: ignore[no-untyped-call] # pytest-benchmark says it is typed, and is not
        lambda: ours.append(peaks("ours", size, count)),
        setup=lambda: stock.append(peaks("stock", size, count)),
        rounds=rounds,
    )
    if benchmark.enabled:
        for side, name in (("produce", "producer"), ("consume", "consumer")):
            held, stock_held = (median(peaks[side] for peaks in runs) / size for runs in (ours, stock))
            benchmark.extra_info[name] = {"ours": held, "stock Queue": stock_held}
            pytestconfig.stash[PEAKS].append(Peak(f"{count} items of {what}, {name}", held, stock_held, 2.0))


def peaks(kind: str, size: int, count: int) -> dict[str, int]:
    """Run peak.py."""
    program = Path(__file__).with_name("peak.py")
    done = subprocess.run(
        [sys.executable, program, kind, str(size), str(count)], check=True, stdout=subprocess.PIPE, timeout=60
    )
    return dict(json.loads(done.stdout))
