"""The sweep and what is recommended for it: pure on sweeps made up, and real but small ones."""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import child_processes
from hypothesis import given
from hypothesis import strategies as st
from privilege import CAP_DAC_READ_SEARCH, become_unprivileged, in_child, is_root, quota_used_up

import pipecap
from pipecap import Cell, Recommendation, Sweep
from pipecap.queues.native import CHUNK
from pipecap.tuning.cells import scores
from pipecap.tuning.choosing import LARGEST_LOSS
from pipecap.tuning.grid import PIPECAP, STOCK, WHOLE, Grid
from pipecap.tuning.recommendation import size_text
from pipecap.tuning.stopwatch import Setting, Stopwatch
from pipecap.tuning.sweep import FREE, PINNED

PAGE = os.sysconf("SC_PAGESIZE")
KEEP = 1 << CAP_DAC_READ_SEARCH if is_root() else 0  # else an interpreter in root's home could not be run
CAPACITIES = tuple(4096 << power for power in range(9))
WHOLE_FRAME = 262148
CHUNKS = (4096, CHUNK, 16384, 65536, WHOLE_FRAME)
SETTINGS = [
    Setting(side, capacity, chunk)
    for capacity in CAPACITIES
    for side, chunk in ((STOCK, None), *((PIPECAP, chunk) for chunk in CHUNKS))
]
BASELINE = Setting(STOCK, 65536, None)
EXEMPT = pipecap.Headroom(pages=None, exempt=True, exact=True, reason="no quota is set", elapsed_ns=0)
small = {"seconds": 0.01, "rounds": 1, "capacities": ["64K"]}
two_cpus = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="this process may use one CPU only")


def sweep(
    moved: Callable[[Setting, str], float],
    *,
    spread: float = 0.0,
    placements: tuple[str, ...] = (FREE, PINNED),
    headroom: pipecap.Headroom = EXEMPT,
) -> Sweep:
    """Make up a sweep of items of 256 KiB: `moved` gives a cell's throughput in bytes a second."""
    cells = []
    for placement in placements:
        for setting in SETTINGS:
            value = moved(setting, placement)
            cells.append(
                Cell(
                    side=setting.side,
                    capacity=setting.capacity,
                    chunk=setting.chunk,
                    placement=placement,
                    throughput=round(value),
                    lower_quartile=round(value * (1 - spread / 2)),
                    upper_quartile=round(value * (1 + spread / 2)),
                    items_per_second=value / 262144,
                    rounds=9,
                )
            )
    return Sweep(
        item=262144,
        kind=None,
        frame=262148,
        page_size=4096,
        default_capacity=65536,
        default_chunk=CHUNK,
        placements=placements,
        cpus=(0, 1) if PINNED in placements else None,
        rounds=5,
        seconds=1.0,
        headroom=headroom,
        cells=tuple(cells),
        left_out=(),
    )


def chosen(found: Recommendation) -> Setting:
    return found.choice.setting


@st.composite
def noisy_sweeps(draw: st.DrawFn) -> Sweep:
    """Throughput that rises with capacity to a plateau, differs by side and chunk, and is measured with noise."""
    knee = draw(st.sampled_from(CAPACITIES))
    steep = draw(st.floats(0, 1))
    by_chunk = {chunk: draw(st.floats(0.3, 1.2)) for chunk in (None, *CHUNKS)}
    by_placement = {placement: draw(st.floats(0.2, 1)) for placement in (FREE, PINNED)}
    noise = draw(st.sampled_from([0.0, 0.01, 0.05, 0.2, 0.5]))
    luck = random.Random(draw(st.integers(0, 2**32)))

    def moved(setting: Setting, placement: str) -> float:
        level: float = min(1.0, setting.capacity / knee) ** steep
        return 2e9 * level * by_chunk[setting.chunk] * by_placement[placement] * math.exp(luck.gauss(0, noise))

    return sweep(moved, spread=1.35 * noise, placements=draw(st.sampled_from([(FREE,), (FREE, PINNED)])))


@given(noisy_sweeps())
def test_the_choice_loses_at_most_a_tenth_against_the_best_cell(made: Sweep) -> None:
    """On every placement, however noisy; where no setting is that good on all, it is the one that loses least."""
    found = pipecap.recommend(made)
    rated = scores(made.cells)
    assert rated[chosen(found)] >= min(1 - LARGEST_LOSS, max(rated.values()))
    for placement in made.placements:
        best = max(cell.throughput for cell in made.cells if cell.placement == placement)
        assert found.choice.throughput[placement] >= best * (1 - found.choice.loses) * 0.999


@given(noisy_sweeps())
def test_nothing_cheaper_would_do_as_well(made: Sweep) -> None:
    """No setting that is within the tolerance, with the usual chunk, has fewer pages, but for less than the default."""
    found = pipecap.recommend(made)
    if found.choice.loses > found.tolerance:
        return
    enough = [
        setting.capacity
        for setting, share in scores(made.cells).items()
        if share >= 1 - found.tolerance and setting.chunk in (None, CHUNK)
    ]
    assert max(found.choice.capacity, 65536) <= max(min(enough, default=2**20), 65536)


@given(noisy_sweeps())
def test_every_recommendation_says_gain_cost_and_code(made: Sweep) -> None:
    found = pipecap.recommend(made)
    assert found.worthwhile == (chosen(found) != BASELINE)
    assert 0.05 <= found.tolerance <= LARGEST_LOSS
    assert {*found.choice.gain} == {*found.choice.throughput} == {*made.placements}
    assert found.choice.pages == found.choice.capacity // 4096
    first = found.verdict[0]
    assert first.action == found.choice.code
    assert ("is to be gained from another" in first.text) == (not found.worthwhile)
    if found.worthwhile:
        assert f"{found.choice.pages:,} pages" in first.text
        compile(found.choice.code, "code", "exec")


def test_a_flat_sweep_gains_nothing() -> None:
    found = pipecap.recommend(sweep(lambda setting, _: 1e9 * (1.04 if setting.capacity == 2**20 else 1)))
    assert not found.worthwhile
    assert chosen(found) == BASELINE
    assert found.choice.gain == {FREE: 1.0, PINNED: 1.0}
    assert found.verdict[0].text.startswith("Nothing is to be gained")
    assert len(found.verdict) == 1


def test_noise_is_no_gain() -> None:
    """Eight percent more is a gain where it was measured well, and none where cells are off by as much."""

    def a_little_faster(setting: Setting, placement: str) -> float:
        return 1e9 * (1.08 if setting.capacity == 2**17 else 1)

    assert pipecap.recommend(sweep(a_little_faster, spread=0.01)).worthwhile
    assert not pipecap.recommend(sweep(a_little_faster, spread=0.3)).worthwhile


def test_the_smallest_capacity_on_the_plateau_is_chosen() -> None:
    found = pipecap.recommend(
        sweep(
            lambda setting, _: 1e9 * min(setting.capacity, 2**18) / 2**16 * (2.0 if setting.chunk == CHUNK else 1.0),
            headroom=pipecap.Headroom(pages=1000, exempt=False, exact=True, reason="", elapsed_ns=1),
        )
    )
    assert chosen(found) == Setting(PIPECAP, 2**18, CHUNK)
    assert found.choice.code == 'ctx = pipecap.get_context(capacity="256K")'
    assert (found.choice.pages, found.choice.queues_left) == (64, 15)
    assert found.choice.gain == {FREE: 8.0, PINNED: 8.0}
    assert "8.0 times" in found.verdict[0].text
    assert "64 pages a queue instead of 16; the quota has room for 15 such queues" in found.verdict[0].text
    assert found.resized is not None
    assert (found.resized.capacity, found.resized.code) == (2**18, 'pipecap.resize(queue, "256K")')
    assert "does not fit that pipe whole" in found.verdict[2].text


def test_where_resizing_is_enough_no_other_queue_is_advised() -> None:
    found = pipecap.recommend(sweep(lambda setting, _: 1e9 * min(setting.capacity, 2**19)))
    assert chosen(found) == Setting(STOCK, 2**19, None)
    assert found.choice.code == 'pipecap.resize(queue, "512K")'
    assert found.resized is None


def test_another_chunk_is_advised_only_where_the_usual_one_loses_too_much() -> None:
    def moved(best: float) -> Callable[[Setting, str], float]:
        return lambda setting, _: 1e9 * {4096: best, CHUNK: 4.0}.get(setting.chunk or 0, 1.0)

    assert chosen(pipecap.recommend(sweep(moved(4.4)))) == Setting(PIPECAP, 65536, CHUNK)
    found = pipecap.recommend(sweep(moved(8.0)))
    assert chosen(found) == Setting(PIPECAP, 65536, 4096)
    assert "in chunks of 4,096" in found.verdict[0].text
    assert found.choice.code == 'ctx = pipecap.get_context(capacity="64K", chunk="4K")'


def test_a_pipe_below_the_default_is_advised_only_where_larger_ones_hurt() -> None:
    assert chosen(pipecap.recommend(sweep(lambda _setting, _placement: 1e9))).capacity == 65536
    found = pipecap.recommend(sweep(lambda setting, _: 2e9 if setting.capacity == 16384 else 1e9))
    assert found.choice.capacity == 16384


def test_placements_that_disagree_get_what_loses_least() -> None:
    def moved(setting: Setting, placement: str) -> float:
        if setting.chunk == CHUNK and setting.capacity == 2**17:
            return 7e8
        large = setting.capacity >= 2**17
        return 1e9 if large == (placement == FREE) else 1e8

    found = pipecap.recommend(sweep(moved))
    assert chosen(found) == Setting(PIPECAP, 2**17, CHUNK)
    assert found.choice.loses == pytest.approx(0.3)
    assert "No setting is good everywhere" in found.verdict[0].text


@pytest.mark.parametrize("noise", [0.02, 0.05, 0.1])
def test_of_two_runs_the_second_chooses_the_same_or_a_rival(noise: float) -> None:
    """Sweeps of one truth, each cell a median of nine measurements."""

    def run(luck: random.Random) -> Recommendation:
        def moved(setting: Setting, _: str) -> float:
            level: float = min(1.0, setting.capacity / 262144) ** 0.3 * (1.0 if setting.side == PIPECAP else 0.4)
            return 2e9 * level * float(math.exp(luck.gauss(0, 1.25 * noise / 3)))

        return pipecap.recommend(sweep(moved, spread=1.35 * noise))

    pairs = [(run(random.Random(seed)), run(random.Random(-seed - 1))) for seed in range(25)]
    same = [chosen(one) == chosen(other) for one, other in pairs]
    told = [other.choice.setting in [rival.setting for rival in one.rivals] for one, other in pairs]
    assert sum(map(max, same, told)) >= 23
    for one, _ in pairs:
        assert ("Within the noise" in str(one.verdict)) == bool(one.rivals)


def test_where_nothing_is_noisy_there_are_no_rivals() -> None:
    found = pipecap.recommend(sweep(lambda setting, _: 1e9 * math.sqrt(setting.capacity)))
    assert found.rivals == ()


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_every_line_of_code_runs(setting: Setting) -> None:
    """On a host that grants the capacity. A queue then is as recommended."""
    choice = pipecap.recommend(sweep(lambda each, _: 9e9 if each == setting else 1e9)).choice
    if choice.setting != setting:
        return  # a cheaper one is as good
    names: dict[str, Any] = {"pipecap": pipecap, "multiprocessing": multiprocessing}
    names["queue"] = multiprocessing.Queue()
    exec(choice.code, names)
    if setting.chunk is not None:
        names["queue"] = names["ctx"].Queue()
        chunk = names["queue"]._sender.struct.chunk or CHUNK
        assert chunk == setting.chunk or chunk > setting.chunk == WHOLE_FRAME
    if setting.capacity >= 65536:
        assert pipecap.capacity(names["queue"]) == setting.capacity
    names["queue"].close()


def test_a_busy_machine_is_told() -> None:
    found = pipecap.recommend(sweep(lambda _setting, _placement: 1e9, spread=1.0))
    assert "Measurements were off by" in found.verdict[-1].text
    assert "--seconds" in found.verdict[-1].action


def test_a_sweep_takes_no_settings_and_needs_its_baseline() -> None:
    made = sweep(lambda _setting, _placement: 1e9)
    with pytest.raises(TypeError):
        pipecap.recommend(made, rounds=3)
    with pytest.raises(ValueError, match="without its baseline"):
        pipecap.recommend(replace(made, cells=tuple(cell for cell in made.cells if cell.side == PIPECAP)))


@pytest.mark.parametrize(("size", "text"), [(65536, "64K"), (2**20, "1M"), (3 * 2**30, "3G"), (1000, "1000"), (0, "0")])
def test_sizes_as_people_write_them(size: int, text: str) -> None:
    assert size_text(size) == text


def grid(frame: int, *, chunks: tuple[int, ...] | None = None) -> Grid:
    return Grid(frame, 65536, CAPACITIES, chunks)


def test_the_sweep_is_exhaustive_but_for_chunks_that_are_whole_items_anyway() -> None:
    settings, rounds, left_out = grid(100004).within(10.0, 1e-4, 2, None, thin_capacities=True)
    assert left_out == []
    assert 5 <= rounds <= 15
    for capacity in CAPACITIES:
        here = {setting.chunk for setting in settings if setting.capacity == capacity}
        assert here == {None, CHUNK, 100004, *(chunk for chunk in (4096, 16384, 32768, 65536) if chunk <= capacity)}
    small_items, rounds, _ = grid(104).within(10.0, 1e-6, 2, None, thin_capacities=True)
    assert {setting.chunk for setting in small_items} == {None, CHUNK}
    assert rounds == 15
    own, _, _ = grid(100004, chunks=(5000, WHOLE)).within(10.0, 1e-4, 2, None, thin_capacities=True)
    assert {setting.chunk for setting in own} == {None, 5000, CHUNK, 100004}


@pytest.mark.parametrize(
    ("item_seconds", "left_out"), [(0.02, 0), (0.04, 1), (0.07, 2), (5.0, 2)], ids=["all", "chunks", "second", "fourth"]
)
def test_for_large_items_the_grid_is_coarser_and_says_so(item_seconds: float, left_out: int) -> None:
    settings, rounds, told = grid(2**26).within(12.0, item_seconds, 2, None, thin_capacities=True)
    assert len(told) == left_out
    assert BASELINE in settings
    assert Setting(PIPECAP, 65536, CHUNK) in settings
    assert len(settings) * item_seconds * rounds * 2 <= 12 or item_seconds == 5.0


def test_what_was_asked_for_is_never_left_out() -> None:
    settings, _, told = grid(2**26, chunks=(4096,)).within(1.0, 5.0, 2, 7, thin_capacities=False)
    assert told == []
    assert len(settings) == len(CAPACITIES) * 4


@two_cpus
def test_a_real_sweep_has_every_cell_on_both_placements() -> None:
    calls: list[tuple[int, int]] = []
    found = pipecap.tune(
        "20K",
        seconds=0.1,
        rounds=2,
        capacities=["64K", 100000],
        progress=lambda done, total: calls.append((done, total)),
    )
    assert (found.item, found.frame, found.default_capacity) == (20480, 20484, pipecap.measure().nominal)
    assert found.placements == (FREE, PINNED)
    assert found.cpus == tuple(sorted(os.sched_getaffinity(0))[:2])
    assert found.rounds == 2
    cells = {(cell.setting, cell.placement) for cell in found.cells}
    chunks = (None, 4096, CHUNK, 16384, 20484)
    assert cells == {
        (Setting(STOCK if chunk is None else PIPECAP, capacity, chunk), placement)
        for capacity in (65536, 131072)
        for chunk in chunks
        for placement in (FREE, PINNED)
    }
    for cell in found.cells:
        assert 0 < cell.lower_quartile <= cell.throughput <= cell.upper_quartile
        assert cell.rounds >= 2
        assert cell.items_per_second * found.item == pytest.approx(cell.throughput, rel=0.01)
    total = calls[-1][1]
    assert calls == [(done, total) for done in range(1, total + 1)]
    recommended = pipecap.recommend(found)
    assert recommended.item == 20480
    assert not hasattr(recommended, "__dict__")
    assert isinstance(recommended.to_dict()["choice"], dict)


@pytest.mark.parametrize("name", ["array", "dict of arrays", "list", "large bytes"])
def test_an_object_is_moved_as_each_sides_queues_do(name: str) -> None:
    objects: dict[str, object] = {
        "array": np.arange(40_000.0),
        "dict of arrays": {"image": np.zeros((64, 64, 3), np.uint8), "label": 3},
        "list": [1, "two", 3.0],
        "large bytes": b"x" * 300_000,
    }
    item = objects[name]
    found = pipecap.tune(item, **small)  # type: ignore[arg-type] # a dict of several types
    assert found.kind == ("numpy.ndarray" if name == "array" else type(item).__name__)
    assert abs(found.item - pipecap.pickled_size(item)) < 300
    assert {cell.side for cell in found.cells} == {STOCK, PIPECAP}
    assert all(cell.throughput > 1 for cell in found.cells)
    assert pipecap.recommend(found).item == found.item


class MakesNone:
    def __reduce__(self) -> tuple[Any, ...]:
        return dict.get, ({}, "nothing")


@pytest.mark.parametrize("item", [None, b"", bytearray(), MakesNone(), ()], ids=lambda item: type(item).__name__)
def test_an_object_may_be_nothing(item: object) -> None:
    found = pipecap.tune(item, **small)  # type: ignore[arg-type] # a dict of several types
    assert str(found.kind).endswith(type(item).__name__)
    assert found.item > 0


def test_an_object_that_the_processes_cannot_make_is_refused_with_the_reason(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import pipecap\n"
        "class Item: pass\n"
        "try: pipecap.tune(Item())\n"
        "except pipecap.Unsupported as error: print(error, error.hint)\n"
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60, check=False)
    assert "cannot make the item: AttributeError" in done.stdout
    assert "put it into a module" in done.stdout
    assert done.stderr == ""


def test_a_single_byte_and_an_item_larger_than_the_pipe() -> None:
    for item in (1, 3_000_000):
        found = pipecap.tune(item, **small)  # type: ignore[arg-type] # a dict of several types
        assert all(cell.throughput > 0 for cell in found.cells)


def test_with_one_cpu_the_pinned_placement_is_left_out() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        found = pipecap.tune(100, **small)  # type: ignore[arg-type] # a dict of several types
    finally:
        os.sched_setaffinity(0, before)
    assert (found.placements, found.cpus) == ((FREE,), None)
    assert [(left_out.kind, left_out.value) for left_out in found.left_out] == [("placement", None)]
    assert "two CPUs" in found.left_out[0].why


def test_a_cpu_that_may_not_be_used_is_told() -> None:
    with Stopwatch(100, (0, 1023)) as stopwatch:
        assert stopwatch.pin_error == os.strerror(22)
        assert stopwatch.time(BASELINE, pinned=True, seconds=0)[0] > 0


def test_the_caller_keeps_its_cpus_and_its_signal_handlers() -> None:
    before = os.sched_getaffinity(0), signal.getsignal(signal.SIGINT)
    pipecap.tune(100, **small)  # type: ignore[arg-type] # a dict of several types
    assert (os.sched_getaffinity(0), signal.getsignal(signal.SIGINT)) == before


def test_capacities_not_granted_are_listed_with_the_reason() -> None:
    """An ordinary user gets fs.pipe-max-size at most."""

    def measure() -> Sweep:
        return pipecap.tune(100, seconds=0.05, rounds=1, capacities=["64K", "2G"])

    found = in_child(measure, become=lambda: become_unprivileged(keep=KEEP))
    assert [(left_out.kind, left_out.value) for left_out in found.left_out if left_out.kind == "capacity"] == [
        ("capacity", 2**31)
    ]
    assert found.left_out[0].why.startswith("max-size: ")
    assert {cell.capacity for cell in found.cells} == {65536}
    recommended = pipecap.recommend(found)
    assert recommended.baseline.queues_left is not None
    assert recommended.baseline.queues_left * 16 <= (found.headroom.pages or 0)


def test_over_the_quota_the_small_pipe_one_gets_is_all_there_is_to_measure() -> None:
    def measure() -> Sweep:
        with quota_used_up():
            return pipecap.tune(100, seconds=0.05, rounds=1)

    found = in_child(measure, become=lambda: become_unprivileged(keep=KEEP))
    assert found.default_capacity == 2 * PAGE
    assert {cell.capacity for cell in found.cells} == {2 * PAGE}
    reasons = {left_out.value: left_out.why for left_out in found.left_out if left_out.kind == "capacity"}
    assert {*reasons} == {PAGE, *(PAGE << power for power in range(2, (2**20 // PAGE).bit_length()))}
    assert all(why.startswith("quota: ") for why in reasons.values())
    assert pipecap.recommend(found).verdict[0].action


def interrupt(done: int, total: int) -> None:
    raise KeyboardInterrupt


def kill_one(done: int, total: int) -> None:
    """Kill a process of the sweep; there may be other children, such as multiprocessing's resource tracker."""
    sweeping = [pid for pid in child_processes() if b"movers" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(sweeping[0], signal.SIGKILL)


def test_a_ctrl_c_leaves_nothing_behind() -> None:
    """See the fixture in conftest.py."""
    with pytest.raises(KeyboardInterrupt):
        pipecap.tune(100, **small, progress=interrupt)  # type: ignore[arg-type] # a dict of several types


def test_a_process_that_is_killed_is_an_error_that_says_so() -> None:
    with pytest.raises(pipecap.Unsupported, match="was killed \\(SIGKILL\\)") as caught:
        pipecap.tune(100, **small, progress=kill_one)  # type: ignore[arg-type] # a dict of several types
    assert "memory" in caught.value.hint


def test_no_descriptors_left() -> None:
    def measure(spare: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        held = []
        with suppress(OSError):
            while True:
                held.append(os.dup(0))
        for fd in held[:spare]:
            os.close(fd)
        pipecap.tune(100, **small)  # type: ignore[arg-type] # a dict of several types

    for spare in (1, 3, 7, 9):
        with pytest.raises(pipecap.NoScratchPipe) as caught:
            in_child(lambda spare=spare: measure(spare))  # type: ignore[misc] # mypy: a default in a lambda
        assert "ulimit -n" in caught.value.hint


def test_no_interpreter_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for executable in ("", "/nonexistent"):
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(pipecap.Unsupported) as caught:
            pipecap.tune(100, **small)  # type: ignore[arg-type] # a dict of several types
        assert caught.value.hint


def test_an_interpreter_without_pipecap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(pipecap.Unsupported, match="it ended"):
        pipecap.tune(100, **small)  # type: ignore[arg-type] # a dict of several types


def test_it_runs_in_any_thread_and_beside_others() -> None:
    found: list[Sweep] = []
    threads = [threading.Thread(target=lambda: found.append(pipecap.tune(100, **small))) for _ in range(2)]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2


def test_it_runs_in_a_script_without_a_main_guard_that_is_not_run_again() -> None:
    program = "print('once'); import pipecap; pipecap.tune(100, seconds=0.01, rounds=1, capacities=['64K'])"
    answer = subprocess.run([sys.executable, "-"], input=program, capture_output=True, text=True, check=True)
    assert (answer.stdout, answer.stderr) == ("once\n", "")


def test_its_processes_end_when_the_caller_is_killed() -> None:
    program = (
        "import os, pipecap, signal\n"
        "def stop(done, total):\n"
        "    print(*open(f'/proc/self/task/{os.getpid()}/children').read().split(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "pipecap.tune(100, seconds=0.05, rounds=1, progress=stop)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False)
    assert answer.returncode == -signal.SIGKILL
    children = [int(pid) for pid in answer.stdout.split()]
    assert len(children) == 2
    wait_until_gone(children)


def wait_until_gone(pids: list[int]) -> None:
    """Wait for orphans, which init reaps, or which stay zombies where there is none that does."""
    for _ in range(500):
        if not any(alive(pid) for pid in pids):
            return
        threading.Event().wait(0.02)
    raise AssertionError("processes left behind")


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    "item",
    [0, -1, "0", "nonsense", "1e3", "", 2**60, 10**5000, "8000T"],
    ids=lambda item: str(item)[:9] if not isinstance(item, int) or item < 2**70 else "huge",
)
def test_sizes_that_are_none(item: object) -> None:
    with pytest.raises(pipecap.InvalidSize) as caught:
        pipecap.tune(item)
    assert caught.value.hint


def test_an_item_beyond_memory_is_refused() -> None:
    with pytest.raises(pipecap.InvalidSize, match="bytes of memory"):
        pipecap.tune(os.sysconf("SC_PHYS_PAGES") * PAGE)


def test_what_does_not_pickle() -> None:
    with pytest.raises(pipecap.NotPicklable):
        pipecap.tune(lambda: None)


@pytest.mark.parametrize("sizes", ["64K", 65536, b"x", [-1], ["x"], [2**40], [None], [1.5]], ids=repr)
@pytest.mark.parametrize("name", ["capacities", "chunks"])
def test_capacities_and_chunks_that_are_none(name: str, sizes: object) -> None:
    if (name, sizes) == ("chunks", [2**40]):
        return  # larger than any item: whole
    with pytest.raises(pipecap.InvalidSize) as caught:
        pipecap.tune(100, **{name: sizes})  # type: ignore[arg-type] # that is the test
    assert caught.value.hint


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf])
def test_seconds_that_are_none(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        pipecap.tune(100, seconds=seconds)


def test_rounds_that_are_none() -> None:
    with pytest.raises(ValueError, match="rounds"):
        pipecap.tune(100, rounds=0)


@pytest.mark.parametrize("item", ["100", "4K", "64K", "256K", "1M"])
def test_measured_for_real_the_choice_is_nearly_the_best(item: str, request: pytest.FixtureRequest) -> None:
    """Against every cell of its own sweep; where none was that good on both placements, nothing loses less."""
    if not request.config.getoption("--thorough"):
        pytest.skip("takes a minute: --thorough")
    found = pipecap.tune(item, seconds=15)
    rated = scores(found.cells)
    recommended = pipecap.recommend(found)
    assert rated[chosen(recommended)] >= min(1 - LARGEST_LOSS, max(rated.values()))
