"""Which cells a sweep has: all, or a coarser grid where items are so large that all would take too long. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipecap.queues import native
from pipecap.queues.native import CHUNK
from pipecap.tuning.stopwatch import Setting

STOCK, PIPECAP = "stock", "pipecap"

CHUNKS = (4096, CHUNK, 16384, 32768, 65536)
WHOLE = 2**40  # of any item

_FEWEST_ROUNDS, _USUAL_ROUNDS, _MOST_ROUNDS = 3, 5, 15
# Long enough to see the pipe at work, and short: many short measurements make a better median than few long ones.
_GOOD_SLICE = 0.01
_ORDINAL = {2: "second", 4: "fourth"}


def usual_chunk(frame: int) -> int:
    """Return the chunk that "auto" means for a frame of that many bytes."""
    return CHUNK if frame > native.WHOLE else max(frame, CHUNK)


@dataclass(frozen=True, slots=True)
class Grid:
    """The cells to measure: all of them, or fewer where items are so large that all would take too long."""

    frame: int
    default: int
    capacities: tuple[int, ...]
    chunks: tuple[int, ...] | None

    def within(
        self, seconds: float, item_seconds: float, placements: int, rounds: int | None, *, thin_capacities: bool
    ) -> tuple[list[Setting], int, list[str]]:
        """Give the settings, the rounds and what was left out, where moving one item takes `item_seconds`."""
        steps = [(1, 1)]  # every n-th capacity, every n-th chunk
        if self.chunks is None:
            steps.append((1, 2))
        if thin_capacities:
            steps += [(2, steps[-1][1]), (4, steps[-1][1])]
        for nth_capacity, nth_chunk in steps:
            settings = [*self._settings(nth_capacity, nth_chunk)]
            cells = len(settings) * placements
            good = int(seconds / (cells * (item_seconds + _GOOD_SLICE) * 1.5))
            count = rounds or min(max(good, _USUAL_ROUNDS), _MOST_ROUNDS)
            if cells * item_seconds * count <= seconds:
                break
            count = min(count, _FEWEST_ROUNDS)
            if cells * item_seconds * count <= seconds:
                break
        told = [
            f"every {_ORDINAL[nth]} {what} only: items this large take long"
            for what, nth in (("capacity", nth_capacity), ("chunk", nth_chunk))
            if nth > 1
        ]
        return settings, count, told

    def _settings(self, nth_capacity: int, nth_chunk: int) -> Iterator[Setting]:
        at = self.capacities.index(self.default)
        for capacity in self.capacities[at % nth_capacity :: nth_capacity]:
            yield Setting(STOCK, capacity, None)
            for chunk in self._chunks(capacity, nth_chunk):
                yield Setting(PIPECAP, capacity, chunk)

    def _chunks(self, capacity: int, nth: int) -> list[int]:
        """Give those that make a difference: one above the capacity waits as long as the whole item does."""
        if self.chunks is None:
            some = {chunk for chunk in CHUNKS[1 % nth :: nth] if chunk <= capacity}
        else:
            some = {*self.chunks}
        whole = max(self.frame, CHUNK)
        return sorted({chunk if chunk < self.frame else whole for chunk in (*some, CHUNK, WHOLE)})
