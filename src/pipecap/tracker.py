"""multiprocessing's resource tracker, a helper process: leave none behind that was not there before.

Kept light: the command line starts the tracker before it loads anything else.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@contextmanager
def resource_tracker_as_it_was() -> Iterator[None]:
    """Run the resource tracker during the block; afterwards, stop it unless it was running before.

    A lock of a spawn or forkserver context needs the tracker, which would otherwise stay until this process ends. It is
    started at once, so that it is up, and thus able to end, when the block is done; and it is stopped only while no
    other thread runs, which might have begun to rely on it.
    """
    from multiprocessing import resource_tracker

    tracker: Any = resource_tracker._resource_tracker
    was_running = tracker._fd is not None
    tracker.ensure_running()
    try:
        yield
    finally:
        if not was_running and threading.active_count() == 1:
            tracker._stop()
