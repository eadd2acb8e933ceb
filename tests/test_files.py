"""What is behind a descriptor, as values: they compare, hash and print as the kernel names them."""

from __future__ import annotations

import os
import select
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipecap.proc.files import EventFd, Fifo, File, PidFd, Pipe, Ring, Socket
from pipecap.proc.snapshot import take

ALL: list[File] = [Pipe(1), Pipe(2), Fifo(1, 2), Fifo(2, 1), Socket(1), EventFd(1), PidFd(1), PidFd(-1), Ring()]


def test_each_is_itself_alone() -> None:
    """A pipe and a socket of the same inode are two: each has a number space of its own."""
    again: list[File] = [Pipe(1), Pipe(2), Fifo(1, 2), Fifo(2, 1), Socket(1), EventFd(1), PidFd(1), PidFd(-1), Ring()]
    assert again == ALL
    assert len({*ALL, *again}) == len(ALL)
    assert len({str(file) for file in ALL}) == len(ALL)


@pytest.mark.parametrize("file", ALL, ids=str)
def test_each_is_frozen(file: File) -> None:
    assert not hasattr(file, "__dict__")
    with pytest.raises((AttributeError, TypeError)):
        file.inode = 5  # type: ignore[misc, union-attr]


def test_they_print_as_the_kernel_names_them(pipe: tuple[int, int], fifo: Path) -> None:
    """Held to the links in /proc/self/fd; a FIFO's is a path, and a pidfd's says nothing of its process."""
    here, there = socket.socketpair()
    with here, there, ExitStack() as opened:
        both = os.open(fifo, os.O_RDWR)
        opened.callback(os.close, both)
        ends = {end.fd: end.file for end in take().processes[os.getpid()].ends}
        for fd in (*pipe, here.fileno()):
            assert str(ends[fd]) == os.readlink(f"/proc/self/fd/{fd}")
        assert str(ends[both]) == f"fifo:{os.stat(fifo).st_dev}:{os.stat(fifo).st_ino}"


def test_no_file_is_made_of_what_nobody_waits_for(tmp_path: Path) -> None:
    """An epoll descriptor is seen through: what it watches counts."""
    with select.epoll() as epoll, open(tmp_path / "file", "wb") as file:
        process = take().processes[os.getpid()]
        assert process.end(epoll.fileno()) is None
        assert process.end(file.fileno()) is None
