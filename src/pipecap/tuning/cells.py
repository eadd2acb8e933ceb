"""The cells of a sweep: what each setting moved, out of its measurements; and how settings compare. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipecap.results import Result
from pipecap.tuning.stopwatch import Setting

if TYPE_CHECKING:
    from typing import TypeAlias

    Samples: TypeAlias = dict[tuple[Setting, str], list[float]]


@dataclass(frozen=True, slots=True)
class Cell(Result):
    """What one setting moved: bytes of items a second, the median of `rounds` measurements between its quartiles.

    `side` is "stock" (multiprocessing's Connection, which has no chunks: None) or "pipecap"; `placement` "free" or
    "pinned". A `chunk` of at least a frame sends it whole.
    """

    side: str
    capacity: int
    chunk: int | None
    placement: str
    throughput: int
    lower_quartile: int
    upper_quartile: int
    items_per_second: float
    rounds: int

    @property
    def setting(self) -> Setting:
        """The cell without its placement."""
        return Setting(self.side, self.capacity, self.chunk)


def cells_of(samples: Samples, item: int) -> tuple[Cell, ...]:
    """Make cells of items a second."""
    return tuple(
        Cell(
            side=setting.side,
            capacity=setting.capacity,
            chunk=setting.chunk,
            placement=placement,
            throughput=max(1, round(_quantile(values, 0.5) * item)),
            lower_quartile=round(_quantile(values, 0.25) * item),
            upper_quartile=round(_quantile(values, 0.75) * item),
            items_per_second=round(_quantile(values, 0.5), 3),
            rounds=len(values),
        )
        for (setting, placement), values in sorted(
            samples.items(),
            key=lambda pair: (pair[0][1], -ord(pair[0][0].side[0]), pair[0][0].capacity, pair[0][0].chunk or 0),
        )
    )


def _quantile(values: list[float], share: float) -> float:
    ranked = sorted(values)
    below, part = divmod(share * (len(ranked) - 1), 1)
    at = int(below)
    above = ranked[min(at + 1, len(ranked) - 1)]
    return ranked[at] + part * (above - ranked[at])


def scores(cells: Iterable[Cell]) -> dict[Setting, float]:
    """Rate each setting by its throughput as a share of the best one's, on the placement where that is worst."""
    return rated({(cell.setting, cell.placement): cell.throughput for cell in cells})


def rated(moved: Mapping[tuple[Setting, str], float]) -> dict[Setting, float]:
    """Do so with what each setting moved on each placement."""
    best: dict[str, float] = {}
    for (_, placement), throughput in moved.items():
        best[placement] = max(best.get(placement, 1), throughput)
    worst: dict[Setting, float] = {}
    for (setting, placement), throughput in moved.items():
        worst[setting] = min(worst.get(setting, 1.0), throughput / best[placement])
    return worst
