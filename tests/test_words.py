"""Amounts, time spans, lists of processes, and text from outside, as several places print them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecap.words import amount, ascii_only, duration, processes, some


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (9_999, "9,999 bytes"),
        (10_000, "10 KB"),
        (937_980, "938 KB"),
        (1_200_000, "1.2 MB"),
        (25_000_000, "25 MB"),
        (3_100_000_000, "3.1 GB"),
        (9_000_000_000_000, "9,000 GB"),
    ],
)
def test_amounts(size: int, expected: str) -> None:
    assert amount(size) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0 s"),
        (0.99, "0 s"),
        (12.7, "12 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (185, "3 min 5 s"),
        (3_600, "1 h"),
        (3_659, "1 h"),
        (7_800, "2 h 10 min"),
        (86_400, "1 d"),
        (86_400 + 3_599, "1 d"),
        (4 * 86_400 + 3 * 3_600 + 59, "4 d 3 h"),
        (400 * 86_400, "400 d"),
    ],
)
def test_a_time_span_has_its_two_largest_units(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


@pytest.mark.parametrize(
    ("pids", "expected"),
    [
        ([], "no process"),
        ([7], "process 7"),
        ([9, 7], "processes 7 and 9"),
        ({3, 1, 2}, "processes 1, 2 and 3"),
        (range(1, 7), "processes 1, 2, 3, 4, 5 and 6"),
        (range(1, 8), "processes 1, 2, 3, 4, 5, 6 and 1 more"),
        (range(1, 5_007), "processes 1, 2, 3, 4, 5, 6 and 5,000 more"),
    ],
)
def test_processes_are_named_in_order_and_many_are_counted(pids: list[int], expected: str) -> None:
    assert processes(pids) == expected


@pytest.mark.parametrize(
    ("names", "expected"), [(["a"], "a"), (["a", "b"], "a and b"), (("a", "b", "c"), "a, b and c")]
)
def test_names_are_joined_as_in_a_sentence(names: list[str], expected: str) -> None:
    assert some(names) == expected


@given(st.text())
def test_text_from_outside_is_printable_ascii(text: str) -> None:
    """No escape sequence moves a cursor; what is that already stays as it is."""
    shown = ascii_only(text)
    assert shown.isascii()
    assert shown.isprintable()
    assert ascii_only(shown) == shown


def test_what_is_no_ascii_is_written_by_its_number() -> None:
    assert ascii_only("python \x1b[2J\n é \U0001f40d") == r"python \x1b[2J\n \xe9 \U0001f40d"
