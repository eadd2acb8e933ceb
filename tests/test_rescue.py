"""rescue(): what it grows, where it stops and says why, and that nothing else is touched."""

from __future__ import annotations

import os

import pytest
from commands import pipecap_command
from conftest import needs_root
from privilege import CAP_SYS_RESOURCE, become_unprivileged, has_capability, in_child
from programs import HERE
from scenes import healthy, hung, hung_text

import pipecap

WINDOW = 0.15
JOIN = (HERE / "hanging/join_before_get.py").read_text()
LARGE = JOIN.replace("1000000", "3000000")  # no pipe takes it that this user may make


@pytest.mark.skipif(has_capability(CAP_SYS_RESOURCE), reason="this user is exempt from fs.pipe-max-size")
def test_it_stops_at_the_limit_and_says_which_and_what_would_lift_it() -> None:
    with hung_text(LARGE) as program:
        (finding,) = pipecap.diagnose(program.pid, window=WINDOW).findings
        assert not finding.rescuable
        assert "fs.pipe-max-size" in finding.rescue
        found = pipecap.rescue(program.pid, window=WINDOW)
        assert found.freed is False
        assert [finding.pattern for finding in found.left] == ["join before get"]
        assert {step.limit for step in found.steps} == {"fs.pipe-max-size"}
        assert found.steps[0].granted == 2**20  # the best there is, and the writer did move
        assert found.steps[0].moved
        (advice, *_) = found.advice
        assert "sysctl -w fs.pipe-max-size=4194304" in advice
        assert "Risk" in advice


def test_no_byte_of_the_program_is_touched() -> None:
    """The item that comes out in the end is the one that was put."""
    program = """
import os
from multiprocessing import get_context
fork = get_context("fork")
queue = fork.Queue()
item = os.urandom(900000)
child = fork.Process(target=lambda: queue.put(item))
child.start()
print("ready", flush=True)
child.join()
assert queue.get() == item
"""
    with hung_text(program) as child:
        assert pipecap.rescue(child.pid, window=WINDOW).freed
        assert child.wait(10) == 0


@pytest.mark.parametrize("name", ["slow_reader", "busy_writer", "idle_pool", "training_loop_of_slow_steps"])
def test_a_program_that_does_not_hang_is_left_alone(name: str) -> None:
    with healthy(name) as program:
        before = [(pipe.file, pipe.capacity) for pipe in pipecap.list_pipes(program.pid, tree=True)]
        found = pipecap.rescue(program.pid, window=WINDOW)
        assert (found.steps, found.freed) == ((), True)
        after = [(pipe.file, pipe.capacity) for pipe in pipecap.list_pipes(program.pid, tree=True)]
        assert {*after} >= {pipe for pipe in before if pipe[0] in dict(after)}


@needs_root
def test_another_user_may_not() -> None:
    def attempt(pid: int) -> str:
        try:
            pipecap.rescue(pid, window=WINDOW)
        except pipecap.AccessDenied as denied:
            return denied.hint
        return "rescued"

    with hung("join_before_get") as program:
        hint = in_child(lambda: attempt(program.pid), become=become_unprivileged)
        assert "CAP_SYS_PTRACE" in hint
        assert pipecap.diagnose(program.pid, window=WINDOW).findings[0].pipes[0].capacity == 65536


def test_the_command_frees_the_documented_example_within_a_second_of_it() -> None:
    with hung("join_before_get") as program:
        plan = pipecap_command("rescue", str(program.pid), "--dry-run")
        assert plan.returncode == 0
        assert "1,048,576" in plan.stdout
        assert program.poll() is None
        done = pipecap_command("rescue", str(program.pid))
        assert done.returncode == 0, done
        assert "freed" in done.stdout
        assert program.wait(1) == 0


def test_the_command_names_the_limit_of_a_socketpair() -> None:
    with hung("both_send_first_socketpair") as program:
        done = pipecap_command("rescue", str(program.pid))
        freed = "[ok] freed" in done.stdout  # a question of net.core.wmem_max
        assert done.returncode == (0 if freed else 1)
        assert "net.core.wmem_max" in done.stdout
        assert "[problem]" in done.stdout or freed


def test_bad_input_is_told() -> None:
    with pytest.raises(pipecap.ProcessGone):
        pipecap.rescue(2**22 + 1)
    assert pipecap_command("rescue", "nonsense").returncode == 2
    assert pipecap_command("rescue").returncode == 2
    assert pipecap_command("rescue", str(os.getpid()), "--window", "x").returncode == 2
