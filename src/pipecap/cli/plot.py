"""Draw what a sweep found. The only module that knows matplotlib, imported only to draw."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from pipecap.errors import Unsupported
from pipecap.tuning.recommendation import Recommendation, setting_text
from pipecap.tuning.sweep import Sweep

if TYPE_CHECKING:
    from pipecap.tuning.cells import Cell

_INCHES = (6.4, 4.8)
_WIDTH = 0.26
_COLOURS = {"stock, on a new pipe": "0.6", "recommended": "tab:blue", "best measured": "tab:green"}


def check(path: str) -> None:
    """Make sure, before anything is measured, that a drawing can be made and written there.

    Raises Unsupported without matplotlib, OSError.
    """
    existed = os.path.lexists(path)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666))
    if not existed:
        Path(path).unlink()
    try:
        import_module("matplotlib.figure")
    except ImportError as error:
        raise Unsupported(
            f"plots need matplotlib, which cannot be imported: {error}", hint="pip install 'pipecap[plot]'"
        ) from error


def draw(sweep: Sweep, found: Recommendation, path: str) -> None:
    """Write the picture; the suffix says which format. Raises OSError.

    By placement a bar each for the baseline, what is recommended and the best cell, with their quartiles and settings.
    """
    from matplotlib.figure import Figure  # not pyplot: no window, no state

    figure = Figure(figsize=_INCHES, layout="constrained")
    axes = figure.subplots()
    ticks: dict[float, str] = {}
    for at, placement in enumerate(sweep.placements):
        for nth, (what, cell) in enumerate(bars(sweep, found, placement).items()):
            middle = at + (nth - 1) * _WIDTH
            value = cell.throughput / 1e6
            spread = [[value - cell.lower_quartile / 1e6], [cell.upper_quartile / 1e6 - value]]
            axes.bar(middle, value, 0.9 * _WIDTH, color=_COLOURS[what], label=what if at == 0 else None)
            axes.errorbar(middle, value, spread, color="black", capsize=4)
            ticks[middle] = setting_text(cell, sweep).replace(" ", "\n", 1)
            if nth == 1:
                ticks[middle] += f"\n\n{_where(placement, sweep)}"
    axes.set_xticks([*ticks], [*ticks.values()])
    axes.set_ylabel("throughput, MB/s (median and quartiles)")
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=3)
    kind = "" if sweep.kind is None else f", each a {sweep.kind}"
    axes.set_title(f"Items of {sweep.item:,} pickled bytes{kind}", fontsize="medium")
    figure.savefig(path, format=Path(path).suffix[1:].lower(), metadata={"Title": "pipecap tune"})


def bars(sweep: Sweep, found: Recommendation, placement: str) -> dict[str, Cell]:
    """Return what is drawn: the cells of the baseline, of the recommended setting, and the best."""
    cells = {cell.setting: cell for cell in sweep.cells if cell.placement == placement}
    return {
        "stock, on a new pipe": cells[found.baseline.setting],
        "recommended": cells[found.choice.setting],
        "best measured": max(cells.values(), key=lambda cell: cell.throughput),
    }


def _where(placement: str, sweep: Sweep) -> str:
    return f"pinned to CPUs {sweep.cpus[0]} and {sweep.cpus[1]}" if placement == "pinned" and sweep.cpus else placement
