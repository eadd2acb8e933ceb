"""Let a hung program go on, without a restart: grow the pipes that its blocked writers wait for."""

from __future__ import annotations

import argparse

from pipecap.cli import arguments
from pipecap.cli.render import Block, Line, Table, answer
from pipecap.diagnosis.diagnose import WINDOW
from pipecap.diagnosis.rescue import Rescue, Step, rescue


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the process, and whether anything is done."""
    parser.add_argument("pid", metavar="PID", type=arguments.pid, help="a process; its descendants too")
    parser.add_argument("-n", "--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument(
        "--window", metavar="SECONDS", type=float, default=WINDOW, help="between the two looks (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """Rescue; status 1 where something still hangs."""
    found = rescue(options.pid, dry_run=options.dry_run, window=options.window)
    answer("rescue", found.to_dict(), _blocks(found), as_json=options.json)
    return 1 if found.freed is False or (found.dry_run and found.left and not found.steps) else 0


def _blocks(found: Rescue) -> list[Block]:
    blocks: list[Block] = []
    if found.steps:
        blocks.append(
            Table(
                ("pipe", "writer", ">was", ">wanted", ">granted", "writer moved"),
                [_row(step) for step in found.steps],
            )
        )
    blocks += [Line(f"  {step.file}: {step.refused}") for step in found.steps if step.refused]
    blocks += _verdict(found)
    blocks += [Line(f"    -> {each}", "action") for each in found.advice]
    return blocks


def _row(step: Step) -> tuple[str, ...]:
    moved = {True: "yes", False: "no", None: "not tried"}
    granted = "-" if step.granted is None else f"{step.granted:,}"
    return step.file, f"{step.pid}, {step.call}", f"{step.before:,}", f"{step.wanted:,}", granted, moved[step.moved]


def _verdict(found: Rescue) -> list[Line]:
    if found.dry_run:
        if not found.steps:
            if not found.left:
                return [Line("  [ok] nothing to grow: no blocked writer hangs on a pipe", "ok")]
            return [Line(f"  [problem] growing frees nothing here: {_names(found)}", "problem")]
        if any(step.limit for step in found.steps):
            return [Line("  [problem] nothing was done: a dry run. A limit stands in the way", "problem")]
        lines = [Line("  [note] nothing was done: a dry run")]
        return [*lines, Line(f"    -> python -m pipecap rescue {found.pid}", "action")]
    if found.freed:
        if not found.steps:
            return [Line("  [ok] nothing was done: no blocked writer hangs on a pipe", "ok")]
        return [Line(f"  [ok] freed: no writer of process {found.pid} hangs any more", "ok")]
    if found.freed is None:
        return [Line("  [problem] whether it goes on could not be seen", "problem")]
    return [Line(f"  [problem] still hangs: {_names(found)}", "problem")]


def _names(found: Rescue) -> str:
    return ", ".join(dict.fromkeys(finding.pattern for finding in found.left))
