"""Two looks at a /proc: made by hand for what this host cannot show, the real one with all kinds of rights.

Whatever may not be read is said to be unknown, and no deadlock rests on it.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn
from unittest import SkipTest

import pytest
from children import Child, forked, place, state, wait_until, wait_until_in
from conftest import needs_root
from privilege import become_unprivileged, in_child, is_root, unprivileged, unused_uid
from programs import HERE

from pipecap.diagnosis import evidence, movement
from pipecap.diagnosis.diagnose import diagnose
from pipecap.diagnosis.finding import Diagnosis, Finding
from pipecap.diagnosis.wakers import note_wakers
from pipecap.errors import AccessDenied, InvalidValue, ProcessGone, Unsupported
from pipecap.kernel.pipes import PipeState
from pipecap.proc import peek, procfs
from pipecap.proc.snapshot import take

WINDOW = 0.02
PATIENCE = 0.05
JOIN_BEFORE_GET = (HERE / "hanging/join_before_get.py").read_text()
PAGE = os.sysconf("SC_PAGESIZE")
CAPACITY = 16 * PAGE
STACK = "0x7ffd8c0de000 0x7f14a2d1b7e2"
READS, WRITES, BOTH = "00", "01", "02"
PF_KTHREAD = 0x00200000

PARENT, CHILD, OTHER = 100, 101, 102
PIPE, SECOND = "pipe:[7001]", "pipe:[7002]"
FULL = PipeState("pipe", CAPACITY, 16, CAPACITY, True, 7001, PAGE, {})
EMPTY = PipeState("pipe", CAPACITY, 16, 0, False, 7001, PAGE, {})
HALF = PipeState("pipe", CAPACITY, 16, 5000, False, 7001, PAGE, {})

# System calls as x86-64 has them.
WRITE = f"1 0x4 0x7f0000000000 0xf4240 0x0 0x0 0x0 {STACK}"
READ = f"0 0x3 0x7f0000000000 0x10 0x0 0x0 0x0 {STACK}"
SLEEP = f"230 0x0 0x0 0x7ffd00000000 0x0 0x0 0x0 {STACK}"
LOCK = f"202 0x7f0000001000 0x189 0x0 0x0 0x0 0xffffffff {STACK}"


def wait4(pid: int) -> str:
    return f"61 {pid & (1 << 64) - 1:#x} 0x0 0x0 0x0 0x0 0x0 {STACK}"


# ---- a /proc made by hand ----


class Tree:
    """A /proc of regular files and links, as far as it is read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.proc = str(root)
        self.states: dict[str, PipeState | str] = {PIPE: FULL, SECOND: FULL}
        (root / "self").mkdir()

    def process(
        self,
        pid: int,
        *,
        ppid: int = 1,
        session: int = PARENT,
        letter: str = "S",
        start: int = 5000,
        name: str = "python3",
        flags: int = 0,
        fds: dict[int, tuple[str, str]] | None = None,
        pids: str = "",
        syscall: str | None = None,
        wchan: str = "0",
    ) -> Path:
        """Add a process with one thread, which waits as thread() has it."""
        path = self.root / str(pid)
        (path / "task").mkdir(parents=True)
        (path / "fd").mkdir()
        (path / "fdinfo").mkdir()
        _stat(path, pid, name, letter, ppid, session, start, flags)
        (path / "status").write_text(f"Name:\t{name}\nNSpid:\t{pids or pid}\n")
        (path / "cmdline").write_text("" if flags & PF_KTHREAD else f"{name}\0program.py\0")
        (path / "maps").write_text("")
        for fd, (link, mode) in (fds or {}).items():
            self.descriptor(pid, fd, link, mode)
        self.thread(pid, pid, letter=letter, start=start, syscall=syscall, wchan=wchan)
        return path

    def descriptor(self, pid: int, fd: int, link: str, mode: str) -> None:
        (self.root / str(pid) / "fd" / str(fd)).symlink_to(link)
        (self.root / str(pid) / "fdinfo" / str(fd)).write_text(f"pos:\t0\nflags:\t{mode}\n")

    def thread(
        self,
        pid: int,
        tid: int,
        *,
        syscall: str | None = None,
        wchan: str = "0",
        letter: str = "S",
        start: int = 5000,
        switches: int = 10,
    ) -> Path:
        """Add a thread; without `syscall` that file is missing, as in a kernel without it."""
        path = self.root / str(pid) / "task" / str(tid)
        path.mkdir()
        _stat(path, tid, "python3", letter, 1, PARENT, start, 0)
        (path / "status").write_text(f"Name:\tpython3\nvoluntary_ctxt_switches:\t{switches}\n")
        (path / "wchan").write_text(wchan)
        if syscall is not None:
            (path / "syscall").write_text(syscall + "\n")
        return path

    def look(self, pid: int | None = PARENT, patience: float = PATIENCE) -> Diagnosis:
        return diagnose(pid, window=WINDOW, patience=patience, stacks=False, proc=self.proc)


def _stat(path: Path, pid: int, name: str, letter: str, ppid: int, session: int, start: int, flags: int) -> None:
    fields = [letter, ppid, pid, session, 0, -1, flags, *[0] * 12, start, *[0] * 30]
    (path / "stat").write_text(f"{pid} ({name}) {' '.join(map(str, fields))}\n")


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tree]:
    """Give an empty tree that any user can reach.

    What files and links cannot show is put in: the machine, modes of descriptors (taken from fdinfo), states of pipes.
    """
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        root.chmod(0o755)
        made = Tree(root)

        def descriptors(pid: int, proc: str) -> list[procfs.Open]:
            opened = []
            for name in os.listdir(f"{proc}/{pid}/fd"):
                info = Path(f"{proc}/{pid}/fdinfo/{name}").read_text()
                link, mode = os.readlink(f"{proc}/{pid}/fd/{name}"), info.split()[-1]
                opened.append(procfs.Open(int(name), link, reads=mode != WRITES, writes=mode != READS))
            return opened

        monkeypatch.setattr(platform, "machine", lambda: "x86_64")
        monkeypatch.setattr(procfs, "descriptors", descriptors)
        monkeypatch.setattr(peek, "state_of", lambda file, holders, *, proc: made.states[str(file)])
        yield made
        for path in (root, *root.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755)


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Do something between the two looks, instead of waiting."""

    def set_up(action: Callable[[], object]) -> None:
        clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: action())
        monkeypatch.setattr(evidence, "time", clock)

    return set_up


def only(found: Diagnosis) -> Finding:
    (finding,) = found.findings
    return finding


def verdicts(found: Diagnosis) -> list[str]:
    return [finding.verdict for finding in found.findings]


def join_before_get(tree: Tree, *, parent: str = wait4(CHILD), writer: str = WRITE) -> None:
    """Let a child write to a full pipe that only its parent reads, who waits for it to end."""
    tree.process(PARENT, fds={3: (PIPE, READS)}, syscall=parent, wchan="do_wait")
    tree.process(CHILD, ppid=PARENT, fds={4: (PIPE, WRITES)}, syscall=writer, wchan="anon_pipe_write")


def test_what_is_hung_by_hand_is_told_as_if_it_were_real(tree: Tree) -> None:
    """The case that the others vary."""
    join_before_get(tree)
    found = tree.look()
    finding = only(found)
    assert (finding.verdict, finding.pattern) == ("deadlock", "join before get")
    assert {(party.role, party.pid) for party in finding.parties} == {("writer", CHILD), ("reader", PARENT)}
    assert not any(party.weak for party in finding.parties)
    writer = finding.parties[0]
    assert (writer.fd, writer.count, writer.to_go) == (4, 1_000_000, 1_000_000 - CAPACITY)
    assert found.unknown == ()


# ---- without /proc/PID/syscall ----


def weak_pair(tree: Tree, *, parent: str = "do_wait", writer: str = "anon_pipe_write") -> None:
    tree.process(PARENT, fds={3: (PIPE, READS)}, wchan=parent)
    tree.process(CHILD, ppid=PARENT, fds={4: (PIPE, WRITES)}, wchan=writer)


@pytest.mark.parametrize("how", ["absent", "forbidden"])
def test_without_the_system_call_wchan_serves_and_is_said_to_be_weaker(tree: Tree, how: str) -> None:
    """Yama's ptrace_scope 1 forbids `syscall` and `mem`, and leaves `fd`, `maps`, `wchan` and `stat`."""
    weak_pair(tree)
    if how == "forbidden":
        for pid in (PARENT, CHILD):
            path = tree.root / f"{pid}/task/{pid}/syscall"
            path.write_text("no business of yours")
            path.chmod(0)
    finding = only(unprivileged(tree.look))
    assert (finding.verdict, finding.pattern) == ("deadlock", "join before get")
    assert all(party.weak for party in finding.parties)
    assert "weaker evidence" in finding.cause
    writer = finding.parties[0]
    assert (writer.role, writer.fd, writer.count, writer.to_go) == ("writer", None, None, None)
    assert writer.file == PIPE


@pytest.mark.parametrize("wchan", ["futex_wait_queue", "do_sys_poll", "ep_poll", "pipe_read", "hrtimer_nanosleep"])
def test_wchan_does_not_tell_a_time_limit_so_nothing_is_proven_with_it(tree: Tree, wchan: str) -> None:
    weak_pair(tree, parent=wchan)
    assert verdicts(tree.look()) == ["stall"]


def test_a_weak_wait_for_a_child_is_one_for_any_child(tree: Tree) -> None:
    weak_pair(tree)
    tree.process(OTHER, ppid=PARENT, wchan="hrtimer_nanosleep")
    assert verdicts(tree.look()) == ["stall"]


def test_a_weak_writer_to_two_full_pipes_is_not_guessed_about(tree: Tree) -> None:
    """Which of them it writes to does not show; the other may be read."""
    weak_pair(tree)
    tree.descriptor(CHILD, 5, SECOND, WRITES)
    tree.process(OTHER, fds={3: (SECOND, READS)}, wchan="hrtimer_nanosleep")
    assert tree.look().findings == ()


def test_a_weak_writer_with_one_full_pipe_of_two_writes_to_that(tree: Tree) -> None:
    weak_pair(tree)
    tree.descriptor(CHILD, 5, SECOND, WRITES)
    tree.states[SECOND] = EMPTY
    finding = only(tree.look())
    assert (finding.verdict, [pipe.file for pipe in finding.pipes]) == ("deadlock", [PIPE])


def test_a_weak_writer_that_ran_in_between_is_not_blocked(
    tree: Tree, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    """Its kernel function is the same; the count of its sleeps is not."""
    weak_pair(tree)
    status = tree.root / f"{CHILD}/task/{CHILD}/status"
    meanwhile(lambda: status.write_text("Name:\tpython3\nvoluntary_ctxt_switches:\t12\n"))
    assert tree.look().findings == ()


def test_without_wchan_too_nothing_is_claimed(tree: Tree) -> None:
    """As in some sandboxes: neither says where a thread is."""
    weak_pair(tree)
    for pid in (PARENT, CHILD):
        (tree.root / f"{pid}/task/{pid}/wchan").unlink()
    assert tree.look().findings == ()


def test_a_machine_whose_numbers_are_not_known_is_read_by_wchan(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "s390x")
    join_before_get(tree)
    finding = only(tree.look())
    assert finding.verdict == "deadlock"
    assert all(party.weak for party in finding.parties)


# ---- what may not be read ----


def close_process(tree: Tree, pid: int) -> None:
    """Have a process of somebody else: neither its descriptors nor its system calls may be read."""
    (tree.root / f"{pid}/fd").chmod(0)


def test_one_that_shares_only_the_session_cannot_have_inherited_an_end(tree: Tree) -> None:
    """It descends from no holder, and was there before them."""
    join_before_get(tree)
    tree.process(OTHER, session=PARENT, start=1000)
    close_process(tree, OTHER)
    assert verdicts(unprivileged(tree.look)) == ["deadlock"]


def test_one_that_was_started_later_in_the_session_could_hold_an_end(tree: Tree) -> None:
    """What made the pipe for both may have ended, or closed it."""
    join_before_get(tree)
    tree.process(OTHER, session=PARENT, start=6000)
    close_process(tree, OTHER)
    assert verdicts(unprivileged(tree.look)) == ["stall"]


def test_one_that_shares_the_session_of_orphans_could_hold_an_end(tree: Tree) -> None:
    """The ancestor that made the pipe has ended, and who its other children are cannot be told any more."""
    tree.process(PARENT, fds={3: (PIPE, READS)}, syscall=LOCK.replace("0x189", "0x89"), wchan="futex")
    tree.process(CHILD, fds={4: (PIPE, WRITES)}, syscall=WRITE, wchan="anon_pipe_write")
    assert verdicts(tree.look(CHILD)) == ["deadlock"]
    tree.process(OTHER, session=PARENT)
    close_process(tree, OTHER)
    found = unprivileged(lambda: tree.look(CHILD))
    assert verdicts(found) == ["stall"]
    assert len(found.unknown) == 1
    assert str(OTHER) in found.unknown[0]
    assert "root" in found.unknown[0]


def test_one_who_descends_from_a_holder_could_hold_an_end(tree: Tree) -> None:
    """Also through others, and with a session of its own."""
    join_before_get(tree)
    tree.process(OTHER, ppid=CHILD, session=OTHER, syscall=SLEEP)
    tree.process(103, ppid=OTHER, session=103)
    close_process(tree, 103)
    assert verdicts(unprivileged(tree.look)) == ["stall"]


def test_the_user_who_made_the_pipe_could_hold_an_end_if_holders_descend_from_it(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    join_before_get(tree)
    tree.process(50, session=50)
    (tree.root / f"{PARENT}/stat").write_text((tree.root / f"{PARENT}/stat").read_text().replace(" 1 ", " 50 ", 1))
    close_process(tree, 50)
    maker = tree.root.stat().st_uid
    monkeypatch.setattr(peek, "owner", lambda holders, *, proc: maker)
    assert verdicts(unprivileged(tree.look)) == ["stall"]


def test_somebody_who_has_nothing_to_do_with_it_does_not_matter(tree: Tree) -> None:
    """Else nobody but root could have anything proven."""
    join_before_get(tree)
    tree.process(OTHER, session=OTHER)
    close_process(tree, OTHER)
    found = unprivileged(tree.look)
    assert verdicts(found) == ["deadlock"]
    assert found.unknown == ()
    assert found.footnote.startswith("1 process of other users could not be read")


def test_a_process_hidden_by_hidepid_is_a_footnote(tree: Tree) -> None:
    join_before_get(tree)
    tree.process(OTHER).chmod(0)
    found = unprivileged(tree.look)
    assert verdicts(found) == ["deadlock"]
    assert found.unknown == ()
    assert found.footnote.startswith("1 process of other users could not be read")


def test_what_hides_whose_child_it_is_and_its_session_could_hold_an_end(tree: Tree) -> None:
    """It is the child of a holder, which only the parent's `children` would tell."""
    join_before_get(tree)
    (tree.root / f"{CHILD}/task/{CHILD}/children").write_text(f"{OTHER} ")
    tree.process(OTHER, ppid=CHILD, session=PARENT).chmod(0)
    assert verdicts(unprivileged(tree.look)) == ["stall"]


def test_asking_for_one_who_may_not_be_looked_into_says_so(tree: Tree) -> None:
    join_before_get(tree)
    tree.process(OTHER, session=OTHER)
    close_process(tree, OTHER)
    with pytest.raises(AccessDenied, match=str(OTHER)):
        unprivileged(lambda: tree.look(OTHER))
    with pytest.raises(ProcessGone):
        tree.look(9999)


def test_a_child_that_may_not_be_looked_into_may_end(tree: Tree) -> None:
    """The parent waits for any child, and nobody sees what that one does."""
    join_before_get(tree, parent=wait4(-1))
    tree.process(OTHER, ppid=PARENT, session=OTHER)
    close_process(tree, OTHER)
    assert verdicts(unprivileged(tree.look)) == ["stall"]


@pytest.mark.parametrize("state", ["made by another user, who alone may open it: run as root", "gone"])
def test_a_pipe_that_may_not_be_opened_is_full_if_its_writer_sleeps(tree: Tree, state: str) -> None:
    join_before_get(tree)
    tree.states[PIPE] = state
    finding = only(tree.look())
    assert finding.verdict == "deadlock"
    (pipe,) = finding.pipes
    assert (pipe.capacity, pipe.unread, pipe.full, pipe.unknown) == (None, None, None, state)


# ---- who moves meanwhile ----


def test_a_pid_that_was_used_again_is_somebody_else(
    tree: Tree, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    join_before_get(tree)

    def use_again() -> None:
        shutil.rmtree(tree.root / str(CHILD))
        tree.process(CHILD, ppid=PARENT, start=5900, fds={4: (PIPE, WRITES)}, syscall=WRITE, wchan="anon_pipe_write")

    meanwhile(use_again)
    assert tree.look().findings == ()


def test_a_thread_that_ends_meanwhile_leaves_the_others_blocked(
    tree: Tree, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    join_before_get(tree)
    task = tree.thread(PARENT, 110, syscall=SLEEP)
    assert verdicts(tree.look()) == ["stall"]
    meanwhile(lambda: shutil.rmtree(task))
    assert verdicts(tree.look()) == ["deadlock"]


def test_a_thread_that_begins_meanwhile_could_read(
    tree: Tree, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    """Even if it waits for the same child already."""
    join_before_get(tree)
    meanwhile(lambda: tree.thread(PARENT, 110, syscall=wait4(CHILD)))
    assert verdicts(tree.look(patience=0.0)) == ["stall"]


def test_a_writer_that_ends_meanwhile_is_no_finding(
    tree: Tree, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    join_before_get(tree)
    meanwhile(lambda: shutil.rmtree(tree.root / str(CHILD)))
    assert tree.look().findings == ()


def test_a_process_that_ends_while_it_is_looked_at_is_left_out(tree: Tree) -> None:
    """Its directory is there, and nothing in it any more."""
    join_before_get(tree)
    (tree.root / "200").mkdir()
    half = tree.process(201)
    (half / "task/201/stat").unlink()
    assert 200 not in take(proc=tree.proc).processes
    assert verdicts(tree.look()) == ["deadlock"]


def test_a_reader_handed_on_during_the_second_look_is_not_overlooked(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who held the read end forks and exits when all have just been listed: it is gone, and its child is not listed."""
    join_before_get(tree)
    tree.process(OTHER, session=OTHER, fds={3: (PIPE, READS)}, syscall="running", letter="R")
    listing = procfs.pids
    looks: list[list[int]] = []

    def pids(proc: str) -> list[int]:
        looks.append(list(listing(proc)))
        if len(looks) == 2:
            shutil.rmtree(tree.root / str(OTHER))
            tree.process(103, ppid=1, session=OTHER, fds={3: (PIPE, READS)}, syscall="running", letter="R")
        return looks[-1]

    monkeypatch.setattr(procfs, "pids", pids)
    assert "deadlock" not in verdicts(tree.look())


def test_a_pipe_that_is_read_while_it_is_observed_does_not_stall(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal counts at two moments would be no proof of standstill; another count is one of movement."""
    join_before_get(tree, parent=SLEEP)
    (stall,) = tree.look().findings
    assert (stall.verdict, stall.moving) == ("stall", None)
    half = PipeState("pipe", CAPACITY, 16, CAPACITY - PAGE, True, 7001, PAGE, {})
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: tree.states.update({PIPE: half}))
    monkeypatch.setattr(movement, "time", clock)
    (busy,) = tree.look().findings
    assert (busy.verdict, busy.pattern) == ("busy", "slow reader")


# ---- children, zombies, namespaces, the kernel ----


def test_a_zombie_ends_the_wait_for_any_child(tree: Tree) -> None:
    join_before_get(tree, parent=wait4(-1))
    assert verdicts(tree.look()) == ["deadlock"]
    tree.process(OTHER, ppid=PARENT, letter="Z")
    assert verdicts(tree.look()) == ["stall"]


def test_a_zombie_does_not_end_the_wait_for_another_child(tree: Tree) -> None:
    join_before_get(tree)
    tree.process(OTHER, ppid=PARENT, letter="Z")
    assert verdicts(tree.look()) == ["deadlock"]


def test_a_zombie_that_was_waited_for_is_about_to_be_reaped(tree: Tree) -> None:
    join_before_get(tree, parent=wait4(OTHER))
    tree.process(OTHER, ppid=PARENT, letter="Z")
    assert verdicts(tree.look()) == ["stall"]


def test_asking_for_a_zombie_says_that_it_is_gone(tree: Tree) -> None:
    tree.process(PARENT, letter="Z")
    with pytest.raises(ProcessGone):
        tree.look()


@pytest.mark.parametrize("letter", ["T", "t"])
def test_one_who_is_stopped_may_go_on(tree: Tree, letter: str) -> None:
    tree.process(PARENT, fds={3: (PIPE, READS)}, syscall=READ, letter=letter)
    tree.process(CHILD, ppid=PARENT, fds={4: (PIPE, WRITES)}, syscall=WRITE)
    finding = only(tree.look())
    assert (finding.verdict, finding.pattern) == ("stall", "reader stopped")


@pytest.mark.parametrize(("waited", "verdict"), [(5, "deadlock"), (6, "stall")])
def test_a_child_is_known_by_its_number_in_the_namespace_of_who_waits(tree: Tree, waited: int, verdict: str) -> None:
    """Seen from outside of a container, numbers are others: the one waited for is 5 in there, and 101 here."""
    tree.process(PARENT, pids=f"{PARENT}\t4", fds={3: (PIPE, READS)}, syscall=wait4(waited))
    tree.process(CHILD, ppid=PARENT, pids=f"{CHILD}\t5", fds={4: (PIPE, WRITES)}, syscall=WRITE)
    tree.process(OTHER, ppid=PARENT, pids=f"{OTHER}\t6", syscall=SLEEP)
    assert verdicts(tree.look()) == [verdict]


def test_a_child_with_a_namespace_of_its_own_is_known_by_its_number_outside_of_it(tree: Tree) -> None:
    """Its parent waits for 5: in its own namespace it is 1, as any first process of a container is."""
    tree.process(PARENT, pids=f"{PARENT}\t4", fds={3: (PIPE, READS)}, syscall=wait4(5))
    tree.process(CHILD, ppid=PARENT, pids=f"{CHILD}\t5\t1", fds={4: (PIPE, WRITES)}, syscall=WRITE)
    assert verdicts(tree.look()) == ["deadlock"]


def test_threads_of_the_kernel_are_left_out(tree: Tree) -> None:
    join_before_get(tree)
    tree.process(2, ppid=0, session=0, name="kthreadd", flags=PF_KTHREAD | 0x8040)
    tree.process(30, ppid=2, session=0, name="kworker/0:1", flags=PF_KTHREAD | 0x4208060)
    close_process(tree, 2)
    close_process(tree, 30)
    assert take(proc=tree.proc).processes.keys() == {PARENT, CHILD}
    assert unprivileged(tree.look).unknown == ()


def test_in_a_container_process_2_is_like_any_other(tree: Tree) -> None:
    """There is no kthreadd in there, and 2 is what a shell or an init started first."""
    tree.process(1, ppid=0, session=1, name="sh", syscall=wait4(2))
    tree.process(2, ppid=1, session=1, fds={3: (PIPE, READS)}, syscall=wait4(3))
    tree.process(3, ppid=2, session=1, fds={4: (PIPE, WRITES)}, syscall=WRITE)
    assert take(proc=tree.proc).processes.keys() == {1, 2, 3}
    assert only(tree.look(2)).pattern == "join before get"


def test_a_reader_that_is_process_2_of_a_container_is_not_overlooked(tree: Tree) -> None:
    join_before_get(tree)
    tree.process(2, ppid=1, session=1, fds={3: (PIPE, READS)}, syscall=SLEEP)
    assert verdicts(tree.look()) == ["stall"]


def test_other_threads_live_on_when_the_first_has_ended(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a process looks like a zombie, and may read all the same: its descriptors are those of another thread."""
    join_before_get(tree)
    tree.process(OTHER, ppid=1, letter="Z")
    path = tree.thread(OTHER, 110, syscall=SLEEP)
    shutil.copytree(tree.root / f"{PARENT}/fd", path / "fd", symlinks=True)
    shutil.copytree(tree.root / f"{PARENT}/fdinfo", path / "fdinfo")
    listed = list(procfs.pids(tree.proc))
    monkeypatch.setattr(procfs, "pids", lambda proc: listed)
    (tree.root / "110").symlink_to(f"{OTHER}/task/110")  # the real one has it, too, and does not list it
    assert verdicts(tree.look()) == ["stall"]


def test_threads_of_our_own_that_only_look_are_left_out(tree: Tree) -> None:
    """A watchdog that diagnoses its own process runs, and reads no pipe."""
    join_before_get(tree)
    tree.thread(PARENT, 110, syscall="running", letter="R")
    assert "deadlock" not in verdicts(tree.look())
    seen = evidence.gather(window=WINDOW, proc=tree.proc, ignored=[110])
    note_wakers(seen)
    assert seen.wakers == {PARENT: {CHILD}, CHILD: {PARENT}}


def test_where_there_is_no_procfs(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="no processes"):
        diagnose(proc=str(tmp_path))


@pytest.mark.parametrize("window", [0, -1, 3600, float("nan"), float("inf")])
def test_a_window_that_is_none(window: float) -> None:
    with pytest.raises(InvalidValue, match="window"):
        diagnose(window=window)


def test_mounts_that_may_hang_are_not_looked_into(tree: Tree) -> None:
    """A stat on a dead one never returns. Also one with a space in its path, which mountinfo writes in octal."""
    (tree.root / "self/mountinfo").write_text(
        "22 1 8:1 / / rw - ext4 /dev/root rw\n"
        "40 22 0:50 / /net/home rw shared:5 - nfs4 server:/home rw\n"
        "41 22 0:51 / /net/my\\040files rw - fuse.sshfs host: rw\n"
    )
    tree.process(
        PARENT,
        fds={3: ("/net/home/fifo", READS), 4: ("/net/my files/fifo", READS), 5: ("/tmp/no such fifo", READS)},
        syscall=READ,
    )
    asked: list[str] = []
    real = os.stat

    def stat(path: str, **options: bool) -> os.stat_result:
        asked.append(str(path))
        return real(path, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "stat", stat)
        take(proc=tree.proc)
    assert [path for path in asked if "/fd/" in path] == [f"{tree.proc}/{PARENT}/fd/5"]


# ---- the real /proc: as root, as the same user, as another one ----


def alone() -> None:
    """Keep nothing of what was inherited, in a session of its own: like a program that was started."""
    os.setsid()
    os.closerange(3, 4096)


def ends_with_its_parent() -> None:
    """To be called after the last change of user, which undoes it."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    signal.alarm(60)


def write_for_ever(fd: int) -> NoReturn:
    while True:
        os.write(fd, bytes(1_000_000))


def child_of(function: Callable[[], object]) -> int:
    """Fork one more, which ends with this one; its function never returns."""
    pid = os.fork()
    if not pid:
        try:
            function()
        finally:
            os._exit(1)
    return pid


def pair(uid: int | None = None) -> Callable[[], None]:
    """Give a program that hangs as the documented example does; `uid`: as that user."""

    def run() -> None:
        alone()
        if uid is not None:
            become_unprivileged(uid)
        read_end, write_end = os.pipe()

        def write() -> None:
            ends_with_its_parent()
            os.close(read_end)
            write_for_ever(write_end)

        child = child_of(write)
        os.close(write_end)
        os.waitpid(child, 0)

    return run


@contextmanager
def running(program: Callable[[], object], *, ready: Callable[[int], bool] | None = None) -> Iterator[int]:
    """Run a program in a forked child until it stands still; by default: it waits, and a child of it writes."""
    with forked(program) as child:
        if ready is None:
            wait_until_in("wait", child.pid)
            wait_until(lambda: any("pipe_write" in place(pid) for pid in children_of(child.pid)))
        else:
            check = ready
            wait_until(lambda: check(child.pid), lambda: places_of(child))
        yield child.pid


def places_of(child: Child[object]) -> str:
    return str({pid: place(pid) for pid in (child.pid, *children_of(child.pid))})


def children_of(pid: int) -> list[int]:
    return [int(name) for name in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def forbidden() -> set[str]:
    """Give the processes into which not even root may look: those with capabilities that were taken from it."""
    closed = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            for fd in (path / "fd").iterdir():
                with suppress(FileNotFoundError):
                    os.readlink(fd)
        except PermissionError:
            closed.add(path.name)
        except FileNotFoundError:
            continue
    return closed


def look_as(uid: int, pid: int | None) -> Diagnosis:
    return in_child(lambda: diagnose(pid, window=0.1, patience=0.3), become=lambda: become_unprivileged(uid))


def test_the_user_who_runs_it_needs_no_more_rights() -> None:
    if is_root():
        uid = unused_uid()
        with running(pair(uid)) as pid:
            found = look_as(uid, pid)
            everything = look_as(uid, None)
        assert found.unknown == ()
        assert "of other users could not be read" in found.footnote
        assert [finding.parties for finding in everything.findings] == [finding.parties for finding in found.findings]
    else:
        with running(pair()) as pid:
            found = diagnose(pid, window=0.1, patience=0.3)
    finding = only(found)
    assert (finding.verdict, finding.pattern) == ("deadlock", "join before get")
    assert not any(party.weak for party in finding.parties)
    (pipe,) = finding.pipes
    assert (pipe.full, pipe.unread, pipe.unknown) == (True, pipe.capacity, "")


@needs_root
def test_root_sees_what_belongs_to_others() -> None:
    with running(pair(unused_uid())) as pid:
        found = diagnose(pid, window=0.1, patience=0.3)
        (child,) = children_of(pid)
    finding = only(found)
    assert (finding.verdict, finding.pattern) == ("deadlock", "join before get")
    assert {party.pid for party in finding.parties} == {pid, child}
    assert found.unknown == () or forbidden()


@needs_root
def test_processes_of_others_do_not_matter_where_nothing_hangs() -> None:
    with running(pair(unused_uid())) as pid:
        with pytest.raises(AccessDenied, match=f"process {pid}"):
            look_as(unused_uid(), pid)
        found = look_as(unused_uid(), None)
    assert found.findings == ()
    assert found.unknown == ()  # nothing of that user's waits for it


@needs_root
@pytest.mark.parametrize("who", ["root", "user"])
def test_a_pipe_made_before_rights_were_dropped_may_not_be_opened_any_more(who: str) -> None:
    """Its writer sleeps all the same; who but those that are seen holds it, its user cannot tell."""
    user = unused_uid()

    def run() -> None:
        alone()
        read_end, write_end = os.pipe()
        become_unprivileged(user)

        def write() -> None:
            ends_with_its_parent()
            os.close(read_end)
            write_for_ever(write_end)

        child = child_of(write)
        os.close(write_end)
        os.waitpid(child, 0)

    with running(run) as pid:
        found = diagnose(pid, window=0.1, patience=0.3) if who == "root" else look_as(user, pid)
    finding = only(found)
    (pipe,) = finding.pipes
    if who == "root":
        assert (finding.verdict, pipe.full) == ("deadlock", True)
    else:
        assert pipe.capacity is None
        assert "root" in pipe.unknown


@needs_root
@pytest.mark.parametrize("session", ["same", "own"])
def test_a_reader_of_another_user_keeps_it_from_being_proven(session: str) -> None:
    """Both got the pipe from a supervisor that made it and closed its own ends; the reader will read."""
    user, another = unused_uid(), unused_uid()

    def run() -> None:
        alone()
        read_end, write_end = os.pipe()

        def read_later() -> None:
            if session == "own":
                os.setsid()
            os.close(write_end)
            become_unprivileged(another)
            ends_with_its_parent()
            time.sleep(1000)

        def wait() -> None:
            if session == "own":
                os.setsid()
            become_unprivileged(user)
            ends_with_its_parent()

            def write() -> None:
                ends_with_its_parent()
                os.close(read_end)
                write_for_ever(write_end)

            child = child_of(write)
            os.close(write_end)
            os.waitpid(child, 0)

        child_of(read_later)
        child_of(wait)
        os.close(read_end)
        os.close(write_end)
        signal.pause()

    def hung(pid: int) -> bool:
        return any("pipe_write" in place(one) for child in children_of(pid) for one in children_of(child))

    with running(run, ready=hung) as pid:
        (waiter,) = (child for child in children_of(pid) if children_of(child))
        wait_until_in("wait", waiter)
        assert verdicts(diagnose(waiter, window=0.1, patience=0.3)) == ["stall"]
        assert verdicts(look_as(user, waiter)) == ["stall"]


def belonging_to(*uids: int) -> list[int]:
    """Give the processes of some users."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError):
            if path.stat().st_uid in uids:
                found.append(int(path.name))
    return found


@needs_root
def test_a_reader_of_another_user_whose_supervisor_is_gone_will_read() -> None:
    """As before, but who made the pipe has ended: nothing but the pipe's owner, who is neither, tells of others."""
    user, another = unused_uid(), unused_uid()

    def orphan(uid: int, function: Callable[[], object]) -> None:
        def run() -> None:
            os.setsid()
            become_unprivileged(uid)
            signal.alarm(60)
            function()

        child_of(run)

    def supervise() -> None:
        alone()
        read_end, write_end = os.pipe()

        def read_later() -> None:
            os.close(write_end)
            time.sleep(1000)

        def wait() -> None:
            def write() -> None:
                ends_with_its_parent()
                os.close(read_end)
                write_for_ever(write_end)

            child = child_of(write)
            os.close(write_end)
            os.waitpid(child, 0)

        orphan(another, read_later)
        orphan(user, wait)
        os._exit(0)

    try:
        with forked(supervise):
            wait_until(lambda: any("pipe_write" in place(pid) for pid in belonging_to(user)))
            wait_until(lambda: belonging_to(another))
            (waiter,) = (pid for pid in belonging_to(user) if children_of(pid))
            wait_until_in("wait", waiter)
            assert verdicts(diagnose(waiter, window=0.1, patience=0.3)) == ["stall"]
            assert verdicts(look_as(user, waiter)) == ["stall"]
    finally:
        for pid in belonging_to(user, another):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@needs_root
def test_who_holds_a_lock_may_be_one_who_may_not_be_looked_into() -> None:
    """It shares the lock's memory, which nobody may see: the reader is slow, and has not died holding the lock."""
    user, another = unused_uid(), unused_uid()

    def run() -> None:
        alone()
        lock = multiprocessing.get_context("fork").Lock()
        os.seteuid(user)
        read_end, write_end = os.pipe()
        os.seteuid(0)
        os.write(write_end, b"an item")

        def hold() -> None:
            become_unprivileged(another)
            ends_with_its_parent()
            lock.acquire()
            time.sleep(1000)

        holder = child_of(hold)
        wait_until_in("nanosleep", holder)
        become_unprivileged(user)
        lock.acquire()
        os.read(read_end, 1)

    with running(run, ready=lambda pid: "futex" in place(pid)) as pid:
        assert "deadlock" not in verdicts(diagnose(pid, window=0.1, patience=0.3))
        assert "deadlock" not in verdicts(look_as(user, pid))


# ---- the real /proc: hidepid ----


CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE = 0x4000, 0x40000


def mount_proc(directory: str, options: str) -> None:
    """Mount one more procfs where only this process and its children see it."""
    libc = ctypes.CDLL(None, use_errno=True)
    for refused in (
        libc.unshare(CLONE_NEWNS),
        libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None),
        libc.mount(b"proc", directory.encode(), b"proc", 0, options.encode()),
    ):
        if refused:
            raise SkipTest(f"this host does not let us mount procfs: {os.strerror(ctypes.get_errno())}")


@contextmanager
def reachable_directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield directory


def look_through(directory: str, options: str, uid: int, pid: int | None) -> Diagnosis:
    def become() -> None:
        mount_proc(directory, options)
        become_unprivileged(uid)

    return in_child(lambda: diagnose(pid, window=0.1, patience=0.3, proc=directory), become=become)


@needs_root
@pytest.mark.parametrize("option", ["hidepid=1", "hidepid=2"])
def test_hidepid_leaves_what_is_ones_own(option: str) -> None:
    """And says in a footnote that others are hidden: with 2 not how many."""
    uid = unused_uid()
    with reachable_directory() as directory, running(pair(uid)) as pid:
        found = look_through(directory, option, uid, pid)
    assert (only(found).verdict, only(found).parties[0].role) == ("deadlock", "writer")
    assert found.unknown == ()
    assert "of other users could not be read" in found.footnote


@needs_root
@pytest.mark.parametrize("option", ["hidepid=1", "hidepid=2"])
def test_a_reader_hidden_by_hidepid_keeps_it_from_being_proven(option: str) -> None:
    """It is the child of a holder and shares its session, which hidepid hides, too."""
    user, another = unused_uid(), unused_uid()

    def run() -> None:
        alone()
        os.seteuid(user)
        read_end, write_end = os.pipe()
        os.seteuid(0)

        def read_later() -> None:
            os.close(write_end)
            become_unprivileged(another)
            ends_with_its_parent()
            time.sleep(1000)

        child_of(read_later)
        become_unprivileged(user)

        def write() -> None:
            ends_with_its_parent()
            os.close(read_end)
            write_for_ever(write_end)

        child = child_of(write)
        os.close(write_end)
        os.waitpid(child, 0)

    with reachable_directory() as directory, running(run) as pid:
        assert verdicts(look_as(user, pid)) == ["stall"]
        assert verdicts(look_through(directory, option, user, pid)) == ["stall"]


# ---- the real /proc: a first thread that has ended ----


def test_a_reader_whose_first_thread_has_ended_will_read() -> None:
    """A zombie by name; its descriptors are to be seen only under its other threads."""

    def run() -> None:
        alone()
        read_end, write_end = os.pipe()

        def read_later() -> None:
            ends_with_its_parent()
            os.close(write_end)
            threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
            ctypes.CDLL(None).pthread_exit(None)

        def write() -> None:
            ends_with_its_parent()
            os.close(read_end)
            write_for_ever(write_end)

        child_of(read_later)
        child = child_of(write)
        os.close(write_end)
        os.waitpid(child, 0)

    def hung(pid: int) -> bool:
        children = children_of(pid)
        return (
            "wait" in place(pid)
            and any("pipe_write" in place(child) for child in children)
            and any(state(child) == "Z" for child in children)
        )

    with running(run, ready=hung) as pid:
        assert verdicts(diagnose(pid, window=0.1, patience=0.3)) == ["stall"]


# ---- the real /proc: a container's PID namespace ----


NAMESPACE = ["unshare", *([] if is_root() else ["--user", "--map-root-user"]), "--pid", "--fork", "--mount-proc"]

DIAGNOSE = """
import json, sys
from pipecap.diagnosis.diagnose import diagnose
found = diagnose(int(sys.argv[1]), window=0.1, patience=0.3)
print(json.dumps([[one.verdict, one.pattern, [party.pid for party in one.parties]] for one in found.findings]))
"""


def works(*command: str) -> str:
    """Say why a command does not; empty where it does."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return answer.stderr.strip() if answer.returncode else ""


@contextmanager
def in_a_container(program: str) -> Iterator[int]:
    """Run a Python program as process 1 of a PID namespace, up to `ready`; give its pid out here."""
    why = works(*NAMESPACE, "true")
    if why:
        pytest.skip(f"this host has no PID namespaces for us: {why}")
    with subprocess.Popen(
        [*NAMESPACE, sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as outer:
        try:
            assert outer.stdout is not None
            assert outer.stdout.readline() == b"ready\n"
            (inner,) = children_of(outer.pid)
            yield inner
        finally:
            with suppress(ProcessLookupError):
                os.kill(inner, signal.SIGKILL)  # all others in there end with it
            outer.wait()


def wait_until_hung(pid: int) -> None:
    """Return once it waits for its child, whose feeder thread writes to a full pipe."""
    wait_until_in("wait", pid)
    wait_until(
        lambda: any(
            "pipe_write" in place(child, int(task.name))
            for child in children_of(pid)
            for task in Path(f"/proc/{child}/task").iterdir()
        )
    )


def test_a_container_is_diagnosed_from_outside() -> None:
    """Its numbers are others in there; the parent waits for the one that it knows."""
    with in_a_container(JOIN_BEFORE_GET) as pid:
        wait_until_hung(pid)
        finding = only(diagnose(pid, window=0.1, patience=0.3))
        (child,) = children_of(pid)
    assert (finding.verdict, finding.pattern) == ("deadlock", "join before get")
    assert {party.pid for party in finding.parties} >= {pid, child}  # and unshare, which waits for that


def test_a_container_is_diagnosed_from_inside() -> None:
    """There the program is process 1 and its child process 2."""
    with in_a_container(JOIN_BEFORE_GET) as pid:
        wait_until_hung(pid)
        enter = ["nsenter", "--target", str(pid), *([] if is_root() else ["--user"]), "--pid", "--mount"]
        why = works(*enter, "true")
        if why:
            pytest.skip(f"this host does not let us into the namespace: {why}")
        answer = subprocess.run(
            [*enter, sys.executable, "-c", DIAGNOSE, "1"],
            capture_output=True,
            text=True,
            cwd=str(Path.cwd()),
            timeout=20,
        )
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert [(verdict, pattern) for verdict, pattern, _ in found] == [("deadlock", "join before get")]
    assert set(found[0][2]) == {1, 2}
