"""Pickling for the wire, and the buffers that frames travel in."""

from __future__ import annotations

import copyreg
import errno
import gc
import os
import pickle
import struct
import threading
import weakref
from contextlib import suppress
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
from children import Thread
from hypothesis import given
from hypothesis import strategies as st

from pipecap._native import ffi, lib
from pipecap.queues import frames
from pipecap.queues.frames import Incoming, Outgoing, pickled, size_of

MIB = 1 << 20


def joined(payload: frames.Payload) -> bytes:
    return payload if isinstance(payload, bytes) else b"".join(payload)


def the_standard_librarys(obj: object) -> bytes:
    return bytes(ForkingPickler.dumps(obj))


OBJECTS = st.recursive(
    st.none() | st.integers() | st.text() | st.binary() | st.sampled_from([bytes(65_535), b"x" * 65_536, "y" * 70_000]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.integers(), inner, max_size=4),
    max_leaves=20,
)


# ---- out: pickling ----


@given(objects=st.lists(OBJECTS, min_size=1, max_size=3))
def test_a_pickle_is_the_standard_librarys_to_the_byte(objects: list[object]) -> None:
    """Also from a pickler that was used before: its memo is empty again."""
    payloads = [pickled(each) for each in [*objects, *objects]]
    assert [joined(payload) for payload in payloads] == [the_standard_librarys(each) for each in [*objects, *objects]]
    assert [size_of(payload) for payload in payloads] == [len(joined(payload)) for payload in payloads]


def test_around_the_size_that_keeps_a_pickler_the_pickle_is_the_same() -> None:
    for size in (*range(16_370, 16_400), 65_530, 65_536, MIB):
        item = ["shared", bytes(size), "shared"]
        assert [joined(pickled(item)), joined(pickled(item))] == [the_standard_librarys(item)] * 2


def test_large_bytes_are_not_copied() -> None:
    """The pickle of large bytes has the object itself among its pieces."""
    large = bytes(MIB)
    payload = pickled([1, large, 2])
    assert isinstance(payload, tuple)
    assert any(piece is large for piece in payload)


def test_a_payload_does_not_change_with_the_object() -> None:
    """What is sent later is what was put, whatever its owner does meanwhile."""
    item = {"large": bytearray(b"before" * 50_000), "small": bytearray(b"before")}
    payload = pickled(item)
    before = joined(payload)
    for each in item.values():
        each[:] = bytes(len(each))
        each.extend(b"more")
    assert joined(payload) == before


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


def _point(x: int) -> Point:
    return Point(x)


def _reduced(point: Point) -> tuple[Any, ...]:
    return _point, (point.x + 100,)


@pytest.mark.parametrize("table", ["ForkingPickler.register", "copyreg.pickle"])
def test_a_reducer_registered_after_the_first_pickle_is_used(table: str) -> None:
    assert pickle.loads(joined(pickled(Point(1)))).x == 1
    try:
        if table == "ForkingPickler.register":
            ForkingPickler.register(Point, _reduced)
        else:
            copyreg.pickle(Point, _reduced)
        assert pickle.loads(joined(pickled(Point(1)))).x == 101
    finally:
        vars(ForkingPickler)["_extra_reducers"].pop(Point, None)  # there is no other way back
        copyreg.dispatch_table.pop(Point, None)


class Raises:
    def __reduce__(self) -> tuple[Any, ...]:
        raise ValueError("not this one")


def test_after_a_pickle_that_failed_the_next_is_well() -> None:
    for _ in range(5):
        with pytest.raises(ValueError, match="not this one"):
            pickled(["begun", bytes(100_000), Raises()])
        with pytest.raises((pickle.PicklingError, AttributeError)):
            pickled(["begun", lambda: None])
        assert joined(pickled([1, 2])) == the_standard_librarys([1, 2])


class PicklesMore:
    """An object whose own code pickles another in the middle."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def __reduce__(self) -> tuple[Any, ...]:
        inner = joined(pickled(["shared", PicklesMore(self.depth - 1)] if self.depth else "end"))
        return bytes, (inner,)


def test_pickling_that_comes_here_again_is_well() -> None:
    payload = joined(pickled(["shared", PicklesMore(5), "shared"]))
    for _ in range(6):
        first, inner, *_ = pickle.loads(payload)
        assert first == "shared"
        payload = inner
    assert pickle.loads(payload) == "end"


def test_several_threads_pickle_at_once() -> None:
    def work(seed: int) -> bool:
        items = [[seed, number, "x" * (number % 50), {seed: number}] for number in range(2000)]
        return all(pickle.loads(joined(pickled(item))) == item for item in items)

    assert [thread.result() for thread in [Thread(lambda seed=seed: work(seed)) for seed in range(4)]] == [True] * 4  # type: ignore[misc]


def test_a_pickler_that_is_kept_keeps_nothing_that_it_pickled() -> None:
    point = Point(1)
    gone = weakref.ref(point)
    pickled([point, point])
    del point
    gc.collect()
    assert gone() is None


# ---- out: frames ----


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
    first = frames.take()
    frames.give(first)
    assert frames.take() is first
    assert frames.take() is not first


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
            frames.give_unused(incoming)
            frames.take()
            hoard = [bytes(65_580) for _ in range(50)]  # whoever gets the old memory
            del hoard


def test_only_two_buffers_of_moderate_size_are_kept(ends: tuple[Any, Any]) -> None:
    read_end, write_end = ends
    taken = [frames.take() for _ in range(5)]
    for incoming in taken:
        frames.give(incoming)
    kept = [incoming for incoming in (frames.take() for _ in range(5)) if incoming in taken]
    assert len(kept) <= 2
    large = Incoming()
    sending = threading.Thread(target=lambda: _send_large(write_end))
    sending.start()
    assert receive(read_end, large) == 20 * MIB
    sending.join()
    assert large.payload(20 * MIB)[-1] == 0
    frames.give(large)
    assert frames.take() is not large


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
    frames.give_unused(incoming)
    assert frames.take() is not incoming


def test_half_a_frame_is_told(ends: tuple[Any, Any]) -> None:
    read_end, write_end = ends
    os.set_blocking(read_end.fd, False)
    incoming = Incoming()
    for sent, amid in ((b"", False), (b"\0", True), (b"\0\0\5", True), (b"abc", True), (b"de", False)):
        os.write(write_end.fd, sent)
        receive(read_end, incoming, MIB)
        assert incoming.amid_frame is amid
    assert bytes(incoming.payload(5)) == b"abcde"
