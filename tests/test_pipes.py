"""One descriptor: reading it changes nothing, resizing it says why not."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from conftest import needs_root
from privilege import (
    CAP_SYS_ADMIN,
    CAP_SYS_RESOURCE,
    become_unprivileged,
    drop_capability,
    has_capability,
    in_child,
    quota_used_up,
    unprivileged,
    unused_uid,
)
from scenes import wait_until_blocked_on_a_full_pipe

from pipecap import InvalidSize, NotAPipe, ResizeRefused
from pipecap.kernel import pipes
from pipecap.kernel.limits import limits

PAGE = os.sysconf("SC_PAGESIZE")
DEFAULT = 16 * PAGE
MAX_SIZE = int(Path("/proc/sys/fs/pipe-max-size").read_text())
grows = pytest.mark.skipif(DEFAULT >= MAX_SIZE, reason="a new pipe is as large as fs.pipe-max-size here: large pages")
SOFT = int(Path("/proc/sys/fs/pipe-user-pages-soft").read_text())


def short(size: object) -> str:
    return "huge" if isinstance(size, int) and size > 2**1000 else str(size)


def refused(function: Callable[[], object]) -> ResizeRefused:
    with pytest.raises(ResizeRefused) as caught:
        function()
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("size", [PAGE, DEFAULT, MAX_SIZE])
def test_capacity_is_what_fcntl_says_from_either_end(size: int, pipe: tuple[int, int]) -> None:
    fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, size)
    assert [pipes.capacity(end) for end in pipe] == [size, size]


def test_unread_from_either_end(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"abc")
    assert [pipes.unread(end) for end in pipe] == [3, 3]


@pytest.mark.parametrize("end", [0, 1])
def test_state_tells_full_by_slots_not_by_bytes(end: int, pipe: tuple[int, int]) -> None:
    """Sixteen writes of 2,049 bytes fill 64 KiB half, and no slot is free."""
    for _ in range(16):
        assert pipes.state(pipe[end]).full is False
        os.write(pipe[1], bytes(PAGE // 2 + 1))
    state = pipes.state(pipe[end])
    assert (state.full, state.unread, state.capacity, state.slots) == (True, 16 * (PAGE // 2 + 1), DEFAULT, 16)
    assert (state.kind, state.inode, state.page_size) == ("pipe", os.fstat(pipe[0]).st_ino, PAGE)
    assert state.unknown == {}


def test_fullness_nobody_can_tell_is_unknown_with_the_reason(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"left")
    os.close(pipe[1])
    state = pipes.state(pipe[0])
    assert state.full is None
    assert "only a write end shows it" in state.unknown["full"]


def test_an_empty_pipe_without_writer_is_not_full(pipe: tuple[int, int]) -> None:
    os.close(pipe[1])
    assert pipes.state(pipe[0]).full is False


def test_a_fifo_is_named_as_one_and_its_read_end_is_left_alone(fifo: Path) -> None:
    end = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.write(end, b"x")
        assert (pipes.state(end).kind, pipes.state(end).full) == ("fifo", False)
        assert (pipes.state(reader).kind, pipes.state(reader).full) == ("fifo", None)
    finally:
        os.close(end)
        os.close(reader)


def test_reading_leaves_flags_data_and_size_alone(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"abc")
    before = [fcntl.fcntl(end, fcntl.F_GETFL) for end in pipe]
    for end in pipe:
        pipes.capacity(end), pipes.unread(end), pipes.state(end)
    assert [fcntl.fcntl(end, fcntl.F_GETFL) for end in pipe] == before
    assert os.read(pipe[0], 10) == b"abc"


def test_looking_at_a_read_end_does_not_keep_its_eof_away(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"x")
    pipes.state(pipe[0])
    os.close(pipe[1])
    assert (os.read(pipe[0], 2), os.read(pipe[0], 2)) == (b"x", b"")


def test_a_reopened_write_end_has_flags_of_its_own(pipe: tuple[int, int]) -> None:
    write_end = pipes.reopen_write_end(pipe[1])
    try:
        assert (os.get_blocking(write_end), os.get_blocking(pipe[1])) == (False, True)
    finally:
        os.close(write_end)


@pytest.mark.parametrize(
    ("opener", "is_a"),
    [
        (lambda: os.open(os.devnull, os.O_RDWR), "a character device"),
        (lambda: os.open("/", os.O_RDONLY), "a directory"),
        (lambda: os.open(__file__, os.O_RDONLY), "a file"),
        (lambda: os.eventfd(0), "something else"),
    ],
)
def test_what_is_no_pipe_is_told(opener: Callable[[], int], is_a: str) -> None:
    fd = opener()
    try:
        with pytest.raises(NotAPipe, match=f"fd {fd} is {is_a}, not a pipe"):
            pipes.capacity(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("fd", [-1, 99999, 2**31, 2**40, -(2**70)])
@pytest.mark.parametrize("function", [pipes.capacity, pipes.unread, pipes.state, lambda fd: pipes.resize(fd, "64K")])
def test_descriptors_that_are_none(function: Callable[[int], object], fd: int) -> None:
    with pytest.raises(NotAPipe):
        function(fd)


def test_a_path_descriptor_is_said_to_need_the_pipe_itself(fifo: Path) -> None:
    fd = os.open(fifo, os.O_PATH)
    try:
        with pytest.raises(RuntimeError, match="no capacity"):
            pipes.capacity(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize(("asked", "granted"), [(0, PAGE), (1, PAGE), (PAGE + 1, 2 * PAGE), ("128K", 131072)])
def test_resize_gives_what_was_granted(asked: int | str, granted: int, pipe: tuple[int, int]) -> None:
    assert pipes.resize(pipe[1], asked) == granted == fcntl.fcntl(pipe[0], fcntl.F_GETPIPE_SZ)


@pytest.mark.parametrize(
    "size", [-1, 2**31 + 1, 2**32, 2**32 + PAGE, 2**64, 2**100, 1 << 20_000, "3G", "8T"], ids=short
)
def test_sizes_the_kernel_cannot_mean_are_invalid_and_change_nothing(size: int | str, pipe: tuple[int, int]) -> None:
    error = refused(lambda: pipes.resize(pipe[1], size))
    assert (error.reason, error.errno, error.capacity) == ("invalid", errno.EINVAL, DEFAULT)
    assert pipes.capacity(pipe[1]) == DEFAULT


@pytest.mark.parametrize("size", [2**31 + 1, 2**32, 2**100, "8T"])
def test_best_effort_takes_the_most_there_is_of_any_size(size: int | str, pipe: tuple[int, int]) -> None:
    assert pipes.resize(pipe[1], size, best_effort=True) >= MAX_SIZE


def test_less_than_nothing_is_invalid_with_best_effort_too(pipe: tuple[int, int]) -> None:
    assert refused(lambda: pipes.resize(pipe[1], -1, best_effort=True)).reason == "invalid"


@pytest.mark.parametrize("size", ["64Q", "", None, 1.5, True, b"64K"])
def test_what_is_no_size_is_said_so(size: object, pipe: tuple[int, int]) -> None:
    with pytest.raises(InvalidSize):
        pipes.resize(pipe[1], size)  # type: ignore[arg-type]


def test_shrinking_below_the_slots_in_use_is_busy(pipe: tuple[int, int]) -> None:
    """Five writes of 2,049 bytes are 10,245 bytes, but five slots."""
    for _ in range(5):
        os.write(pipe[1], bytes(PAGE // 2 + 1))
    error = refused(lambda: pipes.resize(pipe[1], 4 * PAGE))
    assert (error.reason, error.errno, error.requested) == ("busy", errno.EBUSY, 4 * PAGE)
    assert pipes.resize(pipe[1], 8 * PAGE) == 8 * PAGE


def test_best_effort_never_shrinks(pipe: tuple[int, int]) -> None:
    assert pipes.resize(pipe[1], PAGE, best_effort=True) == DEFAULT
    assert pipes.resize(pipe[1], 0, best_effort=True) == DEFAULT


@grows
def test_growing_wakes_a_blocked_writer(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], bytes(DEFAULT))
    with subprocess.Popen([sys.executable, "-c", "import os; os.write(1, b'x')"], stdout=pipe[1]) as writer:
        wait_until_blocked_on_a_full_pipe(writer.pid)
        pipes.resize(pipe[1], 2 * DEFAULT)
        assert writer.wait(timeout=20) == 0
    assert pipes.unread(pipe[0]) == DEFAULT + 1


# Who may, and who may not. Each runs in a child of its own, which is an ordinary user with a quota of its own when we
# are root, and ourselves when we are not.


def above_max_size() -> tuple[str, str | None, int | None, int]:
    read_end, write_end = os.pipe()
    error = refused(lambda: pipes.resize(write_end, 2 * MAX_SIZE))
    return error.reason, error.limit, error.limit_value, pipes.capacity(read_end)


def test_above_pipe_max_size_unprivileged() -> None:
    assert unprivileged(above_max_size) == ("max-size", "fs.pipe-max-size", MAX_SIZE, DEFAULT)


@needs_root
def test_above_pipe_max_size_as_root_without_cap_sys_resource() -> None:
    assert in_child(above_max_size, become=partial(drop_capability, CAP_SYS_RESOURCE)) == (
        "max-size",
        "fs.pipe-max-size",
        MAX_SIZE,
        DEFAULT,
    )


@pytest.mark.skipif(not has_capability(CAP_SYS_RESOURCE), reason="takes CAP_SYS_RESOURCE, which this host withholds")
def test_above_pipe_max_size_with_cap_sys_resource(pipe: tuple[int, int]) -> None:
    assert pipes.resize(pipe[1], 2 * MAX_SIZE) == 2 * MAX_SIZE


@pytest.mark.skipif(not has_capability(CAP_SYS_RESOURCE), reason="takes CAP_SYS_RESOURCE, which this host withholds")
@pytest.mark.skipif(PAGE != 4096, reason="with larger pages the slots of 2 GiB fit an allocation")
def test_more_slots_than_the_kernel_has_memory_for(pipe: tuple[int, int]) -> None:
    """The slots are one allocation of 40 bytes each, and kmalloc ends at some MiB: 2 GiB of pipe is never granted."""
    error = refused(lambda: pipes.resize(pipe[1], 2**31))
    assert (error.reason, error.errno) == ("memory", errno.ENOMEM)


def test_best_effort_takes_pipe_max_size_when_more_is_asked() -> None:
    def grow() -> int:
        _, write_end = os.pipe()
        return pipes.resize(write_end, 64 * MAX_SIZE, best_effort=True)

    assert unprivileged(grow) == MAX_SIZE


@grows
def test_quota_used_up_is_told_apart_from_the_maximum() -> None:
    """With 1,100 pipes' worth of quota gone a new pipe is two pages and nothing grows."""

    def grow() -> tuple[object, ...]:
        with quota_used_up():
            _, write_end = os.pipe()
            shrunken = pipes.capacity(write_end)
            error = refused(lambda: pipes.resize(write_end, DEFAULT))
            too_large = refused(lambda: pipes.resize(write_end, 2 * MAX_SIZE))
            kept = pipes.resize(write_end, MAX_SIZE, best_effort=True)
        return shrunken, error.reason, error.limit, error.limit_value, too_large.reason, kept

    assert unprivileged(grow) == (2 * PAGE, "quota", "fs.pipe-user-pages-soft", SOFT, "max-size", 2 * PAGE)


@grows
def test_best_effort_takes_what_the_quota_has_left() -> None:
    def grow() -> int:
        with quota_used_up(pages_left=64):
            _, write_end = os.pipe()
            return pipes.resize(write_end, MAX_SIZE, best_effort=True)

    # Of the 64 pages some were overdrawn when the quota ran out, and the new pipe takes 16: growing to 32 is granted.
    assert unprivileged(grow) == 32 * PAGE


def test_a_same_size_set_is_granted_even_over_the_quota() -> None:
    def set_again() -> int:
        with quota_used_up() as held:
            return pipes.resize(held[0], DEFAULT)

    assert unprivileged(set_again) == DEFAULT


@grows
@needs_root
def test_a_pipe_made_by_another_user_is_charged_to_that_user(pipe: tuple[int, int]) -> None:
    """Whoever made it pays: a user over its own quota still grows a pipe that root made."""

    def grow() -> int:
        with quota_used_up():
            return pipes.resize(pipe[1], 2 * DEFAULT)

    assert unprivileged(grow) == 2 * DEFAULT


@grows
@needs_root
def test_the_refusal_names_the_user_whose_quota_it_is() -> None:
    """One user, out of quota, hands its pipe to another who has plenty: it is the maker's quota that refuses."""
    maker, taker = socket.socketpair()
    makers_uid = unused_uid()

    def grow() -> tuple[str, str]:
        child = os.fork()
        if not child:
            become_unprivileged(makers_uid)
            with quota_used_up() as held:
                socket.send_fds(maker, [b"x"], held[:1])
                maker.recv(1)  # until the taker is done
                os._exit(0)
        become_unprivileged()
        _, (fd,), _, _ = socket.recv_fds(taker, 1, 1)
        error = refused(lambda: pipes.resize(fd, 2 * DEFAULT))
        taker.send(b"x")
        return error.reason, str(error)

    with maker, taker:
        reason, text = in_child(grow)
    assert reason == "quota"
    assert f"uid {makers_uid}" in text


@needs_root
def test_a_fifo_is_charged_to_who_opened_it_first_which_nobody_can_tell() -> None:
    """Its owner made the name, not the pipe."""

    def grow(fifo: str) -> str:
        with quota_used_up():
            end = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
            return str(refused(lambda: pipes.resize(end, DEFAULT)))

    with tempfile.TemporaryDirectory() as everybodys:
        os.chmod(everybodys, 0o755)
        os.mkfifo(f"{everybodys}/fifo")
        os.chmod(f"{everybodys}/fifo", 0o666)
        assert "who opened this FIFO first" in unprivileged(partial(grow, f"{everybodys}/fifo"))


def test_looking_takes_no_pipe_of_our_own() -> None:
    """So it works where none is to be had: no descriptor left, or over the hard quota."""

    def look() -> tuple[str, int]:
        ends = os.pipe()
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        state = pipes.state(ends[1])
        return state.kind, state.capacity

    assert in_child(look) == ("pipe", DEFAULT)


@needs_root
def test_root_exempt_from_the_quota_grows_whatever_is_used() -> None:
    if not limits().exempt_from_quota:
        pytest.skip("root of this host is not exempt")

    def grow() -> int:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        for _ in range(1100):
            os.close(os.pipe()[0])
        _, write_end = os.pipe()
        return pipes.resize(write_end, MAX_SIZE)

    assert in_child(grow) == MAX_SIZE


@needs_root
def test_root_without_both_capabilities_is_held_by_the_quota() -> None:
    """Without CAP_SYS_RESOURCE and CAP_SYS_ADMIN, root is a user like any other."""

    def exempt() -> bool | None:
        drop_capability(CAP_SYS_RESOURCE)
        drop_capability(CAP_SYS_ADMIN)
        return limits().exempt_from_quota

    assert in_child(exempt) is False


@needs_root
def test_reopening_a_pipe_of_another_user_is_refused_and_fullness_unknown(pipe: tuple[int, int]) -> None:
    """A call on the descriptor itself works; a reopen through /proc asks the inode, which is root's alone."""
    os.write(pipe[1], b"x")

    def look() -> tuple[int, bool | None, str]:
        state = pipes.state(pipe[0])
        return state.capacity, state.full, state.unknown["full"]

    capacity, full, why = unprivileged(look)
    assert (capacity, full) == (DEFAULT, None)
    assert "Permission denied" in why


def test_shrinking_over_the_quota_can_be_a_one_way_door() -> None:
    """So nothing in pipecap ever shrinks a pipe to learn something."""

    def shrink() -> str:
        with quota_used_up() as held:
            pipes.resize(held[0], 8 * PAGE)
            held.append(os.open(f"/proc/self/fd/{held[0]}", os.O_RDONLY | os.O_NONBLOCK))
            for _ in range(8):
                os.pipe()
            return refused(lambda: pipes.resize(held[0], DEFAULT)).reason

    assert unprivileged(shrink) == "quota"
