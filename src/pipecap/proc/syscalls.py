"""What a thread waits in, decoded from /proc/PID/task/TID/syscall. Pure: the caller reads the thread's memory.

The file has the number of the call, six arguments, the stack pointer and the program counter (proc(5)). Numbers are
those of the Linux headers; a machine not listed here is read by wchan alone, which tells less.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

_X86_64 = {
    0: "read", 1: "write", 2: "open", 7: "poll", 19: "readv", 20: "writev", 23: "select", 34: "pause",
    35: "nanosleep", 40: "sendfile", 43: "accept", 44: "sendto", 45: "recvfrom", 46: "sendmsg", 47: "recvmsg",
    61: "wait4", 128: "rt_sigtimedwait", 130: "rt_sigsuspend", 202: "futex", 230: "clock_nanosleep",
    232: "epoll_wait", 247: "waitid", 257: "openat", 270: "pselect6", 271: "ppoll", 275: "splice", 276: "tee",
    278: "vmsplice", 281: "epoll_pwait", 288: "accept4", 326: "copy_file_range", 327: "preadv2", 328: "pwritev2",
    437: "openat2", 441: "epoll_pwait2",
}  # fmt: skip
# include/uapi/asm-generic/unistd.h
_GENERIC = {
    22: "epoll_pwait", 56: "openat", 63: "read", 64: "write", 65: "readv", 66: "writev", 71: "sendfile",
    72: "pselect6", 73: "ppoll", 75: "vmsplice", 76: "splice", 77: "tee", 95: "waitid", 98: "futex", 101: "nanosleep",
    115: "clock_nanosleep", 133: "rt_sigsuspend", 137: "rt_sigtimedwait", 202: "accept", 206: "sendto",
    207: "recvfrom", 211: "sendmsg", 212: "recvmsg", 242: "accept4", 260: "wait4", 285: "copy_file_range",
    286: "preadv2", 287: "pwritev2", 437: "openat2", 441: "epoll_pwait2",
}  # fmt: skip
NUMBERS = {"x86_64": _X86_64, "aarch64": _GENERIC, "riscv64": _GENERIC, "loongarch64": _GENERIC}

# linux/futex.h
_FUTEX_PRIVATE = 128
_FUTEX_COMMAND = 127
_FUTEX_WAIT, _FUTEX_LOCK_PI, _FUTEX_WAIT_BITSET = 0, 6, 9
_POLLIN, _POLLOUT = 1, 4
# csrc/end.c: a struct pollfd that poll(2) passes over, of a round of a wait without a limit.
_UNTIMED = struct.pack("=ih", -1, 0x7063)
_MOST_FDS = 4096
_ANY_CHILD = -1
_PAGE = 4096
_LONGEST_PATH = 4096


@dataclass(frozen=True, slots=True)
class Watched:
    """A descriptor that a thread waits for, and for what."""

    fd: int
    reads: bool
    writes: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """What a thread waits in.

    `kind`: "write", "read", "open" (of a FIFO), "poll", "child", "private futex", "shared futex"; "outside" for all
    that may end by itself or from outside (a time limit, a signal, anything else); "running"; "unknown" where it may
    not be read. `call` names the call and its arguments. `fds`: what is written to, read, polled. `count`: bytes of the
    whole write, where known. `child`: the PID waited for, as the waiter's namespace has it, -1 for any. `address`: of
    the futex, or of what is written. `path`: of the FIFO. `masked`: the call changes the signal mask, so it is made to
    be ended by a signal. `rounds`: a wait of a queue of pipecap, without a limit, in rounds. `weak`: read off wchan
    alone.
    """

    kind: str
    call: str
    fds: tuple[Watched, ...] = ()
    count: int | None = None
    child: int | None = None
    address: int | None = None
    path: str = ""
    masked: bool = False
    rounds: bool = False
    weak: bool = False


class Memory(Protocol):
    """What a thread's arguments point at, None where it may not be read; and what else is known of the thread."""

    def read(self, address: int, size: int) -> bytes | None:
        """Read bytes of its memory."""

    def epolled(self, fd: int) -> tuple[Watched, ...] | None:
        """Return what an epoll descriptor watches."""

    def wchan(self) -> str:
        """Return the kernel function that the thread sleeps in; empty where it may not be read."""

    def is_pipecap(self, address: int) -> bool:
        """Whether an address lies in the shared memory of one of pipecap's queues."""


RUNNING = Wait("running", "running")


def decode(line: str, machine: str, memory: Memory) -> Wait | None:
    """Decode one line; None for a machine, or a 32-bit program, whose numbers are not known here."""
    words = line.split()
    if not words:
        return None
    if words == ["running"]:
        return RUNNING
    if words[0] == "-1":
        return Wait("outside", "no system call")
    names = NUMBERS.get(machine)
    if names is None or len(words) < 9 or int(words[7], 16) < 2**32:  # a stack that low is a 32-bit program's
        return None
    name = names.get(int(words[0]))
    if name is None:
        return Wait("outside", f"system call {words[0]}")
    arguments = [int(word, 16) for word in words[1:7]]
    return _DECODERS.get(name, _outside)(name, arguments, memory)


def _outside(name: str, arguments: list[int], memory: Memory) -> Wait:
    return Wait("outside", f"{name}()")


def _write(name: str, arguments: list[int], memory: Memory) -> Wait:
    fd = _int(arguments[0])
    count = arguments[2] if name == "write" else _length(arguments[1], arguments[2], memory)
    size = "" if count is None else f", {count:,} bytes"
    buffer = arguments[1] if name == "write" else None
    return Wait("write", f"{name}(fd {fd}{size})", (Watched(fd, False, True),), count=count, address=buffer)


def _length(vector: int, count: int, memory: Memory) -> int | None:
    data = memory.read(vector, 16 * min(count, 1024))
    return None if data is None else sum(size for _, size in struct.iter_unpack("=QQ", data))


def _read(name: str, arguments: list[int], memory: Memory) -> Wait:
    fd = _int(arguments[0])
    return Wait("read", f"{name}(fd {fd})", (Watched(fd, True, False),))


def _splice(name: str, arguments: list[int], memory: Memory) -> Wait:
    """splice(2), tee(2): from one descriptor to another; wchan tells which of them it waits for."""
    source, sink, count = (
        (arguments[0], arguments[2], arguments[4]) if name == "splice" else (arguments[0], arguments[1], arguments[2])
    )
    call = f"{name}(fd {_int(source)} to fd {_int(sink)}, {count:,} bytes)"
    if "read" in memory.wchan():
        return Wait("read", call, (Watched(_int(source), True, False),))
    return Wait("write", call, (Watched(_int(sink), False, True),), count=count)


def _vmsplice(name: str, arguments: list[int], memory: Memory) -> Wait:
    fd = _int(arguments[0])
    if "read" in memory.wchan():
        return Wait("read", f"{name}(fd {fd})", (Watched(fd, True, False),))
    count = _length(arguments[1], arguments[2], memory)
    return Wait("write", f"{name}(fd {fd})", (Watched(fd, False, True),), count=count)


def _sendfile(name: str, arguments: list[int], memory: Memory) -> Wait:
    sink, count = (arguments[0], arguments[3]) if name == "sendfile" else (arguments[2], arguments[4])
    call = f"{name}(fd {_int(sink)}, {count:,} bytes)"
    return Wait("write", call, (Watched(_int(sink), False, True),), count=count)


def _open(name: str, arguments: list[int], memory: Memory) -> Wait:
    """open(2) waits for another process where the file is a FIFO (fs/pipe.c: fifo_open), else for a device."""
    if "wait_for_partner" not in memory.wchan():
        return Wait("outside", f"{name}()")
    at = 0 if name == "open" else 1
    flags = arguments[at + 1] if name != "openat2" else _how(arguments[2], memory)
    path = _string(arguments[at], memory)
    mode = flags & os.O_ACCMODE
    word = "reading" if mode == os.O_RDONLY else "writing"
    return Wait("open", f"{name}({path or 'a FIFO'}, for {word})", (Watched(-1, mode == 0, mode != 0),), path=path)


def _how(address: int, memory: Memory) -> int:
    """Return the flags in openat2's struct open_how."""
    return int.from_bytes(memory.read(address, 8) or bytes(8), "little")


def _string(address: int, memory: Memory) -> str:
    """Read a path: up to its zero byte, never beyond a page that may be the last one mapped."""
    data = b""
    while len(data) < _LONGEST_PATH:
        part = memory.read(address + len(data), _PAGE - (address + len(data)) % _PAGE)
        if part is None:
            return ""
        data += part
        if b"\0" in part:
            return os.fsdecode(data.partition(b"\0")[0])
    return ""


def _poll(name: str, arguments: list[int], memory: Memory) -> Wait:
    count = arguments[1]
    limited = _int(arguments[2]) >= 0 if name == "poll" else arguments[2] != 0
    rounds = limited and count == 2 and memory.read(arguments[0] + 8, 6) == _UNTIMED
    limited = limited and not rounds
    if limited or count > _MOST_FDS:
        return Wait("outside", f"{name}(), with a time limit" if limited else f"{name}()")
    data = memory.read(arguments[0], 8 * count)
    if data is None:
        return Wait("unknown", f"{name}() of descriptors that may not be read")
    watched = tuple(
        Watched(fd, bool(events & _POLLIN), bool(events & _POLLOUT))
        for fd, events, _ in struct.iter_unpack("=ihh", data)
        if fd >= 0
    )
    return replace(_polled(name, watched, masked=name == "ppoll" and arguments[3] != 0), rounds=rounds)


def _polled(name: str, watched: tuple[Watched, ...], *, masked: bool = False) -> Wait:
    """Nothing watched: only a signal ends it, as pause(2), which is that on machines without pause."""
    return Wait("poll" if watched else "outside", f"{name}({_named(watched)})", watched, masked=masked)


def _select(name: str, arguments: list[int], memory: Memory) -> Wait:
    count = _int(arguments[0])
    if arguments[4] or count > _MOST_FDS:
        return Wait("outside", f"{name}(), with a time limit" if arguments[4] else f"{name}()")
    size = (count + 63) // 64 * 8
    sets = [memory.read(pointer, size) if pointer else b"" for pointer in arguments[1:4]]
    if None in sets:
        return Wait("unknown", f"{name}() of descriptors that may not be read")
    reads, writes, others = (_bits(data or b"") for data in sets)
    watched = tuple(Watched(fd, fd in reads, fd in writes) for fd in sorted(reads | writes | others))
    masked = False
    if name == "pselect6" and arguments[5]:  # a pointer to the mask's pointer and size
        masked = any((memory.read(arguments[5], 8) or b"")[:8])
    return _polled(name, watched, masked=masked)


def _bits(data: bytes) -> set[int]:
    number = int.from_bytes(data, "little")
    return {bit for bit in range(len(data) * 8) if number >> bit & 1}


def _epoll(name: str, arguments: list[int], memory: Memory) -> Wait:
    if arguments[3] if name == "epoll_pwait2" else _int(arguments[3]) >= 0:
        return Wait("outside", f"{name}(), with a time limit")
    watched = memory.epolled(_int(arguments[0]))
    if watched is None:
        return Wait("unknown", f"{name}() of descriptors that may not be read")
    return _polled(name, watched, masked=name != "epoll_wait" and bool(arguments[4]))


def _wait4(name: str, arguments: list[int], memory: Memory) -> Wait:
    pid = _int(arguments[0])
    return _child(name, pid if pid > 0 else _ANY_CHILD)


def _waitid(name: str, arguments: list[int], memory: Memory) -> Wait:
    kind, identity = _int(arguments[0]), _int(arguments[1])
    if kind == 3:  # P_PIDFD
        return Wait("poll", f"waitid(pidfd {identity})", (Watched(identity, True, False),))
    return _child(name, identity if kind == 1 else _ANY_CHILD)


def _child(name: str, pid: int) -> Wait:
    return Wait("child", f"{name}({pid if pid > 0 else 'any child'})", child=pid)


def _futex(name: str, arguments: list[int], memory: Memory) -> Wait:
    operation = arguments[1] & _FUTEX_COMMAND
    if operation not in (_FUTEX_WAIT, _FUTEX_LOCK_PI, _FUTEX_WAIT_BITSET):
        return Wait("outside", "futex()")
    private = bool(arguments[1] & _FUTEX_PRIVATE)
    rounds = bool(arguments[3]) and not private and _is_round(arguments[3], memory) and memory.is_pipecap(arguments[0])
    if arguments[3] and not rounds:
        return Wait("outside", "futex(), with a time limit")
    kind = "private futex" if private else "shared futex"
    what = "a lock of its process" if private else "a lock in shared memory"
    return Wait(kind, f"futex(), {what}", address=arguments[0], rounds=rounds)


def _is_round(address: int, memory: Memory) -> bool:
    """Whether a wait until then is a round of a wait without a limit: csrc/internal.h, an odd number of nanoseconds."""
    data = memory.read(address, 16)
    return data is not None and data[8] & 1 == 1


_DECODERS: dict[str, Callable[[str, list[int], Memory], Wait]] = {
    **dict.fromkeys(("write", "writev", "pwritev2"), _write),
    **dict.fromkeys(("read", "readv", "preadv2"), _read),
    # Calls for sockets alone: like read and write, so that who is at the other end can be named.
    **dict.fromkeys(("sendto", "sendmsg"), lambda name, arguments, memory: _socket("write", name, arguments)),
    **dict.fromkeys(("recvfrom", "recvmsg"), lambda name, arguments, memory: _socket("read", name, arguments)),
    **dict.fromkeys(("splice", "tee"), _splice),
    "vmsplice": _vmsplice,
    **dict.fromkeys(("sendfile", "copy_file_range"), _sendfile),
    **dict.fromkeys(("open", "openat", "openat2"), _open),
    **dict.fromkeys(("poll", "ppoll"), _poll),
    **dict.fromkeys(("select", "pselect6"), _select),
    **dict.fromkeys(("epoll_wait", "epoll_pwait", "epoll_pwait2"), _epoll),
    "wait4": _wait4,
    "waitid": _waitid,
    "futex": _futex,
}


def _socket(kind: str, name: str, arguments: list[int]) -> Wait:
    fd = _int(arguments[0])
    count = arguments[2] if name == "sendto" else None
    return Wait(kind, f"{name}(fd {fd})", (Watched(fd, kind == "read", kind == "write"),), count=count)


def _named(watched: tuple[Watched, ...]) -> str:
    shown = ", ".join(str(each.fd) for each in watched[:4])
    return f"fd {shown}{', ...' if len(watched) > 4 else ''}" if watched else "nothing"


def _int(argument: int) -> int:
    """Read an argument as the C int that it is."""
    return (argument & 0xFFFFFFFF) - ((argument & 0x80000000) << 1)


def from_wchan(wchan: str) -> Wait:
    """Tell what can be told from the kernel function alone, where the call itself may not be read.

    Whether a futex or a poll has a time limit does not show there, so those count as ended by somebody outside.
    """
    if "pipe_write" in wchan:
        return Wait("write", f"a write to a pipe ({wchan})", weak=True)
    if "pipe_read" in wchan:
        return Wait("read", f"a read of a pipe ({wchan})", weak=True)
    if wchan == "do_wait":
        return Wait("child", f"a wait for a child ({wchan})", child=_ANY_CHILD, weak=True)
    if wchan in ("", "0"):
        return RUNNING
    return Wait("outside", wchan, weak=True)
