"""Keep tests that use up the quota of this user apart from those that run beside them: it counts all of a user's pipes.

As root such tests are other users, each with a quota of its own.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HERE = Path(__file__).parent
# Each process of the run, and its forked children, has its own. Who wants to be alone waits in the turnstile.
_turnstile = os.open(_HERE / "conftest.py", os.O_RDONLY)
_tests = os.open(_HERE / "alone.py", os.O_RDONLY)
_is_shared = os.getuid() != 0


def _take(kind: int) -> None:
    fcntl.flock(_turnstile, fcntl.LOCK_EX)
    fcntl.flock(_tests, kind)
    fcntl.flock(_turnstile, fcntl.LOCK_UN)


@contextmanager
def beside_others() -> Iterator[None]:
    """Run a test, but not while another one is alone."""
    if not _is_shared:
        yield
        return
    _take(fcntl.LOCK_SH)
    try:
        yield
    finally:
        fcntl.flock(_tests, fcntl.LOCK_UN)


@contextmanager
def alone() -> Iterator[None]:
    """Within a test: wait until no other one runs, and let none begin."""
    if not _is_shared:
        yield
        return
    _take(fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(_tests, fcntl.LOCK_SH)
