"""The wire format in C, out: what is on the wire, and what waits in the line, of connections and of queues."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from children import DEADLINE, Thread, forked, wait_until_in
from hypothesis import given
from hypothesis import strategies as st
from ours import made, participants
from wire import MIB, In, Out, end_of, frame

from pipecap._native import lib
from pipecap.queues import native

CAPACITY = 65_536
COPIED = native.COPIED


@pytest.fixture
def ends(pipe: tuple[int, int]) -> Iterator[tuple[int, Out]]:
    """Return the read end of a pipe with room for a mebibyte, which no call waits in, and its sending side."""
    lib.pipecap_resize(pipe[1], MIB)
    for fd in pipe:
        os.set_blocking(fd, False)
    out = Out(end_of(pipe[1]))
    yield pipe[0], out
    out.release()


def read_all_that_is_there(fd: int) -> bytes:
    got = b""
    with suppress(BlockingIOError):
        while block := os.read(fd, MIB):
            got += block
    return got


# ---- a plain connection ----


@pytest.mark.parametrize("size", [0, 1, 4092, 4093, 60_000])
def test_a_frame_sent_at_once_is_header_and_payload(size: int, ends: tuple[int, Out]) -> None:
    read_end, out = ends
    assert out.put(bytes(size)) == 0
    assert os.read(read_end, MIB) == frame(bytes(size))
    assert out.put_frames([bytes(size)], [size]) == 1
    assert os.read(read_end, MIB) == frame(bytes(size))
    assert out.line() == (0, 0, False)


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
        out = Out(end_of(write_end), chunk=chunk)
        assert out.put_frames(pieces, [len(payload) for payload in payloads], 1) == len(payloads)
        assert out.flush(1) == 0
        out.release()
        expected = b"".join(map(frame, payloads))
        assert (os.read(read_end, 2 * MIB) if expected else b"") == expected
        assert lib.pipecap_unread(read_end) == 0
    finally:
        os.close(read_end)
        os.close(write_end)


def test_what_does_not_go_out_at_once_is_said(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    out, large = Out(end_of(pipe[1])), bytes(100_000)
    assert out.put(large, 1) == -errno.EAGAIN
    assert 65_536 - lib.pipecap_unread(pipe[0]) in (0, 64)  # a shorter write, by where the payload lies (send.c)
    assert lib.pipecap_is_in_line(out.sender, 1)
    assert out.line()[:2] == (1, 100_000)
    assert out.put(b"x", 2) == lib.PIPECAP_QUEUED  # behind the rest of that one
    assert out.flush(2) == -errno.EAGAIN
    os.close(pipe[0])
    assert out.flush(2) == -errno.EPIPE
    assert out.flush(1) == -errno.EPIPE
    assert out.put(b"x") == -errno.EPIPE
    assert out.line() == (0, 0, False)


def test_a_small_frame_that_does_not_fit_leaves_nothing_behind(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    out = Out(end_of(pipe[1]))
    while out.put(bytes(4000)) == 0:
        pass
    assert lib.pipecap_unread(pipe[0]) == 16 * 4004
    assert out.put(bytes(4000), 7) == -errno.EAGAIN
    assert out.line() == (0, 0, False)
    assert not lib.pipecap_is_in_line(out.sender, 7)


def test_a_partial_write_to_a_socket_is_gone_on_with() -> None:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        payload = os.urandom(3 * MIB)
        out = Out(end_of(one.fileno()), chunk=MIB)
        assert out.put_frames([payload], [len(payload)], 1) in (1, -errno.EAGAIN)
        got = other.recv(MIB)
        while out.line()[0]:
            assert out.flush(1) in (0, -errno.EAGAIN)
            got += other.recv(MIB)
        out.release()
        one.close()
        while block := other.recv(MIB):
            got += block
    assert got == frame(payload)


def test_many_frames_of_nothing_are_their_headers(ends: tuple[int, Out]) -> None:
    read_end, out = ends
    assert out.put_frames([], [0] * 3000) == 3000
    assert os.read(read_end, MIB) == bytes(12_000)


@pytest.mark.parametrize("kind", ["bytes", "bytearray"])
def test_the_rest_of_frames_that_were_taken_back_is_copied(kind: str, ends: tuple[int, Out]) -> None:
    """Whatever happens to the buffer they were made of."""
    read_end, out = ends
    lib.pipecap_resize(out.end.fd, CAPACITY)
    source = os.urandom(200_000)
    buffer = bytearray(source) if kind == "bytearray" else source
    assert out.put_frames([b"first", buffer], [5, 200_000], 1) == -errno.EAGAIN
    assert lib.pipecap_withdraw(out.sender, 1) == 0
    assert not lib.pipecap_is_in_line(out.sender, 1)
    out.release()
    if isinstance(buffer, bytearray):
        buffer.clear()  # BufferError while somebody holds it
    assert out.put(b"next", 2) == lib.PIPECAP_QUEUED
    got = b""
    while out.line()[0]:
        got += os.read(read_end, MIB)
        assert out.flush(2) in (0, -errno.EAGAIN)
    got += read_all_that_is_there(read_end)
    assert got == frame(b"first") + frame(source) + frame(b"next")


def test_what_has_not_begun_is_taken_back_whole(ends: tuple[int, Out]) -> None:
    read_end, out = ends
    lib.pipecap_resize(out.end.fd, CAPACITY)
    large = os.urandom(100_000)
    assert out.put(large, 1) == -errno.EAGAIN
    for ticket in (2, 3, 4):
        assert out.put(b"%d" % ticket, ticket) == lib.PIPECAP_QUEUED
    assert [lib.pipecap_withdraw(out.sender, ticket) for ticket in (3, 3, 9)] == [1, 0, 0]
    assert lib.pipecap_withdraw(out.sender, 4) == 1  # the last in line
    assert out.put(b"5", 5) == lib.PIPECAP_QUEUED
    got = b""
    while out.line()[0]:
        got += os.read(read_end, MIB)
        assert out.flush(5) in (0, -errno.EAGAIN)
    got += read_all_that_is_there(read_end)
    assert got == frame(large) + frame(b"2") + frame(b"5")


def test_a_pipe_whose_reader_waits_gets_a_write_of_at_most_a_chunk(pipe: tuple[int, int]) -> None:
    """A pipe of packets shows each write: O_DIRECT of pipe2(2). A first one may be a little shorter."""
    read_end, write_end = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
    try:
        out = Out(end_of(write_end), chunk=4096)
        payload = os.urandom(20_000)
        assert out.put(payload, 1) == 0
        writes = []
        with suppress(BlockingIOError):
            while True:
                writes.append(os.read(read_end, CAPACITY))
        assert b"".join(writes) == frame(payload)
        assert max(map(len, writes)) <= 4096
    finally:
        os.close(read_end)
        os.close(write_end)


# ---- the line of a queue ----


@pytest.fixture(params=["Queue", "JoinableQueue"])
def queue(request: pytest.FixtureRequest) -> Iterator[Any]:
    with made(request.param, 100, capacity=CAPACITY) as queue:
        yield queue


def side_of(queue: Any) -> Out:
    """Return the sending side of a queue in this process, without its feeder thread."""
    return Out(queue._writer._end, queue._sender.struct)


def counters(queue: Any) -> tuple[int, int, int]:
    """Return what a queue of 100 counts: its credits, tasks, and credits held by this process."""
    state = queue.debug_state()
    return state["credits"], state["unfinished"], participants(queue)[os.getpid()]["held"]


def received(queue: Any, count: int) -> list[bytes]:
    reading = In(queue._reader._end, queue._receiver.struct)
    got: list[bytes] = []
    while len(got) < count and reading.receive(most=count - len(got)) >= 0:
        got += reading.payloads()
    return got


def test_what_waits_holds_its_credits_and_tasks(queue: Any) -> None:
    tasks = 1 if queue._joinable else 0
    out, large = side_of(queue), os.urandom(200_000)
    assert out.put(large, 1) == lib.PIPECAP_QUEUED
    assert out.put(b"second", 2) == lib.PIPECAP_QUEUED
    assert out.put_frames([b"thirdfourth"], [5, 6], 3) == 2
    assert out.line() == (4, 200_000 + 6 + 5 + 6, True)
    assert counters(queue) == (96, 4 * tasks, 3)  # what has begun is the pipe's
    assert queue.debug_state()["writing"] == os.getpid()
    assert lib.pipecap_withdraw(out.sender, 2) == 1
    assert counters(queue) == (97, 3 * tasks, 2)
    sending = Thread(lambda: out.flush(3))
    assert received(queue, 3) == [large, b"third", b"fourth"]
    assert sending.result() == 0
    out.release()
    assert counters(queue) == (100, 3 * tasks, 0)
    assert queue.debug_state()["writing"] == 0


def test_discarding_drops_all_but_what_has_begun(queue: Any) -> None:
    tasks = 1 if queue._joinable else 0
    out, large = side_of(queue), os.urandom(200_000)
    out.put(large, 1)
    out.put(b"second")
    assert out.put_frames([b"thirdfourth"], [5, 6], 3) == 2
    assert out.discard() == (3, 6 + 5 + 6, True)
    assert lib.pipecap_finished(out.sender) == 3
    assert counters(queue) == (99, tasks, 0)
    sending = Thread(lambda: out.flush(1))
    assert received(queue, 1) == [large]
    assert sending.result() == 0
    out.release()
    assert out.discard() == (0, 0, False)
    assert counters(queue)[0] == 100


def test_a_put_within_a_put_joins_the_line(queue: Any) -> None:
    """As one in a signal handler, while this thread is at work on another one."""
    out = side_of(queue)
    queue._sender.struct.driving = 1
    assert out.put(b"inner") == lib.PIPECAP_QUEUED
    queue._sender.struct.driving = 0
    assert out.put(b"outer") == lib.PIPECAP_QUEUED  # behind it
    feeding = Thread(lambda: lib.pipecap_feed(out.sender))
    assert received(queue, 2) == [b"inner", b"outer"]
    lib.pipecap_sender_closing(out.sender)
    assert feeding.result() in (0, lib.PIPECAP_AGAIN)


def test_a_feeder_sends_the_line_and_ends_when_it_is_empty_and_closing(queue: Any) -> None:
    out = side_of(queue)
    payloads = [os.urandom(150_000), b"second", os.urandom(100_000)]
    kept = [out.put(payload, ticket) for ticket, payload in enumerate(payloads, start=1)]
    assert kept == [lib.PIPECAP_QUEUED] * 3
    lib.pipecap_sender_closing(out.sender)
    assert out.put(b"late") == lib.PIPECAP_CLOSED

    def feed() -> list[int]:
        finished = []
        while result := lib.pipecap_feed(out.sender):
            if result == 1:
                finished.append(lib.pipecap_finished(out.sender))
        return finished

    feeding = Thread(feed)
    assert received(queue, 3) == payloads
    assert sorted(feeding.result()) == [1, 2, 3]
    assert lib.pipecap_finished(out.sender) == 0
    assert counters(queue)[0] == 100


def test_what_cannot_be_sent_any_more_is_counted(queue: Any) -> None:
    out = side_of(queue)
    out.put(bytes(200_000), 1)
    out.put(b"second")
    out.put(b"third", 3)
    feeding = Thread(lambda: lib.pipecap_feed(out.sender))
    wait_until_in("poll", os.getpid(), feeding.native_id)
    queue._reader.close()
    feeding.result()
    finished, failed = [], 0
    end = time.monotonic() + DEADLINE
    while out.line()[0] or out.sender.finished:
        assert time.monotonic() < end, "the rest of the line neither goes out nor fails"
        lib.pipecap_feed(out.sender)
        finished.append(lib.pipecap_finished(out.sender))
        failed += lib.pipecap_failures(out.sender)
    assert sorted(filter(None, finished)) == [1, 3]
    assert failed == 3
    assert lib.pipecap_failures(out.sender) == 0
    assert out.sender.failure == -errno.EPIPE
    assert counters(queue) == (100, 0, 0)
    assert queue.debug_state()["writing"] == 0


def test_the_line_of_a_parent_is_not_the_childs(queue: Any) -> None:
    out, large = side_of(queue), os.urandom(200_000)
    out.put(large, 1)
    out.put(b"the parent's", 2)

    def put() -> tuple[tuple[int, int, bool], bool]:
        mine = side_of(queue)
        return mine.line(), queue.debug_state()["partly_sent"]

    with forked(put) as child:
        assert child.result() == ((0, 0, False), False)
    sending = Thread(lambda: out.flush(2))
    assert received(queue, 2) == [large, b"the parent's"]
    assert sending.result() == 0


def test_a_frame_is_in_the_pipe_as_a_whole_before_another_process_writes(queue: Any) -> None:
    """Each process's frames come out whole, large and small, and in the order in which it put them."""
    sizes = [0, 5, 4092, 4093, 9000, 70_000, 200_000]

    def put(seed: int) -> None:
        out = side_of(queue)
        for number, size in enumerate(sizes * 5):
            out.put(payload := bytes([seed, number]) + bytes([seed]) * size, number + 1)
            while out.flush(number + 1):
                pass
            del payload

    with forked(lambda: put(1)) as one, forked(lambda: put(2)) as other:
        got = received(queue, 2 * 5 * len(sizes))
        one.result()
        other.result()
    for seed in (1, 2):
        mine = [payload for payload in got if payload[0] == seed]
        assert [(payload[1], len(payload) - 2) for payload in mine] == list(enumerate(sizes * 5))
        assert all(payload[2:] == bytes([seed]) * (len(payload) - 2) for payload in mine)


def test_a_closed_end_takes_nothing(queue: Any) -> None:
    lib.pipecap_end_close(queue._writer._end)
    out = side_of(queue)
    assert out.put(b"x") == -errno.EBADF
    assert out.put_frames([b"x"], [1]) == -errno.EBADF
    out.release()
    queue._writer._handle = None


def test_a_process_ends_though_no_reader_is_left_for_what_waits() -> None:
    """One item is partly in the pipe, more wait behind it, and then the last reader goes."""
    program = """
import logging, pipecap
logging.disable()
queue = pipecap.get_context("fork", capacity=65536, exit_warning=None).Queue()
for item in (bytes(200_000), "second", "third"):
    queue.put(item)
while not pipecap.state(queue).full:
    pass
queue._reader.close()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=DEADLINE)
