"""What the processes of a kill test note, in files that outlive any of them, and what follows from it."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy
import numpy.typing

ROWS = 4096
Tags: TypeAlias = numpy.typing.NDArray[numpy.uint64]
SHIFT = 40  # a tag: row of the producer, number of its item
_NUMBER = (1 << SHIFT) - 1
_COLUMNS = ("go", "begun", "put", "done", "lost", "truncated", "noted", "out")
_LOG_ENTRIES = 1 << 23  # sparse


def tag_of(row: int, number: int) -> int:
    """Return what identifies an item."""
    return row << SHIFT | number


class Ledger:
    """One row a process, in columns; and of a consumer a log of the tags it got."""

    def __init__(self, folder: Path, *, make: bool = False) -> None:
        self.folder = folder
        path = folder / "ledger"
        size = 8 * ROWS * (len(_COLUMNS) + 1)
        if make:
            path.touch()
            os.truncate(path, size)
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), size)
        self._words = memoryview(self._memory).cast("Q")
        columns = [self._words[number * ROWS : (number + 1) * ROWS] for number in range(len(_COLUMNS) + 1)]
        self._columns = columns
        self.go, self.begun, self.put, self.done, self.lost, self.truncated, self.noted, self.out = columns[:-1]
        self._common = columns[-1]

    def close(self) -> None:
        """Unmap it."""
        for view in (*self._columns, self._words):
            view.release()
        self._memory.close()

    def wait_for_go(self, row: int) -> None:
        """Return when this process is to work."""
        while not self.go[row]:
            time.sleep(0.0005)

    def stop(self) -> None:
        """Let producers end."""
        self._common[0] = 1

    def is_stopping(self) -> bool:
        """Whether producers are to end."""
        return bool(self._common[0])

    def has_seen(self, number: int) -> bool:
        """Whether this item of row 0 came out, or a later one."""
        return bool(self._common[1] >= number)

    def note_error(self, row: int, text: str) -> None:
        """Note an exception that a process did not expect."""
        (self.folder / f"error-{row}").write_text(text)

    def errors(self) -> list[str]:
        """Return what was noted as unexpected."""
        return [f"{path.name}: {path.read_text()}" for path in sorted(self.folder.glob("error-*"))]

    @contextmanager
    def log(self, row: int) -> Iterator[Callable[[int], None]]:
        """Yield a call that notes a tag."""
        path = self.folder / f"log-{row}"
        if not path.exists():
            path.touch()
            os.truncate(path, 8 * _LOG_ENTRIES)
        with path.open("r+b") as file:
            memory = mmap.mmap(file.fileno(), 8 * _LOG_ENTRIES)
        tags = memoryview(memory).cast("Q")
        noted, out, common = self.noted, self.out, self._common
        first_of_parent = 1 << SHIFT

        def note(tag: int) -> None:
            tags[noted[row]] = tag
            noted[row] += 1
            out[tag >> SHIFT] = (tag & _NUMBER) + 1
            if tag < first_of_parent:
                common[1] = max(common[1], tag)

        try:
            yield note
        finally:
            tags.release()
            memory.close()

    def tags(self, row: int) -> Tags:
        """Return what a consumer got, in order."""
        return numpy.fromfile(self.folder / f"log-{row}", numpy.uint64, self.noted[row])


class Account:
    """What was put, what came out, what was reported."""

    def __init__(self, ledger: Ledger, dead_producers: list[int], dead_consumers: list[int], *, tasks: bool) -> None:
        self._ledger = ledger
        self._dead_producers = set(dead_producers)
        self._dead_consumers = dead_consumers
        self._found: list[str] = []
        self.in_put = 0  # items whose put() did not return
        self._perhaps_done = len(dead_consumers)  # items that a consumer had just got, and not noted
        logs = {row: ledger.tags(row) for row in range(ROWS) if ledger.noted[row]}
        for row, log in logs.items():
            self._check_order(row, log)
        got = numpy.concatenate([numpy.empty(0, numpy.uint64), *logs.values()])
        unique = numpy.unique(got)
        if len(unique) != len(got):
            self._found.append(f"{len(got) - len(unique)} items came twice")
        if tasks:  # an item without task_done() is lost, too
            undone = [logs[row][ledger.done[row] :] for row in dead_consumers if row in logs]
            self._perhaps_done = sum(map(len, undone))  # task_done() may have been called
            unique = numpy.setdiff1d(unique, numpy.concatenate([numpy.empty(0, numpy.uint64), *undone]))
        self.put = sum(ledger.put)
        self.reported = sum(ledger.lost) + sum(ledger.truncated)
        self.missing = {row: self._missing(row, unique) for row in range(ROWS) if ledger.begun[row]}
        self.lost = sum(map(len, self.missing.values()))

    def _check_order(self, row: int, log: Tags) -> None:
        rows = log >> numpy.uint64(SHIFT)
        tags = log[numpy.argsort(rows, kind="stable")].astype(numpy.int64)
        if (numpy.diff(tags) <= 0).any():
            self._found.append(f"to consumer {row} the items of one producer came out of order")

    def _missing(self, row: int, got: Tags) -> list[int]:
        """Return the numbers of the items of a producer that nobody got; not of the one in put() when it was killed."""
        first = 1 if row == 0 else 0
        end = self._ledger.begun[row] + first
        limits = numpy.array([tag_of(row, 0), tag_of(row + 1, 0)], numpy.uint64)
        numbers = got[slice(*numpy.searchsorted(got, limits))] & numpy.uint64(_NUMBER)
        is_missing = numpy.ones(end, bool)
        is_missing[:first] = False
        is_missing[numbers[numbers < end].astype(numpy.int64)] = False
        missing = [int(number) for number in is_missing.nonzero()[0]]
        if missing and missing[-1] >= self._ledger.put[row] + first:
            self.in_put += 1
            missing.pop()
        return missing

    def problems(self, in_hand: int, pairs: int) -> list[str]:
        """Return what must not be; `in_hand` is the most items that a producer may take with it.

        `pairs`: how often both sides were killed together. If both die inside a system call, what lies in the pipe may
        be dropped (PROTOCOL.md, N3), and is reported: usually nothing, seldom more than an item beside the one in hand.
        """
        found = list(self._found)
        others = 0  # lost with consumers
        for row, missing in self.missing.items():
            # What a dead producer took with it are the last items it put.
            last = self._ledger.put[row] - 1
            own = 0
            while row in self._dead_producers and own < len(missing) and missing[-1 - own] == last - own:
                own += 1
            others += len(missing) - min(own, in_hand)
        consumers = len(self._dead_consumers)
        if others > consumers + 2 * pairs:
            found.append(f"{others} items are lost with {consumers} consumers: {self.missing}")
        least, most = self.lost - self._perhaps_done, self.lost + self.in_put
        if not least <= self.reported <= most:
            found.append(f"{self.reported} losses are reported, of {least} to {most}")
        return found
