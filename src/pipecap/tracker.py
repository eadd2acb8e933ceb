"""multiprocessing's resource tracker, a helper process: leave none behind that was not there before.

A lock of a spawn or forkserver context is a named semaphore, which the tracker removes should we be killed. Making one
starts the tracker, which would otherwise stay until this process ends. Where none can be started, making such a lock
fails, and that is for the one who makes it to report.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# It ends as soon as the last write end of its pipe is closed. A process forked meanwhile by another thread holds one.
_PATIENCE = 1.0


@contextmanager
def resource_tracker_as_it_was() -> Iterator[None]:
    """Run the resource tracker during the block; afterwards, stop it unless it was running before.

    It is stopped only while no other thread runs: one might have begun to rely on it.
    """
    tracker = _tracker()
    was_running = tracker._fd is not None
    with suppress(OSError):
        tracker.ensure_running()
    try:
        yield
    finally:
        if not was_running and threading.active_count() == 1:
            _stop(tracker)


@contextmanager
def forked_resource_tracker() -> Iterator[None]:
    """Run the resource tracker as a fork of this process during the block, which is many times faster.

    The stdlib starts an interpreter for it, which takes longer than a whole report. For a process that is ours and has
    one thread, such as the command line's: a library must not fork its caller's. One that is running already is used.
    """
    tracker = _tracker()
    if tracker._fd is None:
        # As the stdlib does around its start: Ctrl-C is for us, after the block, and not for the tracker.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            _fork(tracker)
            yield
        finally:
            _stop(tracker)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    else:
        yield


def _fork(tracker: Any) -> None:
    from multiprocessing import resource_tracker

    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()  # or the child writes it once more
    with suppress(OSError):
        read_end, write_end = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(read_end)
            os.close(write_end)
            return
        if not pid:
            try:
                os.close(write_end)
                resource_tracker.main(read_end)  # until the last write end is closed
            finally:
                os._exit(0)
        os.close(read_end)
        tracker._fd, tracker._pid = write_end, pid


def _stop(tracker: Any) -> None:
    """Let the tracker end, and wait for that, though not for ever as ResourceTracker._stop() would."""
    if tracker._fd is None:
        return
    pid = tracker._pid
    os.close(tracker._fd)
    tracker._fd = tracker._pid = None
    end = time.monotonic() + _PATIENCE
    with suppress(ChildProcessError):  # where SIGCHLD is ignored, the kernel has reaped it
        while not os.waitpid(pid, os.WNOHANG)[0] and time.monotonic() < end:
            time.sleep(0.0005)


def _tracker() -> Any:
    """Give the one tracker of this process; its state is private, and nobody else in pipecap touches it."""
    from multiprocessing import resource_tracker

    return resource_tracker._resource_tracker
