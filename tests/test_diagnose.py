"""diagnose() on real programs: those that hang are told, how and why; those that do not are not accused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import pytest
from children import wait_until
from programs import HANGING, HEALTHY, HERE, SAMPLE, Hanging, Healthy, running, steady
from scenes import hung, hung_text

import pipecap
from pipecap.diagnosis.growth import needed
from pipecap.kernel.limits import PAGE_SIZE
from pipecap.proc.stacks import find_program

WINDOW = 0.1
PATIENCE = 0.5


@pytest.mark.parametrize("program", HANGING, ids=lambda program: program.name)
def test_a_hang_is_found_and_named_and_freed_where_that_is_promised(
    program: Hanging, request: pytest.FixtureRequest
) -> None:
    """Verdict, words and promise of each; then rescue() does what the finding promised, by the same rule."""
    require(program, request)
    with running(program.path) as child:
        steady(child.pid)
        found = pipecap.diagnose(child.pid, window=WINDOW, patience=PATIENCE)
        finding = found.findings[0]
        assert finding.verdict in program.verdicts, found
        said = " ".join((finding.pattern, finding.cause, finding.fix)).lower()
        assert all(word in said for word in program.words), said
        assert program.rescuable in (None, finding.rescuable), finding
        assert len(finding.parties) <= 6
        if finding.rescuable:
            planned = pipecap.rescue(child.pid, dry_run=True, window=WINDOW, patience=PATIENCE)
            assert planned.freed is None
            assert [step.refused for step in planned.steps] == [""] * len(planned.steps) != []
            rescued = pipecap.rescue(child.pid, window=WINDOW, patience=PATIENCE)
            assert all(step.granted is None or step.granted > step.before for step in rescued.steps)
            assert any(step.moved for step in rescued.steps)
            assert rescued.freed or rescued.left
            if program.rescuable:
                assert rescued.freed or any(step.limit for step in rescued.steps), rescued


@pytest.mark.parametrize("program", HEALTHY, ids=lambda program: program.name)
def test_a_program_that_can_continue_is_not_accused(program: Healthy, request: pytest.FixtureRequest) -> None:
    """--thorough takes a hundred samples."""
    require(program, request)
    with running(program.path) as child:
        for _ in range(100 if request.config.getoption("--thorough") else 1):
            found = pipecap.diagnose(child.pid, window=WINDOW)
            assert {finding.verdict for finding in found.findings} <= {"idle", "busy", *program.allowed}, found


def require(program: Hanging | Healthy, request: pytest.FixtureRequest) -> None:
    """Skip what takes a command that is not installed, and what one of its kind stands for in the default suite."""
    if program.name not in SAMPLE and not any(map(request.config.getoption, ("--all-programs", "--thorough"))):
        pytest.skip("another program of its kind stands for it: --all-programs runs it, too")
    for command in program.needs:
        installed = find_program() if command == "py-spy" else shutil.which(command)
        if not installed:
            pytest.skip(f"{command} is not installed")


def test_the_documented_example_reads_as_documented() -> None:
    with hung("join_before_get") as program:
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
    program = (HERE / "hanging/join_before_get.py").read_text().replace("1000000", str(characters))
    if hangs:
        with hung_text(program) as child:
            assert [finding.verdict for finding in pipecap.diagnose(child.pid).findings] == ["deadlock"]
    else:
        assert subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=20, check=True).stdout


def test_a_stopped_writer_is_no_deadlock_and_is_one_again_when_it_goes_on() -> None:
    with hung("join_before_get") as program:
        (finding,) = pipecap.diagnose(program.pid, window=WINDOW).findings
        writer = finding.parties[0].pid
        os.kill(writer, signal.SIGSTOP)
        wait_until(lambda: pipecap.diagnose(program.pid, window=WINDOW).findings == ())
        os.kill(writer, signal.SIGCONT)
        wait_until(
            lambda: [each.key for each in pipecap.diagnose(program.pid, window=WINDOW).findings] == [finding.key]
        )


def test_without_a_pid_all_of_this_user_are_looked_at() -> None:
    with hung("join_before_get") as program:
        found = pipecap.diagnose(window=WINDOW)
        assert any(party.pid == program.pid for finding in found.findings for party in finding.parties)


def test_bad_input_is_told() -> None:
    with pytest.raises(pipecap.ProcessGone):
        pipecap.diagnose(2**22 + 1)
    for window in (0, -1, 3600, float("nan")):
        with pytest.raises(pipecap.InvalidValue, match="window"):
            pipecap.diagnose(os.getpid(), window=window)


def test_what_a_write_needs() -> None:
    assert needed(16 * PAGE_SIZE, 1) == 32 * PAGE_SIZE
    assert needed(16 * PAGE_SIZE, 16 * PAGE_SIZE) == 32 * PAGE_SIZE
    assert needed(16 * PAGE_SIZE, 16 * PAGE_SIZE + 1) == 64 * PAGE_SIZE
    assert needed(16 * PAGE_SIZE, 2**31) is None
