"""watch(): a program that diagnoses itself, from a thread that does nothing else, and logs what hangs."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pipecap.diagnosis import diagnose, evidence, text
from pipecap.diagnosis.diagnose import WINDOW
from pipecap.diagnosis.finding import Diagnosis, Finding
from pipecap.diagnosis.movement import PATIENCE
from pipecap.proc.checks import require_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    Key = tuple[str, tuple[int, ...]]

_log = logging.getLogger("pipecap")

# How long stop() waits for a look under way; it may be held up where the log goes.
_PATIENCE = 5.0

# The threads of this process that only look: they put nothing in a queue and get nothing out.
_lookers: set[int] = set()
os.register_at_fork(after_in_child=_lookers.clear)


def watch(
    *,
    interval: float = 5.0,
    on_finding: Callable[[Finding], object] | None = None,
    window: float = WINDOW,
    stacks: bool = False,
) -> Watch:
    """Diagnose this process and its descendants every `interval` seconds, in a daemon thread, and log what hangs.

    Each deadlock and each stall is logged once on the logger "pipecap" at WARNING: the pipe, who waits for whom, the
    cause, the fix. One that went away and comes back is new. Then `on_finding` is called with it, in the same thread.
    What fails there is logged once.

    Each look lists all processes of /proc twice, `window` seconds apart. The lines of this process's own threads come
    from the interpreter; `stacks` gives those of its children by py-spy, which for a moment is a child of this process.

    A forked child has no watch of its own: it is seen as a descendant. Since Python 3.12, os.fork() in a process with
    threads, which this one then is, gives a DeprecationWarning.

    Raises InvalidValue for an interval or window that is none.
    """
    return Watch(interval=interval, on_finding=on_finding, window=window, stacks=stacks)


class Watch:
    """A watch under way: stop() ends it, as does leaving a `with` block. It does not keep the program from its exit."""

    def __init__(
        self,
        *,
        interval: float = 5.0,
        on_finding: Callable[[Finding], object] | None = None,
        window: float = WINDOW,
        stacks: bool = False,
    ) -> None:
        require_seconds("interval", interval, usual=5.0, most=threading.TIMEOUT_MAX)
        require_seconds("window", window, usual=WINDOW)
        self._interval = interval
        self._on_finding = on_finding
        self._window = window
        self._stacks = stacks
        self._pid = os.getpid()
        self._stopped = threading.Event()
        self._news = News()
        self._failed: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="pipecap-watch", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether it looks; not after stop(), nor in a child forked meanwhile."""
        return self._pid == os.getpid() and not self._stopped.is_set() and self._thread.is_alive()

    def stop(self) -> None:
        """End it, and wait for a look under way; may be called again, by `on_finding`, and in a forked child."""
        if self._pid != os.getpid():
            return  # the thread did not come along, and may have been holding the event's lock
        self._stopped.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(self._window + _PATIENCE)

    def _run(self) -> None:
        with looking():
            while not self._stopped.wait(self._interval):
                self._guarded("look at the processes", self._look)

    def _look(self) -> None:
        found = diagnose_self(window=self._window, stacks=self._stacks)
        for finding in self._news.of(found.findings):
            if self._stopped.is_set():
                return
            _log.warning("%s", told(finding))
            if self._on_finding is not None:
                self._guarded("call on_finding", self._on_finding, finding)

    def _guarded(self, what: str, call: Callable[..., object], *arguments: object) -> None:
        """Call; a failure is logged, but of each kind only the first."""
        try:
            call(*arguments)
        except Exception as error:
            kind = f"{what}: {type(error).__name__}"
            if kind not in self._failed:
                self._failed.add(kind)
                _log.warning("pipecap.watch could not %s; said only once", what, exc_info=True)


class News:
    """Says which findings are new. A stall has lasted for the patience of a diagnosis already."""

    def __init__(self) -> None:
        self._told: set[Key] = set()

    def of(self, findings: tuple[Finding, ...]) -> list[Finding]:
        """Note what one diagnosis has found, and return what was not reported yet."""
        problems = {finding.key: finding for finding in findings if finding.problem}
        new = [finding for key, finding in problems.items() if key not in self._told]
        self._told = {*problems}  # what went away is new when it comes back
        return new


def told(finding: Finding) -> str:
    """Give a finding as one text for a log, in ASCII."""
    return "\n".join(text.plain(text.describe(finding)))


@contextmanager
def looking() -> Iterator[None]:
    """Count the calling thread among those that only look, and name it for others who look at this process."""
    tid = threading.get_native_id()
    _lookers.add(tid)
    with suppress(OSError), open("/proc/thread-self/comm", "w") as name:
        name.write("pipecap-watch")
    try:
        yield
    finally:
        _lookers.discard(tid)


def diagnose_self(*, window: float = WINDOW, patience: float = PATIENCE, stacks: bool = False) -> Diagnosis:
    """Diagnose this process and its descendants as if the threads that look were not there.

    The lines of this process's own threads come from the interpreter; `stacks`: those of the others by py-spy.
    """
    me = os.getpid()
    seen = evidence.gather(window=window, ignored=frozenset({*_lookers, threading.get_native_id()}))
    return diagnose.judge(seen, seen.now.tree(me), me, patience=patience, stacks=stacks)
