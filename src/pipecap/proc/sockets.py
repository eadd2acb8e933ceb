"""Unix sockets, as the kernel lists them (sock_diag(7), linux/unix_diag.h): the peer, what is unread, the limit.

The kernel lists those of the caller's network namespace. Any user may ask; a sandbox may forbid it.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipecap._native import lib

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SHOW_PEER, _SHOW_RQLEN, _SHOW_MEMINFO = 4, 16, 32
_PEER, _RQLEN, _MEMINFO = 2, 4, 5
_WMEM_ALLOC, _SNDBUF = 2, 3  # of struct inet_diag's meminfo: SK_MEMINFO_*


@dataclass(frozen=True, slots=True)
class SocketState:
    """A Unix socket now.

    `peer`: inode of the other end, None where it has none. `unread`: bytes (of a stream) that wait to be received here.
    `sent`: kernel memory that what was sent from here and not received yet takes. A send blocks once that is `limit`
    (SO_SNDBUF), and is woken, as poll(2) says POLLOUT, when it is down to a quarter (af_unix.c: unix_writable).
    """

    peer: int | None
    unread: int
    sent: int
    limit: int
    stream: bool

    @property
    def full(self) -> bool:
        """Whether a blocked sender sleeps on, and poll(2) does not say POLLOUT."""
        return 4 * self.sent > self.limit


@contextmanager
def duplicated(pid: int, fd: int, inode: int) -> Iterator[socket.socket]:
    """Hold a duplicate of another process's socket, if it is still that one; else FileNotFoundError.

    pidfd_getfd(2), Linux 5.6: the same open file description, with PTRACE_MODE_ATTACH. Raises OSError.
    """
    process = os.pidfd_open(pid)
    try:
        number = lib.pipecap_pidfd_getfd(process, fd)
    finally:
        os.close(process)
    if number < 0:
        raise OSError(-number, os.strerror(-number))
    try:
        if os.fstat(number).st_ino != inode:
            raise FileNotFoundError(f"fd {fd} of process {pid}")
        # With a type given, Python changes no flag of the open file description, which the other process shares.
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 0, fileno=number)
    except OSError:
        os.close(number)
        raise
    with end:
        yield end


def has_time_limit(pid: int, fd: int, inode: int) -> bool:
    """Whether SO_RCVTIMEO or SO_SNDTIMEO of another process's socket ends its calls; no where that cannot be seen."""
    try:
        with duplicated(pid, fd, inode) as end:
            options = (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO)
            return any(any(end.getsockopt(socket.SOL_SOCKET, option, 16)) for option in options)
    except OSError:
        return False


def largest(proc: str = "/proc") -> int | None:
    """Return the largest SO_SNDBUF that setsockopt(2) grants: twice net.core.wmem_max (socket(7)); None if unknown."""
    try:
        with open(f"{proc}/sys/net/core/wmem_max") as file:
            return 2 * int(file.read())
    except (OSError, ValueError):
        return None


def unix_sockets() -> dict[int, SocketState]:
    """Return all Unix sockets by inode; empty where the kernel does not list them."""
    show = _SHOW_PEER | _SHOW_RQLEN | _SHOW_MEMINFO
    request = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, show, 0xFFFFFFFF, 0xFFFFFFFF)
    header = struct.pack("=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, 0x301, 1, 0)  # NLM_F_REQUEST | NLM_F_DUMP
    found: dict[int, SocketState] = {}
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as diag:
            diag.settimeout(1.0)
            diag.send(header + request)
            while _note(diag.recv(1 << 16), found):
                pass
    except OSError:
        pass
    return found


def _note(data: bytes, found: dict[int, SocketState]) -> bool:
    """Note the sockets of one answer; return False when it was the last."""
    at = 0
    while at + 16 <= len(data):
        size, kind = struct.unpack_from("=IH", data, at)
        if kind in (_NLMSG_DONE, _NLMSG_ERROR) or size < 16:
            return False
        # struct unix_diag_msg: family, type, state, pad, inode, cookie
        _, type_, _, _, inode = struct.unpack_from("=BBBBI", data, at + 16)
        facts = dict(_attributes(data[at + 32 : at + size]))
        (peer,) = struct.unpack_from("=I", facts.get(_PEER, bytes(4)))
        (unread,) = struct.unpack_from("=I", facts.get(_RQLEN, bytes(4)))
        memory = facts.get(_MEMINFO, b"")
        sent, limit = 0, 1
        if len(memory) >= 4 * (_SNDBUF + 1):
            sent, limit = struct.unpack_from("=II", memory, 4 * _WMEM_ALLOC)
        found[inode] = SocketState(peer or None, unread, sent, limit, type_ != socket.SOCK_DGRAM)
        at += (size + 3) & ~3
    return len(data) > 0


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Return the netlink attributes of one message."""
    at = 0
    while at + 4 <= len(data):
        length, number = struct.unpack_from("=HH", data, at)
        if length < 4:
            return
        yield number, data[at + 4 : at + length]
        at += (length + 3) & ~3
