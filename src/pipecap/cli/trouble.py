"""Trouble: one line on stderr for a person, a row of the JSON answer for a program."""

from __future__ import annotations

import sys
from contextlib import suppress
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
    """Print one line on stderr, in the command's name; a stderr that cannot be written must not stop a command."""
    with suppress(OSError):
        sys.stderr.write(printable(f"pipecap: {' '.join(text.split())}") + "\n")


def printable(text: str) -> str:
    """Show control characters, such as a terminal's in the name of a file, instead of sending them."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


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
