"""diagnose() on real programs: those that hang are told, how and why; those that do not are not accused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from children import wait_until
from hangs import HANGS, HEALTHY, Hang, Healthy, healthy, hung

import pipecap
from pipecap.diagnosis.growth import needed
from pipecap.kernel.limits import PAGE_SIZE

WINDOW = 0.1


@pytest.mark.parametrize("hang", HANGS, ids=lambda hang: hang.name)
def test_each_shape_is_told_and_freed_where_growing_frees_it(hang: Hang) -> None:
    """Verdict, name, parties and pipes of each; then rescue() does what the finding promised."""
    with hung(hang) as program:
        found = pipecap.diagnose(program.pid, window=WINDOW)
        (finding,) = found.findings
        assert (finding.verdict, finding.pattern) == (hang.verdict, hang.pattern)
        assert finding.rescuable == hang.rescuable
        assert finding.cause
        assert finding.fix
        assert finding.rescue
        for pipe in finding.pipes:
            assert pipe.unknown == "" or pipe.file.startswith("socket:")
        promised = pipecap.rescue(program.pid, dry_run=True, window=WINDOW)
        assert promised.freed is None
        assert all(step.granted is None and step.moved is None for step in promised.steps)
        assert pipecap.diagnose(program.pid, window=WINDOW).findings[0].pipes == finding.pipes  # nothing was done
        assert bool(promised.steps) == (
            finding.verdict != "quiet" and bool(finding.pipes) and finding.pipes[0].full is True
        )
        rescued = pipecap.rescue(program.pid, window=WINDOW)
        for step in rescued.steps:
            assert step.granted is None or step.granted > step.before
            assert step.moved or step.refused
        if hang.ends:
            assert rescued.freed
            assert program.wait(10) == 0
        elif hang.verdict != "quiet" and not hang.rescuable:
            assert rescued.left


def test_the_documented_example_reads_as_documented() -> None:
    hang = HANGS[0]
    with hung(hang) as program:
        (finding,) = pipecap.diagnose(program.pid).findings
        (pipe,) = finding.pipes
        writer, reader, *others = finding.parties
        assert (pipe.unread, pipe.full, pipe.slots) == (
            4 + 15 * PAGE_SIZE + (1_000_009 - 15 * PAGE_SIZE) % PAGE_SIZE,
            True,
            16,
        )
        assert writer.role == "writer"
        assert writer.pid != writer.tid  # the feeder thread
        assert pipe.unread is not None
        assert (writer.count, writer.to_go) == (1_000_009, 1_000_009 - pipe.unread)
        assert (reader.pid, reader.call) == (program.pid, f"wait4({writer.pid})")
        assert {other.pid for other in others} == {writer.pid}
        assert str(program.pid) in finding.cause
        assert "pipecap.drain(queue, [process])" in finding.fix
        assert finding.rescue == f"python -m pipecap rescue {program.pid}"
        (same,) = pipecap.diagnose(writer.pid).findings  # asked about the child
        assert (same.key, same.parties) == (finding.key, finding.parties)


@pytest.mark.parametrize(("characters", "hangs"), [(65_514, False), (65_515, True)])
def test_the_hang_is_found_at_its_edge_and_not_before_it(characters: int, hangs: bool) -> None:
    program = HANGS[0].program.replace("1000000", str(characters))
    if hangs:
        with hung(Hang("edge", program, "deadlock", "join before get", True, HANGS[0].blocked_in)) as child:
            assert [finding.verdict for finding in pipecap.diagnose(child.pid).findings] == ["deadlock"]
    else:
        assert subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=20, check=True).stdout


@pytest.mark.parametrize("scene", HEALTHY, ids=lambda scene: scene.name)
def test_it_does_not_cry_wolf(scene: Healthy, request: pytest.FixtureRequest) -> None:
    """As often as one likes: --thorough looks a hundred times."""
    with healthy(scene) as program:
        for _ in range(100 if request.config.getoption("--thorough") else 2):
            found = pipecap.diagnose(program.pid, window=0.1)
            assert {finding.verdict for finding in found.findings} <= {*scene.allowed}, found


def test_a_stopped_writer_is_no_deadlock_and_is_one_again_when_it_goes_on() -> None:
    with hung(HANGS[0]) as program:
        (finding,) = pipecap.diagnose(program.pid, window=WINDOW).findings
        writer = finding.parties[0].pid
        os.kill(writer, signal.SIGSTOP)
        wait_until(lambda: pipecap.diagnose(program.pid, window=WINDOW).findings == ())
        os.kill(writer, signal.SIGCONT)
        wait_until(
            lambda: [each.key for each in pipecap.diagnose(program.pid, window=WINDOW).findings] == [finding.key]
        )


def test_without_a_pid_all_of_this_user_are_looked_at() -> None:
    with hung(HANGS[0]) as program:
        found = pipecap.diagnose(window=WINDOW)
        assert any(party.pid == program.pid for finding in found.findings for party in finding.parties)


def test_bad_input_is_told() -> None:
    with pytest.raises(pipecap.ProcessGone):
        pipecap.diagnose(2**22 + 1)
    for window in (0, -1, 3600, float("nan")):
        with pytest.raises(pipecap.InvalidSize):
            pipecap.diagnose(os.getpid(), window=window)


def test_what_a_write_needs() -> None:
    assert needed(16 * PAGE_SIZE, 1) == 32 * PAGE_SIZE
    assert needed(16 * PAGE_SIZE, 16 * PAGE_SIZE) == 32 * PAGE_SIZE
    assert needed(16 * PAGE_SIZE, 16 * PAGE_SIZE + 1) == 64 * PAGE_SIZE
    assert needed(16 * PAGE_SIZE, 2**31) is None
