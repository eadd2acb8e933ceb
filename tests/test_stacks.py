"""The Python line of each thread: ours from the interpreter, those of others from py-spy, and what is said without."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import children
import hangs
import pytest

from pipecap.diagnosis.diagnose import diagnose
from pipecap.proc import stacks

LIBRARY = "/usr/lib/python3.12"
JOIN_BEFORE_GET = next(hang for hang in hangs.HANGS if hang.name == "join_before_get")


@pytest.fixture
def hung() -> Iterator[int]:
    """Give the PID of the documented example, hung, where py-spy is there and may look into it."""
    if stacks.find_program() is None:
        pytest.skip(f"py-spy is not installed: {stacks.INSTALL}")
    with hangs.hung(JOIN_BEFORE_GET) as child:
        _, reasons = stacks.lines([child.pid])
        if any("may not read" in reason for reason in reasons):
            pytest.skip(f"py-spy may not look into other processes here: {reasons}")
        yield child.pid


def test_py_spy_tells_the_line_of_each_thread(hung: int) -> None:
    (child,) = hangs.members(hung).keys() - {hung}
    (feeder,) = {int(name) for name in os.listdir(f"/proc/{child}/task")} - {child}
    found, reasons = stacks.lines([hung, child])
    assert reasons == ()
    line = 1 + JOIN_BEFORE_GET.program.splitlines().index("child.join()")
    assert found[hung] == f"<string>:{line} in <module>"
    # Not start(), which the forked child has on its stack, too.
    assert found[child].startswith("queues.py:")
    assert found[child].endswith("_finalize_join")
    assert found[feeder].startswith("queues.py:")
    assert found[feeder].endswith("_feed")
    assert found.keys() == {hung, child, feeder}


def test_the_parties_of_a_finding_have_their_lines(hung: int) -> None:
    (finding,) = diagnose(hung, stacks=True).findings
    assert all(party.line for party in finding.parties)


def test_our_own_threads_need_no_py_spy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "find_program", lambda: pytest.fail("py-spy was looked for"))
    done = threading.Event()
    waiting = children.Thread(done.wait)
    try:
        children.wait_until(lambda: waiting.native_id is not None)
        found, reasons = children.Thread(lambda: stacks.lines([os.getpid()])).result()
    finally:
        done.set()
        waiting.result()
    assert reasons == ()
    assert found[threading.get_native_id()].startswith("children.py:")  # the innermost line of ours, not threading's
    assert found[waiting.native_id].endswith(" in Thread.run")


@pytest.mark.parametrize(
    ("frames", "told"),
    [
        ([(f"{LIBRARY}/threading.py", 9, "wait"), ("/home/me/app.py", 7, "work")], "app.py:7 in work"),
        ([("/home/me/a.py", 5, "inner"), ("/home/me/b.py", 6, "outer")], "a.py:5 in inner"),
        ([("/venv/lib/python3.12/site-packages/x/y.py", 3, "f"), ("/home/me/b.py", 6, "g")], "y.py:3 in f"),
        ([("<frozen runpy>", 88, "_run_code"), ("<string>", 2, "<module>")], "<string>:2 in <module>"),
        (
            [(f"{LIBRARY}/threading.py", 9, "join"), (f"{LIBRARY}/multiprocessing/util.py", 8, "_exit_function")],
            "util.py:8 in _exit_function",
        ),
        ([(f"{LIBRARY}/threading.py", 9, "wait")], "threading.py:9 in wait"),
        (
            [
                (f"{LIBRARY}/multiprocessing/queues.py", 103, "get"),
                (f"{LIBRARY}/multiprocessing/process.py", 317, "BaseProcess._bootstrap"),
                ("/home/me/parent.py", 20, "main"),
            ],
            "queues.py:103 in get",
        ),
        (
            [
                (f"{LIBRARY}/multiprocessing/util.py", 8, "_exit_function"),
                (f"{LIBRARY}/multiprocessing/popen_fork.py", 75, "Popen._launch"),
                ("/home/me/parent.py", 20, "main"),
            ],
            "util.py:8 in _exit_function",
        ),
        ([("", 0, "")], ":0 in "),
    ],
    ids=["user", "innermost", "package", "string", "library", "plumbing", "forked", "exiting", "empty"],
)
def test_the_line_that_tells_most(frames: list[stacks.Frame], told: str) -> None:
    assert stacks.place(frames) == told


def test_without_py_spy_the_reason_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "find_program", lambda: None)
    found, (reason,) = stacks.lines([os.getpid(), os.getppid()])
    assert "pip install 'pipecap[stacks]'" in reason
    assert found.keys() <= {int(name) for name in os.listdir("/proc/self/task")}


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'Error: Permission Denied: try sudo' >&2; exit 1", "run as root"),
        ("echo 'Error: Operation not permitted (os error 1)' >&2; exit 1", "run as root"),
        ("echo 'Error: Failed to find python version' >&2; exit 1", "Failed to find python version"),
        ("exit 1", "no reason given"),
        ("echo nonsense", "not understood"),
        ("echo '[1]'", "not understood"),
        ("echo '[{\"frames\": [{}]}]'", "not understood"),
        ("echo '{}'; kill -KILL $$", "no reason given"),
        ("exec sleep 1000", "within"),
    ],
)
def test_a_py_spy_that_fails_is_a_reason(
    script: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "py-spy"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(stacks, "find_program", lambda: str(program))
    if "sleep" in script:
        monkeypatch.setattr(stacks, "_TIMEOUT", 0.05)
    found, (reason,) = stacks.lines([os.getppid()])
    assert found == {}
    assert said in reason
    assert reason.startswith(f"process {os.getppid()}: ")


def test_a_py_spy_that_cannot_be_run_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stacks, "find_program", lambda: str(tmp_path))
    assert "does not run" in stacks.lines([os.getppid()])[1][0]


def test_processes_with_the_same_trouble_are_named_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "_dump", lambda program, pid: "trouble")
    monkeypatch.setattr(stacks, "find_program", lambda: "py-spy")
    assert stacks.lines(range(10**7, 10**7 + 7)) == (
        {},
        ("processes 10000000, 10000001, 10000002, 10000003, 10000004 and 2 more: trouble",),
    )


def test_the_rest_is_not_asked_when_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "_PATIENCE", -1.0)
    monkeypatch.setattr(stacks, "find_program", lambda: "py-spy")
    assert "took too long" in stacks.lines([os.getppid()])[1][0]


def test_a_process_that_has_ended_is_said_to_have() -> None:
    if stacks.find_program() is None:
        pytest.skip(f"py-spy is not installed: {stacks.INSTALL}")
    with children.forked(lambda: None) as child:
        child.result()
        pid = child.end()
        assert stacks.lines([pid]) == ({}, (f"process {pid}: it ended before its Python lines were read",))


def test_threads_in_a_pid_namespace_are_found_by_their_number_there() -> None:
    natives = {1: 4001, 2: 4002}
    assert stacks._native(4001, {"os_thread_id": 2}, natives) == 4002
    assert stacks._native(4001, {"os_thread_id": 4002}, natives) == 4002
    assert stacks._native(4001, {"os_thread_id": 77}, natives) is None


def test_before_python_3_11_only_the_main_thread_can_be_told() -> None:
    natives = {4001: 4001, 4002: 4002}
    assert stacks._native(4001, {"os_thread_id": None, "thread_name": "MainThread"}, natives) == 4001
    assert stacks._native(4001, {"os_thread_id": None, "thread_name": "Thread-1"}, natives) is None


def test_py_spy_is_found_beside_the_interpreter_before_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for place in ("beside", "path"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "py-spy").write_text("#!/bin/sh\n")
        (tmp_path / place / "py-spy").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "beside" / "python"))
    assert stacks.find_program() == str(tmp_path / "beside" / "py-spy")
    (tmp_path / "beside" / "py-spy").unlink()
    assert stacks.find_program() == str(tmp_path / "path" / "py-spy")


def test_py_spy_is_found_by_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = stacks._packaged()
    if expected is None:
        pytest.skip(f"py-spy is not installed as a package: {stacks.INSTALL}")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert stacks.find_program() == expected
