"""Sizes as people write them."""

from __future__ import annotations

import pytest

from pipecap import InvalidSize
from pipecap.kernel.sizes import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("65536", 65536),
        ("64K", 65536),
        ("64k", 65536),
        ("64KiB", 65536),
        ("64kb", 64000),
        ("1M", 2**20),
        ("1MB", 10**6),
        ("2G", 2**31),
        ("1T", 2**40),
        ("1.5K", 1536),
        ("0.5M", 2**19),
        ("0x10000", 65536),
        (" 4096 ", 4096),
        ("512B", 512),
        ("64 KiB", 65536),
    ],
)
def test_text(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-1",
        "1.5",
        "0.5",
        ".5M",
        "1e6",
        "1_000",
        "12x",
        "64Q",
        "K",
        "1KK",
        "nan",
        "1.3K",
        "١٢",
        "0x",
        "64\u212a",
        "9" * 31,
    ],
)
def test_what_is_no_size_is_said_so(text: str) -> None:
    with pytest.raises(InvalidSize, match="invalid size"):
        parse_size(text)


def test_leading_zeros_are_refused_for_pipesz_reads_them_as_octal() -> None:
    with pytest.raises(InvalidSize, match="octal"):
        parse_size("010000")


@pytest.mark.parametrize("value", [None, 1.0, b"64K", [], True, object()])
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(InvalidSize):
        parse_size(value)  # type: ignore[arg-type]


def test_least_is_told() -> None:
    with pytest.raises(InvalidSize, match="at least 1 "):
        parse_size(0, least=1)
