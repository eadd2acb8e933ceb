"""list_pipes(): what a pipe is, who holds it, who waits on it and what moves, against the kernel, /proc and lsof."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import struct
import subprocess
import sys
import termios
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from children import and_stay, forked, wait_until, wait_until_in
from conftest import needs_root
from privilege import become_unprivileged, in_child

import pipecap
from pipecap.proc import peek, snapshot, syscalls
from pipecap.proc.listing import LivePipe, Looks, Waiter, list_pipes
from pipecap.proc.snapshot import Snapshot, Thread

PAGE = os.sysconf("SC_PAGESIZE")
DEFAULT = 16 * PAGE


def of(fd: int, pipes: list[LivePipe] | tuple[LivePipe, ...]) -> LivePipe:
    """Find the pipe behind one of our descriptors."""
    return next(pipe for pipe in pipes if pipe.inode == os.fstat(fd).st_ino)


def fill(write_end: int) -> None:
    os.write(write_end, bytes(DEFAULT))


def unread(fd: int) -> int:
    count: int = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]
    return count


# What it is.


def test_a_pipe_as_the_kernel_has_it(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"abc")
    found = of(pipe[0], pipecap.list_pipes(os.getpid()))
    assert found.file == os.readlink(f"/proc/self/fd/{pipe[0]}")
    assert (found.kind, found.name, found.unknown) == ("pipe", None, "")
    assert found.capacity == fcntl.fcntl(pipe[0], fcntl.F_GETPIPE_SZ)
    assert (found.slots, found.unread, found.full) == (16, 3, False)
    assert (found.waiting, found.unmoved) == ((), None)


def test_full_is_no_free_slot_whatever_its_unread_bytes(pipe: tuple[int, int]) -> None:
    fill(pipe[1])
    os.read(pipe[0], PAGE - 1)  # of the first slot a byte is left
    found = of(pipe[0], list_pipes(os.getpid()))
    assert (found.full, found.unread) == (True, DEFAULT - PAGE + 1)


def test_a_fifo_has_its_name(fifo: Path) -> None:
    end = os.open(fifo, os.O_RDWR)
    try:
        os.write(end, b"abc")
        found = of(end, list_pipes(os.getpid()))
    finally:
        os.close(end)
    assert (found.kind, found.name, found.unread) == ("fifo", str(fifo), 3)
    assert found.readers == found.writers != ()


def test_a_fifo_with_one_side_only_is_not_opened_and_said_so(fifo: Path) -> None:
    """Opening it for a look would let a writer through that waits in open(2)."""
    end = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        found = of(end, list_pipes(os.getpid()))
    finally:
        os.close(end)
    assert (found.unread, found.full, found.capacity) == (None, None, None)
    assert "one side only" in found.unknown


# Who holds it.


def test_holders_are_those_that_proc_shows(pipe: tuple[int, int]) -> None:
    """Each process that has it, by each descriptor, with the end that it is."""
    copy = os.dup(pipe[1])
    try:
        with forked(signal.pause, close=(pipe[1],)) as child:
            wait_until(lambda: not Path(f"/proc/{child.pid}/fd/{pipe[1]}").exists())
            found = of(pipe[0], list_pipes(os.getpid()))
            assert {(end.pid, end.fd) for end in found.readers} == {(os.getpid(), pipe[0]), (child.pid, pipe[0])}
            writers = {(os.getpid(), pipe[1]), (os.getpid(), copy), (child.pid, copy)}
            assert {(end.pid, end.fd) for end in found.writers} == writers
            everybody = set()
            for link in Path("/proc").glob("[0-9]*/fd/*"):
                with suppress(OSError):  # it ended, or may not be looked into
                    if os.readlink(link) == found.file:
                        everybody.add((int(link.parts[2]), int(link.name)))
            assert {(end.pid, end.fd) for end in (*found.readers, *found.writers)} == everybody
    finally:
        os.close(copy)
    command = Path("/proc/self/cmdline").read_bytes().decode().replace("\0", " ").strip()
    assert {end.command for end in found.readers} == {command}


@pytest.mark.skipif(not shutil.which("lsof"), reason="lsof is not installed")
def test_holders_are_those_that_lsof_shows(pipe: tuple[int, int]) -> None:
    with forked(signal.pause) as child:
        wait_until_in("pause", child.pid)  # it has closed what belongs to its parent
        found = list_pipes(child.pid)
        answer = subprocess.run(
            ["lsof", "-n", "-P", "-p", str(child.pid), "-F", "fati"], capture_output=True, text=True, check=False
        )
    shown = set()
    record: dict[str, str] = {}
    for line in answer.stdout.splitlines():
        record = {"f": line[1:]} if line[0] == "f" else {**record, line[0]: line[1:]}
        if line[0] == "i" and record.get("t") == "FIFO":
            shown.add((int(record["f"]), record["a"], int(line[1:])))
    ours = {
        (end.fd, access, one.inode)
        for one in found
        for access, ends in (("r", one.readers), ("w", one.writers))
        for end in ends
        if end.pid == child.pid
    }
    assert ours == shown
    assert {inode for _, _, inode in ours} >= {os.fstat(pipe[0]).st_ino}


def test_the_tree_has_the_pipes_of_descendants_too() -> None:
    """A pipe that a grandchild alone holds is listed for its grandparent with tree=True only."""

    def start() -> None:
        with forked(and_stay(os.pipe)):
            signal.pause()

    with forked(start) as child:
        before = {one.file for one in list_pipes(child.pid)}

        def of_descendants() -> list[LivePipe]:
            return [
                one
                for one in list_pipes(child.pid, tree=True)
                if one.file not in before and {end.pid for end in one.readers}.isdisjoint({child.pid, os.getpid()})
            ]

        wait_until(of_descendants)
        (grandchild,) = {end.pid for one in of_descendants() for end in one.readers}
        os.kill(grandchild, signal.SIGKILL)


# Who waits.


def test_a_blocked_writer_is_shown_and_comes_first(pipe: tuple[int, int]) -> None:
    fill(pipe[1])
    with forked(lambda: os.write(pipe[1], bytes(100_000))) as child:
        wait_until_in("pipe_write", child.pid)
        found = list_pipes(child.pid, window=0.01)
    assert found[0] == of(pipe[0], found)
    assert found[0].waiting == (Waiter(child.pid, child.pid, f"write(fd {pipe[1]}, 100,000 bytes)", writes=True),)
    assert found[0].blocked
    assert found[0].stalled
    assert found[0].unmoved


def test_a_blocked_reader_is_shown_and_is_no_trouble(pipe: tuple[int, int]) -> None:
    with forked(lambda: os.read(pipe[0], 1)) as child:
        wait_until_in("pipe_read", child.pid)
        found = of(pipe[0], list_pipes(child.pid))
    assert found.waiting == (Waiter(child.pid, child.pid, f"read(fd {pipe[0]})", writes=False),)
    assert not found.blocked


def test_trouble_is_on_top(pipe: tuple[int, int]) -> None:
    """Full with a blocked writer, full, unread, empty."""
    with ExitStack() as opened:
        full, part = os.pipe(), os.pipe()
        for end in (*full, *part):
            opened.callback(os.close, end)
        empty = os.pipe()
        for end in empty:
            opened.callback(os.close, end)
        fill(pipe[1])
        fill(full[1])
        os.write(part[1], b"x")
        child = opened.enter_context(forked(lambda: os.write(pipe[1], b"x")))
        wait_until_in("pipe_write", child.pid)
        ours = [os.fstat(ends[0]).st_ino for ends in (pipe, full, part, empty)]
        assert [one.inode for one in list_pipes(child.pid) if one.inode in ours] == ours


def weak(seen: Snapshot, pid: int, function: str) -> Snapshot:
    """Make it a snapshot in which the calls of a process may not be read: wchan alone tells."""
    process = seen.processes[pid]
    threads = tuple(replace(thread, wait=syscalls.from_wchan(function)) for thread in process.threads)
    return replace(seen, processes={**seen.processes, pid: replace(process, threads=threads)})


def inherited_states() -> list[object]:
    seen = snapshot.take()
    ends = seen.processes[os.getpid()].ends
    return [peek.state_of(end.file, [(os.getpid(), end)], proc="/proc") for end in ends if end.is_pipe]


def test_without_the_call_a_writer_waits_on_the_one_full_pipe_it_has(pipe: tuple[int, int]) -> None:
    if any(isinstance(state, str) for state in inherited_states()):
        pytest.skip("inherited a pipe that this user may not open: it may be the one")
    other = os.pipe()
    try:
        fill(pipe[1])
        with forked(signal.pause) as child:
            found = Looks((child.pid,)).look(weak(snapshot.take(), child.pid, "pipe_write"))
            assert [waiter.pid for waiter in of(pipe[0], found.pipes).waiting] == [child.pid]
            fill(other[1])
            found = Looks((child.pid,)).look(weak(snapshot.take(), child.pid, "pipe_write"))
    finally:
        for end in other:
            os.close(end)
    assert not any(one.waiting for one in found.pipes if one.inode == os.fstat(pipe[0]).st_ino)
    assert any(f"thread {child.pid} of process {child.pid}" in what for what in found.unknown)


# What moves.


def test_unmoved_grows_from_look_to_look_and_starts_anew_when_it_moves(pipe: tuple[int, int]) -> None:
    looks = Looks((os.getpid(),))

    def look() -> LivePipe:
        return of(pipe[0], looks.look(snapshot.take()).pipes)

    assert (look().unmoved, looks.growth(look().file)) == (None, 0.0)
    os.write(pipe[1], b"abc")
    moved = look()
    growth = looks.growth(moved.file)
    assert moved.unmoved == 0.0
    assert growth is not None
    assert growth > 0
    first, second = look().unmoved, look().unmoved
    assert first is not None
    assert second is not None
    assert 0 < first < second
    os.read(pipe[0], 2)
    moved = look()
    growth = looks.growth(moved.file)
    assert moved.unmoved == 0.0
    assert growth is not None
    assert growth < 0


def test_what_came_and_went_between_two_looks_has_moved(pipe: tuple[int, int]) -> None:
    """The count is 0 both times, but the reader that waits there ran."""

    def read() -> None:
        while os.read(pipe[0], 1):
            pass

    with forked(read) as child:
        looks = Looks((child.pid,))
        wait_until_in("pipe_read", child.pid)
        looks.look(snapshot.take())
        assert of(pipe[0], looks.look(snapshot.take()).pipes).unmoved
        os.write(pipe[1], b"x")
        wait_until(lambda: not unread(pipe[0]))
        wait_until_in("pipe_read", child.pid)
        assert of(pipe[0], looks.look(snapshot.take()).pipes).unmoved == 0.0


def test_a_pipe_that_only_the_last_look_found_is_not_called_unmoved(pipe: tuple[int, int]) -> None:
    looks = Looks((os.getpid(),))
    looks.look(snapshot.take())
    new = os.pipe()
    try:
        found = looks.look(snapshot.take()).pipes
        assert of(new[0], found).unmoved == 0.0
        assert of(pipe[0], found).unmoved
    finally:
        for end in new:
            os.close(end)


# What comes, goes, and may not be seen.


def test_a_pipe_closed_since_the_snapshot_is_left_out() -> None:
    ends = os.pipe()
    inode = os.fstat(ends[0]).st_ino
    seen = snapshot.take()
    for end in ends:
        os.close(end)
    assert inode not in [one.inode for one in Looks((os.getpid(),)).look(seen).pipes]


def test_processes_that_come_and_go_are_no_error() -> None:
    program = "import os\nwhile True:\n    if not os.fork(): os.pipe(); os._exit(0)\n    os.wait()\n"
    with subprocess.Popen([sys.executable, "-c", program], start_new_session=True) as child:
        try:
            for _ in range(20):
                list_pipes()
        finally:
            os.killpg(child.pid, signal.SIGKILL)


def test_a_process_that_has_ended_is_gone() -> None:
    with forked(signal.pause) as child:
        zombie = child.end()
        with pytest.raises(pipecap.ProcessGone):
            list_pipes(zombie)
    with pytest.raises(pipecap.ProcessGone):
        list_pipes(zombie, window=0.01)


def test_a_pid_used_again_is_gone() -> None:
    seen = snapshot.take()
    me = seen.processes[os.getpid()]
    looks = Looks((me.pid,))
    assert looks.look(seen).pipes
    found = looks.look(replace(seen, processes={**seen.processes, me.pid: replace(me, start=me.start + 1)}))
    assert (found.pipes, [type(error) for error in looks.failed]) == ((), [pipecap.ProcessGone])


@needs_root
def test_another_users_process_is_denied_and_in_a_list_of_all_unknown() -> None:
    def look() -> tuple[str, tuple[str, ...]]:
        with pytest.raises(pipecap.AccessDenied) as caught:
            list_pipes(os.getppid())
        return caught.value.hint, Looks().look(snapshot.take()).unknown

    hint, unknown = in_child(look, become=become_unprivileged)
    assert "CAP_SYS_PTRACE" in hint
    assert any("may not be looked into" in what and "CAP_SYS_PTRACE" in what for what in unknown)


@needs_root
def test_a_pipe_of_another_user_has_holders_but_an_unknown_state(pipe: tuple[int, int]) -> None:
    def look() -> LivePipe:
        return of(pipe[0], list_pipes(os.getpid(), window=0.01))

    found = in_child(look, become=become_unprivileged)
    assert (found.capacity, found.slots, found.unread, found.full, found.unmoved) == (None,) * 5
    assert "another user" in found.unknown
    assert [end.fd for end in found.readers] == [pipe[0]]


def test_a_missing_procfs_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(pipecap.Unsupported, match="shows no processes"):
        list_pipes(proc=str(tmp_path))


@pytest.mark.parametrize("pid", [0, -1, True, 1.5, "1", [], 2**31, 2**100])
def test_what_is_no_pid_is_an_error_of_the_tree(pid: object) -> None:
    with pytest.raises(pipecap.InvalidValue) as caught:
        list_pipes(pid)  # type: ignore[arg-type]
    assert caught.value.hint


@pytest.mark.parametrize("window", [-1, 3600, float("nan"), True, "1", None])
def test_what_is_no_window_is_too(window: object) -> None:
    with pytest.raises(pipecap.InvalidValue):
        list_pipes(os.getpid(), window=window)  # type: ignore[arg-type]


def test_it_is_frozen_and_plain_data(pipe: tuple[int, int]) -> None:
    found = of(pipe[0], list_pipes(os.getpid()))
    assert not hasattr(found, "__dict__")
    with pytest.raises(AttributeError):
        found.unread = 1  # type: ignore[misc]
    assert isinstance(found.to_dict()["readers"][0], dict)  # type: ignore[index]


def test_a_thread_is_shown_by_its_own_number(pipe: tuple[int, int]) -> None:
    """Not by that of its process."""
    program = (
        "import os, sys, threading\n"
        "threading.Thread(target=os.read, args=(int(sys.argv[1]), 1)).start()\n"
        "print('ready', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(pipe[0])], stdout=subprocess.PIPE, text=True, pass_fds=pipe
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"

            def others() -> list[int]:
                return [
                    int(task.name) for task in Path(f"/proc/{child.pid}/task").iterdir() if int(task.name) != child.pid
                ]

            wait_until(others)
            (tid,) = others()
            wait_until_in("pipe_read", child.pid, tid)
            found = of(pipe[0], list_pipes(child.pid))
            seen: list[Thread] = [thread for thread in snapshot.take().threads() if thread.tid == tid]
        finally:
            child.kill()
    assert [(waiter.pid, waiter.tid) for waiter in found.waiting] == [(child.pid, tid)]
    assert [thread.wait.call for thread in seen] == [found.waiting[0].call]
