"""The command line: argparse here, one module per command, loaded when named; each computes, then shows.

Exit status: 0 fine, 1 failed, 2 usage; `run` gives the status of its command, 126 or 127.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from pipecap.cli.trouble import complain, say
from pipecap.errors import InvalidSize, PipecapError
from pipecap.version import VERSION

COMMANDS = ("probe", "fit", "get", "set", "run")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; give the exit status."""
    _replace_closed_streams()
    try:
        status = _main(sys.argv[1:] if arguments is None else list(arguments))
        sys.stdout.flush()
        return status
    except PipecapError as error:
        complain(error)
        return 2 if isinstance(error, InvalidSize) else 1
    except BrokenPipeError:
        # Whoever read our answer has gone: nothing to tell, and the interpreter must not try again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130


def _replace_closed_streams() -> None:
    """Give what was started without stdout or stderr (`>&-`) somewhere to write."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # until the interpreter ends


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
    parser = argparse.ArgumentParser(prog=f"pipecap {name}", description=command.__doc__)
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
    parser = argparse.ArgumentParser(
        prog="pipecap",
        usage="pipecap [COMMAND] [--json] ...",
        description=f"Measure, explain and size the pipes under multiprocessing queues.\n\ncommands:\n{summaries}",
        epilog="No command is `probe`. `pipecap COMMAND --help` tells its arguments. All commands take --json.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pipecap {VERSION}")
    return parser
