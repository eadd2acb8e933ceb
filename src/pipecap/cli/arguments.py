"""Arguments that several commands take."""

from __future__ import annotations

import argparse


def pid(text: str) -> int:
    """Return a PID: a whole number above 0, in ASCII digits, that the kernel could give."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:20]) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is no PID")
    return int(text)
