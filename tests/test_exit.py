"""The end of a process: what it waits for, what it reports, what it drops, and that else it is quiet."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from children import Thread, ended, stop, wait_until
from scenes import DEADLINE, wait_until_asleep_in, wait_until_blocked

import pipecap
from pipecap.queues.pickling import pickled

METHODS = ["fork", "spawn", "forkserver"]
KINDS = ["Queue", "JoinableQueue", "SimpleQueue"]
STOCK = "multiprocessing"
fork: Any = pipecap.get_context("fork")
pytestmark = pytest.mark.usefixtures("forkserver")


def run(program: str, *arguments: str, tmp_path: Path) -> tuple[int, str, str]:
    """Run a program as a file, so that spawned children find it; return its status, its output, its errors."""
    file = tmp_path / "program.py"
    file.write_text(program)
    done = subprocess.run(
        [sys.executable, str(file), *arguments], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    return done.returncode, done.stdout, done.stderr


# ---- the exit guard ----

EXIT_GUARD = """
import pipecap
ctx = pipecap.get_context("fork", exit_warning=0.2)
queue = ctx.Queue()
queue.put(b"x" * 3_000_000)
queue.put(1)
"""


def test_an_exit_that_waits_says_for_what() -> None:
    with subprocess.Popen([sys.executable, "-c", EXIT_GUARD], stderr=subprocess.PIPE) as child:
        try:
            assert child.stderr is not None
            line = child.stderr.readline().decode()
        finally:
            child.kill()
    assert f"process {child.pid} waits to end" in line
    for fact in ("2 item(s)", "is full", "cannot grow: ", "nobody has read", "queue.close(discard=True)", "drain("):
        assert fact in line


def test_the_exit_guard_also_logs(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    queue = pipecap.get_context("fork", exit_warning=0.05).Queue()
    queue.put(b"x" * 3_000_000)
    queue.close()
    with caplog.at_level(logging.WARNING, "pipecap"):
        joining = Thread(queue.join_thread)
        wait_until(lambda: caplog.records)
        queue._reader.recv()
        joining.result()
    assert len(caplog.records) == 1
    assert "waits to end" in capsys.readouterr().err


def test_the_report_of_the_exit_guard_changes_nothing() -> None:
    """Not the pipe, which it has reasons to grow; not what is unread; not the counters."""
    queue = pipecap.get_context("fork", capacity="64K", exit_warning=0.05).Queue()
    queue.put(b"x" * 3_000_000)
    wait_until(lambda: pipecap.state(queue._writer.fileno()).full)

    def seen() -> tuple[object, ...]:
        state = queue.debug_state()
        return pipecap.capacity(queue), pipecap.unread(queue), state["written"], state["consumed"], state["credits"]

    before = seen()
    queue.close()
    joining = Thread(queue.join_thread)
    wait_until_asleep_in(os.getpid(), "futex")
    joining.join(1)  # several times its warning
    assert seen() == before
    assert len(queue._reader.recv()) == 3_000_000
    joining.result()


def test_the_report_of_the_exit_guard_does_not_grow_an_elastic_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    queue = pipecap.get_context("fork", exit_warning=0.05).Queue()
    queue.put(b"x" * 9_000_000)
    before = pipecap.capacity(queue)
    queue.close()
    joining = Thread(queue.join_thread)
    said: list[str] = []
    wait_until(lambda: said.append(capsys.readouterr().err) or "waits to end" in "".join(said))  # type: ignore[func-returns-value]
    assert pipecap.capacity(queue) == before
    assert len(queue._reader.recv()) == 9_000_000
    joining.result()


# ---- discard, cancel ----


def test_discard_drops_what_was_not_sent_and_says_how_much(start: Callable[..., BaseProcess]) -> None:
    queue = fork.Queue()
    reader, writer = fork.Pipe(duplex=False)

    def give_up() -> None:
        queue.put(b"x" * 3_000_000)
        queue.put(b"y" * 1_000)
        dropped = queue.close(discard=True)
        writer.send((dropped.items, dropped.size, dropped.cut_short))

    child = start(give_up)
    assert reader.recv() == (1, len(pickled(b"y" * 1_000)), True)
    assert ended(child) == 0
    with pytest.raises(pipecap.TruncatedItem):
        queue.get()
    assert queue.qsize() == 0
    reader.close()
    writer.close()


def test_discarded_tasks_are_not_waited_for() -> None:
    queue = fork.JoinableQueue()
    queue.put(b"x" * 3_000_000)
    queue.put_many([1, 2, 3])
    assert queue.close(discard=True).items == 3
    assert (queue.qsize(), queue.debug_state()["unfinished"]) == (1, 1)
    assert len(queue._reader.recv()) == 3_000_000
    queue.join_thread()


def test_cancel_join_thread_lets_the_process_end(start: Callable[..., BaseProcess]) -> None:
    queue = fork.Queue()

    def leave() -> None:
        queue.cancel_join_thread()
        queue.put(b"x" * 3_000_000)

    assert ended(start(leave)) == 0


# ---- late puts ----

LATE = """
import sys, threading, multiprocessing, pipecap
kind, pairs = sys.argv[1], int(sys.argv[2])
queue = getattr(pipecap.get_context("fork"), kind)()
def put():
    while True:
        queue.put(b"x" * 99_999)
def get():
    while True:
        queue.get()
for _ in range(pairs):
    threading.Thread(target=put, daemon=True).start()
    threading.Thread(target=get, daemon=True).start()
while not queue.debug_state()["consumed"] > 10_000_000:
    pass
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pairs", [1, 3])
def test_a_process_ends_though_a_daemon_thread_of_it_still_puts(kind: str, pairs: int, tmp_path: Path) -> None:
    """As a thread that logs does. Late puts are refused without a word."""
    assert run(LATE, kind, str(pairs), tmp_path=tmp_path) == (0, "", "")


AT_EXIT = """
import atexit, os, time, pipecap
ctx = pipecap.get_context("fork")
queue = ctx.Queue()
def read():
    time.sleep(1)
    print(len(queue.get()), len(queue.get()), queue.get(), flush=True)
    os._exit(0)
ctx.Process(target=read).start()
def put():
    queue.put(b"x" * 3_000_000)
    queue.put(b"y" * 2_000_000)
    queue.put("small")
atexit.register(put)
"""


def test_a_first_put_at_exit_is_sent(tmp_path: Path) -> None:
    """Python 3.12 starts no thread then: the stock queue raises RuntimeError and loses it."""
    assert run(AT_EXIT, tmp_path=tmp_path) == (0, "3000000 2000000 small\n", "")


LATE_THREAD = """
import sys, threading, time, pipecap
def put(queue):
    time.sleep(0.1)
    queue.put("late")
    queue.put(b"x" * 3_000_000)
def child(queue):
    threading.Thread(target=put, args=(queue,)).start()
if __name__ == "__main__":
    ctx = pipecap.get_context(sys.argv[2])
    queue = getattr(ctx, sys.argv[1])()
    process = ctx.Process(target=child, args=(queue,))
    process.start()
    print(queue.get(), len(queue.get()), queue.empty())
    process.join()
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_thread_that_the_exit_waits_for_can_put(kind: str, method: str, tmp_path: Path) -> None:
    """A child flushes its queues when its function returns, and waits for its threads afterwards."""
    assert run(LATE_THREAD, kind, method, tmp_path=tmp_path) == (0, "late 3000000 True\n", "")


LATE_MAIN = """
import atexit, sys, multiprocessing, pipecap
ctx = {ctx}
queue = ctx.{kind}()
atexit.register(queue.put, "at exit")     # runs before multiprocessing's own: registered later
class Late:
    def __del__(self):
        queue.put("from a module's end")
late = Late()
queue.put("in time")
print(queue.get(), queue.get(timeout=5) if False else "")
"""


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
def test_a_put_at_the_end_is_as_quiet_as_with_the_stock_queue(kind: str, tmp_path: Path) -> None:
    ours = run(LATE_MAIN.format(ctx="pipecap.get_context('fork')", kind=kind), tmp_path=tmp_path)
    stock = run(LATE_MAIN.format(ctx="multiprocessing.get_context('fork')", kind=kind), tmp_path=tmp_path)
    assert ours == stock
    assert ours[2] == ""


LATE_FULL = """
import queue, threading, time, pipecap
def put(made):
    time.sleep(0.1)
    try:
        made.put("late", timeout=0.1)
    except queue.Full:
        print("Full")
ctx = pipecap.get_context("fork")
made = ctx.Queue(1)
made.put("first")
process = ctx.Process(target=lambda: threading.Thread(target=put, args=(made,)).start())
process.start()
process.join()
print(made.get(), made.empty())
"""


def test_a_late_put_into_a_full_queue_ends_at_its_timeout(tmp_path: Path) -> None:
    assert run(LATE_FULL, tmp_path=tmp_path) == (0, "Full\nfirst True\n", "")


INTERRUPTED = """
import gc, os, signal, sys, time, pipecap
def interrupt(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
class Keeps:
    pass
def leave(way, kind):
    queue = getattr(pipecap.get_context("fork"), kind)()
    item = b"x" * 5_000_000
    keeps = Keeps()
    keeps.queue, keeps.cycle = queue, keeps
    if way == "get":
        os.write(queue._writer.fileno(), len(item).to_bytes(4, "big") + item[:50_000])
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        queue.get() if way == "get" else queue.put(item)
        time.sleep(5)
    except KeyboardInterrupt:
        pass
    return keeps
left = leave(*sys.argv[1:3])
if sys.argv[3] == "collected":
    del left
    gc.collect()
    print("goes on")
else:
    os.close(1)
    left.queue.cancel_join_thread() if hasattr(left.queue, "cancel_join_thread") else None
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["get", "put"])
@pytest.mark.parametrize("end", ["collected", "exit"])
def test_a_queue_that_was_interrupted_goes_quietly(way: str, kind: str, end: str, tmp_path: Path) -> None:
    """The garbage collector may unmap its memory before it closes its ends, which still have a part of an item."""
    if (way, end) == ("put", "collected") and kind != "SimpleQueue":
        pytest.skip("its feeder thread has it, and goes on")
    code, _, errors = run(INTERRUPTED, way, kind, end, tmp_path=tmp_path)
    assert (code, errors) == (0, "")


# As torch.utils.data.DataLoader: its iterator shuts its workers down when it goes, which may be at the very end.
CYCLE = """
import multiprocessing, os, sys, pipecap
context, where, used = sys.argv[1:]
ctx = (pipecap if context == "pipecap" else multiprocessing).get_context("fork")
class Loader:
    def __init__(self):
        self.queue = ctx.Queue()
        self.cycle = self
        if used == "used":
            self.queue.put(1)
            self.queue.get()
        elif used == "waiting":
            self.queue.put(b"x" * 3_000_000)
            self.queue.cancel_join_thread()
    def __del__(self):
        try:
            self.queue.put(None)
            self.queue.cancel_join_thread()
            self.queue.close()
        finally:
            if os is not None:
                os.write(1, b"gone\\n")
if where == "local":
    Loader()
elif where == "global":
    loader = Loader()
else:
    sys.modules["loader"] = Loader()
"""


wheres = pytest.mark.parametrize("where", ["local", "global", "module"])


@wheres
@pytest.mark.parametrize("used", ["new", "used", "waiting"])
def test_an_object_in_a_cycle_that_puts_when_it_goes_is_quiet(where: str, used: str, tmp_path: Path) -> None:
    assert run(CYCLE, "pipecap", where, used, tmp_path=tmp_path) == (0, "gone\n", "")


@wheres
def test_the_stock_queue_is_as_quiet_about_it(where: str, tmp_path: Path) -> None:
    """Where its feeder thread runs already; where it does not, the stock queue hangs for ever."""
    assert run(CYCLE, STOCK, where, "used", tmp_path=tmp_path) == (0, "gone\n", "")


# ---- a normal exit ----

DOCUMENTED = """
import sys, multiprocessing, pipecap
def child(queue):
    queue.put([42, None, "hello"])
    queue.put("X" * 1_000_000)
if __name__ == "__main__":
    ctx = pipecap.get_context(sys.argv[1])
    queue = getattr(ctx, sys.argv[2])()
    process = ctx.Process(target=child, args=(queue,))
    process.start()
    print(queue.get())
    print(len(queue.get()))
    process.join()
    print(process.exitcode)
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_printed_at_a_normal_exit(method: str, kind: str, tmp_path: Path) -> None:
    """The documented example, https://docs.python.org/3/library/multiprocessing.html, in parent and child."""
    output = "[42, None, 'hello']\n1000000\n0\n"
    assert run(DOCUMENTED, method, kind, tmp_path=tmp_path) == (0, output, "")


WITHOUT_JOIN = """
import sys, multiprocessing, pipecap
def child(queue, replies):
    for item in iter(queue.get, None):
        replies.put(item)
if __name__ == "__main__":
    ctx = pipecap.get_context(sys.argv[1])
    queue, replies = getattr(ctx, sys.argv[2])(), getattr(ctx, sys.argv[2])()
    for _ in range(2):
        ctx.Process(target=child, args=(queue, replies)).start()
    for item in [b"x" * 200_000] * 4:
        queue.put(item)
    for _ in range(4):
        replies.get()
    queue.put(None)
    queue.put(None)
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_printed_where_the_end_of_the_parent_joins_its_children(
    method: str, kind: str, tmp_path: Path
) -> None:
    assert run(WITHOUT_JOIN, method, kind, tmp_path=tmp_path) == (0, "", "")


# ---- descriptors ----


@pytest.mark.parametrize("how", ["small", "fed", "fed and closed", "interrupted get", "never used"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_descriptor_outlives_its_queue(kind: str, how: str) -> None:
    """The fixture nothing_left_behind counts again, after all."""
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(60):
        queue = getattr(fork, kind)()
        if how == "never used":
            continue
        if how == "interrupted get":
            queue.put(b"x" * 100)
        elif "fed" in how:
            putting = Thread(lambda queue=queue: queue.put(b"x" * 3_000_000))  # type: ignore[misc]
            queue.get()
            putting.result()
            del putting
        else:
            queue.put(1)
            queue.get()
        if "closed" in how:
            queue.close()
    del queue
    wait_until(lambda: sorted(os.listdir("/proc/self/fd")) == before, lambda: len(os.listdir("/proc/self/fd")))


def test_a_thousand_queues_leave_no_thread_behind() -> None:
    """A thread of an earlier test may end meanwhile."""
    tasks = {*os.listdir("/proc/self/task")}
    for _ in range(1000):
        queue = fork.Queue()
        queue.put(1)
        queue.get()
        queue.close()
        queue.join_thread()
    del queue
    assert {*os.listdir("/proc/self/task")} <= tasks


def test_a_stopped_writer_that_is_continued_exits(start: Callable[..., BaseProcess]) -> None:
    queue = fork.Queue()
    child = start(queue.put, b"x" * 3_000_000)
    wait_until_blocked(child)
    assert child.pid is not None
    stop(child.pid)
    os.kill(child.pid, signal.SIGCONT)
    assert len(queue.get()) == 3_000_000
    assert ended(child) == 0
