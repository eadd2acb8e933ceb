"""The state of a pipe of another process.

It takes opening it for some microseconds: for writing, as one more reader would swallow the EPIPE that a writer is
due; a FIFO only while both its ends are held, as another opener could let a process through that waits in open(2).
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

from pipecap.errors import PipecapError
from pipecap.kernel import pipes
from pipecap.kernel.pipes import PipeState
from pipecap.proc.files import Fifo, File, Pipe
from pipecap.proc.snapshot import End


def state_of(file: File, holders: Collection[tuple[int, End]], *, proc: str) -> PipeState | str:
    """Look at a pipe through one of those who hold it; gives why not where that cannot be."""
    why = "nobody holds it any more"
    reads = any(end.reads for _, end in holders)
    if isinstance(file, Fifo) and not (reads and any(end.writes for _, end in holders)):
        return "a FIFO with one side only: opening it could let somebody through who waits for the other"
    for pid, end in list(holders)[:3]:
        try:
            return _state(f"{proc}/{pid}/fd/{end.fd}", file)
        except FileNotFoundError:
            continue
        except PermissionError:
            why = "made by another user, who alone may open it: run as root"
        except (OSError, PipecapError) as error:
            why = str(error)
    return why


def _state(path: str, file: File) -> PipeState:
    with opened(path, file) as fd:
        return pipes.state(fd)


@contextmanager
def opened(path: str, file: File) -> Iterator[int]:
    """Hold a write end of the pipe behind /proc/PID/fd/FD, if it is still that `file`; else FileNotFoundError.

    Never waits: O_NONBLOCK, on an open file description of our own. What is no pipe is not opened. Nobody forks
    meanwhile, or the child would keep the end.
    """
    with _opening:
        looked = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            status = os.fstat(looked)
            if not stat.S_ISFIFO(status.st_mode) or file not in (
                Pipe(status.st_ino),
                Fifo(status.st_dev, status.st_ino),
            ):
                raise FileNotFoundError(path)  # closed meanwhile, and the number used again
            fd = os.open(f"/proc/self/fd/{looked}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            os.close(looked)
        try:
            yield fd
        finally:
            os.close(fd)


_opening = threading.RLock()
os.register_at_fork(before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_opening.release)


def owner(holders: Collection[tuple[int, End]], *, proc: str) -> int | None:
    """Return the user who made a pipe; None where that cannot be seen."""
    for pid, end in holders:
        with suppress(OSError):
            return os.stat(f"{proc}/{pid}/fd/{end.fd}").st_uid
    return None
