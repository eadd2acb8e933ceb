"""Show capacity, unread bytes and fullness of pipes: our own descriptors, those of other processes, FIFOs."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from pipecap.cli.endpoint import add_quiet_and_check, add_targets, each_opened
from pipecap.cli.render import Line, Table, answer
from pipecap.cli.trouble import Failure
from pipecap.kernel import pipes
from pipecap.kernel.pipes import PipeState
from pipecap.results import Result


@dataclass(frozen=True, slots=True)
class NamedState(Result):
    """One target as it was given, and its pipe."""

    target: str
    state: PipeState


@dataclass(frozen=True, slots=True)
class States(Result):
    """The answer of `get`: the pipes in the order they were named, and the targets that failed."""

    pipes: tuple[NamedState, ...]
    failed: tuple[Failure, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the targets."""
    add_targets(parser, default="stdin")
    add_quiet_and_check(parser)


def run(arguments: argparse.Namespace) -> int:
    """Look at each target in turn; status 1 if any failed."""
    done, failed = each_opened(
        arguments.targets or ["stdin"], lambda target, fd: NamedState(target, pipes.state(fd)), arguments
    )
    found = States(tuple(done), tuple(failed))
    answer("get", found.to_dict(), [_table(found), *_unknown(found)] if done else [], as_json=arguments.json)
    return 1 if failed else 0


def _table(found: States) -> Table:
    full = {True: "yes", False: "no", None: "unknown"}
    return Table(
        ("target", "kind", ">capacity", ">unread", "full"),
        [
            (pipe.target, pipe.state.kind, f"{pipe.state.capacity:,}", f"{pipe.state.unread:,}", full[pipe.state.full])
            for pipe in found.pipes
        ],
    )


def _unknown(found: States) -> list[Line]:
    return [
        Line(f"  {pipe.target}: {field} is unknown: {why}")
        for pipe in found.pipes
        for field, why in pipe.state.unknown.items()
    ]
