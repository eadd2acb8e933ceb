"""Set the capacity of our own stdin, stdout or other descriptors, then become the command after `--`."""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import signal
import sys
from contextlib import suppress
from typing import NoReturn

from pipecap.cli import set as set_command
from pipecap.cli.endpoint import size_argument, wants_lines
from pipecap.cli.render import document
from pipecap.cli.set import Resizes, resize_each
from pipecap.cli.trouble import complain, failure, say
from pipecap.errors import Unsupported

NOT_EXECUTABLE = 126
NOT_FOUND = 127


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `set` takes; the command itself was split off before."""
    parser.usage = "pipecap run [-h] [--json] [-b] [-c] [-q] SIZE [TARGET ...] -- CMD [ARG ...]"
    set_command.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Set, say so on stderr, then exec: no process of ours stays, and the exit status is the command's.

    A refusal is a warning, as the command works with a smaller pipe, too; with --check it is the end, status 1.
    """
    if not arguments.command:
        say("run needs a command after --, as in: pipecap run 1M -- CMD")
        return 2
    found = _resize(arguments)
    _tell(found, arguments)
    if arguments.check and found.failed:
        return 1
    return _exec(arguments.command)


def _resize(arguments: argparse.Namespace) -> Resizes:
    targets = arguments.targets or ["stdout"]
    try:
        size = size_argument(arguments.size)
    except Unsupported as error:  # max, where /proc/sys is not to be read
        if wants_lines(arguments):
            complain(error)
        return Resizes((), tuple(failure(target, error) for target in targets))
    return resize_each(targets, size, arguments)


def _tell(found: Resizes, arguments: argparse.Namespace) -> None:
    """Say what was changed, on stderr, for stdout is the command's; that nobody can be told must not stop it."""
    if arguments.json:
        with suppress(OSError):
            document("set", found.to_dict(), sys.stderr)
    elif not arguments.quiet:
        for pipe in found.pipes:
            say(f"{pipe.target}: {pipe.before:,} -> {pipe.capacity:,} bytes")


def _exec(command: list[str]) -> int:
    with suppress(OSError):
        sys.stderr.flush()
    # The interpreter ignores these for itself; the command shall find them as a shell would hand them over.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        if not command[0]:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))  # execvp would try every directory of PATH
        _execvp(command)
    except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
        say(f"{command[0]}: {error.strerror if isinstance(error, OSError) else error}")
        absent = isinstance(error, FileNotFoundError | NotADirectoryError) or not _is_there(command[0])
        return NOT_FOUND if absent else NOT_EXECUTABLE


def _execvp(command: list[str]) -> NoReturn:
    try:
        os.execvp(command[0], command)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        # No `#!`: a script for the shell, says execvp(3); Python's own does not.
        os.execv("/bin/sh", ["sh", shutil.which(command[0]) or command[0], *command[1:]])


def _is_there(command: str) -> bool:
    """Look once more, as shells do: execvp(3) says EACCES as soon as one directory of PATH may not be searched."""
    return "/" in command or shutil.which(command, mode=os.F_OK) is not None
