"""`pipecap fit`: said before anyone tries."""

from __future__ import annotations

import os

import pytest
from commands import assert_one_line_of_trouble, pipecap_command, pipecap_json
from privilege import CAP_DAC_READ_SEARCH, become_unprivileged, in_child, is_root, quota_used_up

import pipecap
from pipecap.cli.fit import literal

PAGE = os.sysconf("SC_PAGESIZE")
KEEP = 1 << CAP_DAC_READ_SEARCH if is_root() else 0  # else an interpreter in root's home could not be run
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


@pytest.mark.parametrize("item", ["1G", "8G"])
def test_an_item_too_large_for_any_pipe_here_has_only_one_way_out(item: str) -> None:
    text = pipecap_command("fit", item, "--capacity", "64K").stdout
    assert "get() before join(): no pipe here gets that large" in text
    assert "resize" not in text


def test_no_resize_is_advised_that_the_quota_refuses() -> None:
    def ask() -> str:
        with quota_used_up():
            return pipecap_command("fit", str(2 * PAGE)).stdout

    text = in_child(ask, become=lambda: become_unprivileged(keep=KEEP))
    assert "no pipe here gets that large (quota)" in text


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
        ("{'a': [1, 2] * 2, 'b': (b'x' * 2,)}", {"a": [1, 2, 1, 2], "b": (b"xx",)}),
    ],
)
def test_literals(expression: str, value: object) -> None:
    assert literal(expression) == value


@pytest.mark.parametrize(
    "expression",
    ["", "open('x')", "x", "1 +", "2 * 3", "'a' * 'b'", "b'0' * 10**9", "b'0' * 999999999999", "(" * 1000, "{} * 2"],
)
def test_what_is_no_literal_is_status_2(expression: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- whatever it says, the command adds what a literal is
        literal(expression)
    answer = pipecap_command("fit", f"--object={expression}")
    assert_one_line_of_trouble(answer, 2, "--object takes a literal")


@pytest.mark.parametrize("arguments", [("x",), ("0",), ("1e3",), ("1", "--capacity", "-3"), ("9" * 5000,)])
def test_bad_sizes_are_one_line_and_status_2(arguments: tuple[str, ...]) -> None:
    assert_one_line_of_trouble(pipecap_command("fit", *arguments), 2, "invalid size")
