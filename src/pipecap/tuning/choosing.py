"""Which setting of a sweep to use: the cheapest that is good enough; and which ones another run may find. Pure."""

from __future__ import annotations

import math
import random
from collections import Counter
from statistics import median

from pipecap.tuning.cells import Cell, rated
from pipecap.tuning.grid import STOCK
from pipecap.tuning.stopwatch import Setting
from pipecap.tuning.sweep import Sweep

# What a setting may lose against the best cell and still be recommended for being cheaper: more where measurements
# spread more, but never more than the last.
_LEAST_TOLERANCE, LARGEST_LOSS = 0.05, 0.10
# Runs that rivals() makes up, and how many of them a setting wins that is worth a word.
_RUNS, _SOME = 100, 2


def noise_of(cells: tuple[Cell, ...]) -> float:
    """Return the standard error of a typical cell, as a share of it."""
    return median(map(_error, cells))


def _error(cell: Cell) -> float:
    """Return the standard error of one: 1.25 sigma / sqrt(n) for a median, sigma from the quartiles."""
    return 1.25 * (cell.upper_quartile - cell.lower_quartile) / 1.35 / math.sqrt(cell.rounds) / cell.throughput


def tolerance_of(cells: tuple[Cell, ...]) -> float:
    """Return the share that a cheaper setting may lose."""
    return min(max(2 * noise_of(cells), _LEAST_TOLERANCE), LARGEST_LOSS)


def cheapest(sweep: Sweep, shares: dict[Setting, float], tolerance: float) -> Setting:
    """Choose among the settings that are good enough on all placements; a default chunk before any other."""
    top = max(shares.values())
    usual = {setting: share for setting, share in shares.items() if setting.chunk in (None, sweep.default_chunk)}
    for settings, least in (
        (usual, 1 - tolerance),
        (usual, 1 - LARGEST_LOSS),
        (shares, 1 - tolerance),
        (shares, 1 - LARGEST_LOSS),
        (shares, top),  # none is good everywhere: the one that loses least
    ):
        enough = [setting for setting, share in settings.items() if share >= least]
        if enough:
            break
    return min(enough, key=lambda setting: (*_price(setting, sweep), -shares[setting]))


def _price(setting: Setting, sweep: Sweep) -> tuple[object, ...]:
    """Rank by what is given up for a setting. A pipe below the default saves nothing worth its hangs."""
    return (
        max(setting.capacity, sweep.default_capacity),
        setting.capacity != sweep.default_capacity,
        setting.side != STOCK,
        setting.chunk not in (None, sweep.default_chunk),
    )


def rivals(sweep: Sweep, chosen: Setting) -> list[Setting]:
    """Return the other settings that another run may choose, most often chosen first.

    Each of many runs is made up of this one, every cell off by an error as large as its measurements tell; by that of
    the difference of two runs, as this one is off, too.
    """
    luck = random.Random(0)
    tolerance = tolerance_of(sweep.cells)
    errors = [((cell.setting, cell.placement), cell.throughput, math.sqrt(2) * _error(cell)) for cell in sweep.cells]
    found: Counter[Setting] = Counter()
    for _ in range(_RUNS):
        moved = {key: throughput * math.exp(luck.gauss(0, error)) for key, throughput, error in errors}
        found[cheapest(sweep, rated(moved), tolerance)] += 1
    return [setting for setting, count in found.most_common() if count >= _SOME and setting != chosen]
