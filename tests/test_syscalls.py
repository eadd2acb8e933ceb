"""What a thread waits in: lines of /proc/PID/syscall from real children, and by hand for what this machine is not."""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.connection
import os
import platform
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from children import finish, forked, wait_until, wait_until_in

import pipecap
from pipecap.proc.procfs import ThreadMemory
from pipecap.proc.syscalls import NUMBERS, RUNNING, Memory, Wait, Watched, decode, from_wchan

MACHINE = platform.machine()
PAGE = os.sysconf("SC_PAGESIZE")
STACK = "0x7ffd8c0de000"
COUNTER = "0x7f14a2d1b7e2"

on_known_machines = pytest.mark.skipif(MACHINE not in NUMBERS, reason=f"the numbers of {MACHINE} are not known")


class Nothing:
    """Memory that may not be read."""

    def read(self, address: int, size: int) -> bytes | None:
        return None

    def epolled(self, fd: int) -> tuple[Watched, ...] | None:
        return None

    def wchan(self) -> str:
        return ""

    def is_pipecap(self, address: int) -> bool:
        return False


class Known(Nothing):
    """Memory with some bytes in it, of a thread that sleeps in a kernel function; maybe a queue's of pipecap."""

    def __init__(self, places: dict[int, bytes], *, wchan: str = "", pipecap: bool = False) -> None:
        self.places = places
        self.function = wchan
        self.pipecap = pipecap

    def read(self, address: int, size: int) -> bytes | None:
        data = self.places.get(address, b"")[:size]
        return data if len(data) == size else None

    def wchan(self) -> str:
        return self.function

    def is_pipecap(self, address: int) -> bool:
        return self.pipecap


def line(number: int, *arguments: int, stack: str = STACK) -> str:
    """Write a line as the kernel does."""
    six = [*arguments, *[0] * (6 - len(arguments))]
    return " ".join([str(number), *(f"{argument & (1 << 64) - 1:#x}" for argument in six), stack, COUNTER])


def decoded(text: str, machine: str = "x86_64", memory: Memory | None = None) -> Wait:
    wait = decode(text, machine, memory or Nothing())
    assert wait is not None
    return wait


# ---- real children ----


@contextmanager
def waiting(function: Callable[[], object], place: str) -> Iterator[tuple[int, Wait]]:
    """Run a function in a forked child until that sleeps in a kernel function; give its pid, and what is decoded."""
    with forked(function) as child:
        wait_until_in(place, child.pid)
        yield child.pid, seen(child.pid)


def seen(pid: int, tid: int | None = None) -> Wait:
    """Decode what a thread waits in now."""
    text = Path(f"/proc/{pid}/task/{tid or pid}/syscall").read_text()
    return decoded(text, MACHINE, ThreadMemory(pid, tid or pid, "/proc"))


def forever_polling(*fds: tuple[int, int]) -> Callable[[], object]:
    def wait() -> object:
        poll = select.poll()
        for fd, events in fds:
            poll.register(fd, events)
        return poll.poll()

    return wait


@on_known_machines
@pytest.mark.parametrize("size", [70_000, 3_000_000])
def test_a_write_to_a_full_pipe_has_its_descriptor_and_all_its_bytes(pipe: tuple[int, int], size: int) -> None:
    """Also those that the pipe has taken already."""
    with waiting(lambda: os.write(pipe[1], bytes(size)), "pipe_write") as (_, wait):
        assert (wait.kind, wait.fds, wait.count, wait.weak) == ("write", (Watched(pipe[1], False, True),), size, False)
        assert wait.call == f"write(fd {pipe[1]}, {size:,} bytes)"


@on_known_machines
def test_writev_counts_the_bytes_of_all_its_buffers(pipe: tuple[int, int]) -> None:
    parts = [bytes(50_000), b"", bytes(30_001), bytes(7)]
    with waiting(lambda: os.writev(pipe[1], parts), "pipe_write") as (_, wait):
        assert (wait.kind, wait.fds, wait.count) == ("write", (Watched(pipe[1], False, True),), 80_008)


@on_known_machines
def test_a_read_of_an_empty_pipe(pipe: tuple[int, int]) -> None:
    with waiting(lambda: os.read(pipe[0], 10), "pipe_read") as (_, wait):
        assert (wait.kind, wait.fds, wait.count) == ("read", (Watched(pipe[0], True, False),), None)


@on_known_machines
def test_readv_of_an_empty_pipe(pipe: tuple[int, int]) -> None:
    with waiting(lambda: os.readv(pipe[0], [bytearray(5)]), "pipe_read") as (_, wait):
        assert (wait.kind, wait.fds) == ("read", (Watched(pipe[0], True, False),))


@on_known_machines
def test_poll_without_a_limit_tells_what_it_watches_and_for_what(pipe: tuple[int, int]) -> None:
    here, there = socket.socketpair()
    with here, there:
        watching = forever_polling((pipe[0], select.POLLIN), (here.fileno(), select.POLLIN | select.POLLPRI))
        with waiting(watching, "poll") as (_, wait):
            assert wait.kind == "poll"
            assert set(wait.fds) == {Watched(pipe[0], True, False), Watched(here.fileno(), True, False)}


@on_known_machines
def test_poll_for_room_in_a_full_pipe(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    os.write(pipe[1], bytes(1 << 20))
    with waiting(forever_polling((pipe[1], select.POLLOUT)), "poll") as (_, wait):
        assert (wait.kind, wait.fds) == ("poll", (Watched(pipe[1], False, True),))


@on_known_machines
def test_poll_for_the_end_alone_watches_for_neither_reading_nor_writing(pipe: tuple[int, int]) -> None:
    with waiting(forever_polling((pipe[0], 0)), "poll") as (_, wait):
        assert (wait.kind, wait.fds) == ("poll", (Watched(pipe[0], False, False),))


@on_known_machines
def test_select_without_a_limit(pipe: tuple[int, int]) -> None:
    """Also with a descriptor in the second word of the sets."""
    high = 0
    try:
        high = os.dup2(pipe[0], 99)
        with waiting(lambda: select.select([pipe[0], high], [], []), "poll") as (_, wait):
            assert (wait.kind, wait.fds) == ("poll", (Watched(pipe[0], True, False), Watched(high, True, False)))
    finally:
        if high:
            os.close(high)


@on_known_machines
def test_select_for_exceptions_is_no_wait_for_reading_alone(pipe: tuple[int, int]) -> None:
    """A byte out of band ends it, and whoever sends that is not among the pipe's writers."""
    here, there = socket.socketpair()
    with here, there, waiting(lambda: select.select([pipe[0]], [], [here]), "poll") as (_, wait):
        assert here.fileno() in {each.fd for each in wait.fds} or wait.kind == "outside"


@on_known_machines
def test_epoll_without_a_limit(pipe: tuple[int, int]) -> None:
    def wait_for_it() -> object:
        epoll = select.epoll()
        epoll.register(pipe[0], select.EPOLLIN)
        return epoll.poll()

    with waiting(wait_for_it, "ep") as (_, wait):
        assert (wait.kind, wait.fds) == ("poll", (Watched(pipe[0], True, False),))


@on_known_machines
@pytest.mark.parametrize("call", ["poll", "select", "epoll"])
def test_a_time_limit_ends_a_wait_from_outside(pipe: tuple[int, int], call: str) -> None:
    def wait_for_it() -> object:
        if call == "select":
            return select.select([pipe[0]], [], [], 1000)
        waiter = select.epoll() if call == "epoll" else select.poll()
        waiter.register(pipe[0], select.POLLIN)
        return waiter.poll(1_000_000)

    with waiting(wait_for_it, "ep" if call == "epoll" else "poll") as (_, wait):
        assert wait.kind == "outside"
        assert "with a time limit" in wait.call


@on_known_machines
def test_a_poll_of_nothing_waits_for_a_signal_as_pause_does() -> None:
    """Where there is no pause(2), as on aarch64, the C library polls nothing instead."""
    with waiting(forever_polling(), "poll") as (_, wait):
        assert (wait.kind, wait.fds) == ("outside", ())


@on_known_machines
@pytest.mark.parametrize("which", ["wait4 one", "wait4 any", "waitid one", "waitid any"])
def test_a_wait_for_a_child_names_it(which: str) -> None:
    read_end, write_end = os.pipe()

    def wait_for_it() -> object:
        child = grandchild(write_end)
        os.write(write_end, child.to_bytes(4, "little"))
        if which.startswith("wait4"):
            return os.waitpid(child if which.endswith("one") else -1, 0)
        return os.waitid(*((os.P_PID, child) if which.endswith("one") else (os.P_ALL, 0)), os.WEXITED)

    with open(read_end, "rb") as told, open(write_end), waiting(wait_for_it, "wait") as (_, wait):
        child = int.from_bytes(told.read(4), "little")
        assert (wait.kind, wait.child) == ("child", child if which.endswith("one") else -1)


@on_known_machines
def test_a_wait_for_a_process_group_counts_as_one_for_any_child() -> None:
    with waiting(lambda: grandchild() and os.waitpid(0, 0), "wait") as (_, wait):
        assert (wait.kind, wait.child) == ("child", -1)


@on_known_machines
def test_waitid_of_a_pidfd_is_a_poll_of_it() -> None:
    def wait_for_it() -> object:
        return os.waitid(os.P_PIDFD, os.pidfd_open(grandchild()), os.WEXITED)

    with waiting(wait_for_it, "wait") as (pid, wait):
        assert wait.kind == "poll"
        (watched,) = wait.fds
        assert os.readlink(f"/proc/{pid}/fd/{watched.fd}") == "anon_inode:[pidfd]"
        assert (watched.reads, watched.writes) == (True, False)


def grandchild(*close: int) -> int:
    """Fork, in a child, one more that ends when its parent does."""
    pid = os.fork()
    if not pid:
        for fd in close:
            os.close(fd)
        pause_while_the_parent_lives()
    return pid


def pause_while_the_parent_lives() -> None:
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    signal.alarm(30)
    signal.pause()
    os._exit(0)


@on_known_machines
def test_a_threading_lock_is_a_private_futex() -> None:
    lock = threading.Lock()
    with lock, waiting(lock.acquire, "futex") as (_, wait):
        assert (wait.kind, wait.fds, wait.child) == ("private futex", (), None)
        assert wait.address


@on_known_machines
def test_a_multiprocessing_lock_is_a_shared_futex_in_shared_memory() -> None:
    lock = multiprocessing.get_context("fork").Lock()
    with lock, waiting(lock.acquire, "futex") as (pid, wait):
        assert wait.kind == "shared futex"
        assert wait.address is not None
        rights = []
        for row in Path(f"/proc/{pid}/maps").read_text().splitlines():
            low, high = (int(end, 16) for end in row.split()[0].split("-"))
            if low <= wait.address < high:
                rights.append(row.split()[1])
        assert [each[3] for each in rights] == ["s"]


@on_known_machines
@pytest.mark.parametrize("number", range(6))  # of nanoseconds when it ends is odd or even: a round of ours is odd
@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_lock_with_a_time_limit_counts_as_ended_from_outside(kind: str, number: int) -> None:
    """Also in a program that has loaded pipecap, as this one, whose own locks wait in rounds."""
    lock = threading.Lock() if kind == "thread" else multiprocessing.get_context("fork").Lock()
    with lock, waiting(lambda: lock.acquire(True, 1000), "futex") as (_, wait):
        assert (wait.kind, wait.call) == ("outside", "futex(), with a time limit")


@on_known_machines
@pytest.mark.parametrize("milliseconds", [999_998, 999_999])
def test_a_poll_with_a_time_limit_is_so_too(pipe: tuple[int, int], milliseconds: int) -> None:
    """That of a stock Connection, say, in a program that has loaded pipecap, whatever its number of milliseconds."""
    connection = multiprocessing.connection.Connection(os.dup(pipe[0]), writable=False)
    with connection, waiting(lambda: connection.poll(milliseconds / 1000), "poll") as (_, wait):
        assert (wait.kind, wait.call) == ("outside", "poll(), with a time limit")


@on_known_machines
@pytest.mark.parametrize(
    ("function", "place"), [(lambda: time.sleep(1000), "nanosleep"), (signal.pause, "")], ids=["sleep", "pause"]
)
def test_sleeping_is_ended_from_outside(function: Callable[[], object], place: str) -> None:
    with forked(function) as child:
        wait_until(lambda: "outside" in seen(child.pid).kind)
        wait_until_in(place, child.pid)
        assert seen(child.pid).kind == "outside"


@on_known_machines
def test_a_socket_is_read_and_written() -> None:
    """Nobody can tell from outside whether it is full, so that is for others to judge."""
    here, there = socket.socketpair()
    with here, there:
        with waiting(lambda: here.recv(10), "unix_stream") as (_, wait):
            assert (wait.kind, wait.fds) == ("read", (Watched(here.fileno(), True, False),))
        with waiting(lambda: here.sendall(bytes(8_000_000)), "sock_alloc_send") as (_, wait):
            assert (wait.kind, wait.fds) == ("write", (Watched(here.fileno(), False, True),))
            assert wait.count == 8_000_000


@on_known_machines
def test_messages_are_read_and_written() -> None:
    here, there = socket.socketpair()
    with here, there:
        with waiting(lambda: here.recvmsg(10), "unix_stream") as (_, wait):
            assert (wait.kind, wait.fds) == ("read", (Watched(here.fileno(), True, False),))
        with waiting(lambda: here.sendmsg([bytes(8_000_000)]), "sock_alloc_send") as (_, wait):
            assert (wait.kind, wait.fds) == ("write", (Watched(here.fileno(), False, True),))


@on_known_machines
def test_a_write_has_the_address_of_its_bytes(pipe: tuple[int, int]) -> None:
    """By which a log record is recognized while it waits."""
    with waiting(lambda: os.write(pipe[1], b"record" * 20_000), "pipe_write") as (pid, wait):
        assert wait.address is not None
        assert ThreadMemory(pid, pid, "/proc").read(wait.address, 12) == b"recordrecord"


# Calls that move bytes from one descriptor to another.

_libc = ctypes.CDLL(None)


def tee(source: int, sink: int, count: int) -> object:
    return _libc.tee(source, sink, ctypes.c_size_t(count), 0)


def vmsplice(fd: int, size: int) -> object:
    buffer = ctypes.create_string_buffer(size)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), size)
    return _libc.vmsplice(fd, vector, ctypes.c_size_t(1), 0)


@pytest.fixture
def sink(pipe: tuple[int, int]) -> int:
    """Return the write end of a full pipe."""
    os.write(pipe[1], bytes(16 * PAGE))
    return pipe[1]


@pytest.fixture
def source() -> Iterator[tuple[int, int]]:
    """Return one more pipe: read end, write end."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@on_known_machines
@pytest.mark.parametrize("call", [os.splice, tee])
def test_splice_and_tee_into_a_full_pipe_are_writes(
    call: Callable[[int, int, int], object], sink: int, source: tuple[int, int]
) -> None:
    os.write(source[1], bytes(5_000))
    with waiting(lambda: call(source[0], sink, 5_000), "pipe_wait_writable") as (_, wait):
        assert (wait.kind, wait.fds, wait.count) == ("write", (Watched(sink, False, True),), 5_000)
        assert wait.call == f"{call.__name__}(fd {source[0]} to fd {sink}, 5,000 bytes)"


@on_known_machines
@pytest.mark.parametrize("call", [os.splice, tee])
def test_splice_and_tee_from_an_empty_pipe_are_reads(
    call: Callable[[int, int, int], object], sink: int, source: tuple[int, int]
) -> None:
    """Also where both ends would make them wait: the kernel waits for the first."""
    with waiting(lambda: call(source[0], sink, 5_000), "pipe_wait_readable") as (_, wait):
        assert (wait.kind, wait.fds) == ("read", (Watched(source[0], True, False),))


@on_known_machines
def test_splice_from_an_empty_socketpair_is_a_read(pipe: tuple[int, int]) -> None:
    here, there = socket.socketpair()
    with here, there, waiting(lambda: os.splice(here.fileno(), pipe[1], 100), "unix_stream") as (_, wait):
        assert (wait.kind, wait.fds) == ("read", (Watched(here.fileno(), True, False),))


@on_known_machines
def test_splice_into_a_full_socketpair_is_a_write(source: tuple[int, int]) -> None:
    os.write(source[1], bytes(5_000))
    here, there = socket.socketpair()
    with here, there:
        fill(here)
        with waiting(lambda: os.splice(source[0], here.fileno(), 5_000), "sock_alloc_send") as (_, wait):
            assert (wait.kind, wait.fds, wait.count) == ("write", (Watched(here.fileno(), False, True),), 5_000)


def fill(end: socket.socket) -> None:
    end.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            end.send(bytes(65_536))
    end.setblocking(True)


@on_known_machines
def test_vmsplice_writes_to_a_write_end_and_reads_from_a_read_end(sink: int, source: tuple[int, int]) -> None:
    with waiting(lambda: vmsplice(sink, 70_000), "pipe_wait_writable") as (_, wait):
        assert (wait.kind, wait.fds, wait.count) == ("write", (Watched(sink, False, True),), 70_000)
    with waiting(lambda: vmsplice(source[0], 70_000), "pipe_wait_readable") as (_, wait):
        assert (wait.kind, wait.fds) == ("read", (Watched(source[0], True, False),))


@on_known_machines
def test_sendfile_into_a_full_pipe_or_socketpair_is_a_write(sink: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(300_000))
    here, there = socket.socketpair()
    with here, there, open(tmp_path / "file", "rb") as file:
        fill(here)
        for end, place in ((sink, "pipe_wait_writable"), (here.fileno(), "sock_alloc_send")):
            with waiting(partial(os.sendfile, end, file.fileno(), 0, 300_000), place) as (_, wait):
                assert (wait.kind, wait.fds, wait.count) == ("write", (Watched(end, False, True),), 300_000)


# open(2) of a FIFO.


@on_known_machines
@pytest.mark.parametrize(("mode", "word"), [(os.O_RDONLY, "reading"), (os.O_WRONLY, "writing")])
def test_an_open_of_a_fifo_waits_for_its_other_end(fifo: Path, mode: int, word: str) -> None:
    with waiting(lambda: os.open(fifo, mode), "wait_for_partner") as (_, wait):
        assert (wait.kind, wait.path, wait.call) == ("open", str(fifo), f"openat({fifo}, for {word})")
        assert [(each.reads, each.writes) for each in wait.fds] == [(word == "reading", word == "writing")]


# The queues of pipecap wait in rounds, to see whether a lock's owner still lives.


@on_known_machines
def test_a_get_without_a_limit_waits_in_rounds() -> None:
    """The first process polls the pipe, the next one waits for the read lock; each as if it had no time limit."""
    queue = pipecap.get_context("fork").Queue()
    with (
        waiting(queue.get, "poll") as (first, _),
        waiting(queue.get, "futex") as (second, _),
    ):
        wait_until(lambda: seen(first).kind == "poll")  # in between, a round ends
        (watched,) = seen(first).fds
        assert (watched.reads, watched.writes) == (True, False)
        assert os.readlink(f"/proc/{first}/fd/{watched.fd}").startswith("pipe:[")
        wait_until(lambda: seen(second).kind == "shared futex")
        assert seen(first).rounds or not seen(first).fds
        wait = seen(second)
        assert wait.rounds or wait == RUNNING
    finish(queue)


@on_known_machines
def test_a_get_with_a_limit_ends_by_itself_however_short_its_rounds_are() -> None:
    queue = pipecap.get_context("fork").Queue()
    with (
        waiting(lambda: queue.get(timeout=1000), "poll") as (first, _),
        waiting(lambda: queue.get(timeout=1000), "futex") as (second, _),
    ):
        for pid in (first, second):
            kinds = {seen(pid).kind for _ in range(200)}
            assert kinds <= {"outside", "running"}
    finish(queue)


@on_known_machines
def test_a_thread_that_computes_is_running() -> None:
    def spin() -> None:
        while True:
            pass

    with forked(spin) as child:
        wait_until(lambda: Path(f"/proc/{child.pid}/syscall").read_text() == "running\n")
        # Between two turns on the CPU it is in no call, and its line has the number -1.
        assert all(seen(child.pid) in (RUNNING, Wait("outside", "no system call")) for _ in range(20))


@on_known_machines
def test_a_stopped_thread_outside_of_a_call() -> None:
    def spin() -> None:
        while True:
            pass

    with forked(spin) as child:
        child.signal(signal.SIGSTOP)
        wait_until(lambda: Path(f"/proc/{child.pid}/stat").read_text().rpartition(") ")[2][0] == "T")
        wait_until(lambda: seen(child.pid).kind == "outside")


# ---- lines by hand ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (line(63, 3, 0xFFFF0000, 16), Wait("read", "read(fd 3)", (Watched(3, True, False),))),
        (line(65, 3, 0xFFFF0000, 2), Wait("read", "readv(fd 3)", (Watched(3, True, False),))),
        (line(22, 3, 0xFFFF0000, 16, 500), Wait("outside", "epoll_pwait(), with a time limit")),
        (line(260, 77, 0, 0), Wait("child", "wait4(77)", child=77)),
        (line(260, -1), Wait("child", "wait4(any child)", child=-1)),
        (line(95, 1, 77), Wait("child", "waitid(77)", child=77)),
        (line(95, 0, 77), Wait("child", "waitid(any child)", child=-1)),
        (line(95, 3, 5), Wait("poll", "waitid(pidfd 5)", (Watched(5, True, False),))),
        (line(98, 0xFFFF8000, 0x80 | 9), Wait("private futex", "futex(), a lock of its process", address=0xFFFF8000)),
        (line(98, 0xFFFF8000, 9), Wait("shared futex", "futex(), a lock in shared memory", address=0xFFFF8000)),
        (line(98, 0xFFFF8000, 0x189, 0, 0xFFFFE000), Wait("outside", "futex(), with a time limit")),
        (line(98, 0xFFFF8000, 1), Wait("outside", "futex()")),  # FUTEX_WAKE
        (line(73, 0xFFFF0000, 1, 0xFFFFE000), Wait("outside", "ppoll(), with a time limit")),
        (line(115, 0, 0), Wait("outside", "clock_nanosleep()")),
        (line(999), Wait("outside", "system call 999")),
    ],
)
def test_the_numbers_of_aarch64(text: str, expected: Wait) -> None:
    """Those of include/uapi/asm-generic/unistd.h; riscv64 and loongarch64 have the same."""
    assert decoded(text, "aarch64") == expected
    assert decoded(text, "riscv64") == decoded(text, "loongarch64") == expected


def test_a_write_on_aarch64() -> None:
    wait = decoded(line(64, 9, 0xFFFF0000, 1_000_004), "aarch64")
    assert (wait.kind, wait.fds, wait.count) == ("write", (Watched(9, False, True),), 1_000_004)


def test_ppoll_on_aarch64() -> None:
    memory = Known({0xFFFF0000: struct.pack("=ihhihhihh", 7, 1, 0, -1, 1, 0, 8, 5, 0)})
    wait = decoded(line(73, 0xFFFF0000, 3, 0, 0, 8), "aarch64", memory)
    assert (wait.kind, wait.fds) == ("poll", (Watched(7, True, False), Watched(8, True, True)))


def test_writev_on_aarch64() -> None:
    memory = Known({0xFFFF0000: struct.pack("=QQQQ", 0x1000, 4, 0x2000, 1_000_000)})
    assert decoded(line(66, 9, 0xFFFF0000, 2), "aarch64", memory).count == 1_000_004
    assert decoded(line(66, 9, 0xFFFF0000, 2), "aarch64").count is None


def test_the_same_number_is_another_call_on_another_machine() -> None:
    assert decoded(line(1, 9, 0xFFFF0000, 10), "x86_64").kind == "write"
    assert decoded(line(1, 9, 0xFFFF0000, 10), "aarch64").kind == "outside"


@pytest.mark.parametrize("machine", ["s390x", "ppc64le", "armv7l", "i686", ""])
def test_an_unknown_machine_is_not_decoded(machine: str) -> None:
    assert decode(line(1, 9, 0xFFFF0000, 10), machine, Nothing()) is None
    assert decode("running", machine, Nothing()) == RUNNING


@pytest.mark.parametrize("stack", ["0xffb7de40", "0xffffffff", "0xf7e00000"])
def test_a_32_bit_program_is_not_decoded(stack: str) -> None:
    """Its number 4 is write, which is stat on x86-64; its stack lies below 4 GiB."""
    assert decode(line(4, 9, 0xFFFF0000, 10, stack=stack), "x86_64", Nothing()) is None
    assert decode(line(1, 9, 0xFFFF0000, 10, stack="0x100000000"), "x86_64", Nothing()) is not None


@pytest.mark.parametrize("text", ["running", "running\n", " running "])
def test_running(text: str) -> None:
    assert decoded(text) == RUNNING


def test_outside_of_any_call() -> None:
    """A page fault, a signal just before its handler, a stopped thread: the stack and the counter, no arguments."""
    assert decoded(f"-1 {STACK} {COUNTER}") == Wait("outside", "no system call")
    assert decoded("-1 0x0 0x0") == Wait("outside", "no system call")


@pytest.mark.parametrize("text", ["", "\n"])
def test_an_empty_line_tells_nothing(text: str) -> None:
    assert decode(text, "x86_64", Nothing()) is None


def test_arguments_are_c_ints_whatever_lies_in_the_upper_half() -> None:
    assert decoded(line(0, 0xDEAD_0000_0003)).fds == (Watched(3, True, False),)
    assert decoded(line(61, 0xFFFF_FFFF)).child == -1
    assert decoded(line(7, 0, 0, 0xFFFF_FFFF)) == decoded(line(7, 0, 0, -1))
    assert decoded(line(7, 0, 1, 0x7FFF_FFFF)).kind == "outside"
    assert decoded(line(232, 4, 0, 16, 0xDEAD_0000_0000)) == Wait("outside", "epoll_wait(), with a time limit")


@pytest.mark.parametrize(
    "text",
    [line(7, 0xFFFF0000, 1, -1), line(271, 0xFFFF0000, 1, 0), line(23, 8, 0xFFFF0000), line(232, 3, 0xFFFF0000, 1, -1)],
    ids=["poll", "ppoll", "select", "epoll_wait"],
)
def test_what_is_watched_is_unknown_where_memory_may_not_be_read(text: str) -> None:
    assert decoded(text).kind == "unknown"


def test_a_write_is_known_without_its_length_where_memory_may_not_be_read() -> None:
    wait = decoded(line(20, 9, 0xFFFF0000, 3))
    assert (wait.kind, wait.fds, wait.count) == ("write", (Watched(9, False, True),), None)


def test_a_poll_of_more_than_can_be_looked_at_is_not_taken_for_less() -> None:
    assert decoded(line(7, 0xFFFF0000, 100_000, -1), memory=Known({0xFFFF0000: bytes(800_000)})).kind == "outside"


def test_a_select_of_more_than_can_be_looked_at_is_not_taken_for_less() -> None:
    """Sets may be larger than FD_SETSIZE: who watches fd 5,000 is not stuck because of fd 3 alone."""
    sets = bytearray(1024)
    sets[0] |= 1 << 3
    sets[5000 // 8] |= 1 << 5000 % 8
    wait = decoded(line(23, 5001, 0xFFFF0000), memory=Known({0xFFFF0000: bytes(sets)}))
    assert wait.kind == "outside" or {each.fd for each in wait.fds} == {3, 5000}


@pytest.mark.parametrize(("flags", "kind"), [(0, "shared futex"), (128, "private futex")])
@pytest.mark.parametrize("command", [0, 6, 9, 9 | 256])
def test_futexes_that_wait(flags: int, kind: str, command: int) -> None:
    """FUTEX_WAIT, FUTEX_LOCK_PI, FUTEX_WAIT_BITSET, the last with FUTEX_CLOCK_REALTIME, too."""
    assert decoded(line(202, 0x7F0000001000, command | flags)).kind == kind
    assert decoded(line(202, 0x7F0000001000, command | flags, 0, int(STACK, 16))).kind == "outside"


@pytest.mark.parametrize(
    ("text", "machine"),
    [
        (line(326, 5, 0, 9, 0, 10_000), "x86_64"),  # copy_file_range
        (line(285, 5, 0, 9, 0, 10_000), "aarch64"),
        (line(40, 9, 5, 0, 10_000), "x86_64"),  # sendfile
        (line(71, 9, 5, 0, 10_000), "aarch64"),
        (line(275, 5, 0, 9, 0, 10_000), "x86_64"),  # splice
        (line(76, 5, 0, 9, 0, 10_000), "aarch64"),
        (line(276, 5, 9, 10_000), "x86_64"),  # tee
        (line(77, 5, 9, 10_000), "aarch64"),
    ],
)
def test_what_moves_bytes_between_descriptors_writes_to_the_second(text: str, machine: str) -> None:
    """Also where it cannot be seen which of them it waits for."""
    wait = decoded(text, machine)
    assert (wait.kind, wait.fds, wait.count) == ("write", (Watched(9, False, True),), 10_000)


@pytest.mark.parametrize(
    ("number", "arguments", "machine"),
    [(2, (), "x86_64"), (257, (-100,), "x86_64"), (56, (-100,), "aarch64"), (437, (-100,), "aarch64")],
    ids=["open", "openat", "openat aarch64", "openat2"],
)
@pytest.mark.parametrize(("mode", "reads"), [(os.O_RDONLY, True), (os.O_WRONLY | os.O_CLOEXEC, False)])
def test_each_open_that_waits_for_a_partner(
    number: int, arguments: tuple[int, ...], machine: str, mode: int, reads: bool
) -> None:
    path, how = 0x7000 + PAGE - 6, 0x9000  # the last page that is mapped
    places = {path: b"/fifo\0", how: struct.pack("=QQQ", mode, 0, 0)}
    text = line(number, *arguments, path, how if number == 437 else mode)
    wait = decoded(text, machine, Known(places, wchan="wait_for_partner"))
    assert (wait.kind, wait.path, wait.fds) == ("open", "/fifo", (Watched(-1, reads, not reads),))
    assert decoded(text, machine, Known(places)).kind == "outside"  # of a file on a slow disk, of a device


def test_the_path_of_a_fifo_may_go_over_a_page() -> None:
    places = {0x7FFA: b"/a/lon", 0x8000: b"g/path\0" + bytes(PAGE - 7)}
    memory = Known(places, wchan="wait_for_partner")
    assert decoded(line(257, -100, 0x7FFA, 0), memory=memory).path == "/a/long/path"
    del places[0x8000]
    wait = decoded(line(257, -100, 0x7FFA, 0), memory=memory)
    assert (wait.kind, wait.path, wait.call) == ("open", "", "openat(a FIFO, for reading)")


class Epoll(Nothing):
    """An epoll descriptor that watches one other."""

    def epolled(self, fd: int) -> tuple[Watched, ...] | None:
        return (Watched(7, True, False),)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_epoll_pwait2_has_its_limit_behind_a_pointer(machine: str) -> None:
    wait = decoded(line(441, 4, 0xFFFF0000, 16, 0), machine, Epoll())
    assert (wait.kind, wait.fds) == ("poll", (Watched(7, True, False),))
    limited = decoded(line(441, 4, 0xFFFF0000, 16, 0xFFFFE000), machine, Epoll())
    assert limited == Wait("outside", "epoll_pwait2(), with a time limit")


@pytest.mark.parametrize(("number", "timeout"), [(7, 500), (7, 1), (271, 0xFFFFE000)])
def test_a_poll_with_the_mark_of_pipecap_is_a_round_of_a_wait_without_a_limit(number: int, timeout: int) -> None:
    """Also where the C library makes it a ppoll."""
    places = {0xFFFF0000: struct.pack("=ihhihh", 7, 1, 0, -1, 0x7063, 0), 0xFFFF0008: struct.pack("=ih", -1, 0x7063)}
    wait = decoded(line(number, 0xFFFF0000, 2, timeout), memory=Known(places))
    assert (wait.kind, wait.fds, wait.rounds) == ("poll", (Watched(7, True, False),), True)


@pytest.mark.parametrize("second", [(8, 0x7063), (-1, 1), (-1, 0)])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_any_other_poll_with_a_time_ends_by_itself(count: int, second: tuple[int, int]) -> None:
    """The mark is a struct pollfd that poll(2) passes over, and no other one is like it."""
    places = {0xFFFF0000: struct.pack("=ihh", 7, 1, 0), 0xFFFF0008: struct.pack("=ih", *second)}
    wait = decoded(line(7, 0xFFFF0000, count, 500), memory=Known(places, pipecap=True))
    assert (wait.kind, wait.rounds) == ("outside", False)


def test_a_poll_without_a_limit_is_no_round() -> None:
    memory = Known({0xFFFF0000: struct.pack("=ihh", 7, 1, 0)}, pipecap=True)
    assert not decoded(line(7, 0xFFFF0000, 1, -1), memory=memory).rounds


@pytest.mark.parametrize(
    ("nanoseconds", "pipecap", "kind"),
    [(1, True, "shared futex"), (999_999_999, True, "shared futex"), (2, True, "outside"), (1, False, "outside")],
)
def test_a_futex_of_an_odd_time_in_the_memory_of_a_queue_is_a_round_too(
    nanoseconds: int, pipecap: bool, kind: str
) -> None:
    memory = Known({0xFFFFE000: struct.pack("=qq", 55, nanoseconds)}, pipecap=pipecap)
    wait = decoded(line(202, 0x7F0000001000, 9, 0, 0xFFFFE000), memory=memory)
    assert (wait.kind, wait.rounds) == (kind, kind != "outside")


def test_a_private_futex_is_never_a_round() -> None:
    """The locks of our queues are in shared memory."""
    memory = Known({0xFFFFE000: struct.pack("=qq", 55, 1)}, pipecap=True)
    assert decoded(line(202, 0x7F0000001000, 9 | 128, 0, 0xFFFFE000), memory=memory).kind == "outside"


def test_a_futex_whose_time_may_not_be_read_ends_by_itself() -> None:
    wait = decoded(line(202, 0x7F0000001000, 9, 0, 0xFFFFE000), memory=Known({}, pipecap=True))
    assert wait == Wait("outside", "futex(), with a time limit")


@pytest.mark.parametrize(("mask", "masked"), [(0, False), (0xFFFFD000, True)])
def test_a_ppoll_that_changes_the_signal_mask_is_made_to_be_ended_by_a_signal(mask: int, masked: bool) -> None:
    memory = Known({0xFFFF0000: struct.pack("=ihh", 7, 1, 0)})
    wait = decoded(line(271, 0xFFFF0000, 1, 0, mask, 8), memory=memory)
    assert (wait.kind, wait.masked) == ("poll", masked)


@pytest.mark.parametrize(
    ("pointer", "mask", "masked"), [(0, 0, False), (0xFFFFD000, 0, False), (0xFFFFD000, 0xFFFFC000, True)]
)
def test_a_pselect_that_changes_the_signal_mask_is_so_too(pointer: int, mask: int, masked: bool) -> None:
    """Its last argument points at a pointer, and that may be none: the C library's pselect() without a mask."""
    memory = Known({0xFFFF0000: (1 << 7).to_bytes(8, "little"), 0xFFFFD000: struct.pack("=QQ", mask, 8)})
    wait = decoded(line(270, 8, 0xFFFF0000, 0, 0, 0, pointer), memory=memory)
    assert (wait.kind, wait.fds, wait.masked) == ("poll", (Watched(7, True, False),), masked)


# ---- wchan ----


@pytest.mark.parametrize(
    ("wchan", "kind"),
    [
        ("pipe_write", "write"),
        ("anon_pipe_write", "write"),  # since Linux 6.15
        ("fifo_pipe_write", "write"),
        ("pipe_read", "read"),
        ("anon_pipe_read", "read"),
        ("do_wait", "child"),
        ("futex_wait_queue", "outside"),
        ("do_sys_poll", "outside"),
        ("poll_schedule_timeout.constprop.0", "outside"),
        ("ep_poll", "outside"),
        ("hrtimer_nanosleep", "outside"),
        ("unix_stream_read_generic", "outside"),
        ("wait_for_partner", "outside"),  # open(2) of a FIFO
        ("unknown", "outside"),
    ],
)
def test_wchan_tells_less_and_says_so(wchan: str, kind: str) -> None:
    wait = from_wchan(wchan)
    assert (wait.kind, wait.weak, wait.fds, wait.count) == (kind, True, (), None)
    assert wait.child == (-1 if kind == "child" else None)
    assert wchan in wait.call


@pytest.mark.parametrize("wchan", ["", "0"])
def test_no_wchan_is_no_wait(wchan: str) -> None:
    assert from_wchan(wchan) == RUNNING


@pytest.mark.parametrize("kind", ["write", "read", "child"])
def test_the_wchan_of_real_children_is_read_right(pipe: tuple[int, int], kind: str) -> None:
    functions: dict[str, tuple[Callable[[], object], str]] = {
        "write": (lambda: os.write(pipe[1], bytes(70_000)), "pipe_write"),
        "read": (lambda: os.read(pipe[0], 1), "pipe_read"),
        "child": (lambda: os.waitpid(grandchild(), 0), "wait"),
    }
    function, place = functions[kind]
    with forked(function) as child:
        wait_until_in(place, child.pid)
        assert from_wchan(Path(f"/proc/{child.pid}/wchan").read_text()).kind == kind
