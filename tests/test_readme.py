"""The README is executed: its session, its transcripts, its two commands as .ci/run calls them."""

from __future__ import annotations

import doctest
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from children import wait_until
from scenes import wait_until_blocked_on_a_full_pipe

import pipecap
from pipecap.proc.stacks import INSTALL, find_program

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
four_kib_pages = pytest.mark.skipif(os.sysconf("SC_PAGESIZE") != 4096, reason="the README shows a host of 4 KiB pages")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def transcripts() -> Iterator[tuple[str, str]]:
    """Give each command after `$ ` with what the README says it prints."""
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


TRANSCRIPTS = dict(transcripts())


def run(command: str) -> str:
    """Run a shell command in which `pipecap` is this very package; give stdout and stderr."""
    program = f"'{sys.executable}' -m pipecap"
    command = re.sub(r"\bpipecap\b", lambda _: program, command)
    answer = subprocess.run(
        ["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return answer.stdout


def test_there_are_just_two_set_up_commands_and_both_are_plain_shell() -> None:
    commands = blocks("sh")
    assert [command.count("\n") for command in commands[:2]] == [1, 1]
    assert commands[0].startswith("python3 -m venv")
    assert "'.[test]'" in commands[1]
    assert commands[1].strip().endswith("-m pytest")


def test_ci_calls_the_test_command_as_the_readme_has_it() -> None:
    """.ci/run cuts it out of the README by this very line."""
    line = blocks("sh")[1].strip()
    assert [found for found in README.splitlines() if found.endswith("-m pytest")] == [line]
    assert "test_command=$(grep -e '-m pytest$' README.md)" in (ROOT / ".ci/run").read_text()


@four_kib_pages
def test_the_session_runs_as_shown() -> None:
    session = doctest.DocTestParser().get_doctest("".join(blocks("pycon")), {}, "README.md", "README.md", 0)
    assert len(session.examples) >= 12
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    said: list[str] = []
    runner.run(session, out=said.append)
    assert runner.failures == 0, "".join(said)


@four_kib_pages
@pytest.mark.parametrize("command", [command for command in TRANSCRIPTS if command != "pipecap"])
def test_a_transcript_is_what_the_command_prints(command: str) -> None:
    assert run(command) == TRANSCRIPTS[command]


@four_kib_pages
def test_the_transcript_of_the_probe_is_what_it_prints_but_for_the_host() -> None:
    """Its first line, what this user may do and the verdict are of the host at hand; the rest is the same anywhere."""

    def sections(text: str) -> dict[str, list[str]]:
        parts = [part.splitlines() for part in text.strip().split("\n\n")]
        return {part[0]: part[1:] for part in parts}

    shown, printed = sections(TRANSCRIPTS["pipecap"]), sections(run("pipecap"))
    assert [*shown][1:] == [*printed][1:]
    for title in [*shown][1:3]:
        assert shown[title] == printed[title]
    own = [*shown][3]
    assert [line.split()[0] for line in shown[own]] == [line.split()[0] for line in printed[own]]
    assert shown["Verdict"][-1] == printed["Verdict"][-1]


@four_kib_pages
def test_the_hang_the_diagnosis_and_the_rescue_are_as_shown(tmp_path: Path) -> None:
    """The numbers of processes, threads and pipes are of the run, as are the user and the lines of queues.py."""
    if find_program() is None:
        pytest.skip(f"py-spy is not installed: {INSTALL}")
    (block,) = blocks("shell-session")
    said = {}
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        said[command] = output
    show, start, doctor, rescue, wait = said
    assert start == "python hang.py &"
    (tmp_path / "hang.py").write_text(said[show])
    with subprocess.Popen(
        [sys.executable, "hang.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        try:
            wait_until_blocked_on_a_full_pipe_below(program.pid)
            number = str(program.pid)
            for command in (doctor, rescue):
                printed = run(command.replace("4012", number))
                assert anonymous(printed) == anonymous(said[command])
            assert program.communicate(timeout=10)[0] == said[wait]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)


def wait_until_blocked_on_a_full_pipe_below(pid: int) -> None:
    (child,) = wait_for_children(pid)
    wait_until_blocked_on_a_full_pipe(child)


def wait_for_children(pid: int) -> list[int]:
    children: list[int] = []

    def there() -> bool:
        children[:] = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return bool(children)

    wait_until(there)
    return children


def anonymous(text: str) -> str:
    """Name processes, threads and pipes by the order in which they come; forget how lines are wrapped and aligned."""
    text = re.sub(r"^  \[note\] .*\n(    (?!->).*\n)*", "", text, flags=re.MULTILINE)
    text = re.sub(r"\d+ s old, of \w+:", "some s old, of somebody:", text)
    text = re.sub(r"queues.py:\d+", "queues.py:1", text)
    text = re.sub(r"observed for \d\.\d s", "observed for a while", text)
    names: dict[str, str] = {}

    def named(found: re.Match[str]) -> str:
        return found[1] + names.setdefault(found[2], f"N{len(names)}")

    text = re.sub(r"()\b(\d+)(?=, write)", named, text)
    text = re.sub(r"\b(process |thread |rescue |wait4\(|pipe:\[)(\d+)", named, text)
    return " ".join(text.split())


def test_no_placeholder_was_forgotten() -> None:
    assert not re.findall(r"^[A-Z]{3,}$|TODO|TBD", README, re.MULTILINE)
    assert README.count("x |") >= 18


def test_the_map_names_what_is_there() -> None:
    named = re.findall(r"`(src/[^`]+|csrc/|tests/|benchmarks/)`", README)
    assert len(named) >= 8
    assert all((ROOT / path).exists() for path in named)


def test_the_changelog_has_this_version() -> None:
    assert f"## {pipecap.__version__}" in (ROOT / "CHANGELOG.md").read_text()
