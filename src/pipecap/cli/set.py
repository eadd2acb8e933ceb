"""Set the capacity of pipes: our own descriptors, those of other processes, FIFOs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from pipecap.cli.endpoint import add_quiet_and_check, add_targets, each_opened, is_stdout, opened, size_argument
from pipecap.cli.render import Table, document, show
from pipecap.cli.trouble import Failure
from pipecap.errors import PipecapError
from pipecap.kernel import pipes
from pipecap.results import Result


@dataclass(frozen=True, slots=True)
class Resized(Result):
    """One target: the capacity it had and the one the kernel granted, in bytes."""

    target: str
    before: int
    capacity: int


@dataclass(frozen=True, slots=True)
class Resizes(Result):
    """The answer of `set`: the pipes in the order they were named, and the targets that failed."""

    pipes: tuple[Resized, ...]
    failed: tuple[Failure, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the size, how it is taken, and the targets."""
    parser.add_argument("size", metavar="SIZE", help='bytes: 65536, "64K", "1MB", or max: fs.pipe-max-size')
    parser.add_argument(
        "-b", "--best-effort", action="store_true", help="take the largest size the kernel grants; never shrink"
    )
    add_targets(parser, default="stdout")
    add_quiet_and_check(parser)


def run(arguments: argparse.Namespace) -> int:
    """Set each target in turn; status 1 if any was refused. Where stdout is a target, stderr has the answer."""
    targets = arguments.targets or ["stdout"]
    size = size_argument(arguments.size)
    # An answer must not become data of the very pipe it tells about.
    stream = sys.stderr if _any_is_stdout(targets) else sys.stdout
    found = resize_each(targets, size, arguments)
    if arguments.json:
        document("set", found.to_dict(), stream)
    elif found.pipes and not arguments.quiet:
        show([_table(found)], stream)
    return 1 if found.failed else 0


def _any_is_stdout(targets: Sequence[str]) -> bool:
    for target in targets:
        with suppress(PipecapError), opened(target) as fd:
            if is_stdout(fd):
                return True
    return False


def resize_each(targets: Sequence[str], size: int, arguments: argparse.Namespace) -> Resizes:
    """Resize the targets in turn."""

    def resize(target: str, fd: int) -> Resized:
        before = pipes.capacity(fd)
        return Resized(target, before, pipes.resize(fd, size, best_effort=arguments.best_effort))

    done, failed = each_opened(targets, resize, arguments)
    return Resizes(tuple(done), tuple(failed))


def _table(found: Resizes) -> Table:
    return Table(
        ("target", ">was", ">capacity"),
        [(pipe.target, f"{pipe.before:,}", f"{pipe.capacity:,}") for pipe in found.pipes],
    )
