"""tune(): measure how fast items of one size move, over capacities, chunks and placements of the processes.

All cells of the sweep are measured again and again in rounds, each round in a new order, so that what else the machine
does meanwhile falls on all of them and picks no winner. What follows from a sweep is said in recommendation.py.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from time import monotonic
from typing import TYPE_CHECKING

from pipecap.errors import InvalidSize, ResizeRefused
from pipecap.kernel import limits as host_limits
from pipecap.kernel import pipes
from pipecap.kernel.fit import fit
from pipecap.kernel.limits import PAGE_SIZE, Headroom, HostLimits
from pipecap.kernel.probe import scratch_pipe
from pipecap.kernel.sizes import parse_size
from pipecap.kernel.slots import LARGEST_PIPE, round_capacity
from pipecap.queues.pickling import all_pickled
from pipecap.results import Result
from pipecap.tuning.cells import Cell, cells_of, scores
from pipecap.tuning.grid import PIPECAP, STOCK, WHOLE, Grid, usual_chunk
from pipecap.tuning.stopwatch import Setting, Stopwatch

if TYPE_CHECKING:
    from typing import TypeAlias

    from pipecap.tuning.cells import Samples

    Progress: TypeAlias = Callable[[int, int], object]

FREE, PINNED = "free", "pinned"

_LARGEST_BY_ITSELF = 2**24
_LEAST_TOP = 2**20
# Two processes hold an item, and the stock Connection joins what it received in two more copies.
_COPIES = 8
_SHORTEST, _LONGEST = 0.001, 0.1
_OVERHEAD = 0.0005
_CONFIRMED = 8
_CONFIRMING = 2


@dataclass(frozen=True, slots=True)
class LeftOut(Result):
    """What the sweep does not have, and why: a `kind` of "capacity", "placement" or "coarse" (cells saved for time)."""

    kind: str
    value: int | None
    why: str


@dataclass(frozen=True, slots=True)
class Sweep(Result):
    """How fast items of `item` pickled bytes move, in every cell.

    `kind` is the type of an object that was moved, with its pickling and unpickling as each side's queues do these;
    None where bytes of that size were, as they are: no pipe changes what pickling takes.
    `default_capacity` is what a new pipe gets here; the stock Connection on that is the baseline. `cpus` are those of
    the producer and the consumer while pinned, None where the placement is left out. `headroom` is the quota before.
    """

    item: int
    kind: str | None
    frame: int
    page_size: int
    default_capacity: int
    default_chunk: int
    placements: tuple[str, ...]
    cpus: tuple[int, int] | None
    rounds: int
    seconds: float
    headroom: Headroom
    cells: tuple[Cell, ...]
    left_out: tuple[LeftOut, ...]


def tune(
    item: object,
    *,
    seconds: float = 12.0,
    rounds: int | None = None,
    capacities: Iterable[int | str] | None = None,
    chunks: Iterable[int | str] | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Measure the throughput of stock and of pipecap connections over capacities and chunks, with items of one kind.

    `item` is pickled bytes, as an int or as "256K"; or an object such as you put, an array, say: then pickling is part
    of it, and pipecap's leaves arrays where they are. Two processes of our own move items through a scratch pipe, free
    to run where the kernel puts them and pinned to a CPU each. By default `capacities` are the powers of two from a
    page to fs.pipe-max-size, `chunks` from 4 KiB to 64 KiB and the whole item. All takes about `seconds`; large items
    may take longer, and then fewer cells are measured (`left_out` tells). Every cell is measured `rounds` times (by
    default 5 to 15, whatever the time is enough for), the best ones three times as often. `progress` is called with
    measurements done and their total. Beside all this, it does once what headroom() does.

    Raises InvalidSize, NotPicklable, NoScratchPipe, ResizeRefused where the default capacity is lost to others amid the
    sweep, Unsupported where no process can be started, one was killed, or one cannot import the object's class.
    """
    size, payload = _measured(item)
    if not 0 < seconds < math.inf:
        raise ValueError("seconds is a number above 0")
    if rounds is not None and rounds < 1:
        raise ValueError("rounds is at least 1")
    began = monotonic()
    host = host_limits.limits()
    left = host_limits.headroom_within(host)
    with scratch_pipe() as (_, write_end):
        default = pipes.capacity(write_end)
    wanted = _powers_of_two(host) if capacities is None else sorted({_capacity(size) for size in _several(capacities)})
    granted, left_out = _granted(wanted, default)
    frame = fit(size, capacity=default).frame
    grid = Grid(frame, default, tuple(granted), None if chunks is None else tuple(map(_chunk, _several(chunks))))
    cpus, why = _two_cpus()
    with Stopwatch(size if payload is None else payload, cpus) as stopwatch:
        if cpus is None or stopwatch.pin_error:
            cpus, why = None, why or stopwatch.pin_error
            left_out.append(LeftOut("placement", None, f"pinned: {why}"))
        placements = (FREE,) if cpus is None else (FREE, PINNED)
        item_seconds = _item_seconds(stopwatch, default, usual_chunk(frame))
        settings, rounds, coarse = grid.within(
            seconds, item_seconds, len(placements), rounds, thin_capacities=capacities is None
        )
        left_out += [LeftOut("coarse", None, why) for why in coarse]
        run = _Run(stopwatch, settings, placements, default, rounds, seconds, item_seconds, progress or _silent)
        run.all()
    left_out += [LeftOut("capacity", capacity, why) for capacity, why in sorted(run.lost.items())]
    return Sweep(
        item=size,
        kind=None if payload is None else _type_name(item),
        frame=frame,
        page_size=PAGE_SIZE,
        default_capacity=default,
        default_chunk=usual_chunk(frame),
        placements=placements,
        cpus=cpus,
        rounds=rounds,
        seconds=round(monotonic() - began, 3),
        headroom=left,
        cells=cells_of(run.samples, size),
        left_out=tuple(left_out),
    )


def _silent(done: int, total: int) -> None:
    pass


def _measured(item: object) -> tuple[int, bytes | None]:
    """Return the pickled bytes of an item; and, of an object, its payload, to make it from again."""
    payload = None
    if type(item) is int or isinstance(item, str):
        size = parse_size(item, least=1)
    else:
        (pieces,) = all_pickled([item])
        payload = pieces if isinstance(pieces, bytes) else b"".join(pieces)
        size = len(payload)
    memory = os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE
    if size > memory // _COPIES:
        raise InvalidSize(
            item if type(item) is int or isinstance(item, str) else size,
            f"the sweep holds up to {_COPIES} copies of an item, and this host has {memory:,} bytes of memory",
            hint="above some MiB the size hardly matters any more: try 64M",
        )
    return size, payload


def _type_name(item: object) -> str:
    cls = type(item)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _several(sizes: Iterable[int | str]) -> Iterable[int | str]:
    if isinstance(sizes, str | bytes) or not isinstance(sizes, Iterable):
        raise InvalidSize(sizes, "several sizes are needed", hint='a list such as ["64K", "1M"]')
    return sizes


def _capacity(size: int | str) -> int:
    rounded = round_capacity(parse_size(size), PAGE_SIZE)
    if rounded is None:
        raise InvalidSize(size, f"a pipe holds at most {LARGEST_PIPE:,} bytes")
    return rounded


def _chunk(size: int | str) -> int:
    return WHOLE if size == "whole" else min(WHOLE, parse_size(size, least=1))


def _powers_of_two(host: HostLimits) -> list[int]:
    """From a page to what pipe-max-size allows; those it forbids too, up to 1 MiB, for the reader to see."""
    top = max(_LEAST_TOP, min(host.pipe_max_size or _LEAST_TOP, _LARGEST_BY_ITSELF))
    count = (top // PAGE_SIZE).bit_length()
    return [PAGE_SIZE << power for power in range(count)]


def _granted(wanted: Iterable[int], default: int) -> tuple[list[int], list[LeftOut]]:
    """Ask the kernel for every capacity, on a pipe of our own; the default is always among those it granted."""
    granted, left_out = [default], []
    with scratch_pipe() as (_, write_end):
        for capacity in sorted({*wanted} - {default}, reverse=True):
            try:
                pipes.resize(write_end, capacity)
                pipes.resize(write_end, default)  # over the quota, what was given up does not come back
            except ResizeRefused as refused:
                why = f"{refused.reason}: {refused}"
                if capacity < default:
                    why = f"{refused.reason}: once as small as that, a pipe does not get its default size again"
                left_out.append(LeftOut("capacity", capacity, why))
                if capacity < default:
                    left_out += [LeftOut("capacity", less, why) for less in wanted if less < capacity]
                    break
                continue
            granted.append(capacity)
    return sorted(granted), left_out[::-1]


def _two_cpus() -> tuple[tuple[int, int] | None, str]:
    """Give two CPUs this process may use, or why there are not two."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        return None, "it takes two CPUs, and this process may use one only"
    return (cpus[0], cpus[1]), ""


def _item_seconds(stopwatch: Stopwatch, default: int, chunk: int) -> float:
    """Time one item with the default settings, warm: what the slower side takes."""

    def once(setting: Setting) -> float:
        items, nanoseconds = stopwatch.time(setting, pinned=False, seconds=0)
        return nanoseconds / items / 1e9

    sides = Setting(STOCK, default, None), Setting(PIPECAP, default, chunk)
    return max(min(once(setting) for _ in range(3)) for setting in sides)


@dataclass
class _Run:
    """The measurements of one sweep, as they come in."""

    stopwatch: Stopwatch
    settings: list[Setting]
    placements: tuple[str, ...]
    default: int
    rounds: int
    seconds: float
    item_seconds: float
    progress: Progress

    def __post_init__(self) -> None:
        self.samples: Samples = {}
        self.lost: dict[int, str] = {}
        self._done = 0
        confirmed = min(len(self.settings), _CONFIRMED)
        each_round = self.rounds * len(self.placements)
        self._total = each_round * (len(self.settings) + _CONFIRMING * confirmed)
        self._confirming = _CONFIRMING
        if self._total * self.item_seconds > self.seconds:
            self._confirming = 1
            self._total = each_round * (len(self.settings) + confirmed)
        share = self.seconds / self._total - self.item_seconds - _OVERHEAD
        self._slice = min(max(share, _SHORTEST), _LONGEST)

    def all(self) -> None:
        """Measure every cell in each of the rounds, then the best settings and the baseline again.

        The best of many is partly the luckiest: measured again, it falls back to what it is.
        """
        for _ in range(self.rounds):
            self._round(self.settings)
        ranked = scores(cells_of(self.samples, 1))
        ranked[Setting(STOCK, self.default, None)] = math.inf
        best = sorted(ranked, key=lambda setting: -ranked[setting])[:_CONFIRMED]
        for _ in range(self._confirming * self.rounds):
            self._round(best)

    def _round(self, settings: Iterable[Setting]) -> None:
        order = [*product(settings, self.placements)]
        random.shuffle(order)
        for setting, placement in order:
            if setting.capacity not in self.lost:
                self._measure(setting, placement)
            self._done += 1
            self.progress(self._done, self._total)

    def _measure(self, setting: Setting, placement: str) -> None:
        try:
            items, nanoseconds = self.stopwatch.time(setting, pinned=placement == PINNED, seconds=self._slice)
        except ResizeRefused as refused:
            if setting.capacity == self.default:
                raise
            self.lost[setting.capacity] = f"{refused.reason}: {refused}"
            for key in [key for key in self.samples if key[0].capacity == setting.capacity]:
                del self.samples[key]
            return
        self.samples.setdefault((setting, placement), []).append(items / nanoseconds * 1e9)
