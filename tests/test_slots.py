"""The page-slot rule, held to the kernel."""

from __future__ import annotations

import errno
import fcntl
import os
import select

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pipecap.kernel import slots
from pipecap.kernel.pipes import unread
from pipecap.kernel.slots import SlotModel, fill, frame_writes, round_capacity

PAGE = os.sysconf("SC_PAGESIZE")


def around(*sizes: int) -> st.SearchStrategy[int]:
    """Sizes at the edges: each of `sizes`, one more and one less."""
    return st.sampled_from(sorted({max(1, size + step) for size in sizes for step in (-1, 0, 1)}))


SIZES = st.one_of(
    around(1, 100, PAGE // 2, PAGE, 2 * PAGE, 4 * PAGE, 16 * PAGE, 16384, 16388),
    st.integers(min_value=1, max_value=PAGE),
    st.integers(min_value=1, max_value=20 * PAGE),
)


class AgainstTheKernel(RuleBasedStateMachine):
    """Any sequence of writes, reads and resizes gives what a real pipe gives."""

    @initialize(slot_count=st.sampled_from([1, 2, 4, 16]))
    def make(self, slot_count: int) -> None:
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        self.capacity = fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, slot_count * PAGE)
        self.model = SlotModel(self.capacity, PAGE)

    @rule(size=SIZES, packet=st.sampled_from([False, False, False, False, True]))
    def write(self, size: int, packet: bool) -> None:
        fcntl.fcntl(self.write_end, fcntl.F_SETFL, os.O_NONBLOCK | (os.O_DIRECT if packet else 0))
        try:
            written = os.write(self.write_end, bytes(size))
        except BlockingIOError:
            written = 0
        assert self.model.write(size, packet=packet) == written

    @rule(size=SIZES)
    def read(self, size: int) -> None:
        try:
            count = len(os.read(self.read_end, size))
        except BlockingIOError:
            count = 0
        assert self.model.read(size) == count

    @rule(size=st.one_of(around(PAGE, 2 * PAGE, 4 * PAGE, 16 * PAGE), st.integers(min_value=0, max_value=32 * PAGE)))
    def resize(self, size: int) -> None:
        granted: int | None
        try:
            granted = fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, size)
        except OSError as error:
            if error.errno == errno.EPERM:
                reject()  # an ordinary user's other processes have used up the quota
            if error.errno != errno.EBUSY:
                raise
            granted = None
        assert self.model.resize(size) == granted

    @invariant()
    def looks_the_same(self) -> None:
        assert self.model.unread == unread(self.read_end)
        assert self.model.full == (not select.select([], [self.write_end], [], 0)[1])
        assert self.model.capacity == fcntl.fcntl(self.read_end, fcntl.F_GETPIPE_SZ)

    def teardown(self) -> None:
        if hasattr(self, "read_end"):
            os.close(self.read_end)
            os.close(self.write_end)


TestAgainstTheKernel = AgainstTheKernel.TestCase


@given(
    pattern=st.lists(SIZES, min_size=1, max_size=3),
    slot_count=st.sampled_from([1, 2, 4, 16, 64]),
    page_size=st.sampled_from([4096, 16384, 65536]),
)
def test_fill_is_the_model_run_until_a_write_is_cut_short(pattern: list[int], slot_count: int, page_size: int) -> None:
    model = SlotModel(slot_count * page_size, page_size)
    accepted = writes = 0
    used = [0]
    while True:
        size = pattern[writes % len(pattern)]
        written = model.write(size)
        accepted += written
        if written < size:
            break
        writes += 1
        if writes % len(pattern) == 0:
            used.append(model.slots_used)
    predicted = fill(tuple(pattern), slot_count * page_size, page_size)
    assert predicted == slots.Fill(
        accepted=accepted,
        rounds=writes // len(pattern),
        slots_used=used[-1],
        writes=writes,
        partial=written,
    )


@pytest.mark.parametrize(
    ("write_size", "accepted"),
    [
        (1, 65536),
        (2, 65536),
        (100, 64000),
        (1000, 64000),
        (1365, 65520),
        (2048, 65536),
        (2049, 32784),
        (3000, 48000),
        (4095, 65520),
        (4096, 65536),
        (4097, 45066),
        (5000, 54096),
        (6144, 65536),
        (6145, 49160),
        (8192, 65536),
        (10000, 64096),
        (65536, 65536),
        (1048576, 65536),
    ],
)
def test_bytes_accepted_by_an_empty_64_kib_pipe(write_size: int, accepted: int) -> None:
    """The anchors: seen on Linux 6.18 with 4 KiB pages; the worst is 2,049 with half the pipe."""
    assert fill((write_size,), 65536, 4096).accepted == accepted


@pytest.mark.parametrize(
    ("payload", "items"),
    [(2045, 16), (4092, 16), (4093, 10), (16384, 3), (20480, 2), (32768, 1), (65532, 1), (65533, 0)],
)
def test_messages_that_fit_a_64_kib_pipe(payload: int, items: int) -> None:
    assert fill(frame_writes(payload), 65536, 4096).rounds == items


def test_a_pipe_of_2_gib_is_predicted_without_running_through_it() -> None:
    assert fill((5,), 2**31, 4096).accepted == 2**19 * (4096 // 5 * 5)


def test_slots_not_bytes_make_a_shrink_busy() -> None:
    """Five writes of 2,049 bytes are 10,245 bytes, but hold five slots: 16 KiB are refused, 32 KiB granted."""
    model = SlotModel(65536, 4096)
    for _ in range(5):
        model.write(2049)
    assert model.unread == 10245
    assert model.resize(16384) is None
    assert model.resize(32768) == 32768


def test_room_at_the_front_of_a_page_is_not_used_again() -> None:
    model = SlotModel(4096, 4096)
    model.write(4096)
    model.read(4095)
    assert (model.unread, model.write(1)) == (1, 0)


@pytest.mark.parametrize(
    ("payload", "writes"),
    [
        (0, (4,)),
        (1, (5,)),
        (16384, (16388,)),
        (16385, (4, 16385)),
        (2**31 - 1, (4, 2**31 - 1)),
        (2**31, (4, 8, 2**31)),
    ],
)
def test_writes_of_one_message(payload: int, writes: tuple[int, ...]) -> None:
    assert frame_writes(payload) == writes


@pytest.mark.parametrize("payload", [0, 1, 16383, 16384, 16385, 65536])
def test_the_stock_connection_writes_just_that(payload: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside oracle: the write(2) calls of multiprocessing's own Connection."""
    from multiprocessing import connection

    seen: list[int] = []
    reader, writer = connection.Pipe(duplex=False)
    with reader, writer:
        monkeypatch.setattr(writer, "_send", lambda data, write=None: seen.append(len(data)))
        writer.send_bytes(bytes(payload))
    assert tuple(seen) == frame_writes(payload)


@given(st.integers(min_value=0, max_value=2**20))
def test_rounding_is_the_kernels(size: int) -> None:
    read_end, write_end = os.pipe()
    try:
        assert fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, size) == round_capacity(size, PAGE)
    finally:
        os.close(read_end)
        os.close(write_end)


@pytest.mark.parametrize(
    ("size", "page_size", "capacity"),
    [
        (0, 4096, 4096),
        (1, 65536, 65536),
        (65537, 4096, 131072),
        (2**31, 4096, 2**31),
        (2**31 + 1, 4096, None),
        (-1, 4096, None),
        (2**32, 4096, None),
    ],
)
def test_rounding_at_the_edges(size: int, page_size: int, capacity: int | None) -> None:
    assert round_capacity(size, page_size) == capacity
