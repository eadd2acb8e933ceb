"""pytest --pipecap-watch SECONDS: say why a test hangs, or why the interpreter does not exit, before somebody kills it.

pytest loads this module in every run of an environment that has pipecap, so it loads nothing else until it is asked to.
"""

from __future__ import annotations

import argparse
import os
import queue
import sys
import threading
from collections.abc import Generator
from contextlib import suppress

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pipecap.diagnosis.finding import Diagnosis


_MOST_THREADS = 20


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option; without it, nothing here does anything."""
    parser.getgroup("pipecap").addoption(
        "--pipecap-watch",
        metavar="SECONDS",
        type=_seconds,
        help="of a test that runs longer, and of an interpreter that has not exited that long after the last test, say"
        " which pipe hangs, who waits for whom, and the fix (a thread looks, so os.fork() warns since Python 3.12)",
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def pytest_configure(config: pytest.Config) -> None:
    """Start the thread that watches, where it is wanted."""
    seconds = config.getoption("--pipecap-watch")
    if seconds is not None:
        config.pluginmanager.register(Watchdog(seconds), "pipecap-watchdog")


_THE_WAY_OUT = ("after the last test", "the interpreter has not exited for")


class Watchdog:
    """Told when a test begins and ends, its thread prints a diagnosis when one takes too long.

    A daemon thread: it goes on while the interpreter, on its way out, joins other threads and runs atexit functions.
    """

    def __init__(self, seconds: float) -> None:
        # Now, not in the thread: a test that hangs may hold an import lock. So with stderr: it is the terminal's while
        # pytest is being configured, and a file of pytest's during the tests.
        import pipecap.diagnosis.watch

        self._live = pipecap.diagnosis.watch
        self._seconds = seconds
        self._terminal = _real_stderr()
        # Holds no lock that a forked child could inherit locked. What is under way, and what it does; None for nothing.
        self._news: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="pipecap-watch", daemon=True).start()

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)  # the old kind, which every pytest knows
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, None, None]:
        """Time a test, its fixtures included."""
        self._news.put((item.nodeid, "has run for"))
        yield
        self._news.put(None)

    def pytest_enter_pdb(self) -> None:
        """Time no more: somebody looks at it, and takes the time that takes."""
        self._news.put(None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Time the way out."""
        self._news.put(_THE_WAY_OUT)

    def _run(self) -> None:
        """Print the first diagnosis of what takes too long, and after that each deadlock that comes up later."""
        with self._live.looking():
            under_way: tuple[str, str] | None = None
            looks = 0
            known: set[object] | None = None
            while True:
                try:
                    under_way = self._news.get(timeout=None if under_way is None else self._seconds)
                    looks, known = 0, None
                except queue.Empty:
                    if under_way == _THE_WAY_OUT and threading.main_thread().is_alive():
                        continue  # pytest.main() of a program that goes on
                    looks += 1
                    known = self._look(f"{' '.join(under_way or ())} {looks * self._seconds:g} s", known)

    def _look(self, title: str, known: set[object] | None) -> set[object]:
        try:
            found = self._live.diagnose_self()
            new = {finding.key for finding in found.findings if finding.verdict == "deadlock"} - (known or set())
            text = self._text(found)
        except Exception as error:
            new = set()
            text = [f"no diagnosis: {type(error).__name__}: {error}"]
        if (known is None or new) and self._news.empty():  # else it went on meanwhile
            heading = f"pipecap: {title} (process {os.getpid()})"
            self._print(["", f"{' ' + heading + ' ':=^100}", *text, "=" * 100])
        return {*(known or ()), *new}

    def _text(self, found: Diagnosis) -> list[str]:
        from pipecap.diagnosis import text as words
        from pipecap.proc import stacks

        text = [line for finding in found.findings for line in words.describe(finding)]
        if not found.problem:
            text.append("nothing found: no pipe hangs this process or its children")
            own = stacks.own()
            text += [
                f"  {thread.name} is at {stacks.place(own[thread.native_id])}"
                for thread in threading.enumerate()[:_MOST_THREADS]
                if thread.native_id in own
            ]
        return [*text, *(f"not read: {reason}" for reason in found.unknown)]

    def _print(self, lines: list[str]) -> None:
        from pipecap.diagnosis import text as words

        if (getattr(sys.__stderr__, "encoding", None) or "").lower().replace("-", "") != "utf8":
            lines = words.plain(lines)
        data = "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace")
        with suppress(OSError):
            while data:
                data = data[os.write(self._terminal, data) :]


def _real_stderr() -> int:
    """Duplicate the terminal's stderr, not closed on purpose: it is needed until the interpreter is gone."""
    try:
        return os.dup(sys.stderr.fileno())
    except (
        AttributeError,
        OSError,
        ValueError,
    ):  # replaced by an object without a file: the usual number, if it is open
        try:
            return os.dup(2)
        except OSError:
            return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
