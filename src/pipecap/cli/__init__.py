"""The command line: argparse here, one module per command, loaded when named; each computes, then shows.

Exit status: 0 fine, 1 failed, 2 usage, 3 a problem was found (`doctor`); `run` gives the status of its command, 126 or
127; `top` 143 after SIGTERM, as a shell would say it.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from pipecap.cli.trouble import complain, say
from pipecap.errors import InvalidSize, InvalidValue, PipecapError
from pipecap.version import VERSION

COMMANDS = ("probe", "fit", "tune", "get", "set", "run", "ps", "top", "doctor", "rescue")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; give the exit status."""
    _replace_closed_streams()
    status = _guarded(sys.argv[1:] if arguments is None else list(arguments))
    _drop_unwritten()
    return status


def _guarded(arguments: list[str]) -> int:
    """Run one command, its answer written out, and turn what goes wrong into a line on stderr and a status."""
    try:
        try:
            status = _main(arguments)
        except SystemExit as end:  # argparse's help, version and usage errors
            status = end.code if isinstance(end.code, int) else 1
        sys.stdout.flush()
        return status
    except PipecapError as error:
        complain(error)
        return 2 if isinstance(error, InvalidSize | InvalidValue) else 1
    except BrokenPipeError:
        return 1  # whoever read our answer has gone: nobody to tell
    except OSError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130


class _Parser(argparse.ArgumentParser):
    """One line for a usage error, as for all trouble."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is; status 2."""
        say(f"{message} (see {self.prog} --help)")
        self.exit(2)


def _replace_closed_streams() -> None:
    """Give what was started without stdout or stderr (`>&-`) somewhere to write, but not under its number."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_WRONLY)
            setattr(sys, name, open(fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, 3), "w", closefd=False))
            os.close(null)


def _drop_unwritten() -> None:
    """Let go of what could not be written, or the interpreter tries again at exit, complains and gives status 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def _main(arguments: list[str]) -> int:
    options, command_line = split(arguments)
    name = next((option for option in options if not option.startswith("-")), None)
    if name is None:
        if {"-h", "--help", "--version"} & {*options}:
            _overview().parse_args(options)
        name = "probe"
    elif name not in COMMANDS:
        _overview().error(f"no command {name!r}; there are {', '.join(COMMANDS)}")
    else:
        options.remove(name)
    if command_line is not None and name != "run":
        _overview().error("only `run` takes a command after --")
    command = import_module(f"pipecap.cli.{name}")
    parser = _Parser(prog=f"pipecap {name}", description=command.__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    command.add_arguments(parser)
    parsed = parser.parse_intermixed_args(options)
    parsed.command = command_line
    status: int = command.run(parsed)
    return status


def split(arguments: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Split a command line at its first `--`: what is for us, and a command to run, None where there is no `--`."""
    if "--" not in arguments:
        return list(arguments), None
    at = list(arguments).index("--")
    return list(arguments[:at]), list(arguments[at + 1 :])


def _overview() -> argparse.ArgumentParser:
    """Make the parser of `pipecap` alone: help and version."""
    summaries = "".join(
        f"  {name:8}{(import_module(f'pipecap.cli.{name}').__doc__ or '').partition(chr(10))[0]}\n" for name in COMMANDS
    )
    parser = _Parser(
        prog="pipecap",
        usage="pipecap [COMMAND] [--json] ...",
        description=f"Measure, explain and size the pipes under multiprocessing queues.\n\ncommands:\n{summaries}",
        epilog="No command is `probe`. `pipecap COMMAND --help` tells its arguments. All commands take --json.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pipecap {VERSION}")
    return parser
