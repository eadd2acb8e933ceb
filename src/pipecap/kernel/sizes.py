"""Sizes as people write them: 65536, "64K", "1MiB" (1024), "1MB" (1000), "0x10000"."""

from __future__ import annotations

import operator
import re

from pipecap.errors import InvalidSize

_TEXT = re.compile(
    r"\s*(?:(0x[0-9a-f]{1,30})|([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*(?:([KMGT])(iB|B)?|B)?)\s*", re.IGNORECASE | re.ASCII
)
_POWER = {"K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(size: int | str, *, least: int = 0) -> int:
    """Give `size` in bytes.

    An int (or what has `__index__`) is taken as it is. In text a suffix K, M, G, T stands for powers of 1024, also as
    KiB; KB and the like are powers of 1000, as in util-linux. Fractions need a suffix and must come to whole bytes.

    Raises InvalidSize: not a number, below `least`, or a number with leading zeros, which pipesz(1) reads as octal.
    """
    if isinstance(size, str):
        number = _parse_text(size)
    elif isinstance(size, bool):
        raise InvalidSize(size, "a truth value is not a number of bytes")
    else:
        try:
            number = operator.index(size)
        except TypeError:
            raise InvalidSize(size, f"a {type(size).__name__} is not a number of bytes") from None
    if number < least:
        raise InvalidSize(size, f"at least {least:,} is needed")
    return number


def _parse_text(text: str) -> int:
    match = _TEXT.fullmatch(text)
    if match is None:
        raise InvalidSize(text, "not a number of bytes")
    hexadecimal, decimal, prefix, unit = match.groups()
    if hexadecimal:
        return int(hexadecimal, 16)
    if re.match(r"0[0-9]", decimal):
        raise InvalidSize(text, "a leading zero is octal to some tools and decimal to others")
    base = 1000 if unit and unit.upper() == "B" else 1024
    factor: int = base ** _POWER[prefix.upper()] if prefix else 1
    whole, _, fraction = decimal.partition(".")
    parts: int = 10 ** len(fraction)
    scaled, rest = divmod(int(whole + fraction) * factor, parts)
    if rest or (fraction and not prefix):
        raise InvalidSize(text, "not a whole number of bytes")
    return scaled
