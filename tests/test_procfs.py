"""/proc as it is read: held to os.fstat, to what the processes did, and to what the kernel forbids."""

from __future__ import annotations

import ctypes
import mmap
import os
import pwd
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from children import Thread, and_stay, finish, forked, wait_until
from conftest import needs_root
from privilege import in_child, is_root, unprivileged

import pipecap
from pipecap.proc import procfs
from pipecap.proc.files import EventFd, Fifo, PidFd, Pipe, Socket
from pipecap.proc.procfs import Open, ThreadMemory
from pipecap.proc.snapshot import End, Process, take
from pipecap.proc.syscalls import Watched

ME = os.getpid()
PROC = "/proc"
PAGE = os.sysconf("SC_PAGESIZE")
O_PATH = os.O_PATH

# What the kernel and other programs put into names: the stat file has them in parentheses, unescaped.
NAMES = [
    b"a) S 1 (b",
    b") (",
    b"((",
    b"))",
    b"two words",
    b" ",
    b"\xff\xfe",
    "größer".encode(),
    ("é" * 8).encode()[:15],
    b"line\nfeed",
]


@contextmanager
def closing(*fds: int) -> Iterator[None]:
    try:
        yield
    finally:
        for fd in fds:
            with suppress(OSError):
                os.close(fd)


def link(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


def found(fd: int) -> Open:
    (one,) = (each for each in procfs.descriptors(ME, PROC) if each.fd == fd)
    return one


def mine() -> Process:
    """See this process as a snapshot has it."""
    return take().processes[ME]


def named(name: bytes) -> None:
    """Give this thread a name: 15 bytes at most."""
    pr_set_name = 15
    ctypes.CDLL(None).prctl(pr_set_name, name, 0, 0, 0)


# ---- descriptors ----


def test_descriptors_are_those_that_are_open() -> None:
    seen = {each.fd for each in procfs.descriptors(ME, PROC)}
    assert seen >= {0, 1, 2}
    for fd in seen:
        with suppress(OSError):  # that of the listing itself is closed by now
            os.fstat(fd)
            assert found(fd).link == link(fd)


@pytest.mark.parametrize(
    ("mode", "reads", "writes"),
    [(os.O_RDONLY, True, False), (os.O_WRONLY, False, True), (os.O_RDWR, True, True), (O_PATH, False, False)],
    ids=["read", "write", "both", "path"],
)
def test_the_mode_a_file_was_opened_for(fifo: Path, mode: int, reads: bool, writes: bool) -> None:
    """Whatever the permissions of the file are; a descriptor that only names it (O_PATH) does neither."""
    holder = os.open(fifo, os.O_RDWR)
    with closing(holder):
        fd = os.open(fifo, mode)
        with closing(fd):
            os.chmod(fifo, 0o644)
            assert found(fd) == Open(fd, str(fifo), reads, writes)


def test_a_snapshot_leaves_out_what_only_names_a_file(pipe: tuple[int, int], fifo: Path) -> None:
    of_pipe, of_fifo = os.open(f"/proc/self/fd/{pipe[0]}", O_PATH), os.open(fifo, O_PATH)
    with closing(of_pipe, of_fifo):
        process = mine()
        assert process.end(of_pipe) is None
        assert process.end(of_fifo) is None
        assert process.end(pipe[0]) is not None


def test_a_snapshot_has_the_ends_of_a_pipe(pipe: tuple[int, int]) -> None:
    file = Pipe(os.fstat(pipe[0]).st_ino)
    process = mine()
    assert process.end(pipe[0]) == End(pipe[0], file, True, False)
    assert process.end(pipe[1]) == End(pipe[1], file, False, True)
    assert link(pipe[0]) == link(pipe[1]) == str(file)


def test_a_read_end_opened_anew_for_writing_is_a_write_end(pipe: tuple[int, int]) -> None:
    again = os.open(f"/proc/self/fd/{pipe[0]}", os.O_WRONLY)
    with closing(again):
        assert mine().end(again) == End(again, Pipe(os.fstat(again).st_ino), False, True)


def test_a_snapshot_has_the_ends_of_a_fifo_by_device_and_inode(fifo: Path) -> None:
    status = os.stat(fifo)
    both = os.open(fifo, os.O_RDWR)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with closing(both, reading):
        file = Fifo(status.st_dev, status.st_ino)
        process = mine()
        assert process.end(both) == End(both, file, True, True)
        assert process.end(reading) == End(reading, file, True, False)
        assert process.names[both] == str(fifo)


def test_a_fifo_without_a_name_any_more_is_still_one(fifo: Path) -> None:
    both = os.open(fifo, os.O_RDWR)
    with closing(both):
        status = os.fstat(both)
        fifo.unlink()
        end = mine().end(both)
        assert end is not None
        assert end.file == Fifo(status.st_dev, status.st_ino)
        assert end.is_pipe


def test_a_snapshot_has_sockets_and_no_files(tmp_path: Path) -> None:
    here, there = socket.socketpair()
    with here, there, open(tmp_path / "file", "wb") as file:
        process = mine()
        assert process.end(here.fileno()) == End(here.fileno(), Socket(os.fstat(here.fileno()).st_ino), True, True)
        assert process.end(file.fileno()) is None


def test_a_pidfd_names_its_process() -> None:
    with forked(signal.pause) as child:
        fd = os.pidfd_open(child.pid)
        with closing(fd):
            assert procfs.pidfd(ME, fd, PROC) == child.pid
            assert mine().end(fd) == End(fd, PidFd(child.pid), True, False)


def test_the_pidfd_of_one_who_was_reaped_names_nobody() -> None:
    with forked(signal.pause) as child:
        fd = os.pidfd_open(child.pid)
    with closing(fd):
        assert procfs.pidfd(ME, fd, PROC) == -1
        assert mine().end(fd) == End(fd, PidFd(-1), True, False)


def test_an_eventfd_is_known_by_its_number_in_all_who_inherited_it() -> None:
    one, other = os.eventfd(0), os.eventfd(0)
    with closing(one, other), forked(signal.pause) as child:
        process = mine()
        ends = [process.end(one), process.end(other), take().processes[child.pid].end(one)]
        files = [end.file for end in ends if end is not None]
        assert len(files) == 3
        assert all(isinstance(file, EventFd) for file in files)
        assert files[0] == files[2] != files[1]


def test_a_link_that_is_too_long_to_read_hides_nobody_else(pipe: tuple[int, int], tmp_path: Path) -> None:
    """A path may be longer than a page, and readlink then fails (ENAMETOOLONG): one such file must not end the look."""
    back = os.open(".", os.O_RDONLY)
    with closing(back):
        os.chdir(tmp_path)
        try:
            for _ in range(PAGE // 200 + 2):
                os.mkdir("d" * 200)
                os.chdir("d" * 200)
            fd = os.open("file", os.O_CREAT | os.O_WRONLY)
        finally:
            os.fchdir(back)
    with closing(fd):
        with pytest.raises(OSError, match="name too long"):
            link(fd)
        assert mine().end(pipe[0]) is not None


# ---- stat and status ----


@pytest.mark.parametrize("name", NAMES)
def test_stat_reads_any_name(name: bytes) -> None:
    with forked(and_stay(lambda: named(name))) as child:
        wait_until(lambda: Path(f"/proc/{child.pid}/comm").read_bytes() == name[:15] + b"\n")
        wait_until(lambda: procfs.stat(f"/proc/{child.pid}").state == "S")
        seen = procfs.stat(f"/proc/{child.pid}")
        assert seen.name == name.decode(errors="replace")
        assert (seen.ppid, seen.session) == (ME, os.getsid(child.pid))
        assert not procfs.has_ended(child.pid, PROC)


@pytest.mark.parametrize("name", NAMES)
def test_a_snapshot_reads_any_name(pipe: tuple[int, int], name: bytes) -> None:
    """Names are bytes: one cut through a letter, at 15 bytes, is no text; the status of a blocked thread has it too."""

    def read() -> None:
        named(name)
        os.read(pipe[0], 1)

    with forked(read) as child:
        wait_until(lambda: "pipe_read" in Path(f"/proc/{child.pid}/wchan").read_text())
        (thread,) = take().processes[child.pid].threads
        assert thread.name == name.decode(errors="replace")
        assert thread.switches.isdigit()


def test_start_tells_a_process_from_the_next_one_and_threads_have_their_own() -> None:
    boot = float(Path("/proc/uptime").read_text().split()[0])
    ticks = procfs.stat(f"/proc/{ME}").start
    assert 0 < ticks <= (boot + 1) * os.sysconf("SC_CLK_TCK")
    gate = threading.Event()
    thread = Thread(gate.wait)
    try:
        wait_until(lambda: thread.native_id)
        assert procfs.stat(f"/proc/{ME}/task/{thread.native_id}").start >= ticks
        assert set(procfs.threads(ME, PROC)) >= {ME, thread.native_id}
    finally:
        gate.set()
        thread.result()


def test_a_zombie_has_ended_and_has_no_command() -> None:
    with forked(signal.pause) as child:
        assert procfs.command(child.pid, PROC) == procfs.command(ME, PROC) != ""
        child.end()
        assert procfs.stat(f"/proc/{child.pid}").state == "Z"
        assert procfs.has_ended(child.pid, PROC)
        assert procfs.command(child.pid, PROC) == ""
        assert take().processes[child.pid].ends == ()
    assert procfs.has_ended(child.pid, PROC)
    with pytest.raises((FileNotFoundError, ProcessLookupError)):
        procfs.stat(f"/proc/{child.pid}")


def test_status_counts_how_often_a_thread_went_to_sleep(pipe: tuple[int, int]) -> None:
    def read() -> None:
        while True:
            os.read(pipe[0], 1)

    def sleeps() -> int:
        return int(procfs.status(f"/proc/{child.pid}/task/{child.pid}")["voluntary_ctxt_switches"])

    with forked(read) as child:
        wait_until(lambda: "pipe_read" in Path(f"/proc/{child.pid}/wchan").read_text())
        before = sleeps()
        assert sleeps() == before
        os.write(pipe[1], b"x")
        wait_until(lambda: sleeps() > before)


# ---- memory ----


@contextmanager
def memfd(size: int, flags: int = mmap.MAP_SHARED, *, name: str = "pipecap") -> Iterator[tuple[int, int]]:
    """Map a memfd; give its descriptor, and the address."""
    fd = os.memfd_create(name)
    with closing(fd):
        os.truncate(fd, size)
        with mmap.mmap(fd, size, flags=flags) as mapped:
            yield fd, address_of(mapped)


def address_of(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def identity(fd: int) -> str:
    status = os.fstat(fd)
    return f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"


def ours(fd: int, offset: int) -> procfs.Mapping:
    """Return a place in a memfd named as those of pipecap's queues are."""
    return procfs.Mapping(identity(fd), offset, is_pipecap=True)


def test_shared_memory_is_known_by_its_file_and_the_place_in_it() -> None:
    """The same place, mapped twice at different addresses, is one and the same lock."""
    with memfd(4 * PAGE) as (fd, first):
        assert procfs.shared_mapping(ME, first, PROC) == ours(fd, 0)
        assert procfs.shared_mapping(ME, first + PAGE + 5, PROC) == ours(fd, PAGE + 5)
        assert procfs.shared_mapping(ME, first + 4 * PAGE - 1, PROC) == ours(fd, 4 * PAGE - 1)
        with mmap.mmap(fd, PAGE, offset=2 * PAGE) as second:
            assert procfs.shared_mapping(ME, address_of(second) + 7, PROC) == ours(fd, 2 * PAGE + 7)
        assert identity(fd) in procfs.shared_files(ME, PROC)
    assert procfs.shared_mapping(ME, first, PROC) is None


@pytest.mark.parametrize("name", ["pickle", "not pipecap", ""])
def test_memory_of_others_is_not_of_a_queue_of_pipecap(name: str) -> None:
    with memfd(PAGE, name=name) as (fd, address):
        assert procfs.shared_mapping(ME, address, PROC) == procfs.Mapping(identity(fd), 0, is_pipecap=False)


def test_the_memory_of_a_queue_of_pipecap_is_known_as_that() -> None:
    """By its name, which a child that inherited it has, too."""
    queue = pipecap.get_context("fork").Queue()
    with forked(signal.pause) as child:
        for pid in (ME, child.pid):
            rows = Path(f"/proc/{pid}/maps").read_text().splitlines()
            (start,) = {int(row.partition("-")[0], 16) for row in rows if "/memfd:pipecap" in row}
            place = procfs.shared_mapping(pid, start, PROC)
            assert place is not None
            assert (place.offset, place.is_pipecap) == (0, True)
    finish(queue)


def test_private_memory_is_not_shared() -> None:
    with memfd(PAGE, mmap.MAP_PRIVATE) as (fd, address):
        assert procfs.shared_mapping(ME, address, PROC) is None
        assert identity(fd) not in procfs.shared_files(ME, PROC)
    assert procfs.shared_mapping(ME, id(object()), PROC) is None


@pytest.mark.parametrize("address", [0, 1, 2**48 - 1, 2**63, 2**64 - 1])
def test_an_address_where_nothing_is_mapped(address: int) -> None:
    assert procfs.shared_mapping(ME, address, PROC) is None


def test_anonymous_shared_memory_has_an_identity_in_all_who_inherited_it() -> None:
    with mmap.mmap(-1, PAGE) as memory:
        address = address_of(memory)
        with forked(signal.pause) as child:
            place = procfs.shared_mapping(ME, address, PROC)
            assert place is not None
            assert procfs.shared_mapping(child.pid, address, PROC) == place
            assert not place.is_pipecap
            assert place.file in procfs.shared_files(child.pid, PROC)


def test_mapped_files_may_have_any_name(tmp_path: Path) -> None:
    """Also one that is no text, or has spaces: the rows of maps end with it."""
    name = os.fsencode(tmp_path) + b"/two words \xff"
    with open(name, "w+b") as file:
        file.truncate(PAGE)
        with mmap.mmap(file.fileno(), PAGE) as memory:
            assert procfs.shared_mapping(ME, address_of(memory), PROC) is not None
            assert any(each.endswith(f":{os.fstat(file.fileno()).st_ino}") for each in procfs.shared_files(ME, PROC))


def test_memory_is_read_as_it_is() -> None:
    data = ctypes.create_string_buffer(b"some bytes", 3 * PAGE)
    address = ctypes.addressof(data)
    memory = ThreadMemory(ME, ME, PROC)
    assert memory.read(address, 10) == b"some bytes"
    assert memory.read(address, 3 * PAGE) == data.raw
    assert memory.read(address, 0) == b""
    with forked(signal.pause) as child:
        assert ThreadMemory(child.pid, child.pid, PROC).read(address, 10) == b"some bytes"


@pytest.mark.parametrize("address", [0, 8, 2**47, 2**63, 2**64 - 8, 2**70])
def test_memory_that_is_not_there_is_none(address: int) -> None:
    assert ThreadMemory(ME, ME, PROC).read(address, 8) is None


def test_memory_that_ends_too_early_is_none() -> None:
    """Half of what was asked for would be taken for all of it."""
    with memfd(2 * PAGE) as (fd, address):
        assert ThreadMemory(ME, ME, PROC).read(address, 2 * PAGE) == bytes(2 * PAGE)
        os.truncate(fd, PAGE)
        assert ThreadMemory(ME, ME, PROC).read(address, PAGE) == bytes(PAGE)
        assert ThreadMemory(ME, ME, PROC).read(address, 2 * PAGE) is None


def test_memory_of_one_who_is_gone_is_none() -> None:
    with forked(signal.pause) as child:
        pass
    assert ThreadMemory(child.pid, child.pid, PROC).read(id(child), 8) is None


@needs_root
def test_memory_that_may_not_be_read_is_none() -> None:
    data = ctypes.create_string_buffer(b"secret")
    address = ctypes.addressof(data)

    def look() -> tuple[bytes | None, tuple[Watched, ...] | None]:
        memory = ThreadMemory(ME, ME, PROC)
        return memory.read(address, 6), memory.epolled(0)

    assert unprivileged(look) == (None, None)
    assert in_child(look)[0] == b"secret"


def test_what_an_epoll_descriptor_watches(pipe: tuple[int, int]) -> None:
    here, there = socket.socketpair()
    with here, there, select.epoll() as epoll:
        memory = ThreadMemory(ME, ME, PROC)
        assert memory.epolled(epoll.fileno()) == ()
        epoll.register(pipe[0], select.EPOLLIN)
        epoll.register(pipe[1], select.EPOLLOUT | select.EPOLLET)
        epoll.register(here.fileno(), select.EPOLLIN | select.EPOLLOUT)
        epoll.register(there.fileno(), 0)
        assert set(memory.epolled(epoll.fileno()) or ()) == {
            Watched(pipe[0], True, False),
            Watched(pipe[1], False, True),
            Watched(here.fileno(), True, True),
            Watched(there.fileno(), False, False),
        }
    assert memory.epolled(1 << 20) is None


# ---- what else is known of a thread and its process ----


def test_the_kernel_function_that_a_thread_sleeps_in(pipe: tuple[int, int]) -> None:
    with forked(lambda: os.read(pipe[0], 1)) as child:
        wait_until(lambda: "pipe_read" in ThreadMemory(child.pid, child.pid, PROC).wchan())
    assert ThreadMemory(child.pid, child.pid, PROC).wchan() == ""
    assert procfs.wchan(f"/proc/{child.pid}") == "unknown"


def test_the_memory_of_a_queue_of_pipecap_is_known() -> None:
    queue = pipecap.get_context("fork").Queue()
    try:
        with open("/proc/self/maps") as file:
            rows = [line.split(maxsplit=5) for line in file if "/memfd:pipecap" in line]
        first = int(rows[0][0].partition("-")[0], 16)
        memory = ThreadMemory(ME, ME, PROC)
        assert memory.is_pipecap(first)
        assert not memory.is_pipecap(id(object()))
        assert not ThreadMemory(10**9, 10**9, PROC).is_pipecap(first)
    finally:
        queue.close()


@pytest.mark.parametrize("number", [signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGCHLD])
def test_a_handler_that_may_end_a_wait_is_known(number: signal.Signals) -> None:
    def handle() -> None:
        for each in (signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(each, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(number, lambda *_: None)

    with forked(and_stay(handle)) as child:
        wait_until(lambda: procfs.handled(child.pid, PROC) == (number.name,))


def test_the_handler_that_python_itself_installs_says_nothing() -> None:
    """Every Python program has one of SIGINT."""
    assert "SIGINT" not in procfs.handled(ME, PROC)
    program = "import signal; print(signal.getsignal(signal.SIGINT).__name__, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "default_int_handler\n"
        assert procfs.handled(other.pid, PROC) == ()
        other.communicate("\n")
    assert procfs.handled(other.pid, PROC) == ()


def test_a_terminal_is_known_by_its_name(pipe: tuple[int, int], tmp_path: Path) -> None:
    leader, terminal = os.openpty()
    null = os.open(os.devnull, os.O_RDONLY)
    with closing(leader, terminal, null), open(tmp_path / "file", "wb") as file:
        assert procfs.is_terminal(ME, terminal, PROC)
        others = [*pipe, null, file.fileno(), 1 << 20]
        assert not any(procfs.is_terminal(ME, fd, PROC) for fd in others)


def test_cpu_time_is_that_of_one_thread() -> None:
    def spin() -> None:
        while True:
            pass

    with forked(spin) as child, forked(signal.pause) as other:
        wait_until(lambda: procfs.cpu_seconds(child.pid, child.pid, PROC) >= 0.02)
        assert procfs.cpu_seconds(other.pid, other.pid, PROC) <= 0.02
    with pytest.raises((FileNotFoundError, ProcessLookupError)):
        procfs.cpu_seconds(child.pid, child.pid, PROC)


def test_the_age_of_a_process_grows_and_is_0_where_it_cannot_be_read(tmp_path: Path) -> None:
    start = procfs.stat(f"/proc/{ME}").start
    first = procfs.age(start, PROC)
    assert 0 < first <= procfs.uptime(PROC)
    assert procfs.age(start, PROC) >= first
    assert procfs.age(start + 10**9, PROC) == 0.0  # of one that began after the clock was read
    assert procfs.age(start, str(tmp_path)) == 0.0


def test_a_user_has_a_name_or_a_number() -> None:
    assert procfs.user(0) == pwd.getpwuid(0).pw_name
    assert procfs.user(4_000_000_000) == "4000000000"


# ---- what ends meanwhile ----


def test_those_who_end_meanwhile_are_left_out() -> None:
    """However it races: nothing but what is gone may be raised, and that is for the caller to suppress."""

    def come_and_go() -> None:
        while True:
            pid = os.fork()
            if not pid:
                os._exit(0)
            os.waitpid(pid, 0)

    with forked(come_and_go):
        for _ in range(20):
            assert ME in take().processes


def test_threads_that_end_meanwhile_are_left_out() -> None:
    def come_and_go() -> None:
        while True:
            one = threading.Thread(target=int)
            one.start()
            one.join()

    with forked(come_and_go) as child:
        for _ in range(20):
            assert take().processes[child.pid].pid == child.pid


@pytest.mark.skipif(is_root(), reason="root may look into all processes")
def test_init_may_not_be_looked_into() -> None:
    with pytest.raises(PermissionError):
        procfs.descriptors(1, PROC)
