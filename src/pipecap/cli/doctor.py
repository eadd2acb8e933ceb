"""Tell which pipe hangs a program: deadlocks proven, stalls seen, with evidence, cause and fix; changes nothing."""

from __future__ import annotations

import argparse

from pipecap.cli.render import Block, Line, answer
from pipecap.diagnosis.diagnose import WINDOW, diagnose
from pipecap.diagnosis.finding import Diagnosis
from pipecap.diagnosis.text import sentences, tell

PROBLEM = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the process, and how it is looked at."""
    parser.add_argument(
        "pid",
        metavar="PID",
        nargs="?",
        type=pid_argument,
        help="a process; its descendants too (default: all of yours)",
    )
    parser.add_argument(
        "--window", metavar="SECONDS", type=float, default=WINDOW, help="between the two looks (default: %(default)s)"
    )
    parser.add_argument("--stacks", action="store_true", help="with the Python line of each party, by py-spy")


def pid_argument(text: str) -> int:
    """PID: a positive number."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no PID")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Diagnose; status 3 for a deadlock or a stall."""
    found = diagnose(arguments.pid, window=arguments.window, stacks=arguments.stacks)
    answer("doctor", found.to_dict(), _blocks(found), as_json=arguments.json)
    return PROBLEM if found.problem else 0


def _blocks(found: Diagnosis) -> list[Block]:
    blocks: list[Block] = []
    for finding in found.findings:
        first, *rest = tell(finding)
        told = len(sentences(finding))
        blocks.append(Line(first, "note" if finding.verdict == "quiet" else "problem"))
        blocks += [Line(line) for line in rest[:told]]
        blocks += [Line(line, drawn=True) for line in rest[told:]]
        blocks.append(Line())
    return [*blocks, *unknown_lines(found.unknown), *_verdict(found)]


def unknown_lines(unknown: tuple[str, ...]) -> list[Line]:
    """Say what could not be read; nothing is claimed on it."""
    return [Line(f"  [unknown] {each}") for each in unknown]


def _verdict(found: Diagnosis) -> list[Line]:
    counts = {
        verdict: sum(finding.verdict == verdict for finding in found.findings) for verdict in ("deadlock", "stall")
    }
    who = "no process of yours" if found.pid is None else f"process {found.pid} and its descendants:"
    if not found.problem:
        no = "hangs" if found.pid is None else "no hang"
        return [Line(f"  [ok] {who} {no} on a pipe, as far as can be seen in {found.window:g} s", "ok")]
    told = " and ".join(f"{count} {verdict}{'s' if count > 1 else ''}" for verdict, count in counts.items() if count)
    return [
        Line(f"  [problem] {told} found in {found.window:g} s", "problem"),
        *(Line(f"    -> python -m pipecap rescue {pid}", "action") for pid in dict.fromkeys(_rescued(found))),
    ]


def _rescued(found: Diagnosis) -> list[int]:
    """Give the processes to name to `rescue`: the one asked about, else each first writer."""
    pids = [finding.parties[0].pid for finding in found.findings if finding.rescuable and finding.verdict != "quiet"]
    return [found.pid] if pids and found.pid is not None else pids
