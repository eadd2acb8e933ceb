"""/proc: processes, their threads, descriptors and mappings. Every read may race with an exit, no error of ours.

What may not be read is told from what is gone: PermissionError goes up, FileNotFoundError and ProcessLookupError too.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from pipecap.errors import AccessDenied, NotAPipe, ProcessGone, Unsupported
from pipecap.proc.syscalls import Watched
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
        if has_ended(pid, proc):  # a zombie's descriptors are root's
            raise ProcessGone(pid) from None
        raise AccessDenied(f"fd {fd} of process {pid} may not be looked at") from None
    except FileNotFoundError:
        require_procfs(proc)
        if has_ended(pid, proc):
            raise ProcessGone(pid) from None
        hint = f"what is open: ls -l {proc}/{pid}/fd"
        raise NotAPipe(f"fd {fd} of process {pid}", "is not open", hint=hint) from None


def holders(device: int, inode: int, *, proc: str = "/proc") -> tuple[list[Holder], list[int]]:
    """Find who holds the file of that device and inode open; also the processes that could not be looked into.

    Raises Unsupported where procfs is missing.
    """
    require_procfs(proc)
    found: list[Holder] = []
    closed: list[int] = []
    for pid in pids(proc):
        try:
            found.extend(_holding(pid, device, inode, proc))
        except PermissionError:
            closed.append(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended
    return found, closed


def require_procfs(proc: str) -> None:
    """Raise Unsupported where procfs is missing."""
    if not os.path.exists(f"{proc}/self"):
        raise Unsupported(f"{proc} shows no processes", hint="mount procfs there: mount -t proc proc /proc")


def has_ended(pid: int, proc: str) -> bool:
    """Whether a process is gone, or a zombie: ended, its descriptors closed, and only its status left."""
    try:
        with open(f"{proc}/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] == b"Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
    except PermissionError:  # hidepid=1
        return False


def pids(proc: str) -> Iterator[int]:
    """Give the processes there are."""
    for name in os.listdir(proc):
        if name.isdigit():
            yield int(name)


def _holding(pid: int, device: int, inode: int, proc: str) -> Iterator[Holder]:
    for name in os.listdir(f"{proc}/{pid}/fd"):
        try:
            info = fields(f"{proc}/{pid}/fdinfo/{name}")
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


def fields(path: str) -> dict[str, str]:
    """Read a file of `name: value` lines: fdinfo, status, io."""
    with open(path, errors="replace") as file:  # names are bytes
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}


@dataclass(frozen=True, slots=True)
class Stat:
    """What stat of a process or thread says; `start`, in clock ticks since boot, tells a PID that is used again."""

    name: str
    state: str
    ppid: int
    session: int
    start: int
    kernel: bool


def stat(path: str) -> Stat:
    """Read the stat file in the directory of a process or thread."""
    with open(f"{path}/stat", "rb") as file:
        head, _, tail = file.read().rpartition(b")")
    fields = tail.split()
    return Stat(
        name=head.partition(b"(")[2].decode(errors="replace"),
        state=fields[0].decode(),
        ppid=int(fields[1]),
        session=int(fields[3]),
        start=int(fields[19]),
        kernel=bool(int(fields[6]) & 0x00200000),  # PF_KTHREAD
    )


def status(path: str) -> dict[str, str]:
    """Read the status file in the directory of a process or thread: its `Name: value` lines."""
    return fields(f"{path}/status")


def cpu_seconds(pid: int, tid: int, proc: str) -> float:
    """Return the CPU time that a thread has used so far."""
    with open(f"{proc}/{pid}/task/{tid}/stat", "rb") as file:
        row = file.read().rpartition(b")")[2].split()
    return (int(row[11]) + int(row[12])) / os.sysconf("SC_CLK_TCK")


def uptime(proc: str) -> float:
    """Return the seconds since the host was started."""
    return float(text(f"{proc}/uptime").split()[0])


def tracer(pid: int, proc: str) -> str:
    """Return the number of the process that traces one, "0" for none."""
    try:
        return status(f"{proc}/{pid}").get("TracerPid", "0")
    except OSError:
        return "0"


def age(start: int, proc: str) -> float:
    """Return for how many seconds a process runs, by its start in clock ticks; 0.0 where that cannot be read."""
    try:
        return max(0.0, uptime(proc) - start / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError):
        return 0.0


def user(uid: int) -> str:
    """Return the name of a user, or its number."""
    try:
        import pwd

        return pwd.getpwuid(uid).pw_name
    except (ImportError, KeyError):
        return str(uid)


def text(path: str) -> str:
    """Read a short file."""
    with open(path, "rb") as file:
        return file.read().decode(errors="replace").strip()


def command(pid: int, proc: str) -> str:
    """Give the command line, its arguments in a row; that of a kernel thread or a zombie is empty."""
    return text(f"{proc}/{pid}/cmdline").replace("\0", " ").strip()


def threads(pid: int, proc: str) -> list[int]:
    """Give the threads of a process."""
    return [int(name) for name in os.listdir(f"{proc}/{pid}/task")]


def children(pid: int, proc: str) -> set[int]:
    """Give the children of a process, hidden ones too (hidepid); none where the kernel does not tell them."""
    found: set[int] = set()
    with suppress(OSError):
        for tid in threads(pid, proc):
            found |= {int(child) for child in text(f"{proc}/{pid}/task/{tid}/children").split()}
    return found


@dataclass(frozen=True, slots=True)
class Open:
    """An open descriptor: what its link says ("pipe:[123]", a path), and what it was opened for."""

    fd: int
    link: str
    reads: bool
    writes: bool


def descriptors(pid: int, proc: str) -> list[Open]:
    """Give the open descriptors of a process: the links' permission bits tell the access mode, O_PATH has none."""
    found = []
    for name in os.listdir(f"{proc}/{pid}/fd"):
        path = f"{proc}/{pid}/fd/{name}"
        try:
            link = os.readlink(path)
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            continue  # closed meanwhile
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:  # a path longer than a page
                raise
            continue
        found.append(Open(int(name), link, reads=bool(mode & 0o400), writes=bool(mode & 0o200)))
    return found


def fdinfo(pid: int, fd: int, proc: str) -> dict[str, str]:
    """Read what the kernel tells of a descriptor: its `name: value` lines."""
    return fields(f"{proc}/{pid}/fdinfo/{fd}")


def is_terminal(pid: int, fd: int, proc: str) -> bool:
    """Whether a descriptor is of a terminal, by its name."""
    try:
        link = os.readlink(f"{proc}/{pid}/fd/{fd}")
    except OSError:
        return False
    return link.startswith(("/dev/pts/", "/dev/tty", "/dev/console"))


def boot_time(proc: str) -> int:
    """Give when the host was started, in seconds since 1970."""
    return int(next(line.split()[1] for line in text(f"{proc}/stat").splitlines() if line.startswith("btime")))


def pidfd(pid: int, fd: int, proc: str) -> int:
    """Give the process that a pidfd stands for; -1 where that has ended and was reaped."""
    return int(fdinfo(pid, fd, proc)["Pid"])


@dataclass(frozen=True, slots=True)
class Mapping:
    """A place in shared memory: the file, by device and inode, and the offset.

    `is_pipecap`: a queue of pipecap's. `is_named`: any process may open it by its name; those of multiprocessing's own
    semaphores, which some start methods leave until exit, do not count.
    """

    file: str
    offset: int
    is_pipecap: bool = False
    is_named: bool = False


_NAMELESS = ("/memfd:", "/dev/zero", "/SYSV", "/dev/shm/sem.mp-")


def shared_mapping(pid: int, address: int, proc: str) -> Mapping | None:
    """Return what shared memory an address lies in; None where it is not shared."""
    with open(f"{proc}/{pid}/maps", errors="replace") as file:
        for line in file:
            span, permissions, offset, device, inode, *name = line.split(maxsplit=5)
            low, _, high = span.partition("-")
            if int(low, 16) <= address < int(high, 16):
                if permissions[3] != "s":
                    return None
                place = address - int(low, 16) + int(offset, 16)
                path = name[0].strip() if name else ""
                is_named = path.startswith("/") and not path.startswith(_NAMELESS) and not path.endswith("(deleted)")
                return Mapping(f"{device}:{inode}", place, path.startswith("/memfd:pipecap"), is_named)
    return None


def shared_files(pid: int, proc: str) -> set[str]:
    """Give the files of which a process maps shared memory, by device and inode."""
    with open(f"{proc}/{pid}/maps", errors="replace") as file:
        rows = (line.split(maxsplit=5) for line in file)
        return {f"{row[3]}:{row[4]}" for row in rows if row[1][3] == "s"}


def wchan(path: str) -> str:
    """Return the kernel function that a thread sleeps in; "unknown" where it may not be read."""
    try:
        return text(f"{path}/wchan")
    except (PermissionError, FileNotFoundError):
        return "unknown"


# The signals whose handlers usually let a program go on. Python itself installs the one of SIGINT.
_AWAITED = {"SIGHUP": 1, "SIGALRM": 14, "SIGUSR1": 10, "SIGUSR2": 12, "SIGTERM": 15, "SIGCHLD": 17}


def handled(pid: int, proc: str) -> tuple[str, ...]:
    """Return which of SIGHUP, SIGALRM, SIGUSR1, SIGUSR2, SIGTERM and SIGCHLD a process has a handler for (SigCgt)."""
    try:
        caught = int(status(f"{proc}/{pid}")["SigCgt"], 16)
    except (OSError, KeyError, ValueError):
        return ()
    return tuple(name for name, number in _AWAITED.items() if caught >> number - 1 & 1)


@dataclass(frozen=True, slots=True)
class ThreadMemory:
    """What the arguments of a thread's system call point at: syscalls.Memory. It is read, never written."""

    pid: int
    tid: int
    proc: str

    def wchan(self) -> str:
        """Return the kernel function that the thread sleeps in; empty where it may not be read."""
        found = wchan(f"{self.proc}/{self.pid}/task/{self.tid}")
        return "" if found == "unknown" else found

    def is_pipecap(self, address: int) -> bool:
        """Whether an address lies in the shared memory of one of pipecap's queues."""
        try:
            place = shared_mapping(self.pid, address, self.proc)
        except OSError:
            return False
        return place is not None and place.is_pipecap

    def read(self, address: int, size: int) -> bytes | None:
        """Read memory through /proc/PID/mem; None where that is not allowed."""
        try:
            fd = os.open(f"{self.proc}/{self.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            data = os.pread(fd, size, address)
        except (OSError, OverflowError):
            return None
        finally:
            os.close(fd)
        return data if len(data) == size else None

    def epolled(self, fd: int) -> tuple[Watched, ...] | None:
        """Read what an epoll descriptor watches from its fdinfo."""
        try:
            lines = text(f"{self.proc}/{self.pid}/fdinfo/{fd}").splitlines()
        except OSError:
            return None
        rows = [line.split() for line in lines if line.startswith("tfd:")]
        # The kernel watches the file, not the number: that may be another file's by now.
        if not all(self._is(int(row[1]), row[-2]) for row in rows):
            return None
        return tuple(Watched(int(row[1]), bool(int(row[3], 16) & 1), bool(int(row[3], 16) & 4)) for row in rows)

    def _is(self, fd: int, inode: str) -> bool:
        """Whether a descriptor is of a file whose inode an epoll's fdinfo gives: `ino:` and hexadecimal digits."""
        try:
            return os.stat(f"{self.proc}/{self.pid}/fd/{fd}").st_ino == int(inode.removeprefix("ino:"), 16)
        except (OSError, ValueError):
            return False
