"""Unix sockets, as unix_diag tells of them (sock_diag(7))."""

from __future__ import annotations

import socket
import struct

# linux/sock_diag.h, linux/unix_diag.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_UDIAG_SHOW_PEER, _UNIX_DIAG_PEER = 4, 2
_NLMSG_ERROR, _NLMSG_DONE = 2, 3


def socket_peers() -> dict[int, int]:
    """Give the other end of each connected Unix socket, inode to inode (sock_diag(7)); empty where that is not told."""
    peers: dict[int, int] = {}
    request = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _UDIAG_SHOW_PEER, 0xFFFFFFFF, 0xFFFFFFFF)
    header = struct.pack("=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, 0x301, 1, 0)  # NLM_F_REQUEST | NLM_F_DUMP
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as diag:
            diag.settimeout(1.0)
            diag.send(header + request)
            while _note_peers(diag.recv(1 << 16), peers):
                pass
    except OSError:
        pass
    return peers


def _note_peers(data: bytes, peers: dict[int, int]) -> bool:
    """Take the peers out of one answer; False when it was the last."""
    at = 0
    while at + 16 <= len(data):
        size, kind = struct.unpack_from("=IH", data, at)
        if kind in (_NLMSG_DONE, _NLMSG_ERROR) or size < 16:
            return False
        (inode,) = struct.unpack_from("=I", data, at + 20)
        attribute = at + 32  # behind struct unix_diag_msg
        while attribute + 8 <= at + size:
            length, number = struct.unpack_from("=HH", data, attribute)
            if number == _UNIX_DIAG_PEER:
                (peers[inode],) = struct.unpack_from("=I", data, attribute + 4)
            attribute += max(4, (length + 3) & ~3)
        at += (size + 3) & ~3
    return len(data) > 0
