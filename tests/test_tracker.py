"""multiprocessing's resource tracker: none is left behind, none is taken away."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest


def run(program: str) -> None:
    """Run a program in a fresh interpreter, where no resource tracker is running."""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=30, stdout=subprocess.DEVNULL)


KEEPS_ITS_TRACKER = """
import multiprocessing, pipecap
from multiprocessing import resource_tracker
lock = multiprocessing.get_context("spawn").Lock()
pid = resource_tracker._resource_tracker._pid
pipecap.report()
assert resource_tracker._resource_tracker._pid == pid
assert resource_tracker._resource_tracker._check_alive()
"""


def test_a_resource_tracker_that_was_there_stays() -> None:
    run(KEEPS_ITS_TRACKER)


BUSY_PROGRAM = """
import threading, pipecap
from multiprocessing import resource_tracker
stop = threading.Event()
thread = threading.Thread(target=stop.wait)
thread.start()
pipecap.report()
stop.set()
thread.join()
assert resource_tracker._resource_tracker._check_alive()
"""


def test_with_other_threads_the_tracker_stays_for_one_may_rely_on_it() -> None:
    run(BUSY_PROGRAM)


COMMAND_LINE = """
import os
from pathlib import Path
from pipecap.cli import main
before = os.listdir("/proc/self/fd")
assert main([]) == 0
assert os.listdir("/proc/self/fd") == before
assert not Path(f"/proc/self/task/{os.getpid()}/children").read_text()
"""


def test_the_command_line_leaves_no_process() -> None:
    run(COMMAND_LINE)


FORKED = """
import multiprocessing
from multiprocessing import resource_tracker
from pipecap.tracker import forked_resource_tracker
with forked_resource_tracker():
    lock = multiprocessing.get_context("spawn").Lock()
    assert resource_tracker._resource_tracker._check_alive()
    del lock
assert resource_tracker._resource_tracker._fd is None
"""


def test_a_forked_tracker_serves_and_ends_with_its_block() -> None:
    run(FORKED)


KILLED = """
import multiprocessing, os, signal
from pipecap.tracker import forked_resource_tracker
with forked_resource_tracker():
    lock = multiprocessing.get_context("spawn").Lock()
    print(lock._semlock.name, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="semaphores are seen in /dev/shm")
def test_a_forked_tracker_removes_the_semaphores_of_a_killed_process() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", KILLED], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
    )
    semaphore = Path("/dev/shm", "sem." + answer.stdout.strip().removeprefix("/"))
    end = time.monotonic() + 20
    while semaphore.exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert not semaphore.exists()


CHILDREN_REAPED_BY_THE_KERNEL = """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
import pipecap
from pipecap.cli import main
assert pipecap.report().queues[-1].accepted
assert main([]) == 0
"""


def test_an_ignored_sigchld_is_no_trouble() -> None:
    run(CHILDREN_REAPED_BY_THE_KERNEL)


WITH_ONE_RUNNING = """
import multiprocessing
from multiprocessing import resource_tracker
from pipecap.cli import main
lock = multiprocessing.get_context("spawn").Lock()
pid = resource_tracker._resource_tracker._pid
assert main([]) == 0
assert resource_tracker._resource_tracker._pid == pid
"""


def test_the_command_line_uses_a_tracker_that_is_running() -> None:
    run(WITH_ONE_RUNNING)


def test_what_was_printed_before_is_printed_once() -> None:
    program = "print('ONCE'); from pipecap.cli import main; main([])"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    answer = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment, check=True
    )
    assert answer.stdout.count("ONCE") == 1


FORKS_MEANWHILE = """
import os, signal, time
from pipecap import tracker
with tracker.resource_tracker_as_it_was():
    child = os.fork()  # holds a copy of the tracker's pipe for as long as it lives
    if not child:
        time.sleep(60)
        os._exit(0)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
"""


def test_a_child_that_holds_the_trackers_pipe_does_not_hang_us() -> None:
    """ResourceTracker._stop() would wait for that child to end; we wait a second."""
    run(FORKS_MEANWHILE)
