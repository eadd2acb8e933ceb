"""What is behind a descriptor by which threads wait for one another, as values that compare and hash.

`str()` of each is the name that the kernel gives it in /proc/PID/fd, or one like it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Pipe:
    """A pipe without a name: pipe(2)."""

    inode: int

    def __str__(self) -> str:
        return f"pipe:[{self.inode}]"


@dataclass(frozen=True, slots=True)
class Fifo:
    """A pipe with a name: mkfifo(3). Any process may open it by that."""

    device: int
    inode: int

    def __str__(self) -> str:
        return f"fifo:{self.device}:{self.inode}"


@dataclass(frozen=True, slots=True)
class Socket:
    """A socket; proc/sockets.py knows its peer, if it has one."""

    inode: int

    def __str__(self) -> str:
        return f"socket:[{self.inode}]"


@dataclass(frozen=True, slots=True)
class EventFd:
    """A counter in the kernel (eventfd(2)), by which the threads of an event loop wake it."""

    number: int

    def __str__(self) -> str:
        return f"eventfd:{self.number}"


@dataclass(frozen=True, slots=True)
class PidFd:
    """A process, which a thread waits for until it ends: pidfd_open(2). -1: it has ended and was reaped."""

    pid: int

    def __str__(self) -> str:
        return f"pidfd:{self.pid}"


@dataclass(frozen=True, slots=True)
class Ring:
    """An io_uring: the kernel reads and writes for its process while all threads sleep."""

    def __str__(self) -> str:
        return "anon_inode:[io_uring]"


File: TypeAlias = Pipe | Fifo | Socket | EventFd | PidFd | Ring
