"""`pipecap doctor`: its words, its exit status, its JSON."""

from __future__ import annotations

import os

from commands import assert_one_line_of_trouble, pipecap_command, pipecap_json
from scenes import healthy, hung


def test_a_hang_is_status_3_and_ends_with_the_next_command() -> None:
    with hung("join_before_get") as program:
        answer = pipecap_command("doctor", str(program.pid))
        assert answer.returncode == 3
        assert answer.stderr == ""
        for words in ("join before get", "62,029", "65,536", "pipecap.drain(queue, [process])"):
            assert words in answer.stdout, answer.stdout
        assert answer.stdout.rstrip().endswith(f"-> python -m pipecap rescue {program.pid}")
        everywhere = pipecap_command("doctor")
        assert everywhere.returncode == 3
        assert str(program.pid) in everywhere.stdout


def test_no_hang_is_status_0() -> None:
    with healthy("slow_reader") as program:
        answer = pipecap_command("doctor", str(program.pid))
        assert answer.returncode == 0, answer
        assert "[ok]" in answer.stdout


def test_json_has_the_same() -> None:
    with hung("join_before_get") as program:
        found = pipecap_json("doctor", str(program.pid))
        assert found["pid"] == program.pid
        assert [finding["pattern"] for finding in found["findings"]] == ["join before get"]


def test_bad_input_is_one_line() -> None:
    assert_one_line_of_trouble(pipecap_command("doctor", str(2**22 + 1)), 1, "no process")
    assert_one_line_of_trouble(pipecap_command("doctor", "-1"), 2)
    for text in ("0", "\N{ARABIC-INDIC DIGIT THREE}", "9" * 30, "1.5", "0x10", ""):
        assert_one_line_of_trouble(pipecap_command("doctor", text), 2, "no PID")
    assert_one_line_of_trouble(pipecap_command("doctor", str(os.getpid()), "--window", "0"), 2)
