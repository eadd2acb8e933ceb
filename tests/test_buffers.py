"""The buffers that frames travel in."""

from __future__ import annotations

import errno
import os
import struct
import threading
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecap._native import ffi, lib
from pipecap.queues import buffers
from pipecap.queues.buffers import Incoming, Outgoing

MIB = 1 << 20


# ---- out ----


@pytest.fixture
def ends(pipe: tuple[int, int]) -> tuple[Any, Any]:
    """Give struct pipecap_end of the read and the write end of a pipe with room for a mebibyte."""
    lib.pipecap_resize(pipe[1], MIB)
    read_end, write_end = (ffi.new("struct pipecap_end *", {"fd": fd}) for fd in pipe)
    return read_end, write_end


@given(data=st.data())
def test_frames_are_the_same_bytes_however_they_lie_in_pieces_and_chunks(data: st.DataObject) -> None:
    payloads = data.draw(st.lists(st.integers(min_value=0, max_value=12_000).map(lambda n: os.urandom(n)), max_size=6))
    whole = b"".join(payloads)
    cuts = sorted(data.draw(st.lists(st.integers(min_value=0, max_value=len(whole)), max_size=90)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    chunk = data.draw(st.sampled_from([1, 3, 4, 5, 100, 1024, 4096, 8192, 40_000, MIB]))
    read_end, write_end = os.pipe()
    try:
        lib.pipecap_resize(write_end, MIB)
        outgoing = Outgoing(pieces, [len(payload) for payload in payloads], chunk)
        end = ffi.new("struct pipecap_end *", {"fd": write_end})
        while lib.pipecap_send(end, outgoing.struct) == -errno.EINTR:
            pass
        assert outgoing.done
        expected = b"".join(struct.pack("!i", len(payload)) + payload for payload in payloads)
        assert outgoing.sent == len(expected)
        assert (os.read(read_end, 2 * MIB) if expected else b"") == expected
        assert lib.pipecap_unread(read_end) == 0
    finally:
        os.close(read_end)
        os.close(write_end)


@pytest.mark.parametrize("kind", ["bytes", "bytearray"])
def test_frames_of_ones_own_go_on_where_the_others_stopped(kind: str, ends: tuple[Any, Any]) -> None:
    """Whatever happens to the buffer they were made of."""
    read_end, write_end = ends
    os.set_blocking(write_end.fd, False)
    lib.pipecap_resize(write_end.fd, 65_536)
    source = os.urandom(200_000)
    buffer = bytearray(source) if kind == "bytearray" else source
    outgoing = Outgoing([b"first", buffer], [5, 200_000], 8192)
    assert lib.pipecap_send(write_end, outgoing.struct) < 0
    own = outgoing.own()
    outgoing.release()
    if isinstance(buffer, bytearray):
        buffer.clear()  # BufferError while somebody holds it
    got = b""
    while not own.done:
        got += os.read(read_end.fd, MIB)
        lib.pipecap_send(write_end, own.struct)
    with suppress(BlockingIOError):
        os.set_blocking(read_end.fd, False)
        while True:
            got += os.read(read_end.fd, MIB)
    assert got == struct.pack("!i", 5) + b"first" + struct.pack("!i", 200_000) + source


# ---- in ----


def receive(end: Any, incoming: Incoming, longest: int = 2**31) -> int:
    """Receive one frame; the native call comes back now and then to give signals their turn."""
    result = -errno.EINTR
    while result == -errno.EINTR:
        result = lib.pipecap_receive(end, incoming.struct, longest)
    return result


def write_frame(fd: int, payload: bytes) -> None:
    os.write(fd, struct.pack("!i", len(payload)) + payload)


def test_a_buffer_is_warm_for_the_next_frame(ends: tuple[Any, Any]) -> None:
    first = buffers.take()
    buffers.give(first)
    assert buffers.take() is first
    assert buffers.take() is not first


def test_a_payload_is_seen_where_it_is_after_the_buffer_has_grown(ends: tuple[Any, Any]) -> None:
    read_end, write_end = ends
    incoming = Incoming()
    for size in (5, 100_000, 3, 900_000, 0, 65_532, 65_533):
        payload = os.urandom(size)
        write_frame(write_end.fd, payload)
        assert receive(read_end, incoming, MIB) == size
        assert incoming.payload(size) == payload


def test_a_buffer_that_grew_for_a_frame_which_never_came_whole_shows_the_next_one(pipe: tuple[int, int]) -> None:
    """Growing moves it: a view of where it was would show memory that is not ours any more."""
    incoming = Incoming()
    for announced, sent in ((5, 5), (30 * MIB, 50_000), (7, 7)):
        read_end, write_end = os.pipe()
        end = ffi.new("struct pipecap_end *", {"fd": read_end})
        payload = os.urandom(sent)
        os.write(write_end, struct.pack("!i", announced) + payload)
        os.close(write_end)
        result = receive(end, incoming)
        os.close(read_end)
        if announced == sent:
            assert result == sent
            assert incoming.payload(sent) == payload
        else:
            assert result == lib.PIPECAP_CUT_SHORT
            buffers.give_unused(incoming)
            buffers.take()
            hoard = [bytes(65_580) for _ in range(50)]  # whoever gets the old memory
            del hoard


def test_only_two_buffers_of_moderate_size_are_kept(ends: tuple[Any, Any]) -> None:
    read_end, write_end = ends
    taken = [buffers.take() for _ in range(5)]
    for incoming in taken:
        buffers.give(incoming)
    kept = [incoming for incoming in (buffers.take() for _ in range(5)) if incoming in taken]
    assert len(kept) <= 2
    large = Incoming()
    sending = threading.Thread(target=lambda: _send_large(write_end))
    sending.start()
    assert receive(read_end, large) == 20 * MIB
    sending.join()
    assert large.payload(20 * MIB)[-1] == 0
    buffers.give(large)
    assert buffers.take() is not large


def _send_large(write_end: Any) -> None:
    outgoing = Outgoing([bytes(20 * MIB)], [20 * MIB], MIB)
    while lib.pipecap_send(write_end, outgoing.struct) == -errno.EINTR:
        pass


def test_a_buffer_that_grew_for_what_was_cut_short_is_not_kept_either() -> None:
    read_end, write_end = os.pipe()
    end = ffi.new("struct pipecap_end *", {"fd": read_end})
    incoming = Incoming()
    os.write(write_end, struct.pack("!i", 2**30) + b"x")
    os.close(write_end)
    assert receive(end, incoming) == lib.PIPECAP_CUT_SHORT
    os.close(read_end)
    assert incoming.struct.allocated > 16 * MIB
    buffers.give_unused(incoming)
    assert buffers.take() is not incoming


def test_half_a_frame_is_told(ends: tuple[Any, Any]) -> None:
    read_end, write_end = ends
    os.set_blocking(read_end.fd, False)
    incoming = Incoming()
    for sent, amid in ((b"", False), (b"\0", True), (b"\0\0\5", True), (b"abc", True), (b"de", False)):
        os.write(write_end.fd, sent)
        receive(read_end, incoming, MIB)
        assert incoming.amid_frame is amid
    assert bytes(incoming.payload(5)) == b"abcde"
