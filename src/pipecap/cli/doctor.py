"""Tell which pipe hangs a program: deadlocks proven, stalls seen, with evidence, cause and fix; changes nothing."""

from __future__ import annotations

import argparse
import sys

from pipecap.cli import arguments
from pipecap.cli.render import Line, answer
from pipecap.diagnosis import text
from pipecap.diagnosis.diagnose import WINDOW, diagnose
from pipecap.diagnosis.finding import PROBLEMS, Diagnosis
from pipecap.diagnosis.movement import PATIENCE

PROBLEM = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the process, and how it is looked at."""
    parser.add_argument(
        "pid",
        metavar="PID",
        nargs="?",
        type=arguments.pid,
        help="a process; its descendants too (default: all of yours)",
    )
    parser.add_argument(
        "--window", metavar="SECONDS", type=float, default=WINDOW, help="between two samples (default: %(default)s)"
    )
    parser.add_argument(
        "--patience",
        metavar="SECONDS",
        type=float,
        default=PATIENCE,
        help="how long to observe what is not proven before it is a stall (default: %(default)g)",
    )
    parser.add_argument(
        "--stacks",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="with the Python line of each party, by py-spy (default: where it is installed)",
    )
    parser.add_argument(
        "--fail-on",
        choices=(*PROBLEMS, "never"),
        default="stall",
        help="what exit status 3 is for (default: %(default)s, and deadlocks)",
    )


def run(options: argparse.Namespace) -> int:
    """Diagnose; status 3 for a deadlock or a stall, unless --fail-on says otherwise."""
    progress = Progress("observing") if sys.stderr.isatty() and not options.json else None
    found = diagnose(
        options.pid,
        window=options.window,
        patience=options.patience,
        stacks=options.stacks,
        progress=progress,
    )
    if progress is not None:
        progress.clear()
    answer("doctor", found.to_dict(), blocks(found), as_json=options.json)
    failing = PROBLEMS[: PROBLEMS.index(options.fail_on) + 1] if options.fail_on != "never" else ()
    return PROBLEM if any(finding.verdict in failing for finding in found.findings) else 0


def blocks(found: Diagnosis) -> list[Line]:
    """Return a diagnosis as blocks."""
    return [Line(line.text, line.style, line.drawn) for line in text.answer(found)]


class Progress:
    """One line on a terminal's stderr, written over again."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._shown = False

    def __call__(self, seconds: float) -> None:
        """Show how long it has taken."""
        self._shown = True
        sys.stderr.write(f"\r{self._what}: {seconds:.1f} s ")
        sys.stderr.flush()

    def clear(self) -> None:
        """Remove the line."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
