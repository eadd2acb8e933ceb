"""/proc: the descriptors of other processes. Every read may race with an exit, which is no error of ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from pipecap.errors import AccessDenied, NotAPipe, ProcessGone, Unsupported
from pipecap.results import Result


@dataclass(frozen=True, slots=True)
class Holder(Result):
    """A process that holds a pipe open; `reads` and `writes` are what it opened it for."""

    pid: int
    fd: int
    reads: bool
    writes: bool


def open_path(pid: int, fd: int, *, proc: str = "/proc") -> int:
    """Give an O_PATH descriptor for fd `fd` of process `pid`; it counts neither as reader nor as writer.

    Raises ProcessGone, AccessDenied, NotAPipe for an fd that is not open, Unsupported where procfs is missing.
    """
    try:
        return os.open(f"{proc}/{pid}/fd/{fd}", os.O_PATH | os.O_CLOEXEC)
    except PermissionError:
        if _has_ended(pid, proc):  # a zombie's descriptors are root's
            raise ProcessGone(pid) from None
        raise AccessDenied(f"fd {fd} of process {pid} may not be looked at") from None
    except FileNotFoundError:
        _require_procfs(proc)
        if _has_ended(pid, proc):
            raise ProcessGone(pid) from None
        hint = f"what is open: ls -l {proc}/{pid}/fd"
        raise NotAPipe(f"fd {fd} of process {pid}", "is not open", hint=hint) from None


def holders(device: int, inode: int, *, proc: str = "/proc") -> tuple[list[Holder], list[int]]:
    """Find who holds the file of that device and inode open; also the processes that could not be looked into.

    Raises Unsupported where procfs is missing.
    """
    _require_procfs(proc)
    found: list[Holder] = []
    closed: list[int] = []
    for pid in _pids(proc):
        try:
            found.extend(_holding(pid, device, inode, proc))
        except PermissionError:
            closed.append(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended
    return found, closed


def _require_procfs(proc: str) -> None:
    if not os.path.exists(f"{proc}/self"):
        raise Unsupported(f"{proc} shows no processes", hint="mount procfs there: mount -t proc proc /proc")


def _has_ended(pid: int, proc: str) -> bool:
    """Whether a process is gone, or a zombie: ended, its descriptors closed, and only its status left."""
    try:
        with open(f"{proc}/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
    except PermissionError:  # hidepid=1
        return False


def _pids(proc: str) -> Iterator[int]:
    for name in os.listdir(proc):
        if name.isdigit():
            yield int(name)


def _holding(pid: int, device: int, inode: int, proc: str) -> Iterator[Holder]:
    for name in os.listdir(f"{proc}/{pid}/fd"):
        try:
            info = _fdinfo(f"{proc}/{pid}/fdinfo/{name}")
            # Asked first, for a stat of a file on a dead network or FUSE mount never returns. Since Linux 5.14.
            if info.get("ino", str(inode)) != str(inode):
                continue
            status = os.stat(f"{proc}/{pid}/fd/{name}")
        except FileNotFoundError:
            continue  # closed meanwhile
        flags = int(info["flags"], 8)
        if (status.st_dev, status.st_ino) != (device, inode) or flags & os.O_PATH:
            continue  # O_PATH names the file, and neither reads nor writes; so does the one we look through
        mode = flags & os.O_ACCMODE
        yield Holder(pid, int(name), reads=mode != os.O_WRONLY, writes=mode != os.O_RDONLY)


def _fdinfo(path: str) -> dict[str, str]:
    """Read a file of fdinfo: its `name: value` lines."""
    with open(path) as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}
