"""What callers pass: a PID, a time; and what is neither."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipecap.errors import InvalidValue, ProcessGone, Unsupported
from pipecap.proc.checks import require_process, require_seconds


def test_a_process_that_runs_is_one() -> None:
    require_process(os.getpid())


@pytest.mark.parametrize("pid", [0, -1, True, 1.5, "1", None, [], 2**31, 2**100])
def test_what_is_no_pid(pid: object) -> None:
    with pytest.raises(InvalidValue, match="pid must be a whole number above 0, not ") as caught:
        require_process(pid)
    assert caught.value.parameter == "pid"
    assert caught.value.hint


def test_a_pid_of_no_process_is_gone() -> None:
    with pytest.raises(ProcessGone):
        require_process(2**31 - 1)


def test_without_procfs_nothing_is_known(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="shows no processes"):
        require_process(os.getpid(), str(tmp_path))


@pytest.mark.parametrize("seconds", [1, 0.3, 1e-9, 3599.9])
def test_seconds(seconds: float) -> None:
    require_seconds("window", seconds, usual=0.3)


@pytest.mark.parametrize(
    "seconds", [0, 0.0, -1, 3600, float("nan"), float("inf"), 10**400, True, None, "1", [], object()]
)
def test_what_is_no_time(seconds: object) -> None:
    with pytest.raises(InvalidValue, match="window must be more than 0 seconds and less than an hour, not ") as caught:
        require_seconds("window", seconds, usual=0.3)
    assert caught.value.parameter == "window"
    assert caught.value.hint == "0.3 is usual"


def test_zero_and_more_than_an_hour_where_they_make_sense() -> None:
    require_seconds("patience", 0, usual=3, zero=True)
    require_seconds("interval", 100_000, usual=5, most=1e9)
    with pytest.raises(InvalidValue, match="patience must be 0 seconds or more"):
        require_seconds("patience", -0.1, usual=3, zero=True)
    with pytest.raises(InvalidValue, match="interval must be more than 0 seconds, not "):
        require_seconds("interval", 1e9, usual=5, most=1e9)
