"""The memory that frames travel in, as Python holds it."""

from __future__ import annotations

import gc
import os
import pickle
import struct
from collections.abc import Iterator
from contextlib import suppress

import pytest
from children import Thread
from hypothesis import given
from hypothesis import strategies as st
from wire import ANY, AT_ONCE, FOR_EVER, MIB, In, end_of, frame

from pipecap import BadFrame, TruncatedItem
from pipecap._native import ffi, lib
from pipecap.queues import buffers
from pipecap.queues.buffers import Frames, Outgoing
from pipecap.queues.connection import one_way
from pipecap.queues.receiver import Receiver
from pipecap.queues.shared import Shared


@pytest.fixture(autouse=True)
def nothing_spare() -> Iterator[None]:
    """Begin and end without a warm buffer."""
    buffers.spare.clear()
    yield
    buffers.spare.clear()


def spare() -> list[int]:
    """Return the bytes of memory of each buffer that is kept."""
    return [int(frames.struct.allocated) for frames in buffers.spare]


# ---- out ----


@given(data=st.data())
def test_outgoing_frames_are_pieces_and_sizes(data: st.DataObject) -> None:
    pieces = data.draw(st.lists(st.binary(max_size=50) | st.builds(bytearray, st.binary(max_size=50)), max_size=8))
    sizes = data.draw(st.lists(st.integers(0, 2**64 - 1), max_size=8))
    outgoing = Outgoing(pieces, sizes)
    pointers, piece_sizes, piece_count, payloads, frame_count = outgoing.arrays
    assert (piece_count, frame_count) == (len(pieces), len(sizes))
    assert list(payloads) == sizes
    seen = [bytes(ffi.buffer(pointers[at], piece_sizes[at])) for at in range(piece_count)]
    assert seen == [bytes(piece) for piece in pieces]
    outgoing.release()


def test_the_memory_of_outgoing_frames_stays_where_it_is_until_it_is_released() -> None:
    piece = bytearray(b"x" * 1000)
    outgoing = Outgoing([piece], [1000])
    with pytest.raises(BufferError):
        piece.clear()
    outgoing.release()
    piece.clear()


def test_released_outgoing_frames_in_a_cycle_may_be_collected() -> None:
    """CPython 3.11 crashes when it collects a memoryview whose buffer cffi still holds."""
    for _ in range(3):
        cycle: list[object] = [Outgoing([memoryview(bytearray(5000))], [5000])]
        cycle.append(cycle)
        cycle[0].release()  # type: ignore[attr-defined]
        del cycle
        gc.collect()


# ---- in ----


def write_frame(fd: int, payload: bytes) -> None:
    os.write(fd, frame(payload))


def test_a_buffer_is_warm_for_the_next_frame() -> None:
    first = buffers.take()
    buffers.give(first)
    assert buffers.take() is first
    assert buffers.take() is not first


def test_a_payload_is_seen_where_it_is_after_the_buffer_has_grown(pipe: tuple[int, int]) -> None:
    lib.pipecap_resize(pipe[1], MIB)
    frames, reading = Frames(), In(end_of(pipe[0]))
    for size in (5, 100_000, 3, 900_000, 0, 65_532, 65_533):
        payload = os.urandom(size)
        write_frame(pipe[1], payload)
        result = lib.pipecap_receive(reading.receiver, frames.struct, FOR_EVER, MIB, 1)
        assert result & ~lib.PIPECAP_MOVED == size
        assert frames.payload(result) == payload


def test_a_buffer_that_grew_for_a_frame_which_never_came_whole_shows_the_next_one() -> None:
    """Growing moves it: a view of where it was would show memory that is not ours any more."""
    frames = Frames()
    for announced, sent in ((5, 5), (30 * MIB, 50_000), (7, 7)):
        read_end, write_end = os.pipe()
        reading = In(end_of(read_end))
        payload = os.urandom(sent)
        os.write(write_end, struct.pack("!i", announced) + payload)
        os.close(write_end)
        result = lib.pipecap_receive(reading.receiver, frames.struct, FOR_EVER, ANY, 1)
        os.close(read_end)
        if announced == sent:
            assert result & ~lib.PIPECAP_MOVED == sent
            assert frames.payload(result) == payload
        else:
            assert result == lib.PIPECAP_TRUNCATED
            buffers.give(frames)
            with suppress(ValueError):
                buffers.spare.remove(frames)
            hoard = [bytes(65_580) for _ in range(50)]  # whoever gets the old memory
            del hoard


def test_the_payloads_of_a_batch_are_seen_where_they_are() -> None:
    read_end, write_end = one_way("1M")
    with read_end, write_end:
        shared = Shared(100)
        receiver = read_end.share(shared, counts=False, tasks=False)
        frames = Frames()
        for sizes in ([5], [0, 1, 2], [3000] * 20, [10_000] * 6, [200_000], [1]):
            payloads = [os.urandom(size) for size in sizes]
            os.write(write_end.fileno(), b"".join(map(frame, payloads)))
            result = lib.pipecap_receive(receiver.struct, frames.struct, AT_ONCE, ANY, 100)
            assert result & ~lib.PIPECAP_MOVED == sizes[0]
            assert frames.payloads() == payloads


def received(wire: bytes) -> Exception | bytes:
    """Receive once from a connection whose other end was closed after these bytes."""
    read_end, write_end = os.pipe()
    end = end_of(read_end)
    os.write(write_end, wire)
    os.close(write_end)
    try:
        payload: bytes = Receiver(end).get(FOR_EVER, bytes)
    except (TruncatedItem, BadFrame, EOFError) as error:
        return error
    else:
        return payload
    finally:
        os.close(read_end)


def test_only_two_buffers_of_moderate_size_are_kept() -> None:
    taken = [buffers.take() for _ in range(5)]
    for frames in taken:
        buffers.give(frames)
    kept = [frames for frames in (buffers.take() for _ in range(5)) if frames in taken]
    assert len(kept) <= 2


@pytest.mark.parametrize(("size", "kept"), [(MIB, True), (7 * MIB, True), (20 * MIB, False), (100 * MIB, False)])
def test_the_memory_of_a_large_item_is_not_kept(size: int, kept: bool) -> None:
    reader, writer = one_way("1M")
    with reader, writer:
        item = bytes(size)
        sending = Thread(lambda: writer.send_bytes(item))
        assert reader.recv_bytes() == item
        sending.result()
        assert (max(spare(), default=0) >= size) is kept
        assert sum(spare()) <= 2 * 16 * MIB
        assert reader._receiver.struct.half.allocated <= 16 * MIB


@pytest.mark.parametrize("header", [struct.pack("!i", 2**30), struct.pack("!iQ", -1, 2**32)], ids=["1 GiB", "4 GiB"])
def test_a_buffer_that_grew_for_what_was_cut_short_is_not_kept_either(header: bytes) -> None:
    for _ in range(3):
        assert isinstance(received(header + b"x"), TruncatedItem)
        assert max(spare(), default=0) <= 16 * MIB


def test_after_what_was_cut_short_a_connection_keeps_no_large_memory() -> None:
    reader, writer = one_way("64K")
    with reader:
        os.write(writer.fileno(), struct.pack("!i", 2**30) + b"x")
        writer.close()
        with pytest.raises(TruncatedItem):
            reader.recv()
        assert reader._receiver.struct.half.allocated <= 16 * MIB


def test_what_does_not_unpickle_gives_its_buffer_back() -> None:
    reader, writer = one_way("auto")
    with reader, writer:
        for _ in range(3):
            writer.send_bytes(b"no pickle")
            with pytest.raises(pickle.UnpicklingError):
                reader.recv()
        writer.send("well")
        assert reader.recv() == "well"
        assert len(spare()) <= 2
