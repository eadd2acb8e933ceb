"""`pipecap fit`: said before anyone tries."""

from __future__ import annotations

import os

import pytest
from commands import assert_one_line_of_trouble, pipecap_command, pipecap_json

import pipecap
from pipecap.cli.fit import literal

PAGE = os.sysconf("SC_PAGESIZE")
four_kib_pages = pytest.mark.skipif(PAGE != 4096, reason="the anchor is of 4 KiB pages and 64 KiB pipes")


@four_kib_pages
def test_the_edge_of_the_classic_hang() -> None:
    """CPython issue 128186: 65,514 zeros fit, 65,515 hang the program."""
    fits = pipecap_command("fit", "--object", "b'0' * 65514").stdout
    assert "takes 1 item in 16 slots" in fits
    assert "[ok]" in fits
    hangs = pipecap_command("fit", "--object", "b'0' * 65515").stdout
    assert "[problem] It does not fit" in hangs
    assert "pipecap.resize(queue, 131072)" in hangs


@four_kib_pages
def test_half_the_pipe_is_wasted_on_frames_of_2049_bytes() -> None:
    text = " ".join(pipecap_command("fit", "2045").stdout.split())
    assert "takes 16 items in 16 slots; 32,752 bytes (50%) go unused" in text


def test_json_says_the_same_as_the_api() -> None:
    found = pipecap_json("fit", "4093", "--capacity", "128K")
    assert found["fit"] == {**pipecap.fit(4093, capacity="128K").to_dict(), "writes": [4097]}
    sizes = [point["item"] for point in found["curve"]]
    assert sizes == sorted(sizes)
    assert {4092, 4093, 4094} <= {*sizes}


def test_an_item_above_pipe_max_size_has_only_one_way_out() -> None:
    text = pipecap_command("fit", "2G", "--capacity", "64K").stdout
    assert "larger than fs.pipe-max-size" in text
    assert "resize" not in text


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1", 1),
        ("b'0' * 3", b"000"),
        ("3 * 'ab'", "ababab"),
        ("[0] * 2 * 3", [0] * 6),
        ("(1, 'a', None)", (1, "a", None)),
        ("{'a': [1.5]}", {"a": [1.5]}),
        ("'x' * -1", ""),
    ],
)
def test_literals(expression: str, value: object) -> None:
    assert literal(expression) == value


@pytest.mark.parametrize(
    "expression",
    ["", "open('x')", "x", "1 +", "2 * 3", "'a' * 'b'", "b'0' * 10**9", "b'0' * 999999999999", "(" * 1000, "{} * 2"],
)
def test_what_is_no_literal_is_status_2(expression: str) -> None:
    with pytest.raises(pipecap.InvalidSize, match="not a Python literal"):
        literal(expression)


@pytest.mark.parametrize("arguments", [("x",), ("0",), ("1e3",), ("1", "--capacity", "-3"), ("--object", "x")])
def test_bad_sizes_are_one_line_and_status_2(arguments: tuple[str, ...]) -> None:
    assert_one_line_of_trouble(pipecap_command("fit", *arguments), 2, "invalid size")
