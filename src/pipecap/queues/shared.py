"""What the processes of a queue share: two locks and some counters, in memory without a name.

The standard library's semaphores have names, unlinked when the maker drops them: a spawned child that comes later finds
nothing. This memory is a descriptor, handed over like the pipe's: it lives as long as somebody has it. Its words are
struct pipecap_shared in csrc/pipecap.h; csrc/PROTOCOL.md has their rules.
"""

from __future__ import annotations

import os
from multiprocessing import reduction
from typing import Any

from pipecap.errors import Unsupported
from pipecap.queues import native
from pipecap.queues.native import AGAIN, TIMED_OUT, failure

# "Unlimited", as SEM_VALUE_MAX of the standard library.
UNLIMITED = 2**31 - 1


class Shared:
    """One struct pipecap_shared in a shared mapping, and this process's part in it: struct pipecap_member.

    Raises OSError without descriptors or memory, Unsupported off Linux.
    """

    def __init__(self, maxsize: int, fd: int | None = None) -> None:
        is_new = fd is None
        if fd is None:
            if not hasattr(os, "memfd_create"):
                raise Unsupported("queues share memory by memfd_create(2)", hint="this takes Linux 3.17 or later")
            fd = os.memfd_create("pipecap", os.MFD_CLOEXEC)
        self.maxsize = maxsize
        self.member = native.new_member()
        result = native.member_open(self.member, fd, maxsize if is_new else 0)
        if result < 0:
            raise failure(result)
        native.reset_in_children(self)

    @property
    def struct(self) -> Any:
        """The struct pipecap_shared."""
        return self.member.shared

    def forked(self) -> None:
        """Be another participant, in the child of a fork."""
        native.member_forked(self.member)

    def __reduce__(self) -> tuple[object, ...]:
        if self.member.fd < 0:
            raise OSError(
                "this process has the queue's memory, but no descriptor of it to hand on: without /proc, or out of"
                " descriptors, it could not be opened anew after a fork"
            )
        return _rebuild, (self.maxsize, reduction.DupFd(self.member.fd))

    def pid_of(self, index: int) -> int:
        """Return the PID of a participant, 0 for none."""
        return int(self.struct.participants[index].pid) if index else 0

    def owner(self, *, reading: bool) -> int:
        """Return the PID of the owner of a lock, 0 when it is free."""
        word = self.struct.reading if reading else self.struct.writing
        return self.pid_of(word & ~native.WAITERS)

    def participants(self) -> list[dict[str, Any]]:
        """Return the processes that used the queue."""
        entries = [(index, self.struct.participants[index]) for index in range(1, self.struct.highest + 1)]
        return [
            {
                "pid": entry.pid,
                "alive": bool(native.is_alive(self.member, index)),
                "known_by": "lock" if entry.has_lock else "pid",
                "held": entry.held,
                "undone": entry.undone,
            }
            for index, entry in entries
            if entry.pid
        ]

    def lives(self, pid: int) -> bool:
        """Whether a participant with this PID has not ended."""
        participants = self.struct.participants
        return any(
            participants[index].pid == pid and native.is_alive(self.member, index)
            for index in range(1, self.struct.highest + 1)
        )


def _rebuild(maxsize: int, fd: Any) -> Shared:
    return Shared(maxsize, fd.detach())


class SharedLock:
    """The read or the write lock of a queue, with the methods of multiprocessing.Lock. Any thread may release it.

    `end` is the struct pipecap_end of an end of the pipe. While the read lock is taken by this, this process's get()
    and recv() go without it.
    """

    def __init__(self, shared: Shared, end: Any, *, reading: bool) -> None:
        self._shared = shared
        self._end = end
        self._reading = reading

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take it; False when that was not possible in time."""
        deadline = native.deadline_of(timeout, block=block)
        result = AGAIN
        while result == AGAIN:
            result = native.acquire(self._shared.member, self._end, self._reading, deadline)
        if result not in (0, TIMED_OUT):
            raise failure(result)
        if result == 0 and self._reading:
            self._shared.member.read_locked_by_user = 1
        return result == 0

    def release(self) -> None:
        """Release it; ValueError where this process does not own it."""
        if self._reading:
            self._shared.member.read_locked_by_user = 0
        if native.unlock(self._shared.member, self._reading) < 0:
            raise ValueError("lock released too many times")

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()
