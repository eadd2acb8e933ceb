"""A descriptor that one thread may close while others wait in it."""

from __future__ import annotations

import errno
import os

import pytest
from children import Thread, forked, wait_until_in
from wire import AT_ONCE, FOR_EVER, In, Out, end_of, frame

from pipecap._native import lib


def test_an_end_is_closed_once(pipe: tuple[int, int]) -> None:
    end = end_of(pipe[0])
    assert lib.pipecap_end_close(end) == 0
    assert lib.pipecap_end_close(end) == -errno.EBADF
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pipe[0])


def test_no_call_gets_into_an_end_that_was_closed(pipe: tuple[int, int]) -> None:
    """Nor into the file that has its number since."""
    end = end_of(pipe[0])
    lib.pipecap_end_close(end)
    other = os.open(os.devnull, os.O_RDWR)
    assert other == pipe[0]
    reading, writing = In(end), Out(end)
    assert writing.put(b"x") == -errno.EBADF
    assert writing.put_frames([b"x"], [1]) == -errno.EBADF
    assert writing.flush(1) == -errno.EBADF
    assert lib.pipecap_poll(reading.receiver, AT_ONCE) == -errno.EBADF
    assert reading.receive() == -errno.EBADF
    assert reading.receive(AT_ONCE) == -errno.EBADF
    writing.release()
    os.close(other)


def test_the_last_to_leave_a_closed_end_closes_it(pipe: tuple[int, int]) -> None:
    reading = In(end_of(pipe[0]))
    waiting = Thread(lambda: lib.pipecap_receive(reading.receiver, reading.frames, FOR_EVER, 100, 1))
    polling = Thread(lambda: lib.pipecap_poll(reading.receiver, FOR_EVER))
    wait_until_in("poll", os.getpid(), waiting.native_id)
    wait_until_in("poll", os.getpid(), polling.native_id)
    assert lib.pipecap_end_close(reading.end) == 0
    if waiting.is_alive():
        os.fstat(pipe[0])
    os.write(pipe[1], frame(b"a"))
    # Each waits in rounds: one that was just over has left without it.
    assert waiting.result() in (1 | lib.PIPECAP_MOVED, lib.PIPECAP_AGAIN)
    os.close(pipe[1])
    assert polling.result() in (1, lib.PIPECAP_AGAIN)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pipe[0])


def test_what_can_be_received_is_told_by_a_deadline(pipe: tuple[int, int]) -> None:
    reading = In(end_of(pipe[0]))

    def poll(deadline: int) -> int:
        return lib.pipecap_poll(reading.receiver, deadline)

    assert poll(AT_ONCE) == 0
    assert poll(1) == 0  # long past
    os.write(pipe[1], b"x")
    assert [poll(deadline) for deadline in (AT_ONCE, 1, FOR_EVER)] == [1, 1, 1]
    os.read(pipe[0], 1)
    os.close(pipe[1])
    assert poll(FOR_EVER) == 1  # the end of file


def test_the_child_of_a_fork_has_the_calls_of_no_other_thread(pipe: tuple[int, int]) -> None:
    """It closes what the parent closed while a thread waited there, and what it closes itself is closed at once."""
    reading, writing = In(end_of(pipe[0])), Out(end_of(pipe[1]))
    waiting = Thread(lambda: lib.pipecap_receive(reading.receiver, reading.frames, FOR_EVER, 100, 1))
    wait_until_in("poll", os.getpid(), waiting.native_id)
    lib.pipecap_end_close(reading.end)

    def look() -> tuple[bool, bool]:
        lib.pipecap_end_forked(reading.end)
        lib.pipecap_end_forked(writing.end)
        lib.pipecap_end_close(writing.end)
        return os.path.exists(f"/proc/self/fd/{pipe[0]}"), os.path.exists(f"/proc/self/fd/{pipe[1]}")

    with forked(look) as child:
        assert child.result() == (False, False)
    os.close(pipe[1])
    assert waiting.result() in (lib.PIPECAP_END_OF_FILE, lib.PIPECAP_AGAIN)
