"""Keep tests that use up the quota of this user apart from those that run beside them: it counts all of a user's pipes.

As root such tests are other users, each with a quota of its own.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

_HERE = Path(__file__).parent
# Each process of the run, and its forked children, has its own. A test that is to be alone waits in the turnstile.
_turnstile = os.open(_HERE / "conftest.py", os.O_RDONLY)
_tests = os.open(_HERE / "alone.py", os.O_RDONLY)
_is_shared = os.getuid() != 0


@contextmanager
def _locked(kind: int, afterwards: int) -> Iterator[None]:
    if not _is_shared:
        yield
        return
    fcntl.flock(_turnstile, fcntl.LOCK_EX)
    fcntl.flock(_tests, kind)
    fcntl.flock(_turnstile, fcntl.LOCK_UN)
    try:
        yield
    finally:
        fcntl.flock(_tests, afterwards)


def beside_others() -> AbstractContextManager[None]:
    """Run a test, but not while another one is alone."""
    return _locked(fcntl.LOCK_SH, fcntl.LOCK_UN)


def alone() -> AbstractContextManager[None]:
    """Within a test: wait until no other one runs, and let none begin."""
    return _locked(fcntl.LOCK_EX, fcntl.LOCK_SH)
