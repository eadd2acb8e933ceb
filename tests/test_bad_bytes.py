"""Garbage, cuts and absurd lengths on the wire: what was whole comes out, then the documented error."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from children import Thread, forked, wait_until

import pipecap
from pipecap.queues.connection import one_way

fork: Any = pipecap.get_context("fork", exit_warning=None)
kinds = pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue", "Connection"])
queues = pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])

ITEMS: list[object] = ["first", [1, 2, 3], b"x" * 30]


def frame(payload: bytes) -> bytes:
    return struct.pack("!i", len(payload)) + payload


FRAMES = [frame(pickle.dumps(item)) for item in ITEMS]
STREAM = b"".join(FRAMES)
BOUNDARIES = [0, *itertools.accumulate(map(len, FRAMES))]


def whole_before(position: int) -> list[object]:
    """Return the items whose last byte is before a position in the stream."""
    return ITEMS[: sum(end <= position for end in BOUNDARIES) - 1]


class End:
    """The receiving end of a queue or connection, and the pipe to write anything into."""

    def __init__(self, kind: str) -> None:
        self.queue: Any = None
        if kind == "Connection":
            self.reader, self.writer = one_way("auto")
            self._get: Callable[[], Any] = self.reader.recv
        else:
            self.queue = getattr(fork, kind)()
            self.reader, self.writer = self.queue._reader, self.queue._writer
            self._get = self.queue.get

    def write(self, data: bytes) -> None:
        assert os.write(self.writer.fileno(), data) == len(data)

    def get(self) -> Any:
        """Get in a thread, so that what hangs is a failure soon."""
        return Thread(self._get).result()

    def read(self) -> tuple[list[object], list[Exception]]:
        """Read until there is only one error again and again: the items before the first one, and the errors."""
        items: list[object] = []
        errors: list[Exception] = []
        while len(errors) < 10 and [type(error) for error in errors[-2:]] != [EOFError, EOFError]:
            try:
                item = self.get()
            except Exception as error:
                errors.append(error)
            else:
                if not errors:
                    items.append(item)
        return items, errors

    def close(self) -> None:
        for end in (self.reader, self.writer):
            if not end.closed:
                end.close()


@contextmanager
def end_of(kind: str) -> Iterator[End]:
    end = End(kind)
    try:
        yield end
    finally:
        end.close()


# ---- cuts ----


@kinds
def test_a_stream_cut_at_any_byte_gives_what_is_whole_and_then_its_end(kind: str) -> None:
    """TruncatedItem, once, where the cut is in an item."""
    for cut in range(len(STREAM) + 1):
        with end_of(kind) as end:
            end.write(STREAM[:cut])
            end.writer.close()
            items, errors = end.read()
        assert items == whole_before(cut), cut
        expected = [EOFError, EOFError] if cut in BOUNDARIES else [pipecap.TruncatedItem, EOFError, EOFError]
        assert [type(error) for error in errors] == expected, cut


@queues
def test_an_item_that_a_dead_writer_cut_short_costs_itself(kind: str) -> None:
    """What the dead one published counts; the next item comes as ever."""
    made = getattr(fork, kind)()
    last = pickle.dumps("last")
    for cut in (1, 3, 4, 5, len(FRAMES[1]) - 1):
        with forked(lambda cut=cut: die_amid(made, FRAMES[1], cut)) as child:  # type: ignore[misc]
            wait_until(lambda: pipecap.unread(made._reader) == cut)  # noqa: B023 -- called at once
            child.end()
        with pytest.raises(pipecap.TruncatedItem):
            Thread(made.get).result()
        made.put("last")
        assert Thread(made.get).result() == pickle.loads(last), cut
        if kind != "SimpleQueue":
            assert made.qsize() == 0
    made.close()


def die_amid(made: Any, whole: bytes, cut: int) -> None:
    """Write a part of a frame as its writer does, and stay."""
    made._wlock.acquire()
    words = made._shared.struct
    if hasattr(made, "qsize"):
        words.credits -= 1
    words.batch_begin = words.written
    words.batch_end = words.written + len(whole)
    words.batch_put = words.put + 1
    os.write(made._writer.fileno(), whole[:cut])
    words.written += cut
    signal.pause()


# ---- garbage ----

GARBAGE = {
    "no length": b"\x80\0\0\0" * 16,
    "a length of 64 bits": b"\xff" * 64,
    "lengths of 0": bytes(64),
    "text": b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n" + b" " * 8,
}


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue", "Connection"])
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_at_any_byte_comes_after_what_was_whole(kind: str, garbage: bytes) -> None:
    """In an item it is the item's; behind one it is BadFrame or, where it could be a length, TruncatedItem."""
    for position in range(len(STREAM) + 1):
        with end_of(kind) as end:
            end.write(STREAM[:position] + garbage)
            end.writer.close()
            items, errors = end.read()
        whole = whole_before(position)
        assert items[: len(whole)] == whole, position
        assert len(items) - len(whole) <= (position not in BOUNDARIES)  # bytes within bytes are an item like any other
        assert errors
        if position in BOUNDARIES and garbage[0] >= 0x80:
            assert type(errors[0]) is pipecap.BadFrame
        is_broken = [isinstance(error, pipecap.BadFrame) for error in errors]
        if kind != "Connection":  # once it is broken it stays so
            assert is_broken == sorted(is_broken), position


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
def test_get_many_returns_what_is_whole_before_the_garbage(kind: str) -> None:
    for position in range(len(STREAM) + 1):
        with end_of(kind) as end:
            end.write(STREAM[:position] + b"\xff" * 64)
            end.writer.close()
            items: list[object] = []
            error: Exception | None = None
            while error is None:
                try:
                    items += Thread(end.queue.get_many).result()
                except Exception as raised:
                    error = raised
                    items += getattr(raised, "items", ())
        assert items == whole_before(position), position


@queues
def test_garbage_is_an_error_for_every_process_of_the_queue_and_for_no_other_queue(kind: str) -> None:
    other = getattr(fork, kind)()
    with end_of(kind) as end:
        end.queue.put("whole")
        wait_until(end.reader.poll)
        end.write(b"\xff" * 12)
        assert end.get() == "whole"
        for _ in range(2):
            with pytest.raises(pipecap.BadFrame):
                end.get()
            with forked(end.queue.get) as child, pytest.raises(pipecap.BadFrame):
                child.result()
        assert not end.queue.empty()  # an error is owed
        assert end.queue.debug_state()["broken"]
    other.put("fine")
    assert Thread(other.get).result() == "fine"
    other.close()


# ---- lengths ----

ABSURD = {
    "negative": struct.pack("!i", -2),
    "the least": struct.pack("!i", -(1 << 31)),
    "64 bits, all set": struct.pack("!iQ", -1, (1 << 64) - 1),
    "64 bits, the largest signed": struct.pack("!iQ", -1, (1 << 63) - 1),
    "64 bits, more than any machine has": struct.pack("!iQ", -1, 1 << 60),
}


@kinds
@pytest.mark.parametrize("header", ABSURD.values(), ids=ABSURD)
def test_an_absurd_length_is_no_message(kind: str, header: bytes) -> None:
    with end_of(kind) as end:
        end.write(FRAMES[0] + header)
        assert end.get() == ITEMS[0]
        with pytest.raises(pipecap.BadFrame):
            end.get()


@kinds
@pytest.mark.parametrize("length", [(1 << 31) - 1, 1 << 31, 5 << 30])
def test_a_length_that_lies_costs_no_memory(kind: str, length: int) -> None:
    """Memory is taken as the bytes arrive."""
    before = peak()
    with end_of(kind) as end:
        header = struct.pack("!i", length) if length < 1 << 31 else struct.pack("!iQ", -1, length)
        end.write(FRAMES[0] + header + b"x" * 100)
        end.writer.close()
        items, errors = end.read()
    assert items == ITEMS[:1]
    assert [type(error) for error in errors] == [pipecap.TruncatedItem, EOFError, EOFError]
    assert peak() - before < 32 << 20


def peak() -> int:
    """Return the most memory that this process had."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


@kinds
def test_an_empty_message_is_no_item_and_costs_itself(kind: str) -> None:
    with end_of(kind) as end:
        end.write(FRAMES[0] + frame(b"") + FRAMES[1])
        assert end.get() == ITEMS[0]
        with pytest.raises(EOFError, match="Ran out of input"):
            end.get()
        assert end.get() == ITEMS[1]
