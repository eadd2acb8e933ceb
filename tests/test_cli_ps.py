"""`pipecap ps`: trouble on top, in a table that fits, and what could not be read."""

from __future__ import annotations

import json
import os
import re
import signal
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
from children import forked, wait_until_in
from commands import assert_one_line_of_trouble, pipecap_command, pipecap_json
from conftest import needs_root
from privilege import CAP_DAC_READ_SEARCH, become_unprivileged, in_child
from scenes import hung

from pipecap.cli import ps, render
from pipecap.proc.listing import Holder, Listing, LivePipe, Waiter

DEFAULT = 16 * os.sysconf("SC_PAGESIZE")
VALIDATOR = jsonschema.Draft202012Validator(json.loads((files("pipecap") / "schemas/ps.json").read_text()))


def row_of(text: str, inode: int) -> list[str]:
    """Give the cells of a pipe in the table."""
    rows = (line for line in text.splitlines() if line.split()[-1:] == [str(inode)])
    return next(re.split(r"  +", row.strip()) for row in rows)


def test_a_hang_is_on_top_with_who_waits_and_the_next_command() -> None:
    """The documented example: the child's feeder writes, only the parent could read."""
    with hung("join_before_get") as parent:
        answer = pipecap_command("ps", "--tree", str(parent.pid))
        found = pipecap_json("ps", "--tree", str(parent.pid))
    first = found["pipes"][0]
    (writer,) = (waiter for waiter in first["waiting"] if waiter["writes"])
    assert (first["full"], writer["pid"] != parent.pid, writer["tid"] != writer["pid"]) == (True, True, True)
    assert {holder["pid"] for holder in first["readers"]} == {parent.pid, writer["pid"]}
    lines = answer.stdout.splitlines()
    assert lines[0].split() == "program writers readers unread capacity full waiting unmoved inode".split()
    cells = row_of(answer.stdout, first["inode"])
    assert lines[1].split()[-1] == cells[-1]
    assert cells[-6:-3] == [f"{first['unread']:,}", f"{first['capacity']:,}", "yes"]
    assert cells[-3] == "1"
    assert re.fullmatch(r">=\d\.\d s", cells[-2])
    assert "Waiting threads" in lines
    assert any(f"{writer['tid']}  write(fd {first['writers'][-1]['fd']}" in line for line in lines)
    verdict = " ".join(" ".join(lines[-3:-1]).split())
    assert verdict.startswith(f"[problem] process {parent.pid} [python")
    assert "deadlock, proven: join before get" in verdict
    assert lines[-1] == f"  -> python -m pipecap doctor {parent.pid}"
    assert answer.returncode == 0


def test_nothing_wrong_is_said_so(pipe: tuple[int, int]) -> None:
    with forked(signal.pause) as child:
        answer = pipecap_command("ps", str(child.pid), "--window", "0")
    assert row_of(answer.stdout, os.fstat(pipe[0]).st_ino)[3:6] == ["0", f"{DEFAULT:,}", "no"]
    assert answer.stdout.splitlines()[-2].startswith("[ok] ")
    assert answer.stderr == ""


def test_several_processes_and_all_of_them(pipe: tuple[int, int]) -> None:
    inode = os.fstat(pipe[0]).st_ino
    with forked(signal.pause, close=pipe) as other, forked(signal.pause) as child:
        both = pipecap_json("ps", str(other.pid), str(child.pid), "--window", "0")
        everything = pipecap_json("ps", "--window", "0")
    assert inode in [row["inode"] for row in both["pipes"]]
    assert {row["inode"] for row in both["pipes"]} <= {row["inode"] for row in everything["pipes"]}
    assert len({row["inode"] for row in everything["pipes"]}) == len(everything["pipes"])


def test_a_process_without_pipes() -> None:
    def close_all() -> None:
        os.closerange(0, 1 << 16)
        signal.pause()

    with forked(close_all) as child:
        wait_until_in("pause", child.pid)
        answer = pipecap_command("ps", str(child.pid))
    assert answer.stdout.splitlines()[-1] == "No pipes."


def test_the_documents_are_valid(pipe: tuple[int, int], fifo: Path) -> None:
    os.write(pipe[1], bytes(DEFAULT))
    one_sided = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with forked(lambda: os.write(pipe[1], b"x")) as child:
            wait_until_in("pipe_write", child.pid)
            for arguments in ((str(child.pid),), (str(child.pid), "--window", "0")):
                document = pipecap_json("ps", *arguments)
                VALIDATOR.validate(document)
                assert str(fifo) in [row["name"] for row in document["pipes"]]
    finally:
        os.close(one_sided)
    row = document["pipes"][0]
    assert list(VALIDATOR.iter_errors({**document, "more": 1}))
    assert list(VALIDATOR.iter_errors({**document, "pipes": [{**row, "unread": "1"}]}))


def test_names_of_fifos_and_what_is_not_known_are_told(fifo: Path) -> None:
    one_sided = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        text = pipecap_command("ps", str(os.getpid()), "--window", "0").stdout
        inode = os.fstat(one_sided).st_ino
    finally:
        os.close(one_sided)
    assert row_of(text, inode).count("unknown") == 3
    assert f"  {inode} is the FIFO {fifo}" in text.splitlines()
    assert f"pipe {inode}: a FIFO with one side only" in text


@needs_root
def test_processes_that_may_not_be_looked_into_are_told_with_the_privilege() -> None:
    become = lambda: become_unprivileged(keep=1 << CAP_DAC_READ_SEARCH)  # noqa: E731 -- to be able to start Python
    answer = in_child(lambda: pipecap_command("ps", "--window", "0"), become=become)
    assert "may not be looked into" in answer.stdout
    assert "CAP_SYS_PTRACE" in answer.stdout


# What goes wrong.


def test_a_process_that_is_gone_is_one_line_and_the_others_are_shown(pipe: tuple[int, int]) -> None:
    with forked(signal.pause) as gone:
        zombie = gone.end()
        assert_one_line_of_trouble(pipecap_command("ps", str(zombie)), 1, f"no process {zombie}")
        with forked(signal.pause) as child:
            answer = pipecap_command("ps", str(zombie), str(child.pid), "--window", "0")
            document = json.loads(pipecap_command("ps", str(zombie), str(child.pid), "--json").stdout)
    assert (answer.returncode, len(answer.stderr.splitlines())) == (1, 1)
    assert row_of(answer.stdout, os.fstat(pipe[0]).st_ino)
    assert f"no process {zombie}" in document["unknown"]
    VALIDATOR.validate(document)


@pytest.mark.parametrize(
    "arguments",
    [("x",), ("0",), ("1.5",), ("99999999999",), ("--window", "-1"), ("--window", "nan"), ("--window", "x")],
)
def test_bad_usage_is_one_line_and_status_2(arguments: tuple[str, ...]) -> None:
    assert_one_line_of_trouble(pipecap_command("ps", *arguments), 2)


# How it looks.


def test_the_tables_fit_100_columns_whatever_is_in_them() -> None:
    command = "/usr/bin/python\n-c " + "x" * 300
    many = tuple(Holder(4194304, fd, command) for fd in range(100, 900))
    waiting = tuple(Waiter(4194304, 4194304, f"poll(fd {'1234, ' * 50})", writes=True) for _ in range(9))
    largest = LivePipe(
        "pipe:[4294967295]", 2**32 - 1, "pipe", None, 2**31, 2**19, 2**31, None, many, many, waiting, 99999.9, ""
    )
    for pipes in ((largest,), (largest, largest), (largest,) * 30):
        for block in ps._blocks(Listing(pipes, ())):
            if isinstance(block, render.Table):
                assert all(len(line) <= 100 for line in render._plain_table(block)), render._plain_table(block)
    assert "+4 more" in str(list(ps.waiting_rows((largest,), 100)))


@pytest.mark.parametrize(
    ("count", "width", "text"),
    [
        (0, 20, "none seen"),
        (1, 20, "10:0"),
        (3, 20, "10:0, 10:1, 10:2"),
        (5, 19, "10:0, 10:1, 10:2 +2"),
        (5, 18, "10:0, 10:1 +3 more"),
        (5, 17, "10:0, 10:1 +3"),
        (5, 11, "10:0 +4"),
        (5, 3, "5 of them"),
    ],
)
def test_holders_are_shortened_to_fit(count: int, width: int, text: str) -> None:
    assert ps.listed([Holder(10, fd, "") for fd in range(count)], width) == text
