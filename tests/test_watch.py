"""A program that watches itself: each hang is logged once, and nothing of the watch gets in the program's way."""

from __future__ import annotations

import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import children
import programs
import pytest
import scenes

import pipecap
from pipecap.diagnosis import evidence, text
from pipecap.diagnosis import watch as module
from pipecap.diagnosis.diagnose import diagnose
from pipecap.diagnosis.finding import Diagnosis, Finding, Party, Verdict
from pipecap.errors import InvalidValue

PATIENCE = 0.1  # seconds in which a stall does not move


class Looks:
    """Every look that watches take, in the order they end: what it found, or None where it was made to fail."""

    def __init__(self) -> None:
        self.fails = False
        self._taken: queue.SimpleQueue[Diagnosis | None] = queue.SimpleQueue()

    def diagnose(self, *, window: float, stacks: bool) -> Diagnosis:
        if self.fails:
            self._taken.put(None)
            raise RuntimeError("made to fail")
        found = _diagnose_self(window=window, patience=PATIENCE, stacks=stacks)
        self._taken.put(found)
        return found

    def wait_for(self, count: int) -> None:
        """Return when that many more have begun and been judged: one more than that has begun."""
        for _ in range(count + 1):
            self._taken.get(timeout=children.DEADLINE)


_diagnose_self = module.diagnose_self


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    taken = Looks()
    monkeypatch.setattr(module, "diagnose_self", taken.diagnose)
    return taken


@pytest.fixture(autouse=True)
def no_thread_left_behind() -> Iterator[None]:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name == "pipecap-watch"] == []


def watch_soon(on_finding: Callable[[Finding], object] | None = None) -> pipecap.Watch:
    return pipecap.watch(interval=0.02, window=0.05, on_finding=on_finding)


def records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "pipecap"]


def test_a_child_that_hangs_is_logged_once(looks: Looks, caplog: pytest.LogCaptureFixture) -> None:
    found: queue.SimpleQueue[Finding] = queue.SimpleQueue()
    with scenes.hung("join_before_get") as child, watch_soon(on_finding=found.put):
        finding = found.get(timeout=children.DEADLINE)
        looks.wait_for(3)
    assert found.empty()
    assert (finding.verdict, finding.pattern) == ("deadlock", "join before get")
    (record,) = records(caplog)
    assert record.levelno == logging.WARNING
    said = record.getMessage()
    for part in ("pipe:[", f"process {child.pid} (its parent)", "cause: ", "fix: ", "python -m pipecap rescue "):
        assert part in said
    assert said.isascii()


def test_a_stall_is_logged_once(looks: Looks, caplog: pytest.LogCaptureFixture) -> None:
    found: queue.SimpleQueue[Finding] = queue.SimpleQueue()
    with scenes.hung("fifo_open_order"), watch_soon(on_finding=found.put):
        finding = found.get(timeout=children.DEADLINE)
        looks.wait_for(1)
    assert finding.verdict == "stall"
    assert "FIFO" in finding.pattern
    assert len(records(caplog)) == 1


@pytest.mark.parametrize("watches", [1, 2])
@pytest.mark.parametrize(
    ("name", "pattern"),
    [("exit_with_unread_items_main", "exit with unread items"), ("join_before_get", "join before get")],
)
def test_a_program_that_hangs_itself_is_proven_to(name: str, pattern: str, watches: int, tmp_path: Path) -> None:
    """A thread that watches would be one that could still read the pipe, were it not known to look only."""
    prelude = f"""
import pipecap
def say(finding):
    known = any(party.line for party in finding.parties)
    print(f"{{finding.verdict}}; {{finding.pattern}}; {{known}}\\n", end="", flush=True)  # in one write
for _ in range({watches}):
    pipecap.watch(interval=0.02, window=0.05, on_finding=say)
"""
    program = tmp_path / f"{name}.py"
    program.write_text(prelude + (programs.HERE / "hanging" / f"{name}.py").read_text())
    with programs.running(program) as child:
        for _ in range(watches):
            assert line_of(child) == f"deadlock; {pattern}; True\n"


def line_of(child: subprocess.Popen[str]) -> object:
    assert child.stdout is not None
    return children.Thread(child.stdout.readline).result()


def test_a_healthy_program_is_left_in_peace(looks: Looks, caplog: pytest.LogCaptureFixture) -> None:
    with scenes.healthy("idle_pool"), watch_soon():
        looks.wait_for(3)
    assert records(caplog) == []


def test_a_hang_of_somebody_else_is_not_ours(looks: Looks) -> None:
    """Only this process and its descendants are looked at, not its parent's other children."""
    found: queue.SimpleQueue[Finding] = queue.SimpleQueue()
    with scenes.hung("join_before_get") as child:
        assert diagnose(child.pid).problem

        def watch_alone() -> bool:
            with watch_soon(on_finding=found.put):
                looks.wait_for(2)
            return found.empty()

        with children.forked(watch_alone) as other:
            assert other.result()


def test_a_look_that_fails_is_logged_once_and_the_next_is_taken(looks: Looks, caplog: pytest.LogCaptureFixture) -> None:
    looks.fails = True
    with watch_soon():
        looks.wait_for(3)
        looks.fails = False
        looks.wait_for(3)
    (record,) = records(caplog)
    assert "could not look at the processes" in record.getMessage()
    assert record.exc_info is not None


def test_a_callback_that_fails_is_logged_and_the_watch_goes_on(looks: Looks, caplog: pytest.LogCaptureFixture) -> None:
    def fail(finding: Finding) -> None:
        raise ValueError(finding.pattern)

    with scenes.hung("join_before_get"), watch_soon(on_finding=fail) as watch:
        children.wait_until(lambda: len(records(caplog)) == 2)
        looks.wait_for(2)
        assert watch.running
    finding, failure = records(caplog)
    assert "join before get" in finding.getMessage()
    assert "could not call on_finding" in failure.getMessage()


def test_the_callback_may_stop_the_watch() -> None:
    stopped = threading.Event()

    def stop(finding: Finding) -> None:
        watch.stop()
        stopped.set()

    with scenes.hung("join_before_get"):
        watch = watch_soon(on_finding=stop)
        assert stopped.wait(children.DEADLINE)
        watch.stop()
    assert not watch.running


def test_stop_ends_the_thread_and_may_be_called_again() -> None:
    watch = pipecap.watch(interval=1000)
    assert watch.running
    watch.stop()
    watch.stop()
    assert not watch.running


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # from Python 3.12 on
def test_a_forked_child_has_no_watch_and_may_stop_it() -> None:
    with pipecap.watch(interval=1000) as watch:
        children.wait_until(lambda: module._lookers)

        def look() -> tuple[bool, int, bool]:
            watch._stopped._cond.acquire()  # type: ignore[attr-defined] # as if the thread had held it
            watch.stop()
            return watch.running, len(os.listdir("/proc/self/task")), bool(module._lookers)

        with children.forked(look) as child:
            assert child.result() == (False, 1, False)
        assert watch.running


def test_the_thread_can_be_known_by_its_name() -> None:
    """Of a doctor from outside, which cannot ask this process who only looks."""
    with pipecap.watch(interval=1000):
        children.wait_until(lambda: module._lookers)
        (tid,) = module._lookers

        def name() -> str:
            with open(f"/proc/self/task/{tid}/comm") as file:
                return file.read()

        children.wait_until(lambda: name() == "pipecap-watch\n")


def test_a_watch_does_not_keep_the_program_from_its_exit() -> None:
    program = "import pipecap; pipecap.watch(interval=1000); pipecap.watch(interval=0.001, window=0.001)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e300])
@pytest.mark.parametrize("name", ["interval", "window"])
def test_a_time_that_is_none_is_refused(name: str, seconds: float) -> None:
    with pytest.raises(InvalidValue, match=f"{name} must be more than 0 seconds") as caught:
        pipecap.watch(**{name: seconds})  # type: ignore[arg-type] # both are numbers
    assert caught.value.parameter == name


# ---- what is new ----


def finding(verdict: Verdict, tid: int = 7, pattern: str = "join before get") -> Finding:
    party = Party("writer", tid, tid, "app", "write", "write(fd 4)", "pipe:[9]", 4, None, None, (), False)
    return Finding(verdict, pattern, 7, "app", "me", 1.0, (), (), (party,), 0, "cause", "fix", False, "no room", False)


DEADLOCK, STALL, IDLE, BUSY = finding("deadlock"), finding("stall"), finding("idle"), finding("busy")


@pytest.mark.parametrize(
    ("seen", "new"),
    [
        ("D", "D"),
        ("DDDD", "D..."),
        ("S", "S"),
        ("SSSS", "S..."),
        ("S-S-", "S.S."),
        ("SS-SS", "S..S."),
        ("DD-D", "D..D"),
        ("SD", "S."),  # logged already
        ("IIII", "...."),
        ("BBBB", "...."),
        ("ISS", ".S."),
        ("SBS", "S.S"),  # in between, it moved
        ("-", "."),
    ],
)
def test_what_is_new_in_a_row_of_looks(seen: str, new: str) -> None:
    news = module.News()
    of = {"D": (DEADLOCK,), "S": (STALL,), "I": (IDLE,), "B": (BUSY,), "-": ()}
    letters = {"deadlock": "D", "stall": "S"}
    assert "".join("".join(letters[each.verdict] for each in news.of(of[look])) or "." for look in seen) == new


def test_two_hangs_are_two() -> None:
    news = module.News()
    other = finding("deadlock", tid=8)
    assert news.of((DEADLOCK,)) == [DEADLOCK]
    assert news.of((DEADLOCK, other)) == [other]
    assert news.of((other, finding("deadlock", pattern="both sides send first"))) != []


def test_a_stall_is_the_same_while_its_writers_are() -> None:
    """Others may come to wait, and go."""
    reader = Party("reader", 9, 9, "app", "poll", "poll(fd 3)", "", None, None, None, (), False)
    assert replace(STALL, parties=(*STALL.parties, reader)).key == STALL.key
    assert replace(STALL, parties=(replace(STALL.parties[0], tid=8),)).key != STALL.key


def test_a_log_has_what_the_command_prints_in_ascii() -> None:
    assert module.told(DEADLOCK) == "\n".join(text.plain(text.describe(DEADLOCK)))


def test_a_look_at_ourselves_leaves_out_the_thread_that_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    ignored: list[frozenset[int]] = []
    gather: Callable[..., object] = evidence.gather

    def note(**arguments: object) -> object:
        ignored.append(arguments["ignored"])  # type: ignore[arg-type] # a set of thread numbers
        return gather(**arguments)

    monkeypatch.setattr(evidence, "gather", note)
    module.diagnose_self(window=0.001)
    assert threading.get_native_id() in ignored[0]
