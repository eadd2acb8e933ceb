"""Connection, held to the standard library's: on the wire, in what it raises, and where that one loses its step."""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import gc
import hashlib
import itertools
import mmap
import multiprocessing
import os
import pickle
import resource
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import connection, resource_sharer
from types import FrameType
from typing import Any

import numpy as np
import pytest
from children import DEADLINE, Thread, and_stay, forked, place, state, wait_until, wait_until_in
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

import pipecap
from pipecap import ResizeRefused, TruncatedItem
from pipecap.errors import BadFrame
from pipecap.queues import buffers, sender
from pipecap.queues.connection import Connection, one_way, two_way
from pipecap.queues.receiver import Receiver

PAGE = os.sysconf("SC_PAGESIZE")
CAPACITY = 16 * PAGE
MIB = 1 << 20

Ends = tuple[connection.Connection, connection.Connection]

EDGES = sorted(
    {0, 1, 2, *range(4088, 4100), 8187, 8188, 8189, 8192, 16383, 16384, 16385}
    | {CAPACITY + step for step in (-5, -4, -3, -1, 0, 1)}
)
SIZES = st.one_of(st.sampled_from(EDGES), st.integers(min_value=0, max_value=3 * CAPACITY))
LARGE = st.sampled_from([MIB - 4, MIB, MIB + 1, 3 * MIB + 7])
# Repeated up to a length that is no multiple of a page: each place looks different from its neighbours.
_NOISE = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(131))


def noise(size: int, seed: int = 0) -> bytes:
    """Give bytes in which a shift, a hole or a repetition shows."""
    data = _NOISE[seed % 100 :] + _NOISE[: seed % 100]
    return (data * (size // len(data) + 1))[:size]


def stock_frame(payload: bytes) -> bytes:
    return struct.pack("!i", len(payload)) + payload


def long_frame(payload: bytes, claimed: int | None = None) -> bytes:
    return struct.pack("!iQ", -1, len(payload) if claimed is None else claimed) + payload


def ends_of(reader: type[connection.Connection], writer: type[connection.Connection], *, duplex: bool = False) -> Ends:
    if duplex:
        one, other = socket.socketpair()
        return reader(one.detach()), writer(other.detach())
    read_end, write_end = os.pipe()
    return reader(read_end, writable=False), writer(write_end, readable=False)


@contextmanager
def connected(
    reader: type[connection.Connection] = Connection,
    writer: type[connection.Connection] = Connection,
    *,
    duplex: bool = False,
) -> Iterator[Any]:
    ends = ends_of(reader, writer, duplex=duplex)
    try:
        yield ends
    finally:
        for end in ends:
            end.close()


def read_all(fd: int) -> bytes:
    """Read to the end of file, by read(2) alone."""
    blocks = []
    while block := os.read(fd, MIB):
        blocks.append(block)
    return b"".join(blocks)


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def send_all(writer: connection.Connection, payloads: Iterable[bytes]) -> None:
    for payload in payloads:
        writer.send_bytes(payload)


def on_the_wire(kind: type[connection.Connection], send: Callable[[connection.Connection], object]) -> bytes:
    read_end, write_end = os.pipe()
    writer = kind(write_end, readable=False)
    reading = Thread(lambda: read_all(read_end))
    try:
        send(writer)
        writer.close()
        return bytes(reading.result())
    finally:
        writer.close()
        reading.join(DEADLINE)
        os.close(read_end)


# ---- the wire ----


@given(sizes=st.lists(SIZES, max_size=4), large=st.lists(LARGE, max_size=1))
def test_the_bytes_on_the_wire_are_the_standard_librarys(sizes: list[int], large: list[int]) -> None:
    payloads = [noise(size, seed) for seed, size in enumerate(sizes + large)]

    def send(writer: connection.Connection) -> None:
        for payload in payloads:
            writer.send_bytes(payload)

    assert on_the_wire(Connection, send) == on_the_wire(connection.Connection, send)


OBJECTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
LARGE_OBJECTS = st.sampled_from([70_000, MIB]).flatmap(
    lambda size: st.sampled_from([bytes(size), "x" * size, bytearray(size), [b"y" * size, "ü" * size, 5]])
)


@given(objects=st.lists(OBJECTS | LARGE_OBJECTS, max_size=4))
def test_an_object_is_pickled_to_the_standard_librarys_bytes(objects: list[object]) -> None:
    def send(writer: connection.Connection) -> None:
        for each in objects:
            writer.send(each)

    assert on_the_wire(Connection, send) == on_the_wire(connection.Connection, send)


@given(
    objects=st.lists(OBJECTS | LARGE_OBJECTS, min_size=1, max_size=4), ours_reads=st.booleans(), duplex=st.booleans()
)
def test_either_end_may_be_the_standard_librarys(objects: list[object], ours_reads: bool, duplex: bool) -> None:
    kinds = (Connection, connection.Connection) if ours_reads else (connection.Connection, Connection)
    with connected(*kinds, duplex=duplex) as (reader, writer):
        sending = Thread(lambda: [writer.send(each) for each in objects])
        assert [reader.recv() for _ in objects] == objects
        sending.result()


@pytest.mark.parametrize("duplex", [False, True], ids=["pipe", "socketpair"])
def test_sizes_at_the_edges_come_out_as_they_went_in(duplex: bool) -> None:
    payloads = [noise(size, seed) for size in EDGES for seed in range(3)]
    with connected(duplex=duplex) as (reader, writer):
        sending = Thread(lambda: send_all(writer, payloads))
        assert all(reader.recv_bytes() == payload for payload in payloads)
        sending.result()


class AnyCut(RuleBasedStateMachine):
    """A reader that never waits gets each message whole, wherever the wire is cut between two reads."""

    @initialize()
    def make(self) -> None:
        self.reader, self.writer = one_way("auto")
        os.set_blocking(self.reader.fileno(), False)
        self.on_its_way = b""
        self.expected: list[bytes] = []
        self.seeds = itertools.count()

    @rule(size=st.sampled_from([0, 1, 3, 4, 5, 4092, 4093, 20_000, 70_000, 200_000]), long=st.booleans())
    def another(self, size: int, long: bool) -> None:
        payload = noise(size, next(self.seeds))
        self.expected.append(payload)
        self.on_its_way += long_frame(payload) if long else stock_frame(payload)

    @precondition(lambda self: self.on_its_way)
    @rule(count=st.one_of(st.integers(min_value=1, max_value=13), st.integers(min_value=1, max_value=CAPACITY)))
    def arrive(self, count: int) -> None:
        with suppress(BlockingIOError):
            os.set_blocking(self.writer.fileno(), False)
            self.on_its_way = self.on_its_way[os.write(self.writer.fileno(), self.on_its_way[:count]) :]

    @rule()
    def receive(self) -> None:
        try:
            got = self.reader.recv_bytes()
        except BlockingIOError:
            return
        assert got == self.expected.pop(0)

    @rule()
    def receive_into(self) -> None:
        room = bytearray(200_000)
        with suppress(BlockingIOError):
            size = self.reader.recv_bytes_into(room)
            assert room[:size] == self.expected.pop(0)

    def teardown(self) -> None:
        if hasattr(self, "reader"):
            while self.expected:
                if self.on_its_way:
                    self.arrive(CAPACITY)
                self.receive()
            self.reader.close()
            self.writer.close()


TestAnyCut = AnyCut.TestCase


@pytest.mark.parametrize("size", [0, 1, 4092, 70_000])
@pytest.mark.parametrize("kind", [Connection, connection.Connection])
def test_a_long_header_may_say_a_short_length(kind: type[connection.Connection], size: int) -> None:
    with connected(kind) as (reader, writer):
        sending = Thread(lambda: write_all(writer.fileno(), long_frame(noise(size)) + stock_frame(b"next")))
        assert [reader.recv_bytes(), reader.recv_bytes()] == [noise(size), b"next"]
        sending.result()


@pytest.mark.parametrize("size", [2**31 - 1, 2**31])
def test_above_2_gib_the_header_is_the_standard_librarys_long_one(size: int) -> None:
    """A frame of the same mebibyte over and over; the reader throws away what it does not look at."""
    block, last = bytes(MIB), noise(size % MIB or MIB, 1)
    outgoing = buffers.Outgoing([block] * ((size - len(last)) // MIB) + [last], [size])
    read_end, write_end = os.pipe()
    reader, writer = Connection(read_end, writable=False), Connection(write_end, readable=False)
    pipecap.resize(reader, MIB, best_effort=True)
    header = struct.pack("!i", size) if size < 2**31 else struct.pack("!iQ", -1, size)

    def look() -> tuple[bytes, bytes]:
        start = os.read(read_end, len(header))
        left = size - len(last)
        null = os.open(os.devnull, os.O_WRONLY)
        while left:
            left -= os.splice(read_end, null, left)
        os.close(null)
        return start, read_all(read_end)

    looking = Thread(look)
    try:
        with writer:
            writer._out().send_frames(outgoing)
        assert looking.result() == (header, last)
    finally:
        writer.close()
        looking.join(DEADLINE)
        reader.close()


@pytest.mark.parametrize("size", [0, 1, 4092])
def test_a_frame_up_to_pipe_buf_is_one_write(size: int) -> None:
    """So two processes that send such messages without a lock never mix them: pipe(7). A packet pipe shows each."""
    read_end, write_end = os.pipe2(os.O_DIRECT)
    with Connection(read_end, writable=False), Connection(write_end, readable=False) as writer:
        writer.send_bytes(noise(size))
        assert os.read(read_end, CAPACITY) == stock_frame(noise(size))


# ---- what it raises: the same calls on both kinds ----


def outcome(call: Callable[[], object]) -> object:
    """Give what a call gave, or the exception."""
    try:
        return call()
    except Exception as error:
        return error


def same(ours: object, stock: object) -> bool:
    """Ours may say more by a class of its own, below the stock one."""
    if isinstance(stock, Exception):
        kind: type[Exception] = type(stock)
        return isinstance(ours, kind) and getattr(ours, "errno", None) == getattr(stock, "errno", None)
    return ours == stock and type(ours) is type(stock)


Scenario = Callable[[connection.Connection, connection.Connection], list[Callable[[], object]]]


def sent_and_got(*arguments: Any) -> Scenario:
    return lambda reader, writer: [lambda: writer.send_bytes(*arguments), reader.poll, lambda: _last(reader)]


def _last(reader: connection.Connection) -> object:
    return reader.recv_bytes() if reader.poll() else "nothing came"


def received_into(make: Callable[[], Any], *offset: int, message: bytes = b"abcdefgh") -> Scenario:
    def scenario(reader: connection.Connection, writer: connection.Connection) -> list[Callable[[], object]]:
        target = make()
        return [
            lambda: writer.send_bytes(message),
            lambda: writer.send_bytes(b"the next"),
            lambda: reader.recv_bytes_into(target, *offset),
            lambda: bytes(target),
            lambda: _last(reader),
        ]

    return scenario


def raw(*wire: bytes, calls: tuple[str, ...] = ("recv_bytes", "recv_bytes"), **arguments: object) -> Scenario:
    """Bytes on the wire, then the end of file."""

    def scenario(reader: connection.Connection, writer: connection.Connection) -> list[Callable[[], object]]:
        write_all(writer.fileno(), b"".join(wire))
        writer.close()
        return [lambda name=name: getattr(reader, name)(**arguments) for name in calls]  # type: ignore[misc]

    return scenario


def closed_reader(reader: connection.Connection, writer: connection.Connection) -> list[Callable[[], object]]:
    reader.close()
    return [
        lambda: writer.send("small"),
        lambda: writer.send_bytes(bytes(5000)),
        lambda: writer.send_bytes(bytes(MIB)),
        reader.recv,
        reader.recv_bytes,
        reader.poll,
        reader.fileno,
        lambda: reader.recv_bytes_into(bytearray(1)),
        lambda: reader.closed,
        reader.close,
    ]


def closed_writer(reader: connection.Connection, writer: connection.Connection) -> list[Callable[[], object]]:
    writer.close()
    return [
        lambda: writer.send(1),
        lambda: writer.send_bytes(b""),
        reader.poll,
        reader.recv,
        reader.recv,
        reader.recv_bytes,
        lambda: reader.recv_bytes_into(bytearray(9)),
        reader.poll,
    ]


def wrong_way(reader: connection.Connection, writer: connection.Connection) -> list[Callable[[], object]]:
    return [
        writer.recv, writer.recv_bytes, writer.poll, lambda: writer.recv_bytes_into(bytearray(2)),
        lambda: reader.send(1), lambda: reader.send_bytes(b""),
        lambda: (reader.readable, reader.writable, writer.readable, writer.writable),
    ]  # fmt: skip


def not_waiting(reader: connection.Connection, writer: connection.Connection) -> list[Callable[[], object]]:
    os.set_blocking(reader.fileno(), False)
    os.set_blocking(writer.fileno(), False)

    def fill() -> None:
        while True:
            os.write(writer.fileno(), bytes(PAGE))

    return [
        reader.recv, reader.recv_bytes, lambda: reader.recv_bytes_into(bytearray(9)), reader.poll,
        fill, lambda: writer.send(1), lambda: writer.send_bytes(bytes(100_000)),
    ]  # fmt: skip


def polls(reader: connection.Connection, writer: connection.Connection) -> list[Callable[[], object]]:
    timeouts = (0, 0.0, -1, -0.5, 0.001)
    wrong: Any = "1"
    return [
        *(partial(reader.poll, timeout) for timeout in timeouts),
        partial(reader.poll, wrong),
        lambda: writer.send_bytes(b""),
        *(partial(reader.poll, timeout) for timeout in (*timeouts, 5, None)),
        reader.recv_bytes,
        reader.poll,
    ]


def poisoned(reader: connection.Connection, writer: connection.Connection) -> list[Callable[[], object]]:
    """Let a message that does not unpickle be gone, and the next one be well."""
    for payload in (b"no pickle", b"", pickle.dumps("well")):
        writer.send_bytes(payload)
    return [reader.recv, reader.recv, reader.recv]


def unpicklable(reader: connection.Connection, writer: connection.Connection) -> list[Callable[[], object]]:
    """Let an object that does not pickle leave nothing on the wire."""
    return [
        lambda: writer.send([bytes(100_000), lambda: None]),
        lambda: writer.send(threading.Lock()),
        reader.poll,
        lambda: writer.send(("well", bytes(100))),
        reader.recv,
    ]


def too_long(reader: connection.Connection, writer: connection.Connection) -> list[Callable[[], object]]:
    return [
        lambda: writer.send_bytes(b"12345"),
        lambda: writer.send_bytes(b"12345"),
        lambda: reader.recv_bytes(5),
        lambda: reader.recv_bytes(-1),
        lambda: reader.recv_bytes(4),
        lambda: (reader.closed, reader.readable),
        reader.recv_bytes,
    ]


INTS = array.array("i", range(5000))
SCENARIOS: dict[str, Scenario] = {
    "bytes": sent_and_got(b"abc"),
    "bytearray": sent_and_got(bytearray(b"abc")),
    "no bytes": sent_and_got(b""),
    "memoryview": sent_and_got(memoryview(b"abcdef")[1:4]),
    "offset": sent_and_got(b"abcdef", 2),
    "offset at the end": sent_and_got(b"abcdef", 6),
    "offset and size": sent_and_got(b"abcdef", 2, 3),
    "size 0": sent_and_got(b"abcdef", 2, 0),
    "offset and size of something large": sent_and_got(noise(40_000), 4_001, 30_000),
    "array": sent_and_got(INTS),
    "array with offset and size in bytes": sent_and_got(INTS, 3, 9_001),
    "small array": sent_and_got(INTS[:3], 2, 5),
    "array of C chars": sent_and_got((ctypes.c_char * 9).from_buffer_copy(b"abcdefghi"), 1, 7),
    "large array of C bytes": sent_and_got((ctypes.c_ubyte * 40_000)(1, 2, 3), 1),
    "array of C ints": sent_and_got((ctypes.c_int * 9)(1, 2, 3)),
    "offset negative": sent_and_got(b"abc", -1),
    "offset too large": sent_and_got(b"abc", 4),
    "size negative": sent_and_got(b"abc", 1, -1),
    "size too large": sent_and_got(b"abc", 1, 3),
    "offset no number": sent_and_got(b"abc", "1"),
    "str": sent_and_got("abc"),
    "None": sent_and_got(None),
    "into all": received_into(lambda: bytearray(8)),
    "into more": received_into(lambda: bytearray(20)),
    "into the middle": received_into(lambda: bytearray(b"." * 20), 5),
    "into the last bytes": received_into(lambda: bytearray(20), 12),
    "into an array": received_into(lambda: array.array("i", [7] * 4), 4),
    "into C chars": received_into(lambda: (ctypes.c_char * 20)(), 4),
    "into C bytes": received_into(lambda: (ctypes.c_ubyte * 20)(), 1),
    "into C ints": received_into(lambda: (ctypes.c_int * 4)(), 4),
    "into shared memory": received_into(lambda: mmap.mmap(-1, 12), 4),
    "into too short": received_into(lambda: bytearray(7)),
    "into too short by the offset": received_into(lambda: bytearray(20), 13),
    "into nothing": received_into(lambda: bytearray(0)),
    "nothing into nothing": received_into(lambda: bytearray(0), message=b""),
    "offset past the end": received_into(lambda: bytearray(8), 9),
    "into, offset negative": received_into(lambda: bytearray(8), -1),
    "into what is read-only": received_into(lambda: bytes(20)),
    "into what is no buffer": received_into(lambda: "x" * 20),
    "closed reader": closed_reader,
    "closed writer": closed_writer,
    "wrong way": wrong_way,
    "not waiting": not_waiting,
    "poll": polls,
    "poisoned": poisoned,
    "unpicklable": unpicklable,
    "longer than maxlength": too_long,
    "header cut short": raw(b"\0\0"),
    "end after a header": raw(b"\0\0\0\5"),
    "payload cut short": raw(b"\0\0\0\5abc"),
    "long header cut short": raw(b"\xff\xff\xff\xff\0\0"),
    "half a long header": raw(b"\xff\xff\xff\xff"),
    "long header, payload cut short": raw(long_frame(b"abc", 5)),
    "whole, then cut short": raw(stock_frame(b"abc"), b"\0\0\0\5abc"),
    "longer than maxlength, absurdly": raw(long_frame(b"abc", 2**63), maxlength=100),
    "long header with maxlength": raw(long_frame(b"abc"), maxlength=3),
    "cut short, by recv": raw(b"\0\0\0\5abc", calls=("recv", "recv")),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_it_gives_and_raises_is_what_the_standard_library_does(name: str) -> None:
    with connected() as ours, connected(connection.Connection, connection.Connection) as stock:
        pairs = zip(SCENARIOS[name](*ours), SCENARIOS[name](*stock), strict=True)
        for step, (ours_call, stock_call) in enumerate(pairs):
            got, expected = outcome(ours_call), outcome(stock_call)
            assert same(got, expected), f"step {step}: {got!r} instead of {expected!r}"


def test_buffer_too_short_carries_the_whole_message() -> None:
    with connected() as (reader, writer):
        writer.send_bytes(b"abcdef")
        with pytest.raises(multiprocessing.BufferTooShort) as caught:
            reader.recv_bytes_into(bytearray(8), 3)
        assert caught.value.args == (b"abcdef",)


def test_a_message_longer_than_maxlength_ends_reading_but_not_writing_of_two_way_connections() -> None:
    for kind in (Connection, connection.Connection):
        with connected(kind, kind, duplex=True) as (one, other):
            other.send_bytes(b"12345")
            with pytest.raises(OSError, match="bad message length"):
                one.recv_bytes(4)
            assert (one.closed, one.readable, one.writable) == (False, False, True)
            one.send_bytes(b"still")
            assert other.recv_bytes() == b"still"


def test_with_closes_it_and_close_may_come_twice() -> None:
    reader, writer = one_way("auto")
    with writer, reader:
        pass
    assert reader.closed
    assert writer.closed
    reader.close()


def test_one_that_is_dropped_is_closed() -> None:
    reader, writer = one_way("auto")
    fd = reader.fileno()
    del reader
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    with pytest.raises(BrokenPipeError):
        writer.send(1)
    writer.close()


@pytest.mark.parametrize("handle", [-1, "1", None, 2**31, 2**40])
def test_what_is_no_descriptor_is_refused_and_leaves_nothing_to_clean_up(handle: Any) -> None:
    with pytest.raises((ValueError, TypeError, AttributeError, OverflowError, OSError)):
        Connection(handle)


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_of_nothing_is_refused(chunk: int) -> None:
    """Written in pieces of nothing, a message would take for ever."""
    with pytest.raises((ValueError, OverflowError)):
        one_way("auto", chunk=chunk)


def test_it_can_be_waited_for_together_with_others() -> None:
    with connected() as (reader, writer), connected(connection.Connection) as (stock, _):
        assert connection.wait([reader, stock], 0) == []
        writer.send(1)
        assert connection.wait([reader, stock], DEADLINE) == [reader]


# ---- garbage on the wire ----


@pytest.mark.parametrize("header", [b"\xff\xff\xff\xfe", b"\x80\0\0\0", b"\xff\xff\xff\xff" + b"\xff" * 8])
@pytest.mark.parametrize("call", ["recv", "recv_bytes"])
def test_a_length_that_cannot_be_is_a_bad_frame(header: bytes, call: str) -> None:
    with connected() as (reader, writer):
        os.write(writer.fileno(), header)
        with pytest.raises(BadFrame) as caught:
            getattr(reader, call)()
        assert caught.value.hint
        with pytest.raises(OSError, match="handle is closed"):
            reader.recv()


def test_a_bad_frame_ends_reading_but_not_writing_of_a_two_way_connection() -> None:
    one, other = two_way()
    with one, other:
        os.write(other.fileno(), b"\x80\0\0\0")
        with pytest.raises(BadFrame):
            one.recv()
        one.send("still")
        assert other.recv() == "still"
        with pytest.raises(OSError, match="write-only"):
            one.recv()


def resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * PAGE


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("!i", 2**31 - 1),
        struct.pack("!iQ", -1, 2**32),
        struct.pack("!iQ", -1, buffers.LONGEST),
        struct.pack("!iQ", -1, buffers.LONGEST + 1),
        struct.pack("!iQ", -1, 2**63 - 1),
        struct.pack("!iQ", -1, 2**64 - 13),
        struct.pack("!iQ", -1, 2**64 - 1),
    ],
    ids=lambda header: header.hex(),
)
@pytest.mark.parametrize("after", [0, 100_000])
def test_a_header_that_lies_costs_no_memory_for_what_never_comes(header: bytes, after: int) -> None:
    """What came is kept in memory, and the rest of the claim is not."""

    def receive() -> tuple[str, int]:
        before = resident()
        result = outcome(reader.recv_bytes)
        return type(result).__name__, resident() - before

    reader, writer = one_way("256K")
    with reader, writer:
        os.write(writer.fileno(), header + bytes(after))
        writer.close()
        with forked(receive) as child:
            name, grown = child.result()
    assert name in ("BadFrame", "EOFError", "TruncatedItem")
    assert grown < 4 * MIB


@given(garbage=st.binary(min_size=1, max_size=40), cut=st.integers(min_value=1, max_value=40))
def test_any_bytes_end_in_messages_or_a_documented_error(garbage: bytes, cut: int) -> None:
    reader, writer = one_way("auto")
    with reader:
        with writer:
            os.write(writer.fileno(), garbage[:cut])
            os.write(writer.fileno(), garbage[cut:])
        while True:
            before = reader.closed
            got = outcome(reader.recv_bytes)
            if not isinstance(got, bytes):
                break
        assert not before
        assert isinstance(got, EOFError | BadFrame)


def test_without_memory_it_says_so_and_the_message_is_not_lost() -> None:
    """Address space runs out in the middle of a message; once there is some again, the same message arrives."""
    reader, writer = one_way("1M")
    size = 200 * MIB

    def receive() -> tuple[str, bool, bytes]:
        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * PAGE
        resource.setrlimit(resource.RLIMIT_AS, (used + 100 * MIB, resource.RLIM_INFINITY))
        first = outcome(reader.recv_bytes)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        second = reader.recv_bytes()
        return type(first).__name__, second == b"\5" * size, reader.recv_bytes()

    if resource.getrlimit(resource.RLIMIT_AS)[1] != resource.RLIM_INFINITY:
        pytest.skip("this host limits the address space for good: `ulimit -Hv`")
    with reader, writer, forked(receive, close=(writer,)) as child:
        reader.close()
        Thread(lambda: send_all(writer, (b"\5" * size, b"next")))
        assert child.result() == ("MemoryError", True, b"next")


# ---- death and closing ----


@pytest.mark.parametrize("sent", [1, 3, 4, 5, 8188, 300_000])
def test_a_writer_that_dies_in_the_middle_leaves_a_truncated_item(sent: int) -> None:
    reader, writer = one_way("1M")
    with reader, writer:
        with forked(and_stay(lambda: os.write(writer.fileno(), stock_frame(bytes(400_000))[:sent]))) as child:
            wait_until(lambda: pipecap.unread(reader) == sent)
            writer.close()
            child.end()
        with pytest.raises(TruncatedItem):
            reader.recv()
        with pytest.raises(EOFError):
            reader.recv()


def received_until(error: type[Exception], reader: Connection) -> list[bytes]:
    got = []
    try:
        while True:
            got.append(reader.recv_bytes())
    except error:
        return got


def test_whole_items_come_out_before_the_one_that_was_cut_short() -> None:
    reader, writer = one_way("64K")
    with reader, writer:
        with forked(lambda: send_all(writer, map(noise, [5000] * 100, range(100))), close=(reader,)) as child:
            wait_until_in("poll", child.pid)
            child.end()
        writer.close()
        got = received_until(TruncatedItem, reader)
        assert got == [noise(5000, seed) for seed in range(len(got))]
        assert len(got) >= 10


@pytest.mark.parametrize("size", [100, MIB])
def test_a_reader_that_dies_while_somebody_waits_to_send_is_a_broken_pipe(size: int) -> None:
    reader, writer = one_way("64K")
    with reader, writer, forked(signal.pause) as child:
        reader.close()

        def send() -> None:
            while True:
                writer.send_bytes(bytes(size))

        sending = Thread(send)
        wait_until_in("poll", os.getpid(), sending.native_id)
        child.end()
        with pytest.raises(BrokenPipeError):
            sending.result()


WAITS: dict[str, tuple[bool, Callable[[Any], Any]]] = {
    "recv": (True, lambda end: end.recv()),
    "recv of half a message": (True, lambda end: end.recv()),
    "poll": (True, lambda end: end.poll(None)),
    "send": (False, lambda end: [end.send(5) for _ in range(100_000)]),
    "send of something large": (False, lambda end: end.send(bytes(MIB))),
}


@pytest.mark.parametrize("name", WAITS)
def test_closing_under_a_waiting_call_never_touches_a_file_that_gets_the_number(name: str) -> None:
    """What arrives after the close goes to the waiting call or nowhere; the descriptor's number is free only then.

    A call waits in rounds, and one whose round is just over does not begin another.
    """
    reading, call = WAITS[name]
    read_end, write_end = os.pipe()
    mine, theirs = (read_end, write_end) if reading else (write_end, read_end)
    end = Connection(mine, readable=reading, writable=not reading)
    if name == "recv of half a message":
        os.write(write_end, stock_frame(pickle.dumps(bytes(1000)))[:500])
    waiting = Thread(lambda: outcome(lambda: call(end)))
    wait_until_in("poll", os.getpid(), waiting.native_id)
    end.close()
    assert end.closed
    assert type(outcome(lambda: call(end))) is OSError
    others = [os.pipe() for _ in range(4)]
    try:
        given_away = mine in itertools.chain(*others)
        if given_away:
            assert type(waiting.result()) is OSError, "the number of a descriptor in use was given away"
        if reading:
            os.write(write_end, stock_frame(pickle.dumps("late")) + bytes(1000))
            os.close(theirs)
        else:
            os.close(theirs)
        result = waiting.result()
        assert result in ("late", True) or isinstance(result, OSError | EOFError | pickle.UnpicklingError)
        assert [pipecap.unread(other[0]) for other in others] == [0, 0, 0, 0]
        if not given_away:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(mine)
    finally:
        for fd in itertools.chain(*others):
            os.close(fd)


def test_closing_while_others_open_files_at_the_same_number_harms_no_file() -> None:
    """Threads send and receive on connections that others close under them, while more threads open files."""
    stop = threading.Event()
    wrong: list[object] = []

    def canary() -> None:
        while not stop.is_set():
            fd = os.memfd_create("canary")
            os.write(fd, b"mine")
            if os.pread(fd, 100, 0) != b"mine" or os.lseek(fd, 0, os.SEEK_CUR) != 4:
                wrong.append(os.pread(fd, 100, 0))
            os.close(fd)

    def use(call: Callable[[], object]) -> None:
        result = None
        while not isinstance(result, Exception):
            result = outcome(call)
        if not isinstance(result, OSError | EOFError):
            wrong.append(result)

    canaries = [Thread(canary) for _ in range(2)]
    for _ in range(60):
        reader, writer = one_way("auto")
        users = [Thread(lambda w=writer: use(lambda: w.send("x" * 100))), Thread(lambda r=reader: use(r.recv))]  # type: ignore[misc]
        reader.close()
        writer.close()
        for user in users:
            user.result()
    stop.set()
    for each in canaries:
        each.result()
    assert wrong == []


def test_closing_frees_the_descriptor_of_a_forked_child_though_a_thread_waits_in_the_parent() -> None:
    """The child has the parent's count of calls under way, but not its threads."""
    reader, writer = one_way("auto")
    with reader, writer:
        waiting = Thread(reader.recv)
        wait_until_in("poll", os.getpid(), waiting.native_id)
        fd = reader.fileno()

        def close() -> object:
            writer.close()
            reader.close()
            return outcome(lambda: os.fstat(fd))

        with forked(close) as child:
            assert isinstance(child.result(), OSError)
        writer.send("the parent's still works")
        assert waiting.result() == "the parent's still works"


def test_a_forked_child_may_close_under_its_own_waiting_thread() -> None:
    """Its number, too, is free only when the call has left, whatever was under way in the parent when it forked."""
    reader, writer = one_way("auto")
    with reader, writer:
        waiting = Thread(reader.recv)
        wait_until_in("poll", os.getpid(), waiting.native_id)
        fd = reader.fileno()

        def close() -> tuple[bool, str]:
            mine = Thread(reader.recv)
            wait_until_in("poll", os.getpid(), mine.native_id)
            reader.close()
            return os.path.exists(f"/proc/self/fd/{fd}"), place(os.getpid(), mine.native_id)

        with forked(close) as child:
            still_open, where = child.result()
        writer.send(1)
        waiting.result()
    assert still_open or "poll" not in where


# ---- signals ----


class Tick(Exception):
    """What a signal handler raises here, as Ctrl-C's raises KeyboardInterrupt."""


def test_ctrl_c_in_the_middle_of_receiving_keeps_the_half_that_came() -> None:
    reader, writer = one_way("1M")
    item = noise(900_000)

    def receive() -> tuple[str, bool, bytes]:
        first: object = None
        try:
            reader.recv_bytes()
        except KeyboardInterrupt:
            first = "interrupted"
        os.write(told_write, b"!")
        return str(first), reader.recv_bytes() == item, reader.recv_bytes()

    told, told_write = os.pipe()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with reader, writer, forked(receive, close=(writer,)) as child:
        wire = stock_frame(item) + stock_frame(b"next")
        os.write(writer.fileno(), wire[:500_000])
        wait_until(lambda: pipecap.unread(reader) == 0)
        wait_until_in("poll", child.pid)
        child.signal(signal.SIGINT)
        os.read(told, 1)
        os.write(writer.fileno(), wire[500_000:])
        assert child.result() == ("interrupted", True, b"next")
    os.close(told)
    os.close(told_write)


BIG: dict[str, Callable[[], Any]] = {
    "bytes": lambda: noise(900_000),
    "a bytearray that is changed afterwards": lambda: bytearray(noise(900_000)),
    "C bytes": lambda: (ctypes.c_ubyte * 900_000).from_buffer_copy(noise(900_000)),
    "an array": lambda: array.array("i", noise(900_000)),
}


@pytest.mark.parametrize("kind", BIG)
def test_ctrl_c_in_the_middle_of_sending_is_made_good_by_the_next_send(kind: str) -> None:
    reader, writer = one_way("64K")

    def send() -> str:
        item, first = BIG[kind](), "sent"
        try:
            writer.send_bytes(item)
        except KeyboardInterrupt:
            first = "interrupted"
        if isinstance(item, bytearray):
            item[:] = bytes(len(item))
        writer.send_bytes(b"next")
        return first

    signal.signal(signal.SIGINT, signal.default_int_handler)
    with reader, writer, forked(send, close=(reader,)) as child:
        writer.close()
        wait_until_in("poll", child.pid)
        child.signal(signal.SIGINT)
        wait_until(lambda: not _pending(child.pid))
        assert reader.recv_bytes() == noise(900_000)
        assert reader.recv_bytes() == b"next"
        assert child.result() == "interrupted"
        with pytest.raises(EOFError):
            reader.recv()


def _pending(pid: int) -> bool:
    """Whether a signal was not taken yet."""
    with open(f"/proc/{pid}/status") as status:
        return any(int(line.split()[1], 16) for line in status if line.startswith(("SigPnd", "ShdPnd")))


def read_exactly(fd: int, count: int) -> None:
    while count:
        count -= len(os.read(fd, count))


class Disturber:
    """Moves a message by two blocks at a time with a signal between, and sees whether main handles it before more."""

    ROUNDS = 100
    BLOCK = 256 << 10
    SIZE = (2 * ROUNDS - 5) * BLOCK

    def __init__(self, move: Callable[[], object]) -> None:
        self._move = move
        self._handled = 0

    def handle(self, *_: object) -> None:
        self._handled += 1

    def _is_stuck(self, before: int) -> bool:
        """Tell whether main took the signal and sleeps again, and no handler ran."""
        pid = os.getpid()
        return not _pending(pid) and "poll" in place(pid) and self._handled == before

    def run(self) -> int:
        """Move all; gives how many signals waited for the next block."""
        stuck = 0
        for number in range(self.ROUNDS):
            before = self._handled
            self._move()
            if number < self.ROUNDS - 5:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                self._move()
                while self._handled == before:
                    if self._is_stuck(before):
                        stuck += 1
                        break
        return stuck


@pytest.mark.parametrize("way", ["read", "write"])
def test_a_signal_is_handled_though_the_message_under_way_is_stuck(way: str) -> None:
    """Also one that came while bytes were moving, just before the call went to sleep.

    All but those that come in the instructions between the interpreter's look for signals and the system call: the
    standard library has this gap too.
    """
    reader, writer = one_way("1M")
    size, block = Disturber.SIZE, Disturber.BLOCK
    moves = {
        "read": lambda: write_all(writer.fileno(), bytes(block)),
        "write": lambda: read_exactly(reader.fileno(), block),
    }
    disturber = Disturber(moves[way])
    previous = signal.signal(signal.SIGUSR1, disturber.handle)
    try:
        with reader, writer:
            if way == "read":
                os.write(writer.fileno(), struct.pack("!i", size))
                disturbing = Thread(disturber.run)
                assert reader.recv_bytes() == bytes(size)
            else:
                disturbing = Thread(disturber.run)
                writer.send_bytes(bytes(size))
            assert disturbing.result() <= Disturber.ROUNDS // 20, "signals wait for bytes that may never move"
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_an_exception_out_of_a_signal_handler_never_loses_a_message_that_had_arrived() -> None:
    """The handler runs when the native call is over, and by then the message may be whole."""
    reader, writer = one_way("1M")
    rounds, size = 150, 600_000
    main = threading.get_ident()

    def raise_in_get(_: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code is Receiver.get.__code__:
            raise Tick

    def send() -> None:
        for number in range(rounds):
            writer.send_bytes(struct.pack("!i", number) * (size // 4))
            signal.pthread_kill(main, signal.SIGUSR1)
        writer.close()

    previous = signal.signal(signal.SIGUSR1, raise_in_get)
    got: list[int] = []
    try:
        with reader, writer:
            sending = Thread(send)
            while not isinstance(payload := outcome(reader.recv_bytes), EOFError):
                if isinstance(payload, bytes):
                    got.append(struct.unpack("!i", payload[:4])[0])
                    assert payload == payload[:4] * (size // 4)
            sending.result()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert got == list(range(rounds))


@contextmanager
def storm(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    previous = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


MIXED = [size for _ in range(12) for size in (0, 1, 100, 4092, 4093, 16385, 65_532, 300_000, 2 * MIB)]


@pytest.mark.parametrize("duplex", [False, True], ids=["pipe", "socketpair"])
@pytest.mark.parametrize("ours", ["reads", "writes"])
def test_an_eintr_storm_changes_nothing_on_the_wire(ours: str, duplex: bool) -> None:
    ticks: list[int] = []
    with connected(duplex=duplex) as (reader, writer), storm(lambda *_: ticks.append(1)):
        if ours == "reads":
            other = Thread(lambda: [writer.send_bytes(noise(size, seed)) for seed, size in enumerate(MIXED)])
            assert all(reader.recv_bytes() == noise(size, seed) for seed, size in enumerate(MIXED))
        else:
            other = Thread(lambda: all(reader.recv_bytes() == noise(size, n) for n, size in enumerate(MIXED)))
            for seed, size in enumerate(MIXED):
                writer.send_bytes(noise(size, seed))
        assert other.result()
    assert ticks


def test_a_storm_of_exceptions_while_sending_puts_every_message_out_once_and_in_order() -> None:
    """Each is made good by the next send; a message of which nothing went out yet is not sent at all."""

    def raise_amid_sending(_: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code.co_filename == sender.__file__:
            raise Tick

    got: list[bytes] = []
    interrupted = 0
    expected = [noise(300_000 + seed, seed) for seed in range(200)]
    with connected() as (reader, writer):

        def receive() -> None:
            with suppress(EOFError):
                while True:
                    got.append(reader.recv_bytes())

        receiving = Thread(receive)
        with storm(raise_amid_sending):
            for payload in expected:
                try:
                    writer.send_bytes(payload)
                except Tick:
                    interrupted += 1
        writer.send_bytes(b"last")
        writer.close()
        receiving.result()
    assert interrupted
    assert got[-1] == b"last"
    sent = iter(expected)
    assert all(payload in sent for payload in got[:-1]), "not in order, or not what was sent"
    assert len(got) >= len(expected) - interrupted


def outcome_bytes(reader: Connection) -> bytes:
    """Receive, but not for ever."""
    return reader.recv_bytes() if reader.poll(DEADLINE / 2) else b"nothing"


@pytest.mark.parametrize("stopped", ["reader", "writer"])
def test_stop_and_continue_change_nothing(stopped: str) -> None:
    items = [noise(size, size) for size in (100, 300_000, 4092, 2 * MIB)]
    reader, writer = one_way("64K")

    def receive() -> bool:
        return [reader.recv_bytes() for _ in items * 20] == items * 20

    def send() -> None:
        for item in items * 20:
            writer.send_bytes(item)

    with reader, writer:
        mine, theirs, here, there = (
            (writer, reader, send, receive) if stopped == "reader" else (reader, writer, receive, send)
        )
        with forked(there, close=(mine,)) as child:
            theirs.close()
            running = Thread(here)
            for _ in range(10):
                child.signal(signal.SIGSTOP)
                wait_until(lambda: state(child.pid) in "TZ")
                child.signal(signal.SIGCONT)
            assert running.result() in (None, True)
            assert child.result() in (None, True)


# ---- descriptors that do not wait ----


def test_what_a_full_pipe_took_half_of_goes_on_and_nothing_is_lost() -> None:
    """The half sent comes first in every later send; one of which nothing went out is the caller's to send again."""
    reader, writer = one_way("64K")
    with reader, writer:
        os.set_blocking(writer.fileno(), False)
        with pytest.raises(BlockingIOError):
            writer.send_bytes(noise(300_000))
        receiving = Thread(lambda: [reader.recv_bytes(), reader.recv_bytes()])
        while isinstance(outcome(lambda: writer.send_bytes(b"next")), BlockingIOError):
            time.sleep(0.0005)
        assert receiving.result() == [noise(300_000), b"next"]


@pytest.mark.parametrize("size", [300_000, 3 * MIB])
def test_a_socket_that_does_not_wait_took_half_of_it(size: int) -> None:
    one, other = two_way()
    with one, other:
        os.set_blocking(one.fileno(), False)
        while not isinstance(outcome(lambda: one.send_bytes(noise(size))), BlockingIOError):
            pass
        with pytest.raises(BlockingIOError):
            one.recv()
        os.set_blocking(one.fileno(), True)
        sending = Thread(lambda: one.send_bytes(b"last"))
        while (got := other.recv_bytes()) != b"last":
            assert got == noise(size)
        sending.result()


def test_an_exception_that_holds_on_to_a_message_may_be_collected() -> None:
    """CPython 3.11 crashes when it collects a memoryview whose buffer cffi still holds."""
    reader, writer = one_way("64K")

    def collect() -> str:
        os.set_blocking(writer.fileno(), False)
        for _ in range(3):
            cycle = outcome(lambda: writer.send_bytes(bytes(300_000)))
            assert isinstance(cycle, BlockingIOError)
            cycle.itself = cycle  # type: ignore[attr-defined] # so that only the collector finds it
            del cycle
            gc.collect()
        return "alive"

    with reader, writer, forked(collect) as child:
        assert child.result() == "alive"


def test_a_small_message_never_goes_out_in_part() -> None:
    """A pipe with room for less than the frame takes none of it, so there is nothing to go on with."""
    reader, writer = one_way("64K")
    with reader, writer:
        os.set_blocking(writer.fileno(), False)
        for number in itertools.count():
            try:
                writer.send_bytes(noise(4000, number))
            except BlockingIOError:
                break
        assert number == 16
        assert [reader.recv_bytes() for _ in range(number)] == [noise(4000, seed) for seed in range(number)]
        assert not reader.poll()


def test_after_an_interrupted_message_maxlength_still_holds() -> None:
    reader, writer = one_way("64K")
    with reader, writer:
        os.set_blocking(reader.fileno(), False)
        os.write(writer.fileno(), stock_frame(bytes(1000))[:100])
        with pytest.raises(BlockingIOError):
            reader.recv_bytes()
        os.write(writer.fileno(), bytes(904))
        with pytest.raises(OSError, match="bad message length"):
            reader.recv_bytes(999)


# ---- many at once ----


def test_several_threads_that_receive_on_one_connection_do_not_crash() -> None:
    """They take parts of each other's: garbage to either, an error or nonsense, but no crash, as documented."""
    one, other = two_way()
    with one, other:
        os.set_blocking(other.fileno(), False)  # readers that met garbage read no more
        readers = [Thread(lambda: outcome(lambda: [one.recv_bytes() for _ in range(10_000)])) for _ in range(4)]
        with suppress(BrokenPipeError, ConnectionResetError, BlockingIOError):
            for seed in range(2000):
                other.send_bytes(noise(seed * 7 % 5000, seed))
        other.close()
        for reader in readers:
            assert isinstance(reader.result(), OSError | EOFError | MemoryError | list)


@pytest.mark.parametrize("size", [MIB, 5 * MIB + 3])
def test_large_messages_go_both_ways_through_a_socketpair(size: int) -> None:
    one, other = two_way()
    with one, other:
        threads = [Thread(lambda end=end: end.send_bytes(noise(size, 1))) for end in (one, other)]  # type: ignore[misc]
        threads += [Thread(lambda end=end: end.recv_bytes() == noise(size, 1)) for end in (one, other)]  # type: ignore[misc]
        assert [thread.result() for thread in threads] == [None, None, True, True]


def test_a_message_sent_while_unpickling_one_or_pickling_another_is_whole() -> None:
    """Pickling and unpickling run the object's own code, which may use the same connection."""
    with connected() as (reader, writer):
        writer.send([1, _SendsWhilePickled(writer), 2])
        assert reader.recv() == "inner"
        assert reader.recv() == [1, "outer", 2]
        writer.send(_ReceivesWhileUnpickled())
        writer.send("for the inner")
        _ReceivesWhileUnpickled.reader = reader
        assert reader.recv() == "for the inner"


class _SendsWhilePickled:
    def __init__(self, writer: Connection) -> None:
        self._writer = writer

    def __reduce__(self) -> tuple[object, ...]:
        self._writer.send("inner")
        return str, ("outer",)


class _ReceivesWhileUnpickled:
    reader: Connection

    def __reduce__(self) -> tuple[object, ...]:
        return _receive_now, ()


def _receive_now() -> object:
    return _ReceivesWhileUnpickled.reader.recv()


# ---- handed over ----


def _answer(connections: Any) -> None:
    reader, writer = connections
    assert (type(reader).__module__, writer.writable, writer.readable) == (Connection.__module__, True, False)
    with reader, writer:
        for _ in range(2):
            writer.send(("got", reader.recv()))


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_it_is_handed_to_a_child_of_any_start_method(method: str) -> None:
    to_child, from_parent = one_way("auto"), one_way("auto")
    with to_child[0], to_child[1], from_parent[0], from_parent[1]:
        context: Any = multiprocessing.get_context(method)
        child = context.Process(target=_answer, args=((to_child[0], from_parent[1]),))
        child.start()
        try:
            for message in ("small", bytes(MIB)):
                to_child[1].send(message)
                assert from_parent[0].recv() == ("got", message)
        finally:
            child.join(DEADLINE)
            child.close()


def test_it_is_sent_over_another_connection_with_its_settings() -> None:
    one, other = two_way()
    reader, writer = one_way("auto", chunk=1000)
    with one, other, reader, writer:
        one.send(writer)
        with other.recv() as copy:
            assert (type(copy), copy.readable, copy.writable) == (Connection, False, True)
            assert (copy._end.elastic, copy._chunk) == (1, 1000)
            assert copy.fileno() != writer.fileno()
            writer.close()
            copy.send("through the copy")
            assert reader.recv() == "through the copy"
        with pytest.raises(EOFError):
            reader.recv()
    resource_sharer.stop(timeout=DEADLINE)  # the thread that handed the descriptor out


# ---- making pipes ----


@pytest.fixture
def few_descriptors() -> Iterator[Callable[[int], None]]:
    """Give a function that leaves only so many descriptors."""
    held: list[int] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def leave(count: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        with suppress(OSError):
            while True:
                held.append(os.dup(0))
        for _ in range(count):
            os.close(held.pop())

    yield leave
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for fd in held:
        os.close(fd)


@pytest.mark.parametrize("make", [lambda: one_way("auto"), lambda: one_way("1M"), two_way])
@pytest.mark.parametrize("left", [0, 1])
def test_without_descriptors_it_says_so_and_keeps_none(
    make: Callable[[], object], left: int, few_descriptors: Callable[[int], None]
) -> None:
    few_descriptors(left)
    with pytest.raises(OSError, match="Too many open files") as caught:
        make()
    assert caught.value.errno == errno.EMFILE


@pytest.mark.parametrize("capacity", ["64Q", -1, None, "3G"])
def test_a_capacity_that_is_refused_leaves_no_pipe(capacity: Any) -> None:
    with pytest.raises((ValueError, TypeError, ResizeRefused)):
        one_way(capacity)


def test_an_elastic_pipe_grows_for_what_would_not_fit_and_another_does_not() -> None:
    for capacity, expected in (("auto", 256 << 10), ("64K", 64 << 10)):
        reader, writer = one_way(capacity)
        with reader, writer:
            sending = Thread(lambda w=writer: w.send_bytes(noise(200_000)))  # type: ignore[misc]
            if capacity == "auto":
                sending.result()  # all of it is in the pipe; with a reader at work it need not grow
            assert reader.recv_bytes() == noise(200_000)
            sending.result()
            assert fcntl.fcntl(reader.fileno(), fcntl.F_GETPIPE_SZ) == expected


def test_an_elastic_pipe_takes_small_messages_without_waiting_as_long_as_it_may_grow() -> None:
    reader, writer = one_way("auto")
    with reader, writer:
        for number in range(40):
            writer.send_bytes(noise(4092, number))
        assert [reader.recv_bytes() for _ in range(40)] == [noise(4092, number) for number in range(40)]


@pytest.mark.parametrize("make", [two_way, lambda: one_way("auto")[::-1]], ids=["duplex", "one way"])
def test_arrays_are_sent_as_by_the_standard_library(make: Callable[[], tuple[Connection, Connection]]) -> None:
    """To whoever reads: without buffers of pipecap's own."""
    writer, reader = make()
    with reader, writer:
        for item in (np.arange(5), np.zeros((3, 4), order="F"), np.arange(9)[::2]):
            writer.send({"item": item})
            assert (reader.recv()["item"] == item).all()
