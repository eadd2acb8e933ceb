"""Draw a sweep: throughput over capacity. The only module that knows matplotlib, imported only to draw."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from pipecap.errors import Unsupported
from pipecap.tuning.cells import Cell
from pipecap.tuning.grid import PIPECAP, STOCK
from pipecap.tuning.recommendation import Choice, Recommendation, size_text
from pipecap.tuning.sweep import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STOCK_COLOUR = "black"
_INCHES = (6.4, 4.8)


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
    """Write the picture; the suffix says which format. Raises OSError."""
    from matplotlib.figure import Figure  # not pyplot: no window, no state

    count = len(sweep.placements)
    figure = Figure(figsize=(_INCHES[0] * count, _INCHES[1]), layout="constrained")
    drawings = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    for axes, placement in zip(drawings, sweep.placements, strict=True):
        cells = [cell for cell in sweep.cells if cell.placement == placement]
        _lines(axes, cells, sweep)
        _marks(axes, found, placement)
        where = f" to CPUs {sweep.cpus[0]} and {sweep.cpus[1]}" if placement == "pinned" and sweep.cpus else ""
        axes.set_title(f"{placement}{where}")
        capacities = sorted({cell.capacity for cell in cells})
        axes.set_xscale("log", base=2)
        axes.set_xticks(capacities, [size_text(capacity) for capacity in capacities])
        axes.minorticks_off()
        axes.set_xlabel("capacity of the pipe, bytes")
        axes.grid(visible=True, alpha=0.3)
        axes.set_ylim(bottom=0)
    drawings[0].set_ylabel("throughput, MB/s (median; quartiles shaded)")
    drawings[-1].legend(fontsize="small")
    figure.suptitle(f"Items of {sweep.item:,} pickled bytes through one pipe")
    figure.savefig(path, format=Path(path).suffix[1:].lower(), metadata={"Title": "pipecap tune"})


def _lines(axes: Axes, cells: list[Cell], sweep: Sweep) -> None:
    chunks = sorted({cell.chunk for cell in cells if cell.chunk is not None})
    for side, chunk in [(STOCK, None), *((PIPECAP, chunk) for chunk in chunks)]:
        line = sorted(
            (cell for cell in cells if (cell.side, cell.chunk) == (side, chunk)), key=lambda cell: cell.capacity
        )
        capacities = [cell.capacity for cell in line]
        whole = chunk is not None and chunk >= sweep.frame
        label = "stock" if chunk is None else f"pipecap, {'whole' if whole else f'chunks of {size_text(chunk)}'}"
        (curve,) = axes.plot(
            capacities,
            [cell.throughput / 1e6 for cell in line],
            label=label,
            marker="o",
            markersize=3,
            color=_STOCK_COLOUR if side == STOCK else None,
            linestyle="--" if side == STOCK else "-",
        )
        axes.fill_between(
            capacities,
            [cell.lower_quartile / 1e6 for cell in line],
            [cell.upper_quartile / 1e6 for cell in line],
            color=curve.get_color(),
            alpha=0.15,
            linewidth=0,
        )


def _marks(axes: Axes, found: Recommendation, placement: str) -> None:
    def mark(choice: Choice, symbol: str, label: str) -> None:
        axes.plot(
            [choice.capacity],
            [choice.throughput[placement] / 1e6],
            symbol,
            markersize=13,
            markerfacecolor="none",
            markeredgecolor="red",
            markeredgewidth=1.5,
            label=label,
        )

    mark(found.baseline, "s", "stock, on a new pipe")
    if found.worthwhile:  # else it is the same
        mark(found.choice, "o", "recommended")
