"""Will my items fit: predicted, and held against stock multiprocessing."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.reduction import ForkingPickler

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import PUT_AND_EXIT, scene, wait_until_blocked_on_a_full_pipe

import pipecap
from pipecap.kernel import pipes
from pipecap.kernel.fit import smallest_capacity

PAGE = os.sysconf("SC_PAGESIZE")
four_kib_pages = pytest.mark.skipif(PAGE != 4096, reason="the anchor is of 4 KiB pages and 64 KiB pipes")


def largest_item_that_fits() -> int:
    """Give the length of the longest bytes object that fits an empty queue: 65,514 with 4 KiB pages."""
    return next(length for length in range(16 * PAGE, 0, -1) if pipecap.items_that_fit(b"0" * length))


@four_kib_pages
def test_the_anchor() -> None:
    """CPython issue 128186: 65,514 zeros let the program exit, 65,515 hang it."""
    assert largest_item_that_fits() == 65514
    assert pipecap.items_that_fit(b"0" * 65514) == 1
    assert pipecap.items_that_fit(b"0" * 65515) == 0


def test_a_stock_program_exits_at_the_edge() -> None:
    with scene(PUT_AND_EXIT, f"b'0' * {largest_item_that_fits()}") as child:
        assert child.wait(timeout=20) == 0


def test_a_stock_program_hangs_one_byte_above_the_edge() -> None:
    with scene(PUT_AND_EXIT, f"b'0' * {largest_item_that_fits() + 1}") as child:
        wait_until_blocked_on_a_full_pipe(child.pid)
        assert child.poll() is None


@four_kib_pages
def test_equal_frames_of_2049_bytes_leave_half_the_pipe_unused() -> None:
    found = pipecap.fit(2045)
    assert (found.frame, found.items, found.unread, found.slots_used, found.wasted) == (2049, 16, 32784, 16, 32752)


@given(item=st.one_of(st.integers(1, 300), st.integers(1, 5 * PAGE), st.integers(16380, 16390)))
def test_a_stock_connection_takes_just_as_many(item: int) -> None:
    """Outside oracle: send_bytes() of the stdlib, non-blocking, until a message is cut short or refused."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader, writer:
        pipes.resize(writer.fileno(), 4 * PAGE)
        os.set_blocking(writer.fileno(), False)
        sent = 0
        message = bytes(item)
        while True:
            before = pipes.unread(reader.fileno())
            try:
                writer.send_bytes(message)
            except BlockingIOError:
                break
            assert pipes.unread(reader.fileno()) == before + item + 4
            sent += 1
    assert pipecap.items_that_fit(item, capacity=4 * PAGE) == sent


@given(st.one_of(st.binary(max_size=100), st.text(max_size=50), st.lists(st.integers()), st.none()))
def test_pickled_size_is_what_a_queue_sends(item: object) -> None:
    assert pipecap.pickled_size(item) == len(ForkingPickler.dumps(item))
    assert pipecap.items_that_fit(item) == pipecap.items_that_fit(pipecap.pickled_size(item))


def test_what_does_not_pickle_is_named() -> None:
    with pytest.raises(pipecap.NotPicklable, match="function"):
        pipecap.items_that_fit(lambda: None)


def test_capacity_is_rounded_as_the_kernel_does() -> None:
    assert pipecap.fit(1, capacity=PAGE + 1).capacity == 2 * PAGE
    assert pipecap.fit(1, capacity="1M").items == pipecap.items_that_fit(1, capacity=2**20)


@pytest.mark.parametrize("item", [0, -1, 2**60])
def test_items_that_are_none(item: int) -> None:
    with pytest.raises(pipecap.InvalidSize):
        pipecap.items_that_fit(item)


@pytest.mark.parametrize("capacity", [-1, 2**31 + 1, "x", 1.5])
def test_capacities_that_are_none(capacity: object) -> None:
    with pytest.raises(pipecap.InvalidSize):
        pipecap.items_that_fit(1, capacity=capacity)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("item", "capacity"),
    [(1, PAGE), (PAGE - 4, PAGE), (PAGE - 3, 2 * PAGE), (16 * PAGE - 4, 16 * PAGE), (2**31 - 4, 2**31), (2**31, None)],
)
def test_the_smallest_pipe_for_an_item(item: int, capacity: int | None) -> None:
    assert smallest_capacity(item) == capacity
