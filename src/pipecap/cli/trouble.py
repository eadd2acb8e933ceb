"""Trouble: one line on stderr for a person, a row of the JSON answer for a program."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from pipecap.errors import PipecapError, ResizeRefused
from pipecap.results import Result


@dataclass(frozen=True, slots=True)
class Failure(Result):
    """Why a target failed: the class of the error and what it says; `reason` and `limit` of a refused resize."""

    target: str
    error: str
    message: str
    hint: str
    reason: str | None
    limit: str | None


def complain(error: PipecapError, *, about: str = "") -> None:
    """Say one line: what went wrong, and what to do about it."""
    text = str(error) if not about or about in str(error) else f"{about}: {error}"
    say(f"{text} ({error.hint})" if error.hint else text)


def say(text: str) -> None:
    """Print one line on stderr, in the command's name."""
    print("pipecap:", " ".join(text.split()), file=sys.stderr)  # noqa: T201 -- the command line's own voice


def failure(target: str, error: PipecapError) -> Failure:
    """Put an error down as the failure of one target."""
    refused = error if isinstance(error, ResizeRefused) else None
    return Failure(
        target=target,
        error=type(error).__name__,
        message=str(error),
        hint=error.hint,
        reason=refused.reason if refused else None,
        limit=refused.limit if refused else None,
    )
