"""TARGET on the command line: a word or number for our own descriptor, PID:FD, or the path of a FIFO.

Somebody else's pipe is opened O_NONBLOCK for as long as the command looks at it, after O_PATH has shown that it is one:
no device is ever opened, and no FIFO waited for. It is done in the way that others notice least. A pipe is opened for
writing, which at most delays an end of file: one more reader would swallow what a writer should learn nobody reads. A
FIFO is opened for reading, and only while it has a reader.
"""

from __future__ import annotations

import argparse
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from pipecap.cli.trouble import Failure, complain, failure
from pipecap.errors import AccessDenied, NotAPipe, PipecapError, Unsupported
from pipecap.kernel import pipes
from pipecap.kernel.limits import limits
from pipecap.kernel.sizes import parse_size
from pipecap.proc import procfs

_WORDS = {"stdin": 0, "stdout": 1, "stderr": 2}


def add_targets(parser: argparse.ArgumentParser, default: str) -> None:
    """Declare TARGET..."""
    parser.add_argument(
        "targets",
        metavar="TARGET",
        nargs="*",
        default=[],
        help=f"stdin, stdout, stderr, a descriptor number, PID:FD, or a path (default: {default})",
    )


def add_quiet_and_check(parser: argparse.ArgumentParser) -> None:
    """Declare how failures of single targets count."""
    parser.add_argument("-c", "--check", action="store_true", help="stop at the first target that fails")
    parser.add_argument("-q", "--quiet", action="store_true", help="say less: no warnings")


def size_argument(text: str) -> int:
    """SIZE: as everywhere, or "max" for the whole of fs.pipe-max-size."""
    if text != "max":
        return parse_size(text)
    host = limits()
    if host.pipe_max_size is None:
        raise Unsupported(f"max is not known: {host.unknown['pipe_max_size']}", hint="give a size in bytes")
    return host.pipe_max_size


def is_stdout(fd: int) -> bool:
    """Whether a descriptor is of the pipe our answers would go into."""
    try:
        return os.path.sameopenfile(fd, 1)
    except OSError:
        return False


def wants_lines(arguments: argparse.Namespace) -> bool:
    """Whether to tell failures on stderr: with --json they are in the answer; --quiet does not silence --check."""
    return not arguments.json and (arguments.check or not arguments.quiet)


Done = TypeVar("Done")


def each_opened(
    targets: Sequence[str], act: Callable[[str, int], Done], arguments: argparse.Namespace
) -> tuple[list[Done], list[Failure]]:
    """Act on each target, opened for it, in turn. A failure is kept and told; with --check it is also the end."""
    done: list[Done] = []
    failed: list[Failure] = []
    for target in targets:
        try:
            with opened(target) as fd:
                done.append(act(target, fd))
        except PipecapError as error:
            failed.append(failure(target, error))
            if wants_lines(arguments):
                complain(error, about=target)
            if arguments.check:
                break
    return done, failed


@contextmanager
def opened(target: str) -> Iterator[int]:
    """Hold a descriptor of the pipe that `target` names. Raises NotAPipe, ProcessGone, AccessDenied, Unsupported."""
    if target in _WORDS or re.fullmatch("[0-9]{1,10}", target):
        yield _own(target)  # inherited: not ours to close
        return
    path = _open_path(target)
    try:
        fd = _reopen(target, path)
    finally:
        os.close(path)
    try:
        yield fd
    finally:
        os.close(fd)


def _own(target: str) -> int:
    fd = _WORDS[target] if target in _WORDS else int(target)
    try:
        pipes.check_pipe(fd)
    except NotAPipe as error:
        if target not in _WORDS and os.path.exists(f"/proc/{target}/fd"):
            hint = f"if {target} is a process, give PID:FD; what it has open: ls -l /proc/{target}/fd"
            raise NotAPipe(f"fd {target} of our own", "is no open pipe", hint=hint) from error
        raise
    return fd


def _open_path(target: str) -> int:
    if match := re.fullmatch("([0-9]{1,10}):([0-9]{1,10})", target):
        return procfs.open_path(int(match[1]), int(match[2]))
    try:
        return os.open(target, os.O_PATH | os.O_CLOEXEC)
    except PermissionError as error:
        raise AccessDenied(f"{target}: {error.strerror}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise NotAPipe(
            target, f"cannot be opened: {why}", hint="a TARGET is a word, a number, PID:FD or a path"
        ) from None


def _reopen(target: str, path: int) -> int:
    """Open the pipe behind an O_PATH descriptor, without waiting and without letting anybody else in."""
    status = os.fstat(path)
    if not stat.S_ISFIFO(status.st_mode):
        raise NotAPipe(target, "is no pipe or FIFO")
    mode = os.O_WRONLY
    if not pipes.is_anonymous(path):
        _require_reader(target, status)
        mode = os.O_RDONLY
    try:
        return os.open(f"/proc/self/fd/{path}", mode | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Unsupported(f"{target}: no /proc to open it through", hint="mount procfs there") from None
    except PermissionError:
        raise AccessDenied(
            f"{target} was made by uid {status.st_uid} and may not be opened", hint="run as that user, or as root"
        ) from None


def _require_reader(target: str, status: os.stat_result) -> None:
    """Refuse a FIFO that nobody has open for reading.

    A writer may be waiting for a reader in open(2). We would be that reader: it would go on, write, and lose its data
    or be killed by SIGPIPE as soon as we close. While another reader is there, nobody waits, and nothing is lost.
    """
    found, closed = procfs.holders(status.st_dev, status.st_ino)
    if any(holder.reads for holder in found):
        return
    danger = "opening it now could cost a waiting writer its data"
    if closed:
        raise AccessDenied(
            f"{target}: no reader to be seen, but not all processes may be looked into ({_some(closed)})",
            hint=f"{danger}: run as root or as the user who reads it, or give PID:FD of the reader",
        )
    raise Unsupported(
        f"{target} is a FIFO without a reader: it has no capacity that lasts",
        hint=f"start its reader first: {danger}",
    )


def _some(pids: list[int], most: int = 3) -> str:
    more = f" and {len(pids) - most:,} more" if len(pids) > most else ""
    return f"PID {', '.join(map(str, pids[:most]))}{more}"
