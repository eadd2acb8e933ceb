"""pytest --pipecap-watch, as real runs of pytest: on tests that hang, on one whose interpreter does not exit."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace

import programs
import pytest

import pipecap.pytest_plugin
from pipecap.diagnosis.finding import Diagnosis, Finding, Verdict

FORK = "from multiprocessing import get_context\nfork = get_context('fork')\n"
END = "=" * 100 + "\n"


@contextmanager
def running(directory: Path, program: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run pytest on a test file, in a session of its own; kill and reap all of the session in the end."""
    (directory / "pytest.ini").touch()  # no other project's
    (directory / "test_it.py").write_text(program)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    with (
        tempfile.TemporaryFile() as output,
        subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**environment, "PYTHONIOENCODING": "utf-8"},
        ) as child,
    ):
        try:
            yield child
        finally:
            programs._end(child)  # type: ignore[arg-type] # text or not


def told(child: subprocess.Popen[bytes], until: str = "") -> str:
    """Read diagnoses off the terminal's stderr, up to the end of the one that says this."""
    assert child.stderr is not None
    text = b""
    end = time.monotonic() + programs.DEADLINE
    while until.encode() not in text or not text.endswith(END.encode()):
        assert select.select([child.stderr], [], [], max(0, end - time.monotonic()))[0], f"only {text!r} was told"
        data = os.read(child.stderr.fileno(), 65536)
        assert data, f"pytest ended, and only {text!r} was told"
        text += data
    return text.decode()


HANGS = (
    FORK
    + """
def test_fine():
    pass

def test_hangs():
    queue = fork.Queue()
    child = fork.Process(target=lambda: queue.put("X" * 1000000))
    child.start()
    print("something that pytest captures")
    child.join()
"""
)


@pytest.mark.parametrize("options", [[], ["-s"], ["--capture=sys"]], ids=["fd", "no", "sys"])
def test_a_test_that_hangs_says_why(options: list[str], tmp_path: Path) -> None:
    with running(tmp_path, HANGS, "--pipecap-watch", "0.2", *options) as child:
        text = told(child, until="deadlock, proven")
        (producer,) = programs.members(child.pid).keys() - {child.pid}
    assert re.search(rf"pipecap: test_it\.py::test_hangs has run for [\d.]+ s \(process {child.pid}\)", text)
    assert "deadlock, proven: join before get" in text
    assert f"of process {producer}, probably a queue's feeder thread" in text
    assert f"only process {child.pid} (its parent) reads it, and that waits for process {producer} to exit" in text
    line = 1 + HANGS.splitlines().index("    child.join()")
    assert f"at test_it.py:{line} in test_hangs" in text
    assert f"python -m pipecap rescue {child.pid} gives it room" in text
    assert "└─ " in text


def test_an_interpreter_that_does_not_exit_says_why(tmp_path: Path) -> None:
    """The queue's feeder is joined in an atexit function, after pytest has gone."""
    program = FORK + "queue = fork.Queue()\ndef test_puts():\n    [queue.put(bytes(2000)) for _ in range(100)]\n"
    with running(tmp_path, program, "--pipecap-watch", "0.2") as child:
        text = told(child, until="deadlock, proven")
    assert re.search(
        rf"pipecap: after the last test the interpreter has not exited for [\d.]+ s \(process {child.pid}\)", text
    )
    assert "deadlock, proven: exit with unread items" in text


def test_a_child_that_is_joined_at_exit_says_why(tmp_path: Path) -> None:
    program = (
        FORK
        + """
queue = fork.Queue()
def test_starts():
    fork.Process(target=lambda: queue.put("X" * 1000000)).start()
"""
    )
    with running(tmp_path, program, "--pipecap-watch", "0.2") as child:
        text = told(child, until="deadlock, proven")
    assert "the interpreter has not exited" in text
    assert "deadlock, proven: join before get" in text


def test_an_interpreter_kept_by_a_thread_says_that_no_pipe_does_it(tmp_path: Path) -> None:
    program = (
        "import threading\ndef wait_for_ever():\n    threading.Event().wait()\n"
        "def test_starts():\n    threading.Thread(target=wait_for_ever, name='Keeper').start()\n"
    )
    with running(tmp_path, program, "--pipecap-watch", "0.2") as child:
        text = told(child)
    assert "the interpreter has not exited" in text
    assert "nothing found" in text
    assert "Keeper is at test_it.py:3 in wait_for_ever" in text


SLOW = """
import threading
import pytest

@pytest.fixture
def told(request):
    watchdog = request.config.pluginmanager.get_plugin("pipecap-watchdog")
    done, real = threading.Event(), watchdog._print
    watchdog._print = lambda lines: (real(lines), done.set())
    yield done
    watchdog._print = real

@pytest.mark.parametrize("number", [1, 2])
def test_slow(number, told):
    assert told.wait(20)
"""


def test_each_slow_test_is_reported_once_and_passes(tmp_path: Path) -> None:
    with running(tmp_path, SLOW, "--pipecap-watch", "0.05") as child:
        assert child.stderr is not None
        text = child.stderr.read().decode()
        assert child.wait(programs.DEADLINE) == 0
    for number in (1, 2):
        assert text.count(f"test_it.py::test_slow[{number}] has run for") == 1
    assert "nothing found: no pipe hangs this process or its children" in text
    assert re.search(r"MainThread is at test_it\.py:\d+ in test_slow", text)


def test_where_stderr_takes_no_utf_8_the_drawing_is_ascii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watchdog = object.__new__(pipecap.pytest_plugin.Watchdog)
    with tempfile.TemporaryFile() as terminal, open(tmp_path / "stream", "w", encoding="ascii") as stream:
        watchdog._terminal = terminal.fileno()
        monkeypatch.setattr(sys, "__stderr__", stream)
        watchdog._print(["└─ here"])
        terminal.seek(0)
        assert terminal.read() == b"`- here\n"


def test_without_the_option_nothing_runs(tmp_path: Path) -> None:
    program = """
import sys, threading
def test_alone(request):
    assert threading.active_count() == 1
    assert request.config.pluginmanager.has_plugin("pipecap")
    assert not request.config.pluginmanager.has_plugin("pipecap-watchdog")
    assert not [name for name in sys.modules if name.startswith("pipecap.") and name != "pipecap.pytest_plugin"]
"""
    with running(tmp_path, program) as child:
        assert child.stderr is not None
        assert child.stderr.read() == b""
        assert child.wait(programs.DEADLINE) == 0


def test_a_quick_run_prints_nothing(tmp_path: Path) -> None:
    with running(tmp_path, "def test_quick(): pass\n", "--pipecap-watch", "1000") as child:
        assert child.stderr is not None
        assert child.stderr.read() == b""
        assert child.wait(programs.DEADLINE) == 0


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon", ""])
def test_a_time_that_is_none_is_refused(seconds: str, tmp_path: Path) -> None:
    with running(tmp_path, "", f"--pipecap-watch={seconds}") as child:
        assert child.stderr is not None
        assert b"is no number of seconds above 0" in child.stderr.read()
        assert child.wait(programs.DEADLINE) == pytest.ExitCode.USAGE_ERROR


def test_a_deadlock_that_comes_up_later_is_printed_too_but_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    watchdog = object.__new__(pipecap.pytest_plugin.Watchdog)
    watchdog._news = SimpleQueue()
    told: list[str] = []
    monkeypatch.setattr(watchdog, "_print", lambda lines: told.append(lines[1].split()[2]))
    monkeypatch.setattr(watchdog, "_text", lambda found: [])
    verdicts: Iterator[Verdict] = iter(["stall", "stall", "deadlock", "deadlock", "stall"])

    def diagnose() -> Diagnosis:
        verdict = next(verdicts)
        found = Finding(verdict, "p", 1, "", "me", 1.0, (), (), (), 0, "", "", False, "", False)
        return Diagnosis(1, 0.3, (found,), (), "")

    monkeypatch.setattr(watchdog, "_live", SimpleNamespace(diagnose_self=diagnose), raising=False)
    known: set[object] | None = None
    for look in range(5):
        known = watchdog._look(f"{look}", known)
    assert told == ["0", "2"]
    watchdog._news.put(None)
    verdicts = iter(["deadlock"])
    watchdog._look("ended meanwhile", None)
    assert told == ["0", "2"]


def test_a_diagnosis_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    watchdog = object.__new__(pipecap.pytest_plugin.Watchdog)
    watchdog._news = SimpleQueue()
    told: list[str] = []
    monkeypatch.setattr(watchdog, "_print", told.extend)

    def diagnose() -> Diagnosis:
        raise OSError("no /proc")

    monkeypatch.setattr(watchdog, "_live", SimpleNamespace(diagnose_self=diagnose), raising=False)
    known = watchdog._look("title", None)
    watchdog._look("title", known)
    assert told.count("no diagnosis: OSError: no /proc") == 1


def test_the_debugger_stops_the_clock() -> None:
    watchdog = object.__new__(pipecap.pytest_plugin.Watchdog)
    watchdog._news = SimpleQueue()
    watchdog.pytest_enter_pdb()
    assert watchdog._news.get_nowait() is None


def test_loading_the_plugin_loads_nothing_else_of_pipecap() -> None:
    program = (
        "import sys, pytest; before = {*sys.modules}; import pipecap.pytest_plugin; print(*({*sys.modules} - before))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {*answer.stdout.split()} <= {"pipecap", "pipecap.pytest_plugin", "queue", "_queue"}


def test_pytest_finds_the_plugin_by_its_entry_point() -> None:
    (entry,) = (entry for entry in metadata.entry_points(group="pytest11") if entry.name == "pipecap")
    assert entry.value == "pipecap.pytest_plugin"
