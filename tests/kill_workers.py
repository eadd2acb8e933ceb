"""The processes of a kill test: they put and get items that can be checked, and note each in the ledger."""

from __future__ import annotations

import struct
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledger import Ledger, tag_of

import pipecap

STOP = (1 << 62) - 1
MAXSIZE = {100: 64, 64 << 10: 32, 1 << 20: 8, 16 << 20: 4}
SIZES = tuple(MAXSIZE)
KINDS = ("Queue", "JoinableQueue", "SimpleQueue")
PAYLOADS = ("bytes", "array")
VICTIMS = ("producer", "consumer", "both", "one of 3 + 3")
METHODS = ("fork", "spawn")


@dataclass(frozen=True, slots=True)
class Cell:
    """What is tried."""

    kind: str
    size: int
    payload: str
    victim: str
    method: str

    def __str__(self) -> str:
        return f"{self.kind:13} {self.size:>10,} B  {self.payload:5}  {self.victim:12}  {self.method:5}"


# ---- items ----


def make(tag: int, size: int, payload: str) -> Any:
    """Make an item that has its tag all over it."""
    if payload == "bytes":
        return (struct.pack("<Q", tag) * (size // 8 + 1))[:size]
    import numpy

    return numpy.full(size // 8, tag, numpy.uint64)


def tag_in(item: Any) -> int:
    """Return the tag of an item."""
    if type(item) is int:
        return item
    return int.from_bytes(item[:8], "little") if type(item) is bytes else int(item[0])


def check(item: Any, size: int) -> None:
    """Raise AssertionError where an item is not what was put."""
    if type(item) is bytes:
        assert item == (item[:8] * (size // 8 + 1))[:size], "an item is not what was put"
    elif type(item) is not int:
        assert item.size == size // 8, "an array is not what was put"
        assert (item == item[0]).all(), "an array is not what was put"


# ---- the processes ----


def _noting(work: Callable[..., None], queue: Any, folder: str, row: int, cell: Cell) -> None:
    ledger = Ledger(Path(folder))
    try:
        ledger.wait_for_go(row)
        work(queue, ledger, row, cell)
    except BaseException:
        ledger.note_error(row, traceback.format_exc())
    finally:
        ledger.close()


def _produce(queue: Any, ledger: Ledger, row: int, cell: Cell) -> None:
    number = 0
    while not ledger.is_stopping():
        item = make(tag_of(row, number), cell.size, cell.payload)
        ledger.begun[row] = number = number + 1
        queue.put(item)
        ledger.put[row] = number
    if cell.kind != "SimpleQueue":
        queue.close()
        queue.join_thread()


def _consume(queue: Any, ledger: Ledger, row: int, cell: Cell) -> None:
    with ledger.log(row) as note:
        while get(queue, ledger, row, cell, note) != STOP:
            ledger.done[row] += 1


def get(queue: Any, ledger: Ledger, row: int, cell: Cell, note: Callable[[int], None]) -> int:
    """Get and note the next item, and each error that comes instead; return its tag."""
    while True:
        try:
            item = queue.get()
        except pipecap.LostItem as error:
            ledger.lost[row] += error.count
        except pipecap.TruncatedItem:
            ledger.truncated[row] += 1
        else:
            break
    tag = tag_in(item)
    if tag != STOP:
        note(tag)
    if cell.kind == "JoinableQueue":
        queue.task_done()
    check(item, cell.size)
    return tag


def produce(*arguments: Any) -> None:
    """Put until told to stop."""
    _noting(_produce, *arguments)


def consume(*arguments: Any) -> None:
    """Get until STOP comes."""
    _noting(_consume, *arguments)
