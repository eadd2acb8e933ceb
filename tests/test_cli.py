"""The command line as a whole: commands, exit status, streams."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ENVIRONMENT, PIPECAP, assert_one_line_of_trouble, pipecap_command, pipecap_json

import pipecap
from pipecap.cli import COMMANDS


def test_no_command_is_probe() -> None:
    assert pipecap_json()["schema"] == pipecap_json("probe")["schema"] == "pipecap.report/1"


def test_json_may_stand_before_the_command() -> None:
    answer = pipecap_command("--json", "fit", "100")
    assert '"schema": "pipecap.fit/1"' in answer.stdout


def test_it_is_installed_as_a_program_too() -> None:
    program = Path(sys.executable).with_name("pipecap")
    if not program.exists():
        pytest.skip("pipecap is not installed in this environment, only importable")
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert answer.stdout == f"pipecap {pipecap.__version__}\n"


def test_help_lists_all_commands() -> None:
    answer = pipecap_command("--help")
    assert answer.returncode == 0
    assert all(f"\n  {command} " in answer.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    assert pipecap_command(command, "--help").stdout.startswith(f"usage: pipecap {command}")


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("fit",),
        ("fit", "1", "--object", "1"),
        ("get", "--nonsense"),
        ("set",),
        ("probe", "x"),
        ("get", "stdin", "--", "true"),
    ],
)
def test_usage_errors_are_status_2(arguments: tuple[str, ...]) -> None:
    answer = pipecap_command(*arguments)
    assert answer.stdout == ""
    assert_one_line_of_trouble(answer, 2)


def test_a_reader_that_leaves_is_no_traceback() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        answer = pipecap_command(stdout=write_end)
    finally:
        os.close(write_end)
    assert (answer.returncode, answer.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_an_answer_that_cannot_be_written_is_a_failure() -> None:
    with open("/dev/full", "w") as full:
        assert_one_line_of_trouble(pipecap_command("fit", "1", stdout=full), 1, "No space left")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [("fit 1", 1), ("--help", 1), ("fit x", 2), ("set abc", 2), ("nonsense", 2), ("get /", 1)],
)
def test_streams_that_cannot_be_written_give_the_documented_status(arguments: str, status: int) -> None:
    """Not 120, which is the interpreter's own failure to flush at exit."""
    command = " ".join(f"'{word}'" for word in PIPECAP)
    for streams in (">/dev/full 2>&1", ">/dev/full 2>&-"):
        answer = subprocess.run(["sh", "-c", f"{command} {arguments} {streams}"], env=ENVIRONMENT, check=False)
        assert answer.returncode == status, streams


def test_a_closed_stdout_is_said_to_be_closed() -> None:
    command = " ".join(f"'{word}'" for word in PIPECAP)
    answer = subprocess.run(["sh", "-c", f"{command} get stdout >&-"], capture_output=True, text=True, check=False)
    assert_one_line_of_trouble(answer, 1, "fd 1", "was it closed already?")


def test_rich_is_loaded_for_a_terminal_only() -> None:
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pipecap"], capture_output=True, text=True, check=True
    )
    assert "rich" not in answer.stderr
