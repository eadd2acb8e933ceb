"""`python -m pipecap`: one screen a person wants to read."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest
from commands import PIPECAP, assert_one_line_of_trouble, pipecap_command
from privilege import CAP_DAC_READ_SEARCH, become_unprivileged, in_child, is_root, quota_used_up

PAGE = os.sysconf("SC_PAGESIZE")
KEEP = 1 << CAP_DAC_READ_SEARCH if is_root() else 0  # else an interpreter in root's home could not be run


def on_a_terminal(**environment: str) -> str:
    """Run `python -m pipecap` on a terminal of 100 columns; give what it wrote there."""
    master, slave = pty.openpty()
    variables = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **environment}
    variables = {name: value for name, value in variables.items() if value}
    with subprocess.Popen(PIPECAP, stdout=slave, stderr=slave, stdin=slave, env=variables) as child:
        os.close(slave)
        written = b""
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # EIO: the last slave was closed
                break
            if not data:
                break
            written += data
    os.close(master)
    assert child.returncode == 0
    return written.decode()


def test_one_screen_with_all_the_facts() -> None:
    lines = pipecap_command().stdout.splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    for words in (
        "SimpleQueue         fork, spawn, forkserver",
        "Pipe()",
        "socketpair",
        "fs.pipe-max-size",
        "quota headroom",
        "does not fit",
        "Verdict",
        "-> python -m pipecap fit",
    ):
        assert words in text
    assert re.search(rf"SimpleQueue .* {16 * PAGE:,} +{16 * PAGE:,}", text)


def test_colour_on_a_terminal() -> None:
    written = on_a_terminal(NO_COLOR="")
    assert "\x1b[" in written
    assert "fs.pipe-max-size" in written


def test_a_terminal_of_80_columns_shows_the_same_words_uncut() -> None:
    written = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal(NO_COLOR="", COLUMNS="80"))
    lines = [line.rstrip() for line in written.splitlines()]
    assert max(len(line) for line in lines if not line.startswith("    ->")) <= 80
    assert "…" not in written
    shown, printed = (re.sub(r"[\d,]+", "N", text).split() for text in (written, pipecap_command().stdout))
    assert shown == printed  # but for the numbers: what is left of the quota changes from one moment to the next


@pytest.mark.parametrize(
    "variables",
    [
        {"NO_COLOR": "1"},
        {"TERM": "dumb", "NO_COLOR": ""},
        {"PYTHONIOENCODING": "ascii", "NO_COLOR": ""},
        {"COLUMNS": "50", "NO_COLOR": ""},
    ],
)
def test_no_colour_where_it_is_not_wanted(variables: dict[str, str]) -> None:
    assert "\x1b[" not in on_a_terminal(**variables)


def test_bars_without_unicode() -> None:
    answer = pipecap_command(env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert answer.returncode == 0
    assert "#######" in answer.stdout


def test_a_user_over_the_quota_reads_what_is_wrong_first() -> None:
    def look() -> tuple[str, int]:
        with quota_used_up():
            answer = pipecap_command()
        return answer.stdout + answer.stderr, answer.returncode

    text, status = in_child(look, become=lambda: become_unprivileged(keep=KEEP))
    assert status == 0
    assert re.search(rf"SimpleQueue .* {2 * PAGE:,} +{2 * PAGE:,}", text)
    verdict = text.partition("Verdict\n")[2]
    assert verdict.startswith(f"  [problem] New pipes get {2 * PAGE:,} bytes instead of {16 * PAGE:,}")


def test_without_descriptors_one_line() -> None:
    starved = "import resource, runpy, sys; import pipecap.cli.probe, pipecap.host, pipecap.cli.render\n"
    starved += "resource.setrlimit(resource.RLIMIT_NOFILE, (5, 5)); from pipecap.cli import main; sys.exit(main([]))"
    answer = subprocess.run([sys.executable, "-c", starved], capture_output=True, text=True, check=False)
    assert_one_line_of_trouble(answer, 1, "Too many open files")
