"""The capacity of a descriptor, against the standard library's own way to ask for it."""

from fcntl import F_GETPIPE_SZ, fcntl

import pytest

import pipecap
from benchmarks.conftest import Against
from pipecap._native import lib
from pipecap.kernel.probe import scratch_pipe


@pytest.mark.parametrize(
    ("what", "capacity", "aim"),
    [("lib.pipecap_capacity(fd)", lib.pipecap_capacity, 1.0), ("pipecap.capacity(fd)", pipecap.capacity, 2.0)],
    ids=["native", "public"],
)
def test_capacity(against: Against, what: str, capacity: object, aim: float) -> None:
    """All are called by a plain name: what is timed is the call, not how the function is looked up."""
    with scratch_pipe() as (_, fd):
        against(
            ("fcntl.fcntl(fd, F_GETPIPE_SZ)", "fcntl(fd, F_GETPIPE_SZ)"),
            (what, "capacity(fd)"),
            names={"fd": fd, "fcntl": fcntl, "F_GETPIPE_SZ": F_GETPIPE_SZ, "capacity": capacity},
            calls=1000,
            rounds=1000,
            aim=aim,
        )
