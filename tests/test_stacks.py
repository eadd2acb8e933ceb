"""The Python stack of each thread: ours from the interpreter, those of others from py-spy, and a reason without."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import children
import programs
import pytest
import scenes
from conftest import needs_root
from privilege import unprivileged

from pipecap.diagnosis.diagnose import diagnose
from pipecap.diagnosis.lines import meaning
from pipecap.proc import stacks

LIBRARY = "/usr/lib/python3.12"
JOIN_BEFORE_GET = programs.HERE / "hanging" / "join_before_get.py"


@pytest.fixture
def hung() -> Iterator[int]:
    """Return the PID of the documented example, hung, where py-spy is installed and may read it."""
    if stacks.find_program() is None:
        pytest.skip(f"py-spy is not installed: {stacks.INSTALL}")
    with scenes.hung("join_before_get") as child:
        _, reasons = stacks.take([child.pid])
        if any("may not read" in reason for reason in reasons):
            pytest.skip(f"py-spy may not read other processes here: {reasons}")
        yield child.pid


def test_py_spy_gives_the_stack_of_each_thread(hung: int) -> None:
    (child,) = programs.members(hung).keys() - {hung}
    (feeder,) = {int(name) for name in os.listdir(f"/proc/{child}/task")} - {child}
    found, reasons = stacks.take([hung, child])
    assert reasons == ()
    line = 1 + JOIN_BEFORE_GET.read_text().splitlines().index("child.join()")
    assert found[hung][-1] == (str(JOIN_BEFORE_GET), line, "<module>")
    assert stacks.place(found[hung]) == f"join_before_get.py:{line} in <module>"
    # Not start(), which the forked child has on its stack, too.
    assert stacks.place(found[child]).startswith("queues.py:")
    assert stacks.place(found[child]).endswith("_finalize_join")
    assert stacks.place(found[feeder]).startswith("queues.py:")
    assert stacks.place(found[feeder]).endswith("_feed")
    assert found.keys() == {hung, child, feeder}


def test_what_each_thread_waits_for_is_known_by_its_stack(hung: int) -> None:
    (child,) = programs.members(hung).keys() - {hung}
    (feeder,) = {int(name) for name in os.listdir(f"/proc/{child}/task")} - {child}
    found, _ = stacks.take([child])
    assert (meaning(found[feeder]), meaning(found[child])) == ("feed", "thread")


def test_the_parties_of_a_finding_have_their_lines(hung: int) -> None:
    """By default, for py-spy is installed here; without them if so wished."""
    (finding,) = diagnose(hung).findings
    assert all(party.line for party in finding.parties)
    (finding,) = diagnose(hung, stacks=False).findings
    assert not any(party.line for party in finding.parties)


def test_a_program_that_is_no_python_is_left_out_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "find_program", lambda: pytest.fail("py-spy was looked for"))
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as other:
        children.wait_until(lambda: os.readlink(f"/proc/{other.pid}/exe") != os.readlink("/proc/self/exe"))
        assert stacks.take([other.pid]) == ({}, ())
        assert other.stdin is not None
        other.stdin.close()


@needs_root
def test_a_program_whose_executable_may_not_be_read_is_asked_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """py-spy then says why it cannot read it: it may be Python."""
    asked: list[int] = []

    def dump(program: str, pid: int) -> str:
        asked.append(pid)
        return "trouble"

    monkeypatch.setattr(stacks, "find_program", lambda: "py-spy")
    monkeypatch.setattr(stacks, "_dump", dump)

    def take() -> list[int]:
        stacks.take([os.getppid()])
        return asked

    assert unprivileged(take) == [os.getpid()]


def test_our_own_threads_need_no_py_spy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "find_program", lambda: pytest.fail("py-spy was looked for"))
    done = threading.Event()
    waiting = children.Thread(done.wait)
    try:
        children.wait_until(lambda: waiting.native_id is not None)
        found, reasons = children.Thread(lambda: stacks.take([os.getpid()])).result()
    finally:
        done.set()
        waiting.result()
    assert reasons == ()
    # The innermost line of ours, not threading's.
    assert stacks.place(found[threading.get_native_id()]).startswith("children.py:")
    assert stacks.place(found[waiting.native_id]).endswith(" in Thread.run")


def test_the_thread_that_asks_is_not_among_our_own() -> None:
    assert threading.get_native_id() not in stacks.own()


def test_several_are_read_at_a_time(monkeypatch: pytest.MonkeyPatch, python: int) -> None:
    """The first one waits until the second one is being read: alone it would never end."""
    both = threading.Barrier(2)

    def dump(program: str, pid: int) -> dict[int, stacks.Stack]:
        both.wait(children.DEADLINE)
        return {pid: (("app.py", 1, "f"),)}

    monkeypatch.setattr(stacks, "find_program", lambda: "py-spy")
    monkeypatch.setattr(stacks, "_dump", dump)
    with children.forked(signal.pause) as other:
        found, reasons = stacks.take([python, other.pid])
        assert reasons == ()
        assert found.keys() == {python, other.pid}


@pytest.fixture
def python() -> Iterator[int]:
    """Return the PID of a child that is Python."""
    with children.forked(signal.pause) as child:
        yield child.pid


@pytest.mark.parametrize(
    ("stack", "place"),
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
def test_the_line_that_says_most(stack: list[stacks.Frame], place: str) -> None:
    assert stacks.place(tuple(stack)) == place


@pytest.mark.parametrize(
    ("stack", "kept"),
    [
        (["queues.py:get", "process.py:BaseProcess._bootstrap", "popen_fork.py:_launch", "context.py:start"], 2),
        (["queues.py:get", "process.py:_bootstrap", "app.py:main"], 2),
        (["util.py:_exit_function", "popen_fork.py:Popen._launch", "app.py:main"], 2),
        (["queues.py:get", "app.py:main"], 2),
        (["app.py:_bootstrap", "app.py:main"], 2),
        ([], 0),
    ],
)
def test_what_a_forked_child_has_on_its_stack_from_before_the_fork_is_left_out(stack: list[str], kept: int) -> None:
    """The start() of its parent, and what called that: the child will never be there."""
    frames = [
        (f"{LIBRARY}/multiprocessing/{file}", 1, function) for file, function in (each.split(":") for each in stack)
    ]
    assert [*stacks.since_start(tuple(frames))] == frames[:kept]


def test_without_py_spy_the_reason_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "find_program", lambda: None)
    with children.forked(signal.pause) as child:
        found, (reason,) = stacks.take([os.getpid(), child.pid])
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
    script: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, python: int
) -> None:
    program = tmp_path / "py-spy"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(stacks, "find_program", lambda: str(program))
    if "sleep" in script:
        monkeypatch.setattr(stacks, "_TIMEOUT", 0.05)
    found, (reason,) = stacks.take([python])
    assert found == {}
    assert said in reason
    assert reason.startswith(f"process {python}: ")


def test_a_py_spy_that_cannot_be_run_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, python: int) -> None:
    monkeypatch.setattr(stacks, "find_program", lambda: str(tmp_path))
    assert "does not run" in stacks.take([python])[1][0]


def test_processes_with_the_same_trouble_are_named_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "_dump", lambda program, pid: "trouble")
    monkeypatch.setattr(stacks, "find_program", lambda: "py-spy")
    monkeypatch.setattr(stacks, "_is_python", lambda pid: True)
    assert stacks.take(range(10**7, 10**7 + 7)) == (
        {},
        ("processes 10000000, 10000001, 10000002, 10000003, 10000004 and 2 more: trouble",),
    )


def test_a_process_that_ends_while_it_is_read_is_said_to_have(monkeypatch: pytest.MonkeyPatch) -> None:
    if stacks.find_program() is None:
        pytest.skip(f"py-spy is not installed: {stacks.INSTALL}")
    monkeypatch.setattr(stacks, "_is_python", lambda pid: True)  # it was, when that was looked at
    with children.forked(lambda: None) as child:
        child.result()
        pid = child.end()
        assert stacks.take([pid]) == ({}, (f"process {pid}: it ended before its Python lines were read",))


def test_a_process_that_has_ended_before_is_left_out() -> None:
    with children.forked(lambda: None) as child:
        child.result()
        pid = child.end()
        assert stacks.take([pid])[0] == {}
    assert stacks.take([pid]) == ({}, ())


def test_threads_in_a_pid_namespace_are_found_by_their_number_there() -> None:
    natives = {1: 4001, 2: 4002}
    assert stacks._native(4001, {"os_thread_id": 2}, natives) == 4002
    assert stacks._native(4001, {"os_thread_id": 4002}, natives) == 4002
    assert stacks._native(4001, {"os_thread_id": 77}, natives) is None


def test_before_python_3_11_only_the_main_thread_is_known() -> None:
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
