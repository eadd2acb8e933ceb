"""Unix sockets as the kernel lists them: held to socket(7), to what was sent, and to what the kernel forbids."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from children import forked
from conftest import needs_root
from privilege import unprivileged

from pipecap.proc import sockets
from pipecap.proc.sockets import SocketState

ME = os.getpid()


def unix_diag() -> bool:
    with suppress(OSError):
        here, there = socket.socketpair()
        with here, there:
            return bool(sockets.unix_sockets())
    return False


needs_diag = pytest.mark.skipif(not unix_diag(), reason="this kernel does not list who is connected (unix_diag)")


def inode(end: socket.socket) -> int:
    return os.fstat(end.fileno()).st_ino


def now(end: socket.socket) -> SocketState:
    return sockets.unix_sockets()[inode(end)]


def fill(end: socket.socket, size: int) -> int:
    """Send until it takes no more, and return how many bytes it took."""
    count = 0
    end.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            count += end.send(bytes(size))
    end.setblocking(True)
    return count


@needs_diag
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_the_other_end_of_a_socketpair(kind: socket.SocketKind) -> None:
    here, there = socket.socketpair(type=kind)
    with here, there:
        found = sockets.unix_sockets()
        assert found[inode(here)].peer == inode(there)
        assert found[inode(there)].peer == inode(here)
        assert found[inode(here)].stream == (kind != socket.SOCK_DGRAM)


@needs_diag
def test_many_sockets_come_in_more_than_one_answer() -> None:
    pairs = [socket.socketpair() for _ in range(400)]
    try:
        found = sockets.unix_sockets()
        for here, there in pairs:
            assert found[inode(here)].peer == inode(there)
            assert found[inode(there)].peer == inode(here)
    finally:
        for pair in pairs:
            for end in pair:
                end.close()


@needs_diag
def test_a_socket_without_a_peer_has_none() -> None:
    here, there = socket.socketpair()
    with here, socket.socket(socket.AF_UNIX) as alone:
        alone.bind(b"\0pipecap test " + str(ME).encode())
        alone.listen()
        gone = inode(there)
        there.close()
        found = sockets.unix_sockets()
        assert found[inode(alone)].peer is None
        assert gone not in found


@needs_diag
def test_an_ordinary_user_sees_them_too() -> None:
    here, there = socket.socketpair()
    with here, there:
        assert unprivileged(sockets.unix_sockets)[inode(here)].peer == inode(there)


@needs_diag
def test_unread_bytes_wait_at_the_peer_and_what_was_sent_counts_at_the_sender() -> None:
    here, there = socket.socketpair()
    with here, there:
        empty = now(here)
        assert (empty.unread, empty.sent, now(there).unread) == (0, 0, 0)
        here.send(bytes(3_000))
        assert (now(here).unread, now(there).unread) == (0, 3_000)
        assert now(here).sent >= 3_000
        assert now(there).sent == 0
        there.recv(1_000)
        assert now(there).unread == 2_000


@needs_diag
def test_the_limit_is_so_sndbuf() -> None:
    here, there = socket.socketpair()
    with here, there:
        assert now(here).limit == here.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 50_000)
        assert now(here).limit == here.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 100_000
        assert now(there).limit != 100_000


@needs_diag
@pytest.mark.parametrize("size", [1, 1_000, 30_000])
def test_full_is_what_poll_means_by_it(size: int) -> None:
    """Also while it is emptied: a sender that sleeps is woken when a quarter is left, not with the first byte read."""
    here, there = socket.socketpair()
    with here, there:
        assert not now(here).full
        left = fill(here, size)
        assert now(here).full
        while left:
            left -= len(there.recv(max(size, 5_000)))
            assert now(here).full == (not select.select([], [here], [], 0)[1])
        assert not now(here).full


def test_where_the_kernel_lists_none_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox may forbid the call."""

    def refuse(*_: object) -> socket.socket:
        raise PermissionError(errno.EPERM, "forbidden")

    monkeypatch.setattr(socket, "socket", refuse)
    assert sockets.unix_sockets() == {}


# ---- a socket of another process ----


def test_a_duplicate_is_the_same_socket() -> None:
    """Its options are those of the other process: the same open file description."""
    here, there = socket.socketpair()
    with here, there, forked(signal.pause) as child:
        with sockets.duplicated(child.pid, here.fileno(), inode(here)) as end:
            assert end.fileno() not in (here.fileno(), there.fileno())
            assert not os.get_inheritable(end.fileno())
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 40_000)
            end.send(b"through it")
        assert end.fileno() == -1
        assert here.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 80_000
        assert there.recv(100) == b"through it"


def test_a_descriptor_that_is_another_file_by_now_is_not_touched(pipe: tuple[int, int]) -> None:
    here, there = socket.socketpair()
    with here, there, forked(signal.pause) as child:
        for fd in (here.fileno(), pipe[0]):
            with pytest.raises(FileNotFoundError), sockets.duplicated(child.pid, fd, inode(there)):
                raise AssertionError("it was taken for the other one")


def test_a_descriptor_or_a_process_that_is_gone_is_an_error() -> None:
    here, there = socket.socketpair()
    with here, there:
        with forked(signal.pause) as child, pytest.raises(OSError) as caught:  # noqa: PT011 -- its number is asserted
            with sockets.duplicated(child.pid, 1 << 15, inode(here)):
                raise AssertionError("there is none")
        assert caught.value.errno == errno.EBADF
        with pytest.raises(ProcessLookupError), sockets.duplicated(child.pid, here.fileno(), inode(here)):
            raise AssertionError("it has ended")


@needs_root
def test_a_socket_of_another_user_may_not_be_duplicated() -> None:
    here, there = socket.socketpair()

    def duplicate() -> str:
        with pytest.raises(PermissionError), sockets.duplicated(ME, here.fileno(), inode(here)):
            raise AssertionError("it was")
        return "refused"

    with here, there:
        assert unprivileged(duplicate) == "refused"


# ---- the limit ----


def test_the_largest_is_what_setsockopt_grants() -> None:
    """Held to the kernel: a larger request is cut down to it, for root too."""
    here, there = socket.socketpair()
    with here, there:
        here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**30 - 1)
        assert here.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == sockets.largest()


def test_a_limit_that_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    assert sockets.largest(str(tmp_path)) is None
    (tmp_path / "sys/net/core").mkdir(parents=True)
    (tmp_path / "sys/net/core/wmem_max").write_text("nonsense")
    assert sockets.largest(str(tmp_path)) is None
    (tmp_path / "sys/net/core/wmem_max").write_text("212992\n")
    assert sockets.largest(str(tmp_path)) == 425_984


def test_looking_at_a_socket_of_another_process_leaves_it_blocking() -> None:
    """O_NONBLOCK is on the open file description, which both share, and a default timeout is the caller's own."""
    here, there = socket.socketpair()
    with here, there, forked(signal.pause) as child:
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(5.0)
        try:
            with sockets.duplicated(child.pid, here.fileno(), os.fstat(here.fileno()).st_ino):
                pass
        finally:
            socket.setdefaulttimeout(before)
        assert os.get_blocking(here.fileno())
        assert not sockets.has_time_limit(child.pid, here.fileno(), os.fstat(here.fileno()).st_ino)
        here.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("=qq", 20, 0))
        assert sockets.has_time_limit(child.pid, here.fileno(), os.fstat(here.fileno()).st_ino)
