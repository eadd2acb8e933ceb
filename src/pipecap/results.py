"""What every result is: a frozen, slotted dataclass whose facts can be had as plain data."""

from __future__ import annotations

from dataclasses import asdict


class Result:
    """Base of the result dataclasses."""

    __slots__ = ()

    def to_dict(self) -> dict[str, object]:
        """Give the facts as dicts, tuples, strings, numbers, booleans and None: ready for JSON."""
        return asdict(self)  # type: ignore[call-overload, no-any-return] # every subclass is a dataclass
