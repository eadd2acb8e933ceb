"""Peak memory of producer and consumer, against the stock queue's: VmHWM of /proc/self/status, in fresh processes."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.conftest import PEAKS, Peak

# An item of its own on each side, one under way, one to spare; and of arrays what waits for a reader that is at work.
ARRAYS = {"produce": 3.0 + 4.0, "consume": 3.0}


@pytest.mark.parametrize(
    ("what", "kind", "size", "count", "rounds"),
    [
        ("4 MiB", "bytes", 4 << 20, 20, 3),
        ("64 MiB", "bytes", 64 << 20, 5, 1),
        ("arrays of 4 MiB", "array", 4 << 20, 40, 3),
        ("arrays of 64 MiB", "array", 64 << 20, 10, 1),
    ],
)
def test_peak(
    benchmark: BenchmarkFixture, pytestconfig: pytest.Config, what: str, kind: str, size: int, count: int, rounds: int
) -> None:
    """Ours may hold what the stock queue does; of arrays, as many as ARRAYS says."""
    if kind == "array":
        pytest.importorskip("numpy")
    if not benchmark.enabled:
        count = 1
    stock: list[dict[str, int]] = []
    ours: list[dict[str, int]] = []
    benchmark.pedantic(  # type: ignore[no-untyped-call] # pytest-benchmark says it is typed, and is not
        lambda: ours.append(peaks("ours", kind, size, count)),
        setup=lambda: stock.append(peaks("stock", kind, size, count)),
        rounds=rounds,
    )
    if benchmark.enabled:
        for side, name in (("produce", "producer"), ("consume", "consumer")):
            held, stock_held = (median(peaks[side] for peaks in runs) / size for runs in (ours, stock))
            benchmark.extra_info[name] = {"ours": held, "stock Queue": stock_held}
            most = ARRAYS[side] if kind == "array" else stock_held
            pytestconfig.stash[PEAKS].append(Peak(f"{count} items of {what}, {name}", held, stock_held, most))


def peaks(queue: str, kind: str, size: int, count: int) -> dict[str, int]:
    """Run peak.py."""
    program = Path(__file__).with_name("peak.py")
    done = subprocess.run(
        [sys.executable, program, queue, kind, str(size), str(count)], check=True, stdout=subprocess.PIPE, timeout=60
    )
    return dict(json.loads(done.stdout))
