"""The wire format in C, in: headers, payloads, and what each call returns, of connections and of queues."""

from __future__ import annotations

import errno
import os
import resource
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from children import and_stay, forked, wait_until, wait_until_in
from hypothesis import given
from hypothesis import strategies as st
from ours import made, memory_of, stuck_writer
from wire import ANY, AT_ONCE, FOR_EVER, MIB, In, end_of, frame, long_frame

import pipecap
from pipecap._native import lib
from pipecap.queues import native

EAGER = native.EAGER
CAPACITY = 65_536


@pytest.fixture
def ends(pipe: tuple[int, int]) -> tuple[In, int]:
    """Return the receiving side of a pipe with room for a mebibyte, which no call waits in, and its write end."""
    lib.pipecap_resize(pipe[1], MIB)
    for fd in pipe:
        os.set_blocking(fd, False)
    return In(end_of(pipe[0])), pipe[1]


def slept(call: Callable[[], object]) -> int:
    """Return how often this thread went to sleep during a call."""
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    call()
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before


# ---- a plain connection ----


@given(payload=st.integers(min_value=0, max_value=2**64 - 1), longest=st.integers(min_value=0, max_value=2**64 - 1))
def test_a_long_header_of_more_than_allowed_is_an_outcome_and_costs_nothing(payload: int, longest: int) -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.write(write_end, struct.pack("!iQ", -1, payload))
    reading = In(end_of(read_end))
    result = reading.receive(longest=longest)
    os.close(read_end)
    os.close(write_end)
    assert reading.allocated() <= 65 * MIB
    if payload > longest:
        assert result == lib.PIPECAP_TOO_LONG
        assert reading.allocated() <= MIB
    else:
        assert result in (-errno.EAGAIN, -errno.ENOMEM) if payload else result == 0


@given(header=st.integers(min_value=-(2**31), max_value=2**31 - 1), longest=st.sampled_from([0, 100, ANY]))
def test_a_short_header_is_a_length_or_none(header: int, longest: int) -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.write(write_end, struct.pack("!i", header))
    result = In(end_of(read_end)).receive(longest=longest)
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


def test_frames_come_one_by_one_and_never_a_byte_of_the_next(ends: tuple[In, int]) -> None:
    """Another process, or a stock Connection, may read the next one."""
    reading, write_end = ends
    payloads = [b"", b"a", bytes(5000), b"bc", bytes(100_000), b""]
    os.write(write_end, b"".join(map(frame, payloads)))
    left = sum(len(payload) + 4 for payload in payloads)
    for payload in payloads:
        assert reading.receive(most=100) == len(payload)
        assert reading.payloads() == [payload]
        left -= len(payload) + 4
        assert lib.pipecap_unread(reading.end.fd) == left


def test_receiving_at_once_does_not_wait_though_the_descriptor_would(pipe: tuple[int, int]) -> None:
    reading = In(end_of(pipe[0]))
    for sent in (b"", b"\0\0", b"\0\5", b"abc"):
        os.write(pipe[1], sent)
        assert reading.receive(AT_ONCE) == lib.PIPECAP_TIMED_OUT
    os.write(pipe[1], b"de")
    assert reading.receive(AT_ONCE) == 5
    assert reading.payloads() == [b"abcde"]
    assert os.get_blocking(pipe[0])


@pytest.mark.parametrize(
    ("wire", "outcome"),
    [
        (b"", "PIPECAP_END_OF_FILE"),
        (b"\0", "PIPECAP_TRUNCATED"),
        (b"\0\0\0\1", "PIPECAP_TRUNCATED"),
        (b"\0\0\0\2a", "PIPECAP_TRUNCATED"),
        (b"\xff\xff\xff\xff", "PIPECAP_TRUNCATED"),
        (b"\xff\xff\xff\xff\0\0\0\0", "PIPECAP_TRUNCATED"),
        (struct.pack("!iQ", -1, 1), "PIPECAP_TRUNCATED"),
        (struct.pack("!iQ", -1, 2**31) + b"x", "PIPECAP_TRUNCATED"),
    ],
)
def test_the_end_of_file_between_frames_is_told_from_one_in_a_frame(
    wire: bytes, outcome: str, pipe: tuple[int, int]
) -> None:
    os.write(pipe[1], wire)
    os.close(pipe[1])
    reading = In(end_of(pipe[0]))
    assert reading.receive() == getattr(lib, outcome)
    assert reading.receive() == lib.PIPECAP_END_OF_FILE


def test_what_was_given_back_comes_first_again(ends: tuple[In, int]) -> None:
    reading, write_end = ends
    os.write(write_end, frame(b"one") + frame(b"two"))
    assert reading.receive() == 3
    lib.pipecap_give_back(reading.receiver, reading.frames)
    assert lib.pipecap_owed(reading.receiver) == 1
    assert reading.receive() == 3
    assert reading.payloads() == [b"one"]
    reading.frames.taken = 1
    lib.pipecap_give_back(reading.receiver, reading.frames)  # nothing is left of it
    assert reading.receive() == 3
    assert reading.payloads() == [b"two"]


# ---- a queue ----


@pytest.fixture(params=["SimpleQueue", "JoinableQueue"])
def queue(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Make a queue that does not count its items, and one that does."""
    with made(request.param, capacity=CAPACITY) as queue:
        yield queue
        assert queue.debug_state()["reading"] == 0 or queue.debug_state()["partly_received"]


def side_of(queue: Any) -> In:
    """Return the receiving side of a queue in this process."""
    return In(queue._reader._end, queue._receiver.struct)


def send(queue: Any, wire: bytes) -> None:
    """Write to its pipe past the protocol."""
    assert os.write(queue._writer.fileno(), wire) == len(wire)


def test_all_that_is_there_comes_at_once_and_no_more_than_asked(queue: Any) -> None:
    payloads = [b"a" * (number * 37 % 2000) for number in range(50)]
    send(queue, b"".join(map(frame, payloads)))
    reading = side_of(queue)
    got: list[bytes] = []
    for most in (1, 10, 100):
        assert reading.receive(AT_ONCE, most=most) >= 0
        assert reading.frames.count <= most
        got += reading.payloads()
    assert got == payloads
    assert reading.receive(AT_ONCE) == lib.PIPECAP_TIMED_OUT
    assert queue.debug_state()["reading"] == 0


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 16_381, 60_000])
def test_what_is_got_of_a_batch_with_a_larger_frame_is_in_order(queue: Any, size: int) -> None:
    """A frame above some size goes straight into memory of this process, and its neighbours do not."""
    payloads = [b"before", os.urandom(size), b"after", b""]
    send(queue, b"".join(map(frame, payloads)))
    reading = side_of(queue)
    got: list[bytes] = []
    while len(got) < len(payloads):
        assert reading.receive(AT_ONCE, most=100) >= 0
        got += reading.payloads()
    assert got == payloads
    assert queue.empty()


def test_a_queues_frame_may_have_a_long_header(queue: Any) -> None:
    send(queue, long_frame(b"abcde") + frame(b"xy") + long_frame(bytes(20_000)) + long_frame(b""))
    reading = side_of(queue)
    got: list[bytes] = []
    while len(got) < 4:
        assert reading.receive(AT_ONCE, most=100) >= 0
        got += reading.payloads()
    assert got == [b"abcde", b"xy", bytes(20_000), b""]


@given(size=st.sampled_from([0, 1, 5, 1000, 5000, 16_380, 16_381, 30_000]), data=st.data())
def test_a_frame_is_whole_wherever_its_arrival_stops(size: int, data: st.DataObject) -> None:
    """Whoever asks without waiting, and how; what came is kept. An item that came whole gives its credit back."""
    payload = os.urandom(size)
    wire = frame(payload) + frame(b"next")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=4)))
    deadlines = st.sampled_from([AT_ONCE, EAGER])
    with made("Queue", capacity=CAPACITY) as queue:
        memory_of(queue).credits -= 2
        reading = side_of(queue)
        got: list[bytes] = []
        for begin, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
            send(queue, wire[begin:end]) if end > begin else None
            deadline = data.draw(deadlines)
            while (result := reading.receive(deadline)) >= 0:
                got += reading.payloads()
            assert result == lib.PIPECAP_TIMED_OUT
            whole = (end >= len(frame(payload))) + (end == len(wire))
            assert got == [payload, b"next"][:whole]
        assert queue.debug_state()["credits"] == memory_of(queue).maxsize
        assert queue.debug_state()["reading"] == 0
        assert queue.empty()


@pytest.mark.parametrize("size", [5, 1000, 16_381, 40_000])
@pytest.mark.parametrize("arrived", ["nothing", "its header", "a part of it", "a part, header read ahead"])
def test_get_nowait_never_waits_for_an_item_that_is_not_whole(queue: Any, arrived: str, size: int) -> None:
    payload = os.urandom(size)
    wire = {
        "nothing": b"",
        "its header": frame(payload)[:4],
        "a part of it": frame(payload)[: size // 2],
        "a part, header read ahead": frame(b"first") + frame(payload)[: 4 + size // 2],
    }[arrived]
    reading = side_of(queue)
    if wire:
        send(queue, wire)
    if wire.startswith(frame(b"first")):
        assert reading.receive(AT_ONCE) == 5
    for _ in range(3):
        assert slept(lambda: reading.receive(AT_ONCE)) == 0
        assert reading.receive(AT_ONCE) == lib.PIPECAP_TIMED_OUT
        assert queue.debug_state()["reading"] == 0
    send(queue, frame(payload)[len(wire.removeprefix(frame(b"first"))) :])
    assert not queue.empty()
    assert reading.receive(AT_ONCE) == size
    assert reading.payloads() == [payload]
    assert queue.empty()


def test_a_lone_header_read_ahead_is_no_item_yet(queue: Any) -> None:
    send(queue, frame(b"first") + frame(b"second")[:4])
    reading = side_of(queue)
    assert reading.receive() == 5
    assert pipecap.unread(queue) == 0
    assert queue.empty()
    assert slept(lambda: reading.receive(AT_ONCE)) == 0
    with forked(lambda: (queue.empty(), In(queue._reader._end, queue._receiver.struct).receive(AT_ONCE))) as child:
        assert child.result() == (True, lib.PIPECAP_TIMED_OUT)
    send(queue, b"second")
    assert not queue.empty()
    assert reading.receive(AT_ONCE) == 6


def test_an_item_larger_than_the_pipe_is_begun_by_a_call_that_does_not_wait(queue: Any) -> None:
    """Else it would never come: nobody reads, so no more is written."""
    payload = os.urandom(3 * CAPACITY)
    wire = frame(payload)
    reading = side_of(queue)
    rounds = 0
    while wire:
        wire = wire[os.write(queue._writer.fileno(), wire[:CAPACITY]) :]
        assert slept(lambda: reading.receive(AT_ONCE)) == 0 or not wire
        rounds += 1
    assert rounds >= 3
    if not reading.frames.count:
        assert reading.receive(AT_ONCE) == len(payload)
    assert reading.payloads() == [payload]


def test_empty_is_false_while_a_whole_item_was_read_ahead(queue: Any) -> None:
    """It is in the shared memory, and nothing is in the pipe."""
    send(queue, frame(b"a") + frame(b""))
    reading = side_of(queue)
    assert reading.receive() == 1
    assert pipecap.unread(queue) == 0
    assert not queue.empty()
    with forked(queue.empty) as child:
        assert child.result() is False
    assert reading.receive() == 0
    assert queue.empty()


def test_what_another_process_read_ahead_comes_out_here(queue: Any) -> None:
    def take_first() -> list[bytes]:
        reading = side_of(queue)
        reading.receive()
        return reading.payloads()

    payloads = [b"one", b"two", os.urandom(20_000), b"three"]
    send(queue, b"".join(map(frame, payloads)))
    got: list[bytes] = []
    reading = side_of(queue)
    while len(got) < len(payloads):
        with forked(take_first) as child:
            got += child.result()
        if len(got) < len(payloads):
            assert reading.receive() >= 0
            got += reading.payloads()
    assert got == payloads


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 500])
def test_what_a_dead_reader_read_of_a_small_item_is_there_for_the_next(queue: Any, cut: int) -> None:
    wire = frame(os.urandom(1000))
    send(queue, wire[:cut])
    with forked(lambda: side_of(queue).receive()) as child:
        wait_until(lambda: pipecap.unread(queue) == 0)
        wait_until_in("poll", child.pid)
        child.end()
        send(queue, wire[cut:] + frame(b"next"))
        reading = side_of(queue)
        assert reading.receive() == 1000
        assert reading.payloads() == [wire[4:]]
        assert reading.receive() == 4


@pytest.mark.parametrize("begun", [False, True], ids=["not begun", "begun here"])
def test_empty_is_false_while_it_is_owed_that_an_item_was_cut_short(queue: Any, begun: bool) -> None:
    with stuck_writer(queue, bytes(MIB)) as child:
        reading = side_of(queue)
        if begun:
            assert reading.receive(EAGER) == lib.PIPECAP_TIMED_OUT
            assert queue.debug_state()["partly_received"]
            assert pipecap.unread(queue) == 0
            assert queue.empty()
        child.end()
        assert not queue.empty()
        with forked(queue.empty) as other:
            assert other.result() is begun  # to another process it is not owed
        assert reading.receive(AT_ONCE) == lib.PIPECAP_TRUNCATED
        assert queue.empty()


@pytest.mark.parametrize("begun", [False, True], ids=["not begun", "begun there"])
def test_empty_is_false_while_it_is_owed_that_a_reader_died(queue: Any, begun: bool) -> None:
    with stuck_writer(queue, bytes(MIB)) as writer:
        with forked(and_stay(lambda: side_of(queue).receive(EAGER) if begun else None)) as reader:
            wait_until_in("pause", reader.pid)
            assert queue.debug_state()["reading"] == (reader.pid if begun else 0)
            reader.end()
            writer.end()
            assert not queue.empty()
            assert side_of(queue).receive(AT_ONCE) == (lib.PIPECAP_LOST if begun else lib.PIPECAP_TRUNCATED)
            assert queue.empty()


@pytest.mark.parametrize("header", [b"\xff\xff\xff\xfe", b"\x80\0\0\0", b"\xff\xff\xff\xff" + b"\xff" * 8])
def test_garbage_breaks_a_queue_for_all_after_what_was_whole(queue: Any, header: bytes) -> None:
    send(queue, frame(b"whole") + frame(b"too") + header + b"more")
    reading = side_of(queue)
    assert reading.receive(most=100) == 5
    assert reading.payloads() == [b"whole", b"too"]
    assert not queue.empty()
    assert reading.receive(longest=2**50) in (lib.PIPECAP_BAD_HEADER, lib.PIPECAP_TOO_LONG)
    with forked(lambda: (queue.empty(), side_of(queue).receive())) as child:
        assert child.result() == (False, lib.PIPECAP_BROKEN)
    for deadline in (AT_ONCE, FOR_EVER):
        assert reading.receive(deadline) == lib.PIPECAP_BROKEN
    assert queue.debug_state()["broken"]
    assert not queue.empty()


@given(garbage=st.binary(min_size=1, max_size=60), cut=st.integers(min_value=1, max_value=60))
def test_any_bytes_end_in_frames_or_an_outcome(garbage: bytes, cut: int) -> None:
    with made("Queue") as queue:
        reading = side_of(queue)
        for part in (garbage[:cut], garbage[cut:]):
            if part:
                send(queue, part)
            while (result := reading.receive(AT_ONCE, most=5, longest=2**40)) >= 0:
                assert all(payload in garbage for payload in reading.payloads())
            assert result in (
                lib.PIPECAP_TIMED_OUT, lib.PIPECAP_TOO_LONG, lib.PIPECAP_BAD_HEADER, lib.PIPECAP_BROKEN
            )  # fmt: skip


def test_frames_that_were_given_back_come_first_in_their_order_and_at_most_so_many(queue: Any) -> None:
    payloads = [b"0", b"1", b"2", b"3", b"4"]
    send(queue, b"".join(map(frame, payloads)))
    reading, other = side_of(queue), side_of(queue)
    assert reading.receive(most=2) == 1
    assert other.receive(most=2) == 1
    other.frames.taken = 1
    for each in (other, reading):  # the later one first, and only its second frame
        lib.pipecap_give_back(each.receiver, each.frames)
    assert lib.pipecap_owed(reading.receiver) == queue.debug_state()["given_back"] == 3
    assert not queue.empty()
    got: list[list[bytes]] = []
    for most in (1, 5, 5, 5):
        assert reading.receive(AT_ONCE, most=most) >= 0
        got.append(reading.payloads())
        assert len(got[-1]) <= most
    assert got == [[b"0"], [b"1"], [b"3"], [b"4"]]
    assert queue.empty()


def test_a_closed_end_is_no_queue_any_more(queue: Any) -> None:
    lib.pipecap_end_close(queue._reader._end)
    assert side_of(queue).receive() == -errno.EBADF
    assert queue.debug_state()["reading"] == 0
    queue._reader._handle = None


def test_to_close_an_end_in_the_middle_of_an_item_gives_the_lock_back(queue: Any) -> None:
    send(queue, frame(bytes(30_000))[:20_000])
    reading = side_of(queue)
    assert reading.receive(EAGER) == lib.PIPECAP_TIMED_OUT
    assert queue.debug_state()["reading"] == os.getpid()
    lib.pipecap_end_close(queue._reader._end)
    assert reading.receive() == -errno.EBADF
    assert queue.debug_state()["reading"] == 0
    queue._reader._handle = None


def test_the_child_of_a_fork_has_no_part_of_the_parents_item(queue: Any) -> None:
    payload = os.urandom(30_000)
    send(queue, frame(payload)[:20_000])
    reading = side_of(queue)
    assert reading.receive(EAGER) == lib.PIPECAP_TIMED_OUT
    with forked(lambda: (side_of(queue).receive(AT_ONCE), queue.debug_state()["partly_received"])) as child:
        assert child.result() == (lib.PIPECAP_TIMED_OUT, False)
    send(queue, frame(payload)[20_000:])
    assert reading.receive() == 30_000
    assert reading.payloads() == [payload]
