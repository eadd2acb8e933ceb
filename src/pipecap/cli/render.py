"""Blocks of text and tables, shown as plain text, or with colour by rich where stdout is a terminal.

A command makes blocks from its result; nothing is computed here. rich is imported only for a terminal that takes
colour: plain output is the same words.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipecap.cli.trouble import printable

TYPE_CHECKING = False  # typing takes 2 ms to load
if TYPE_CHECKING:
    from typing import TextIO

WIDTH = 100
_STYLES = {"heading": "bold", "ok": "green", "note": "default", "problem": "bold red", "action": "cyan"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line or paragraph; `style` is heading, ok, note, problem or action. A `drawn` one is never wrapped."""

    text: str = ""
    style: str = "note"
    drawn: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under column heads; columns whose head starts with ">" are set flush right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


Block = Line | Table


def answer(name: str, data: Mapping[str, object], blocks: Sequence[Block], *, as_json: bool) -> None:
    """Print a command's answer on stdout: its data as JSON, or its blocks."""
    if as_json:
        document(name, data, sys.stdout)
    else:
        show(blocks, sys.stdout)


def document(name: str, data: Mapping[str, object], stream: TextIO) -> None:
    """Print data as JSON that names its schema: pipecap/schemas/NAME.json."""
    stream.write(json.dumps({"schema": f"pipecap.{name}/1", **data}, indent=2) + "\n")


def show(blocks: Sequence[Block], stream: TextIO) -> None:
    """Print blocks, in colour on a terminal unless NO_COLOR is set."""
    if _takes_colour(stream):
        _show_rich(blocks, stream)
        return
    for block in blocks:
        for line in _plain_table(block) if isinstance(block, Table) else _wrapped(block, WIDTH):
            stream.write(printable(_encodable(line, stream)).rstrip() + "\n")


def _takes_colour(stream: TextIO) -> bool:
    """Whether stream is a terminal that takes colour and bars, and is wide enough for the tables."""
    if not stream.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        return False
    return _encodable("█", stream) == "█" and shutil.get_terminal_size().columns >= 80


def bar(share: float, width: int = 20) -> str:
    """Draw a share of 0..1 as a bar, in eighths of a character."""
    eighths = round(share * width * 8)
    whole, part = divmod(max(0, min(eighths, width * 8)), 8)
    return "█" * whole + (" ▏▎▍▌▋▊▉"[part] if part else "")


def _wrapped(line: Line, width: int) -> list[str]:
    """Wrap a paragraph behind its own indent; what is to be copied stays in one piece."""
    if line.style == "action" or line.drawn:
        return [line.text]
    indent = " " * (len(line.text) - len(line.text.lstrip()) + 2)
    return textwrap.wrap(line.text, width, subsequent_indent=indent) or [""]


def _plain_table(table: Table) -> list[str]:
    lines = [[column.removeprefix(">") for column in table.columns], *table.rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(table.columns))]

    def cell(text: str, index: int) -> str:
        return text.rjust(widths[index]) if table.columns[index].startswith(">") else text.ljust(widths[index])

    return ["  " + "  ".join(cell(text, index) for index, text in enumerate(line)) for line in lines]


def _show_rich(blocks: Sequence[Block], stream: TextIO) -> None:
    import rich.console
    import rich.table
    import rich.text

    console = rich.console.Console(file=stream, highlight=False, soft_wrap=True)
    for block in blocks:
        if isinstance(block, Line):
            for line in _wrapped(block, console.width):
                console.print(rich.text.Text(line, style=_STYLES[block.style]))
            continue
        table = rich.table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        table.add_column("", width=0)
        for column in block.columns:
            right = column.startswith(">")
            table.add_column(column.removeprefix(">"), justify="right" if right else "left", no_wrap=right)
        for row in block.rows:
            table.add_row("", *(rich.text.Text(printable(text)) for text in row))
        console.print(table)


def _encodable(text: str, stream: TextIO) -> str:
    """Where the stream cannot take block characters (LANG=C), draw bars with '#'."""
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode("ascii", "replace").decode()
    return text


_BOXES = str.maketrans({"│": "|", "├": "|", "└": "`", "─": "-"})
_ASCII = _BOXES | {ord(character): ("#" if character == "█" else " ") for character in "█▏▎▍▌▋▊▉"} | {ord("·"): "-"}
