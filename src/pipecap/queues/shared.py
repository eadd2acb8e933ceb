"""What the processes of a queue share: two locks and some counters, in memory without a name.

The standard library's semaphores have names, unlinked when the maker drops them: a spawned child that comes later finds
nothing. This memory is a descriptor, handed over like the pipe's: it lives as long as somebody has it. A lock knows its
holder, so that one who died is told from one who is slow. struct pipecap_shared in csrc/pipecap.h has the fields.
"""

from __future__ import annotations

import errno
import mmap
import os
import weakref
from collections.abc import Callable
from multiprocessing import reduction
from typing import Any

from pipecap.errors import Unsupported
from pipecap.queues import native
from pipecap.queues.connection import deadline_of, failure

# "Unlimited", as SEM_VALUE_MAX of the standard library.
MOST_SLOTS = 2**31 - 1

_AGAIN = -errno.EINTR
_maps: weakref.WeakSet[Shared] = weakref.WeakSet()


def retried(call: Callable[..., int], *arguments: object) -> int:
    """Call until a signal did not interrupt it; the signal's handler runs in between, and may raise."""
    result = _AGAIN
    while result == _AGAIN:
        result = call(*arguments)
    return result


class Shared:
    """One struct pipecap_shared in an anonymous shared mapping, and this process's name in its locks.

    `me` is what locks are taken as: the pid, or a stand-in where the maker's PID namespace is another, in which the
    number would mean somebody else. Raises OSError without descriptors or memory, Unsupported off Linux.
    """

    def __init__(self, slots: int, fd: int | None = None, namespace: int | None = None) -> None:
        size = native.sizeof("struct pipecap_shared")
        if fd is None:
            if not hasattr(os, "memfd_create"):
                raise Unsupported("queues share memory by memfd_create(2)", hint="this takes Linux 3.17 or later")
            fd = os.memfd_create("pipecap", os.MFD_CLOEXEC)
        self.fd = fd
        self._namespace = _pid_namespace() if namespace is None else namespace
        if namespace is None:
            os.ftruncate(fd, size)
        self._map = mmap.mmap(fd, size)
        self.struct = native.cast("struct pipecap_shared *", native.from_buffer(self._map))
        if namespace is None:
            self.struct.slots = slots
        self.slots = slots
        self._ports: list[Any] = []
        self.refresh()
        _maps.add(self)

    def refresh(self) -> None:
        """Take this process's name: at the start, and in the child of a fork."""
        self.me = os.getpid() if _pid_namespace() == self._namespace else native.SOMEBODY
        for port in self._ports:
            port.pid = self.me

    def port(self, end: Any, *, count: bool, tasks: bool = False) -> Any:
        """Make a struct pipecap_port: one side of the queue. It lives as long as this and the `end`."""
        port = native.new("struct pipecap_port *", (self.struct, end, self.me, self.slots if count else 0, tasks))
        self._ports.append(port)
        return port

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.slots, reduction.DupFd(self.fd), self._namespace)

    def __del__(self) -> None:
        fd = self.__dict__.pop("fd", None)
        if fd is not None:
            os.close(fd)

    def take_slots(self, most: int, deadline: int) -> int:
        """Take the room of at most so many items, all that is free; 0 when there was none until the deadline."""
        result = retried(native.take_slots, self.struct, most, deadline)
        if result < 0 and result != -errno.ETIMEDOUT:
            raise failure(result)
        return max(0, result)

    def wait_for_slot(self, deadline: int) -> bool:
        """Wait until there is room for an item, without taking it; False at the deadline."""
        if not self.take_slots(1, deadline):
            return False
        self.give_slots(1)
        return True

    def give_slots(self, count: int) -> None:
        """Give back the room of items that were not sent."""
        native.give_slots(self.struct, count, self.slots)


def _rebuild(slots: int, fd: Any, namespace: int) -> Shared:
    return Shared(slots, fd.detach(), namespace)


def _pid_namespace() -> int:
    """Tell the PID namespace by its inode; 0, the same for all, where procfs does not tell."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _refresh_all() -> None:
    for shared in list(_maps):
        shared.refresh()


os.register_at_fork(after_in_child=_refresh_all)


class SharedLock:
    """The read or the write lock of a queue, with the methods of multiprocessing.Lock. Any thread may release it.

    `writer` is the struct pipecap_end of the queue's write end.
    """

    def __init__(self, shared: Shared, writer: Any, *, reading: bool) -> None:
        self._shared = shared
        self._writer = writer
        self._reading = reading

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take it; False when it was not to be had in time. Raises BadFrame for the read lock of a broken queue."""
        deadline = deadline_of(timeout) if block else 0
        result = retried(native.lock, self._shared.struct, self._writer.fd, self._reading, self._shared.me, deadline)
        if result not in (0, -errno.ETIMEDOUT):
            raise failure(result)
        return result == 0

    def release(self) -> None:
        """Give it back; ValueError where nobody holds it."""
        if native.unlock(self._shared.struct, self._reading) < 0:
            raise ValueError("lock released too many times")

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()
