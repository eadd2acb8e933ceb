"""Whether another process may be at work on a pipe: the only evidence on whether the owner of a stock lock lives."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress


def may_be_at_work(inode: int, place: str, *, proc: str = "/proc") -> bool:
    """Whether a living process other than this one has the pipe open and is, or may be, amid a read or a write of it.

    `place` is where it sleeps then: "pipe_read" or "pipe_write" (fs/pipe.c). A process all of whose threads sleep, and
    none of them there, is not; one that is stopped, or frozen with its cgroup, may be. A process of the same user that
    may not be looked at counts as at work. Source: proc(5), /proc/PID/{fd,task/TID/stat,task/TID/wchan}.
    """
    me = str(os.getpid())
    return any(
        _holds(f"{proc}/{pid}", inode) and not _sleeps_elsewhere(f"{proc}/{pid}", place)
        for pid in os.listdir(proc)
        if pid.isdigit() and pid != me
    )


def _holds(process: str, inode: int) -> bool:
    link = f"pipe:[{inode}]"
    try:
        numbers = os.listdir(f"{process}/fd")
    except PermissionError:  # of another user: it cannot have been handed a queue of this one
        with suppress(OSError):
            return os.stat(process).st_uid == os.getuid()
        return False
    except OSError:
        return False
    for number in numbers:
        with suppress(OSError):
            if os.readlink(f"{process}/fd/{number}") == link:
                return True
    return False


def _sleeps_elsewhere(process: str, place: str) -> bool:
    try:
        return all(
            state == "S" and place not in where and "freez" not in where and where != "0"
            for state, where in _threads(process)
        )
    except FileNotFoundError:
        return True  # it ended meanwhile
    except OSError:
        return False


def _threads(process: str) -> Iterator[tuple[str, str]]:
    for thread in os.listdir(f"{process}/task"):
        with open(f"{process}/task/{thread}/stat") as stat, open(f"{process}/task/{thread}/wchan") as wchan:
            yield stat.read().rpartition(")")[2].split()[0], wchan.read().strip()
