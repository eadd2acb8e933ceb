"""The fill probe of one scratch pipe, emptied before each run."""

import os
from contextlib import suppress

import pytest

from benchmarks.conftest import Against
from pipecap.kernel.limits import PAGE_SIZE
from pipecap.kernel.probe import probe, scratch_pipe

CAPACITY = 65536


def test_against_the_same_loop_in_python(against: Against) -> None:
    with scratch_pipe(CAPACITY) as (read_end, write_end):
        against(
            ("the same loop in Python", lambda: fill_in_python(write_end)),
            ("fill probe by 1 byte", lambda: probe(write_end, (1,))),
            prepare=lambda: empty(read_end),
            rounds=50,
            aim=1 / 3,
        )


def fill_in_python(write_end: int) -> tuple[int, int]:
    """Do what the probe does: bytes accepted and writes, one byte each."""
    accepted = writes = 0
    with suppress(BlockingIOError):
        while True:
            accepted += os.write(write_end, b"\0")
            writes += 1
    return accepted, writes


@pytest.mark.parametrize(
    ("write_size", "rounds"), [(1, 50), (PAGE_SIZE, 1000), (CAPACITY, 1000)], ids=["byte", "page", "capacity"]
)
def test_against_one_big_write(against: Against, write_size: int, rounds: int) -> None:
    """One write of the capacity fills a pipe soonest; it does not find out what smaller writes get."""
    everything = bytes(CAPACITY)
    with scratch_pipe(CAPACITY) as (read_end, write_end):
        against(
            (f"os.write of {CAPACITY:,} bytes", lambda: os.write(write_end, everything)),
            (f"fill probe by {write_size:,} byte{'s' * (write_size > 1)}", lambda: probe(write_end, (write_size,))),
            prepare=lambda: empty(read_end),
            rounds=rounds,
        )


def empty(read_end: int) -> None:
    """Read all that is in the pipe, if anything is."""
    os.set_blocking(read_end, False)
    with suppress(BlockingIOError):
        os.read(read_end, CAPACITY)
