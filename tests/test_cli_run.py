"""`pipecap run`: sets, then becomes the command."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from commands import PIPECAP, pipecap_command

import pipecap

MAX_SIZE = int(Path("/proc/sys/fs/pipe-max-size").read_text())
DEFAULT = 16 * os.sysconf("SC_PAGESIZE")


def test_stdout_of_the_command_is_resized(pipe: tuple[int, int]) -> None:
    answer = pipecap_command("run", "128K", "--", "echo", "hello", stdout=pipe[1])
    assert (answer.returncode, pipecap.capacity(pipe)) == (0, 131072)
    assert answer.stderr == f"pipecap: stdout: {DEFAULT:,} -> 131,072 bytes\n"
    assert os.read(pipe[0], 100) == b"hello\n"


def test_named_targets_instead(pipe: tuple[int, int]) -> None:
    assert pipecap_command("run", "128K", "stdin", "--", "true", stdin=pipe[0]).returncode == 0
    assert pipecap.capacity(pipe) == 131072


def test_it_becomes_the_command_and_leaves_no_process() -> None:
    with subprocess.Popen([*PIPECAP, "run", "64K", "--", "sh", "-c", "echo $$"], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert int(child.stdout.read()) == child.pid


@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_the_exit_status_is_the_commands(status: int) -> None:
    assert pipecap_command("run", "64K", "--", "sh", "-c", f"exit {status}").returncode == status


def test_a_command_killed_by_a_signal_dies_of_it() -> None:
    assert pipecap_command("run", "64K", "--", "sh", "-c", "kill -9 $$").returncode == -signal.SIGKILL


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("option", ["--check", "--json"])
def test_a_stderr_that_cannot_be_written_does_not_stop_the_command(option: str, pipe: tuple[int, int]) -> None:
    with open("/dev/full", "w") as full:
        answer = pipecap_command("run", option, "128K", "--", "sh", "-c", "exit 7", stdout=pipe[1], stderr=full)
    assert (answer.returncode, pipecap.capacity(pipe)) == (7, 131072)


def test_not_found_is_127_and_not_executable_126(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    for command, status in (
        ("no-such-command", 127),
        (str(tmp_path / "absent"), 127),
        (str(plain / "below"), 127),
        (str(plain), 126),
        (str(tmp_path), 126),
        ("", 127),
    ):
        answer = pipecap_command("run", "64K", "--", command)
        assert (answer.returncode, "Traceback" in answer.stderr) == (status, False), command


def test_a_directory_of_path_that_may_not_be_read_is_passed_over(tmp_path: Path) -> None:
    """As shells do; execvp(3) alone would answer EACCES, which is 126."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    path = f"{closed}:{os.environ['PATH']}"
    assert pipecap_command("run", "64K", "--", "no-such-command", env={**os.environ, "PATH": path}).returncode == 127


def test_a_script_without_interpreter_line_is_run_by_the_shell(tmp_path: Path) -> None:
    """As execvp(3), env(1) and every shell do it."""
    script = tmp_path / "script"
    script.write_text('echo "$0 $1"; exit 5\n')
    script.chmod(0o755)
    answer = pipecap_command("run", "64K", "--", str(script), "word")
    assert (answer.returncode, answer.stdout) == (5, f"{script} word\n")


def test_no_signal_is_left_ignored() -> None:
    """The interpreter ignores SIGPIPE and SIGXFSZ for itself."""
    ignored = pipecap_command("run", "64K", "--", "grep", "SigIgn", "/proc/self/status").stdout.split()[1]
    assert int(ignored, 16) & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1) == 0


def test_the_command_finds_sigpipe_as_a_shell_would_hand_it_over() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        answer = pipecap_command("run", "-q", "64K", "--", "sh", "-c", "echo x", stdout=write_end)
    finally:
        os.close(write_end)
    assert answer.returncode == -signal.SIGPIPE


def test_no_descriptor_of_ours_is_inherited() -> None:
    answer = pipecap_command("run", "64K", "--", "sh", "-c", "ls /proc/$$/fd")
    assert answer.stdout.split() == ["0", "1", "2"]


def test_a_refusal_warns_and_runs(pipe: tuple[int, int]) -> None:
    with open(os.devnull, "w") as null:
        answer = pipecap_command("run", "64K", "--", "true", stdout=null)
        assert (answer.returncode, answer.stderr.count("\n")) == (0, 1)
        assert pipecap_command("run", "-q", "64K", "--", "true", stdout=null).stderr == ""


def test_with_check_a_refusal_is_the_end() -> None:
    with open(os.devnull, "w") as null:
        answer = pipecap_command("run", "--check", "64K", "--", "sh", "-c", "echo ran >&2", stdout=null)
    assert answer.returncode == 1
    assert "ran" not in answer.stderr.split()


def test_json_goes_to_stderr_for_stdout_is_the_commands(pipe: tuple[int, int]) -> None:
    answer = pipecap_command("run", "--json", "128K", "--", "echo", "hello")
    assert answer.stdout == "hello\n"
    assert '"schema": "pipecap.set/1"' in answer.stderr


@pytest.mark.parametrize("arguments", [("64K",), ("64K", "--"), ("64K", "true")])
def test_without_a_command_it_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    answer = pipecap_command("run", *arguments)
    assert answer.returncode == 2
    assert "-- CMD" in answer.stderr


def test_options_after_the_dashes_are_the_commands() -> None:
    assert pipecap_command("run", "64K", "--", "echo", "--json", "--", "-q").stdout == "--json -- -q\n"


def test_a_bad_size_runs_nothing() -> None:
    answer = pipecap_command("run", "12x", "--", "echo", "ran")
    assert (answer.returncode, answer.stdout) == (2, "")


def test_max_is_the_whole_of_pipe_max_size(pipe: tuple[int, int]) -> None:
    assert pipecap_command("run", "max", "--", "true", stdout=pipe[1]).returncode == 0
    assert pipecap.capacity(pipe) == MAX_SIZE
