"""recommend(): the cheapest setting of a sweep that is nearly the best, what it gains and what it costs. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pipecap.kernel.fit import fit
from pipecap.kernel.limits import Headroom
from pipecap.results import Result
from pipecap.tuning.cells import Cell, scores
from pipecap.tuning.choosing import LARGEST_LOSS, cheapest, noise_of, rivals, tolerance_of
from pipecap.tuning.grid import PIPECAP, STOCK
from pipecap.tuning.stopwatch import Setting
from pipecap.tuning.sweep import Sweep, tune
from pipecap.verdict import Advice

_NOISY = 0.10
_NAMED = 3  # of the rivals


@dataclass(frozen=True, slots=True)
class Choice(Result):
    """One setting, what it moves and what it costs.

    By placement: `throughput` in bytes a second, and `gain`, in times of the baseline. `loses` is the share it lacks
    to the best cell, on the placement where that is most. A queue's pipe takes `pages` of the quota, which has room for
    `queues_left` more like it (None: no limit, or not known). `items_that_fit` may be put before a writer waits. `code`
    is the line that makes it so.
    """

    side: str
    capacity: int
    chunk: int | None
    throughput: dict[str, int]
    gain: dict[str, float]
    loses: float
    pages: int
    queues_left: int | None
    items_that_fit: int
    code: str

    @property
    def setting(self) -> Setting:
        """What is to be set."""
        return Setting(self.side, self.capacity, self.chunk)


@dataclass(frozen=True, slots=True)
class Recommendation(Result):
    """The setting to use for items of `item` pickled bytes.

    `worthwhile` is False where nothing is to be gained; `choice` then is the `baseline`, the stock Connection
    on a new pipe. `resized` is the best that the stock one can do on a pipe of another size, None where that gains
    nothing or the choice is a stock one. `rivals` are other settings that are as good within the noise: another run may
    choose one of them. `noise` is the standard error of a typical cell as a share of it, `tolerance` what a cheaper
    setting was allowed to lose.
    """

    item: int
    worthwhile: bool
    choice: Choice
    baseline: Choice
    resized: Choice | None
    rivals: tuple[Choice, ...]
    noise: float
    tolerance: float
    verdict: tuple[Advice, ...]


def recommend(item: object, **settings: Any) -> Recommendation:
    """Recommend a capacity and a chunk: the cheapest in pages that loses next to nothing against the best cell.

    `item` is a Sweep, or what tune() takes, which is then called with it and `settings`. The choice loses at most a
    tenth against the best cell on every placement; where no setting is that good on all, it is the one that loses
    least. Where the baseline, a stock Connection on a new pipe, is good enough itself, nothing is to be gained. Raises
    what tune() raises.
    """
    if not isinstance(item, Sweep):
        item = tune(item, **settings)
    elif settings:
        raise TypeError("a Sweep is measured already: it takes no settings")
    return _advised(item)


def _advised(sweep: Sweep) -> Recommendation:
    rated = scores(sweep.cells)
    as_it_is = Setting(STOCK, sweep.default_capacity, None)
    if as_it_is not in rated:
        raise ValueError("a sweep without its baseline, the stock connection on a pipe of the default capacity")
    noise = noise_of(sweep.cells)
    tolerance = tolerance_of(sweep.cells)
    chosen = cheapest(sweep, rated, tolerance)
    stock_cells = [cell for cell in sweep.cells if cell.side == STOCK]
    stock = cheapest(sweep, scores(stock_cells), tolerance)
    baseline, choice, resized = (_choice(sweep, rated, setting) for setting in (as_it_is, chosen, stock))
    worthwhile = chosen != as_it_is
    other = worthwhile and choice.side != STOCK and stock != as_it_is and min(resized.gain.values()) > 1 + tolerance
    found = Recommendation(
        item=sweep.item,
        worthwhile=worthwhile,
        choice=choice,
        baseline=baseline,
        resized=resized if other else None,
        rivals=tuple(_choice(sweep, rated, setting) for setting in rivals(sweep, chosen)),
        noise=round(noise, 4),
        tolerance=round(tolerance, 4),
        verdict=(),
    )
    return _with_verdict(found, sweep)


def _choice(sweep: Sweep, rated: dict[Setting, float], setting: Setting) -> Choice:
    moved = {cell.placement: cell.throughput for cell in sweep.cells if cell.setting == setting}
    before = {
        cell.placement: cell.throughput
        for cell in sweep.cells
        if cell.setting == Setting(STOCK, sweep.default_capacity, None)
    }
    pages = setting.capacity // sweep.page_size
    fitting = fit(sweep.item, capacity=setting.capacity).items
    return Choice(
        side=setting.side,
        capacity=setting.capacity,
        chunk=setting.chunk,
        throughput=moved,
        gain={placement: round(value / before[placement], 3) for placement, value in moved.items()},
        loses=round(1 - rated[setting], 4),
        pages=pages,
        queues_left=None if sweep.headroom.pages is None else sweep.headroom.pages // pages,
        items_that_fit=fitting,
        code=_code(setting, sweep, fits=fitting > 0),
    )


def _code(setting: Setting, sweep: Sweep, *, fits: bool) -> str:
    size = f'"{size_text(setting.capacity)}"'
    is_default = setting.capacity == sweep.default_capacity
    if setting.side == STOCK:
        return "queue = multiprocessing.Queue()" if is_default else f"pipecap.resize(queue, {size})"
    settings = [] if is_default and fits else [f"capacity={size}"]
    if setting.chunk not in (None, sweep.default_chunk):
        whole = setting.chunk >= sweep.frame
        chunk = 1 << (setting.chunk - 1).bit_length() if whole else setting.chunk
        settings.append(f'chunk="{size_text(chunk)}"')
    return f"ctx = pipecap.get_context({', '.join(settings)})"


def size_text(size: int) -> str:
    """Write a size as people do: "64K", "1M", or plain bytes."""
    for power, unit in ((2**30, "G"), (2**20, "M"), (2**10, "K")):
        if size >= power and size % power == 0:
            return f"{size // power}{unit}"
    return str(size)


def _with_verdict(found: Recommendation, sweep: Sweep) -> Recommendation:
    verdict = [_main(found, sweep)]
    if found.resized:
        verdict.append(
            Advice(
                "note",
                f"With the stock Connection, a pipe of {found.resized.capacity:,} bytes serves best: it moves"
                f" {_gains(found.resized)}, for {_pages(found.resized, found.baseline)}.",
                found.resized.code,
            )
        )
    if found.worthwhile and not found.choice.items_that_fit:
        verdict.append(
            Advice(
                "note",
                "An item does not fit that pipe whole: a process that puts one cannot exit until somebody reads it.",
                f"python -m pipecap fit {size_text(sweep.item)} --capacity {size_text(found.choice.capacity)}",
            )
        )
    if found.rivals:
        verdict.append(
            Advice(
                "note",
                f"Within the noise {_other_settings(found, sweep)} as good: another run may recommend"
                f" {'that' if len(found.rivals) == 1 else 'one of those'}.",
                _longer(sweep),
            )
        )
    if found.noise > _NOISY:
        verdict.append(
            Advice(
                "note",
                f"Measurements were off by {found.noise:.0%}: something else keeps this machine busy.",
                _longer(sweep),
            )
        )
    return replace(found, verdict=tuple(verdict))


def _main(found: Recommendation, sweep: Sweep) -> Advice:
    choice, baseline = found.choice, found.baseline
    if not found.worthwhile:
        settings = len({cell.setting for cell in sweep.cells})
        return Advice(
            "ok",
            f"Nothing is to be gained from another capacity or chunk: the stock Connection on a new pipe of"
            f" {baseline.capacity:,} bytes is within {found.tolerance:.0%} of the best of {settings:,} settings"
            f" ({_list(baseline.throughput)}).",
            baseline.code,
        )
    hardly = "Hardly anything is to be gained. " if max(choice.gain.values()) <= 1 + found.tolerance else ""
    side = "The stock Connection" if choice.side == STOCK else "pipecap's Connection"
    chunk = ""
    if choice.side == PIPECAP and choice.chunk != sweep.default_chunk:
        whole = choice.chunk is not None and choice.chunk >= sweep.frame
        chunk = " in writes of the whole item" if whole else f" in chunks of {choice.chunk:,}"
    lacks = f" It is {choice.loses:.0%} below the fastest cell." if choice.loses >= 0.01 else ""
    if choice.loses > LARGEST_LOSS:
        lacks = f" No setting is good everywhere: this one is {choice.loses:.0%} below the best where it is worst."
    return Advice(
        "ok",
        f"{hardly}{side} on a pipe of {choice.capacity:,} bytes{chunk} moves {_gains(choice)}, for"
        f" {_pages(choice, baseline)}{_room(choice, sweep.headroom)}.{lacks}",
        choice.code,
    )


def _longer(sweep: Sweep) -> str:
    seconds = max(60, round(4 * sweep.seconds))
    if sweep.kind is not None:
        return f"pipecap.recommend(item, seconds={seconds})"
    return f"python -m pipecap tune {size_text(sweep.item)} --seconds {seconds}"


def _other_settings(found: Recommendation, sweep: Sweep) -> str:
    names = [setting_text(choice, sweep) for choice in found.rivals[:_NAMED]]
    if len(found.rivals) > _NAMED:
        names.append(f"{len(found.rivals) - _NAMED} more")
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def setting_text(choice: Choice | Cell, sweep: Sweep) -> str:
    """Write a setting in few words: "stock 64K", "pipecap 1M by 16K", "pipecap 256K whole"."""
    text = f"{choice.side} {size_text(choice.capacity)}"
    if choice.chunk in (None, sweep.default_chunk):
        return text
    return f"{text} whole" if choice.chunk >= sweep.frame else f"{text} by {size_text(choice.chunk)}"


def _gains(choice: Choice) -> str:
    digits = 1 if min(choice.gain.values()) >= 1.95 else 2
    times = sorted({f"{gain:.{digits}f}" for gain in choice.gain.values()}, key=float)
    return f"{' to '.join(times)} times what the stock one does on a new pipe ({_list(choice.throughput)})"


def _list(throughput: dict[str, int]) -> str:
    return ", ".join(f"{placement} {megabytes(value)} MB/s" for placement, value in throughput.items())


def megabytes(throughput: int) -> str:
    """Write bytes a second in MB/s, with as many digits as mean something."""
    value = throughput / 1e6
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}" if value >= 1 else f"{value:.3f}"


def _pages(choice: Choice, baseline: Choice) -> str:
    if choice.pages == baseline.pages:
        return f"the same {choice.pages:,} pages a queue"
    return f"{choice.pages:,} pages a queue instead of {baseline.pages:,}"


def _room(choice: Choice, left: Headroom) -> str:
    if choice.queues_left is None:
        return f" (no quota holds: {left.reason})" if left.exempt else " (what is left of the quota is not known)"
    return f"; the quota has room for {choice.queues_left:,}{'' if left.exact else ' or more'} such queues"
