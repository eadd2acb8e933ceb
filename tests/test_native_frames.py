"""The wire format in C, called directly: headers, ends, and what each call gives."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from children import Thread, wait_until_in
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecap._native import ffi, lib
from pipecap.queues.buffers import Outgoing
from pipecap.queues.shared import MOST_SLOTS, Shared

MIB = 1 << 20
ANY = 2**40
NOW, FOR_EVER = 0, -1


def end_of(fd: int) -> Any:
    return ffi.new("struct pipecap_end *", {"fd": fd})


def frame(payload: bytes) -> bytes:
    return struct.pack("!i", len(payload)) + payload


class In:
    """A struct pipecap_incoming of our own."""

    def __init__(self) -> None:
        self.struct = ffi.gc(ffi.new("struct pipecap_incoming *"), lib.pipecap_incoming_free)

    def receive(self, end: Any, longest: int = ANY) -> int:
        while (result := lib.pipecap_receive(end, self.struct, longest)) == -errno.EINTR:
            pass
        return result

    def first(self, size: int) -> bytes:
        return bytes(memoryview(ffi.buffer(self.struct.data, self.struct.allocated))[4 : 4 + size])


@pytest.fixture
def ends(pipe: tuple[int, int]) -> Iterator[tuple[Any, Any]]:
    """Give the two ends of a pipe with room for a mebibyte, which no call waits in."""
    lib.pipecap_resize(pipe[1], MIB)
    for fd in pipe:
        os.set_blocking(fd, False)
    yield end_of(pipe[0]), end_of(pipe[1])  # noqa: PT022 # before the pipe is closed


# ---- ends ----


def test_an_end_is_closed_once(pipe: tuple[int, int]) -> None:
    end = end_of(pipe[0])
    assert lib.pipecap_end_close(end) == 0
    assert lib.pipecap_end_close(end) == -errno.EBADF
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pipe[0])


def test_no_call_gets_into_an_end_that_was_closed(pipe: tuple[int, int]) -> None:
    """Nor into the file that has its number since."""
    end = end_of(pipe[0])
    lib.pipecap_end_close(end)
    other = os.open(os.devnull, os.O_RDWR)
    assert other == pipe[0]
    outgoing = Outgoing([b"x"], [1], 8192)
    assert lib.pipecap_send(end, outgoing.struct) == -errno.EBADF
    assert lib.pipecap_send_once(end, b"x", 1) == -errno.EBADF
    assert lib.pipecap_readable(end, NOW) == -errno.EBADF
    assert In().receive(end) == -errno.EBADF
    os.close(other)


def test_the_last_to_leave_a_closed_end_closes_it(pipe: tuple[int, int]) -> None:
    end = end_of(pipe[0])
    waiting = Thread(lambda: In().receive(end))
    polling = Thread(lambda: lib.pipecap_readable(end, FOR_EVER))
    wait_until_in("read", os.getpid(), waiting.native_id)
    wait_until_in("poll", os.getpid(), polling.native_id)
    assert lib.pipecap_end_close(end) == 0
    os.fstat(pipe[0])
    os.write(pipe[1], frame(b"a"))
    assert waiting.result() == 1
    os.close(pipe[1])  # in case the other one looked too late
    assert polling.result() == 1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pipe[0])


def test_what_can_be_read_is_told_by_a_deadline(pipe: tuple[int, int]) -> None:
    end = end_of(pipe[0])
    assert lib.pipecap_readable(end, NOW) == 0
    assert lib.pipecap_readable(end, 1) == 0  # long past
    os.write(pipe[1], b"x")
    assert [lib.pipecap_readable(end, deadline) for deadline in (NOW, 1, FOR_EVER)] == [1, 1, 1]
    os.read(pipe[0], 1)
    os.close(pipe[1])
    assert lib.pipecap_readable(end, FOR_EVER) == 1  # the end of file


# ---- in ----


@given(payload=st.integers(min_value=0, max_value=2**64 - 1), longest=st.integers(min_value=0, max_value=2**64 - 1))
def test_a_long_header_of_more_than_allowed_is_an_outcome_and_costs_nothing(payload: int, longest: int) -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.write(write_end, struct.pack("!iQ", -1, payload))
    incoming = In()
    result = incoming.receive(end_of(read_end), longest)
    os.close(read_end)
    os.close(write_end)
    assert incoming.struct.allocated <= 65 * MIB
    if payload > longest:
        assert result == lib.PIPECAP_TOO_LONG
        assert incoming.struct.allocated <= MIB
    else:
        assert result in (-errno.EAGAIN, -errno.ENOMEM) if payload else result == 0


@given(header=st.integers(min_value=-(2**31), max_value=2**31 - 1), longest=st.sampled_from([0, 100, ANY]))
def test_a_short_header_is_a_length_or_none(header: int, longest: int) -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.write(write_end, struct.pack("!i", header))
    result = In().receive(end_of(read_end), longest)
    os.close(read_end)
    os.close(write_end)
    if header == -1:
        assert result == -errno.EAGAIN
    elif header < 0:
        assert result == lib.PIPECAP_BAD_HEADER
    elif header > longest:
        assert result == lib.PIPECAP_TOO_LONG
    else:
        assert result == (-errno.EAGAIN if header else 0)


def test_frames_come_one_by_one_and_never_a_byte_of_the_next(ends: tuple[Any, Any]) -> None:
    """Another process, or a stock Connection, may read the next one."""
    read_end, write_end = ends
    payloads = [b"", b"a", bytes(5000), b"bc", bytes(100_000), b""]
    os.write(write_end.fd, b"".join(map(frame, payloads)))
    incoming = In()
    left = sum(len(payload) + 4 for payload in payloads)
    for payload in payloads:
        assert incoming.receive(read_end) == len(payload)
        assert incoming.first(len(payload)) == payload
        left -= len(payload) + 4
        assert lib.pipecap_unread(read_end.fd) == left


def test_receiving_now_does_not_wait_though_the_descriptor_would(pipe: tuple[int, int]) -> None:
    end, incoming = end_of(pipe[0]), In()
    for sent in (b"", b"\0\0", b"\0\5", b"abc"):
        os.write(pipe[1], sent)
        assert lib.pipecap_receive_now(end, incoming.struct, ANY) == -errno.EAGAIN
    os.write(pipe[1], b"de")
    assert lib.pipecap_receive_now(end, incoming.struct, ANY) == 5
    assert incoming.first(5) == b"abcde"
    assert os.get_blocking(pipe[0])


@pytest.mark.parametrize(
    ("wire", "outcome"),
    [
        (b"", "PIPECAP_END_OF_FILE"),
        (b"\0", "PIPECAP_CUT_SHORT"),
        (b"\0\0\0\1", "PIPECAP_CUT_SHORT"),
        (b"\0\0\0\2a", "PIPECAP_CUT_SHORT"),
        (b"\xff\xff\xff\xff", "PIPECAP_CUT_SHORT"),
        (b"\xff\xff\xff\xff\0\0\0\0", "PIPECAP_CUT_SHORT"),
        (struct.pack("!iQ", -1, 1), "PIPECAP_CUT_SHORT"),
        (struct.pack("!iQ", -1, 2**31) + b"x", "PIPECAP_CUT_SHORT"),
    ],
)
def test_the_end_of_file_between_frames_is_told_from_one_in_a_frame(
    wire: bytes, outcome: str, pipe: tuple[int, int]
) -> None:
    os.write(pipe[1], wire)
    os.close(pipe[1])
    assert In().receive(end_of(pipe[0])) == getattr(lib, outcome)


# ---- out ----


@pytest.mark.parametrize("size", [0, 1, 4092, 4093, 60_000])
def test_a_frame_sent_at_once_is_header_and_payload(size: int, ends: tuple[Any, Any]) -> None:
    read_end, write_end = ends
    assert lib.pipecap_send_once(write_end, bytes(size), size) == size + 4
    assert os.read(read_end.fd, MIB) == frame(bytes(size))


def test_what_does_not_go_out_at_once_is_said(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    assert lib.pipecap_send_once(end_of(pipe[1]), bytes(100_000), 100_000) == 65_536
    assert lib.pipecap_send_once(end_of(pipe[1]), b"x", 1) == -errno.EAGAIN
    os.close(pipe[0])
    assert lib.pipecap_send_once(end_of(pipe[1]), b"x", 1) == -errno.EPIPE


def test_a_partial_write_to_a_socket_is_gone_on_with() -> None:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        payload = os.urandom(3 * MIB)
        outgoing = Outgoing([payload], [len(payload)], MIB)
        got = b""
        while not outgoing.done:
            assert lib.pipecap_send(end_of(one.fileno()), outgoing.struct) in (0, -errno.EAGAIN, -errno.EINTR)
            got += other.recv(MIB)
        one.close()
        while block := other.recv(MIB):
            got += block
    assert got == frame(payload)


def test_many_frames_of_nothing_are_their_headers(ends: tuple[Any, Any]) -> None:
    read_end, write_end = ends
    outgoing = Outgoing([], [0] * 3000, 8192)
    assert lib.pipecap_send(write_end, outgoing.struct) == 0
    assert outgoing.done
    assert os.read(read_end.fd, MIB) == bytes(12_000)


# ---- a pipe that several processes share ----


class Shore:
    """The shared memory of a queue and its two ends."""

    def __init__(self, pipe: tuple[int, int], *, count: bool = False) -> None:
        self.shared = Shared(MOST_SLOTS)
        self.reader = end_of(pipe[0])
        self.port = self.shared.port(self.reader, count=count)

    def get(self, incoming: In, most: int, deadline: int = NOW, *, body_from: int = 0) -> int:
        result = -errno.EINTR
        while result == -errno.EINTR:
            result = lib.pipecap_get(self.port, incoming.struct, deadline, ANY, most, body_from)
        return result


def test_all_that_is_there_is_got_at_once_and_no_more_than_asked(pipe: tuple[int, int]) -> None:
    shore = Shore(pipe)
    payloads = [b"a" * (number * 37 % 2000) for number in range(50)]
    os.write(pipe[1], b"".join(map(frame, payloads)))
    got: list[bytes] = []
    incoming = In()
    for most in (1, 10, 100):
        assert shore.get(incoming, most) >= 0
        bounds = ffi.unpack(incoming.struct.frames, 2 * incoming.struct.frame_count)
        view = memoryview(ffi.buffer(incoming.struct.data, incoming.struct.allocated))
        assert incoming.struct.frame_count <= most
        got += [bytes(view[begin : begin + size]) for begin, size in zip(bounds[::2], bounds[1::2], strict=True)]
    assert got == payloads
    assert shore.get(incoming, 1) == -errno.ETIMEDOUT
    assert shore.shared.struct.reading == 0


def test_the_first_frame_of_a_queue_lies_where_that_of_a_connection_does(pipe: tuple[int, int]) -> None:
    shore = Shore(pipe)
    os.write(pipe[1], struct.pack("!iQ", -1, 5) + b"abcde" + frame(b"xy"))
    incoming = In()
    assert shore.get(incoming, 1) == 5
    assert incoming.first(5) == b"abcde"
    assert shore.get(incoming, 1) == 2
    assert incoming.first(2) == b"xy"


LARGE = 1000


def large(body: bytes, tail: bytes = b"\x94.") -> bytes:
    return b"\x80\x04B" + struct.pack("<I", len(body)) + body + tail


@settings(max_examples=20)  # each that stops half-way waits for the rest, a tenth of a second
@given(size=st.integers(LARGE, 5000), data=st.data(), count=st.booleans())
def test_a_large_bytes_object_goes_straight_to_its_place_or_is_kept(
    size: int, data: st.DataObject, count: bool
) -> None:
    """Wherever its arrival stops: what came is kept, and makes the frame that it was."""
    payload = large(os.urandom(size))
    wire = frame(payload) + frame(b"next")
    cut = data.draw(st.integers(4 + lib.PIPECAP_BODY_HEAD, len(wire)))
    ends = os.pipe()
    try:
        shore = Shore(ends, count=count)
        shore.shared.struct.slots -= 2
        incoming = In()
        os.write(ends[1], wire[:cut])
        assert shore.get(incoming, 1, body_from=LARGE) == lib.PIPECAP_LARGE_BYTES
        assert incoming.struct.body == size
        body = ffi.new("uint8_t[]", size)
        whole = cut >= len(frame(payload))
        assert lib.pipecap_get_body(shore.port, incoming.struct, body, size) == (0 if whole else -errno.EINTR)
        assert incoming.struct.locked == (not whole)
        assert bytes(ffi.buffer(body))[: incoming.struct.body_filled] == payload[7:][: incoming.struct.body_filled]
        assert lib.pipecap_keep_body(incoming.struct, body) == 0
        os.write(ends[1], wire[cut:])
        if not whole:
            assert shore.get(incoming, 1) == len(payload)
        assert incoming.first(len(payload)) == payload
        assert shore.get(incoming, 1) == 4
        assert incoming.first(4) == b"next"
        assert shore.shared.struct.slots == (MOST_SLOTS if count else MOST_SLOTS - 2)
    finally:
        for end in ends:
            os.close(end)


@pytest.mark.parametrize(
    "payload",
    [
        large(bytes(LARGE))[:-1],
        large(bytes(LARGE)) + b".",
        b"\x80\x03" + large(bytes(LARGE))[2:],
        b"\x80\x04\x8e" + large(bytes(LARGE))[3:],
        bytes(LARGE),
    ],
)
def test_what_is_not_one_large_bytes_object_comes_as_any_frame(pipe: tuple[int, int], payload: bytes) -> None:
    shore = Shore(pipe)
    os.write(pipe[1], frame(payload))
    incoming = In()
    assert shore.get(incoming, 1, body_from=LARGE) == len(payload)
    assert incoming.first(len(payload)) == payload


def test_a_closed_end_is_no_queue_any_more(pipe: tuple[int, int]) -> None:
    shore = Shore(pipe)
    lib.pipecap_end_close(shore.reader)
    assert shore.get(In(), 1) == -errno.EBADF
    assert shore.shared.struct.reading == 0
