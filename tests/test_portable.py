"""The build of other Unixes, without F_GETPIPE_SZ: probes work, the rest says Unsupported.

CI makes it on Linux with CFLAGS=-DPIPECAP_NO_PIPE_SIZE and runs this file against it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from commands import assert_one_line_of_trouble, pipecap_command, pipecap_json
from test_schemas import validator

import pipecap
from pipecap._native import lib

pytestmark = pytest.mark.skipif(
    bool(lib.pipecap_has_pipe_size()), reason="this build has F_GETPIPE_SZ; .ci/run makes and tests one without"
)
DEFAULT = 16 * os.sysconf("SC_PAGESIZE")


@pytest.mark.parametrize("write_size", [1, None, "1M"])
def test_the_fill_probe_still_measures(write_size: int | None) -> None:
    found = pipecap.measure(write_size)
    assert (found.accepted, found.nominal, found.slots, found.predicted) == (DEFAULT, None, None, None)


def test_unread_is_still_there(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"abc")
    assert pipecap.unread(pipe) == 3


@pytest.mark.parametrize(
    "function",
    [
        pipecap.capacity,
        pipecap.state,
        lambda pipe: pipecap.resize(pipe, "128K"),
        lambda pipe: pipecap.resize(pipe, "128K", best_effort=True),
        lambda _: pipecap.headroom(),
        lambda _: pipecap.items_that_fit(100),
        lambda _: pipecap.measure(1, capacity="128K"),
    ],
)
def test_capacity_and_resize_are_unsupported(function: Callable[[object], object], pipe: tuple[int, int]) -> None:
    with pytest.raises(pipecap.Unsupported) as caught:
        function(pipe)
    assert "F_GETPIPE_SZ is Linux only" in caught.value.hint


def test_what_is_no_pipe_is_still_told() -> None:
    with open(os.devnull) as null, pytest.raises(pipecap.NotAPipe):
        pipecap.capacity(null)


def test_the_model_still_predicts_for_a_given_capacity() -> None:
    assert pipecap.items_that_fit(65533, capacity=65536) == 0


def test_the_report_says_what_is_missing() -> None:
    answer = pipecap_command()
    assert answer.returncode == 0
    assert "no F_GETPIPE_SZ" in answer.stdout
    found = pipecap_json()
    validator("report").validate(found)
    assert {row["accepted"] for row in found["queues"] if not row["socketpair"]} == {DEFAULT}
    assert {row["nominal"] for row in found["queues"]} == {None}


def test_commands_fail_with_one_line(pipe: tuple[int, int]) -> None:
    assert_one_line_of_trouble(pipecap_command("get", stdin=pipe[0]), 1, "Linux only")
    assert_one_line_of_trouble(pipecap_command("set", "64K", "stdin", stdin=pipe[0]), 1, "Linux only")
    assert_one_line_of_trouble(pipecap_command("fit", "100"), 1, "Linux only")
