"""multiprocessing's resource tracker, a helper process: leave none behind that was not there before.

A lock of a spawn or forkserver context is a named semaphore, which the tracker removes should we be killed. Making one
starts the tracker, which would otherwise stay until this process ends.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pipecap.errors import NoScratchPipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@contextmanager
def resource_tracker_as_it_was() -> Iterator[None]:
    """Run the resource tracker during the block; afterwards, stop it unless it was running before.

    It is stopped only while no other thread runs: one might have begun to rely on it.
    """
    tracker = _tracker()
    was_running = tracker._fd is not None
    try:
        tracker.ensure_running()
    except OSError as error:
        raise NoScratchPipe(error.errno or errno.EMFILE) from error
    try:
        yield
    finally:
        if not was_running and threading.active_count() == 1:
            tracker._stop()


@contextmanager
def forked_resource_tracker() -> Iterator[None]:
    """Run the resource tracker as a fork of this process during the block, which is many times faster.

    The stdlib starts an interpreter for it, which takes longer than a whole report. For a process that is ours and has
    one thread, such as the command line's: a library must not fork its caller's.
    """
    from multiprocessing import resource_tracker

    tracker = _tracker()
    try:
        read_end, write_end = os.pipe()
    except OSError as error:
        raise NoScratchPipe(error.errno or errno.EMFILE) from error
    pid = os.fork()
    if not pid:
        os.close(write_end)
        try:
            resource_tracker.main(read_end)  # until the last write end is closed
        finally:
            os._exit(0)
    os.close(read_end)
    tracker._fd, tracker._pid = write_end, pid
    try:
        yield
    finally:
        tracker._stop()


def _tracker() -> Any:
    """Give the one tracker of this process; its state is private, and nobody else in pipecap touches it."""
    from multiprocessing import resource_tracker

    return resource_tracker._resource_tracker
