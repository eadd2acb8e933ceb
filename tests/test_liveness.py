"""One death each, at a moment that chance seldom meets, and what the others of the queue see of it."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, Full
from typing import Any

import pytest
from children import Child, Thread, and_stay, finish, forked, wait_until
from shims import NO_LOCKS, compiled, may_unshare, output_of

import pipecap

MIB = 1 << 20
CLONE_NEWPID = 0x20000000
fork: Any = pipecap.get_context("fork", exit_warning=None)
kinds = pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
sides = pytest.mark.parametrize("side", ["reading", "writing"])


def lock_of(made: Any, side: str) -> Any:
    return made._rlock if side == "reading" else made._wlock


@pytest.fixture(scope="module")
def no_locks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile what stands in for a sandbox that refuses byte locks."""
    return compiled(tmp_path_factory.mktemp("no_locks"), "no_locks", NO_LOCKS)


@pytest.fixture(params=["Queue"])
def made(request: pytest.FixtureRequest) -> Iterator[Any]:
    queue = getattr(fork, request.param)()
    yield queue
    finish(queue)
    vars(queue).clear()  # pytest keeps the object itself


@contextmanager
def owner(made: Any, side: str) -> Iterator[Child[None]]:
    """Run a child that owns a lock of a queue until it is killed."""
    with forked(and_stay(lock_of(made, side).acquire)) as child:
        wait_until(lambda: made.debug_state()[side] == child.pid)
        yield child


def amid_an_item(made: Any) -> None:
    """Put an item that the pipe cannot hold."""
    made.put(b"a" * 64 * MIB)


# ---- who is alive ----


@sides
def test_a_lock_whose_owner_became_another_program_is_taken_over(made: Any, side: str) -> None:
    def become() -> None:
        lock_of(made, side).acquire()
        os.execv("/bin/sleep", ["sleep", "60"])

    with forked(become) as child:
        wait_until(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n")
        assert made.debug_state()[side] == child.pid
        assert Thread(lambda: lock_of(made, side).acquire(timeout=5)).result() is True
        lock_of(made, side).release()


@sides
def test_a_stopped_owner_keeps_its_lock(made: Any, side: str) -> None:
    with owner(made, side) as child:
        child.signal(signal.SIGSTOP)
        assert lock_of(made, side).acquire(timeout=0.7) is False
        child.end()
        assert lock_of(made, side).acquire(timeout=5) is True
        lock_of(made, side).release()


@kinds
def test_a_reader_stopped_amid_an_item_keeps_it(kind: str) -> None:
    made = getattr(pipecap.get_context("fork", capacity=65_536, exit_warning=None), kind)()
    with forked(made.get) as child:
        wait_until(lambda: made.debug_state()["reading"] == child.pid)
        putting = Thread(lambda: made.put(b"1" * 8 * MIB))
        wait_until(lambda: made.debug_state()["consumed"] > 100)
        child.signal(signal.SIGSTOP)
        assert lock_of(made, "reading").acquire(timeout=0.7) is False
        child.signal(signal.SIGCONT)
        assert child.result() == b"1" * 8 * MIB
        putting.result()
        made.put("next")
        assert Thread(made.get).result() == "next"
    finish(made)


@sides
def test_a_zombie_loses_its_lock_though_no_descriptor_is_free(made: Any, side: str) -> None:
    made.debug_state()
    with owner(made, side) as child:
        child.end()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            assert lock_of(made, side).acquire(timeout=5) is True
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        lock_of(made, side).release()


LIVING_OWNER = """
import resource
import pipecap
from children import and_stay, forked, wait_until
made = pipecap.get_context("fork").Queue()
with forked(and_stay(made._wlock.acquire)) as child:
    wait_until(lambda: made.debug_state()["writing"] == child.pid)
    assert made.debug_state()["participants"][0]["known_by"] == "pid"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    print(made._wlock.acquire(timeout=0.7))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    child.end()
    print(made._wlock.acquire(timeout=5))
"""


def test_an_owner_known_by_its_pid_keeps_its_lock_though_no_descriptor_is_free(no_locks: Path) -> None:
    """Its start time cannot be read then."""
    assert output_of(LIVING_OWNER, library=no_locks).split() == ["False", "True"]


@sides
def test_an_owner_in_another_pid_namespace_is_known_to_live_and_to_be_dead(made: Any, side: str) -> None:
    read_end, write_end = os.pipe()

    def enter() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        refused = ctypes.get_errno() if libc.unshare(CLONE_NEWPID) == -1 else 0
        pid = 0 if refused else os.fork()
        if pid or refused:
            os.write(write_end, f"{pid} {refused}".encode())
        elif os.getpid() == 1:
            lock_of(made, side).acquire()
        signal.pause()

    with forked(enter):
        pid, refused = map(int, os.read(read_end, 100).split())
        os.close(read_end)
        os.close(write_end)
        if refused:
            pytest.skip(f"no PID namespace: {os.strerror(refused)}")
        try:
            wait_until(lambda: made.debug_state()[side] == 1)
            assert lock_of(made, side).acquire(timeout=0.7) is False
        finally:
            os.kill(pid, signal.SIGKILL)
        assert Thread(lambda: lock_of(made, side).acquire(timeout=5)).result() is True
        lock_of(made, side).release()


@sides
def test_a_child_forked_past_python_delays_and_no_more(made: Any, side: str) -> None:
    """It has its parent's description of the memory, so the parent seems alive as long as it does."""
    read_end, write_end = os.pipe()

    def fork_in_c() -> None:
        lock_of(made, side).acquire()
        libc = ctypes.PyDLL(None)
        pid = libc.fork()
        if not pid:
            libc.pause()
        os.write(write_end, b"%d" % pid)
        signal.pause()

    with forked(fork_in_c) as child:
        grandchild = int(os.read(read_end, 10))
        try:
            child.end()
            assert lock_of(made, side).acquire(timeout=0.7) is False
        finally:
            os.kill(grandchild, signal.SIGKILL)
            os.close(read_end)
            os.close(write_end)
        assert lock_of(made, side).acquire(timeout=5) is True
        lock_of(made, side).release()


PID_REUSE = """
import os, signal, sys, threading, time
import pipecap
from children import DEADLINE, wait_until
made = pipecap.get_context("fork", exit_warning=None).Queue()
made.cancel_join_thread()
what = sys.argv[1]

def hold():
    if what == "reading":
        made.get()
    elif what == "writing":
        made._wlock.acquire()
    else:
        made.put(b"x" * (64 << 20))
    signal.pause()

def start(function, pid=None):
    if pid is not None:
        with open("/proc/sys/kernel/ns_last_pid", "w") as file:
            file.write(str(pid - 1))
    child = os.fork()
    if not child:
        signal.alarm(60)
        function()
        os._exit(0)
    return child

pid = start(hold)
wait_until(lambda: made.debug_state()[what.split()[0]] == pid)
if what == "writing amid":
    wait_until(lambda: pipecap.state(made._writer).full)
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
time.sleep(0.03)  # start times are in hundredths of a second
again = start(signal.pause, pid)
assert again == pid
known_by = [each["known_by"] for each in made.debug_state()["participants"] if each["pid"] == pid]
begin = time.monotonic()
if what == "writing amid":
    try:
        made.get(timeout=5)
    except pipecap.TruncatedItem:
        print("cut short", end=" ")
made.put("an item", timeout=5)
print(made.get(timeout=5), time.monotonic() - begin < 5, *known_by)
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("known_by", ["lock", "pid"])
@pytest.mark.parametrize("what", ["reading", "writing", "writing amid"])
def test_a_lock_is_taken_over_though_its_owner_s_pid_is_another_process_s(
    what: str, known_by: str, request: pytest.FixtureRequest
) -> None:
    options = ("--pid", "--fork", "--mount-proc")
    if not may_unshare(*options):
        pytest.skip("this process may not make a PID namespace, in which it could choose PIDs")
    library = request.getfixturevalue("no_locks") if known_by == "pid" else None
    said = output_of(PID_REUSE, what, library=library, prefix=("unshare", *options))
    assert said.split() == [*(["cut", "short"] if "amid" in what else []), "an", "item", "True", known_by]


# ---- nobody waits past their timeout ----


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes, in a thread, so that one which hangs fails."""
    begin = time.monotonic()
    Thread(call).result()
    return time.monotonic() - begin


def or_error(call: Callable[[], object], *errors: type[BaseException]) -> Callable[[], object]:
    """Return a call that may end in one of some errors."""

    def caught() -> object:
        try:
            return call()
        except errors:
            return None

    return caught


CALLS: list[tuple[str, Callable[[Any], object]]] = [
    ("get", lambda made: made.get(timeout=0.3)),
    ("put", lambda made: made.put("mine", timeout=0.3)),
    ("get_nowait", lambda made: made.get_nowait()),
    ("put_nowait", lambda made: made.put_nowait("mine")),
    ("get_many", lambda made: made.get_many(timeout=0.3)),
    ("put_many", lambda made: made.put_many(["mine", bytes(MIB)], timeout=0.3)),
    ("poll", lambda made: made._reader.poll(0.3)),
]


@pytest.mark.parametrize("call", [call for _, call in CALLS], ids=[name for name, _ in CALLS])
@pytest.mark.parametrize(("dead", "holds"), [("reading", 0), ("reading", 1), ("writing", 0), ("amid", 0)])
def test_nobody_waits_past_their_timeout_because_another_process_died(
    call: Callable[[Any], object], dead: str, holds: int
) -> None:
    made = fork.Queue(16)
    for _ in range(holds):
        made.put("item")
    if dead == "amid":
        with forked(and_stay(lambda: amid_an_item(made))) as child:
            wait_until(lambda: pipecap.state(made._writer).full)
            child.end()
    else:
        with owner(made, dead) as child:
            child.end()
    taken = seconds(or_error(lambda: call(made), Empty, Full, pipecap.TruncatedItem, pipecap.LostItem))
    assert taken < 2.5
    Thread(lambda: made.put("last")).result()
    got: list[object] = []
    while "last" not in got:
        with suppress(pipecap.TruncatedItem, pipecap.LostItem):
            got.append(Thread(lambda: made.get(timeout=5)).result())
    finish(made)
