"""Words that several places print: amounts, lists of processes, text from outside in plain ASCII."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_MOST_NAMED = 6


def amount(size: int) -> str:
    """Return bytes as people write them: 938 KB, 1.2 MB."""
    if size < 10_000:
        return f"{size:,} byte{'' if size == 1 else 's'}"
    scaled, unit = next(
        (size / factor, unit) for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")) if size >= factor
    )
    return f"{scaled:,.0f} {unit}" if scaled >= 10 else f"{scaled:.1f} {unit}"


def duration(seconds: float) -> str:
    """Return a time span by its two largest units: 12 s, 3 min 5 s, 2 h 10 min, 4 d 3 h."""
    whole = int(seconds)
    for size, unit, smaller, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {small_unit}" if rest else "")
    return f"{whole} s"


def processes(pids: Iterable[int]) -> str:
    """Name processes: "process 1", "processes 1, 2 and 3", or how many more there are."""
    numbers = [str(pid) for pid in sorted(pids)]
    if not numbers:
        return "no process"
    return f"process{'es' if len(numbers) > 1 else ''} {some(numbers)}"


def first_of(pids: Sequence[int], most: int = 5) -> str:
    """Name the first of many processes, and how many more there are: "processes 1, 2, 3, 4, 5 and 7 more"."""
    more = f" and {len(pids) - most:,} more" if len(pids) > most else ""
    return f"process{'es' if len(pids) > 1 else ''} {', '.join(map(str, pids[:most]))}{more}"


def some(names: Sequence[str]) -> str:
    """Join names, the last by "and"; of many only the first, and how many more there are."""
    if len(names) > _MOST_NAMED:
        return f"{', '.join(names[:_MOST_NAMED])} and {len(names) - _MOST_NAMED:,} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def ascii_only(text: str) -> str:
    """Return text from outside in printable ASCII: a command line may hold anything, escape sequences too."""
    return "".join(
        character if " " <= character <= "~" else character.encode("unicode_escape").decode() for character in text
    )
