"""The page-slot rule: how writes fill the slots of a pipe. Pure: no descriptor is touched here.

A pipe is a ring of slots, each one page with an offset and a length (fs/pipe.c: struct pipe_buffer). Capacity is slots
times page size; what really fits depends on the sizes of the writes. For a write of n bytes on pages of P:

1. the first n % P bytes go into the newest slot, if the pipe is not empty, that slot may be merged into (packets may
   not) and they fit behind what it holds;
2. the rest is cut into pages, each taking a fresh slot, the last maybe short, while slots are free;
3. no slot is left: a non-blocking write gives the bytes so far, or EAGAIN if none; a blocking one sleeps.

A slot comes free when all of it has been read; room at its front is not reused.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

# fs/pipe.c: round_pipe_size(). A larger request is EINVAL, not a smaller pipe.
LARGEST_PIPE = 2**31
# include/linux/pipe_fs_i.h: PIPE_DEF_BUFFERS. A new pipe has this many slots, unless the user is over the quota.
DEFAULT_SLOTS = 16
# include/linux/fs.h: MAX_RW_COUNT with 4 KiB pages. The kernel cuts a longer single write down to this.
LARGEST_WRITE = 0x7FFFF000

# Lib/multiprocessing/connection.py: Connection._send_bytes().
HEADER = 4
LONG_HEADER = 12
LARGEST_SHORT_PAYLOAD = 0x7FFFFFFF
LARGEST_SINGLE_WRITE_PAYLOAD = 16384


def frame_writes(payload: int) -> tuple[int, ...]:
    """Sizes of the write(2) calls that send one message of `payload` bytes through a stock Connection.

    Header and payload go in one write up to 16,384 payload bytes, in two above, in three above 2 GiB - 1 bytes.
    """
    if payload <= LARGEST_SINGLE_WRITE_PAYLOAD:
        return (HEADER + payload,)
    if payload <= LARGEST_SHORT_PAYLOAD:
        return (HEADER, payload)
    return (HEADER, LONG_HEADER - HEADER, payload)


def round_capacity(size: int, page_size: int) -> int | None:
    """Capacity the kernel makes of a request for `size` bytes: a power of two, at least a page; None for EINVAL."""
    if not 0 <= size <= LARGEST_PIPE:
        return None
    return max(page_size, 1 << (size - 1).bit_length() if size else 0)


@dataclass(slots=True)
class _Slot:
    offset: int
    length: int
    packet: bool


class SlotModel:
    """One pipe, modelled exactly: what the kernel would answer to any sequence of writes, reads and resizes.

    All writes are non-blocking; where this says 0, a blocking write would sleep. Read from fs/pipe.c of Linux 6.14
    (pipe_write, pipe_read, pipe_resize_ring) and held to the kernel by a state machine in the tests.
    """

    def __init__(self, capacity: int, page_size: int) -> None:
        self.page_size = page_size
        self.slots = capacity // page_size
        self._used: deque[_Slot] = deque()

    @property
    def capacity(self) -> int:
        """Bytes, as F_GETPIPE_SZ says."""
        return self.slots * self.page_size

    @property
    def slots_used(self) -> int:
        """Slots that hold something; the kernel has no call that tells this."""
        return len(self._used)

    @property
    def unread(self) -> int:
        """Bytes, as FIONREAD says."""
        return sum(slot.length for slot in self._used)

    @property
    def full(self) -> bool:
        """Whether no slot is free, which is when poll(2) withholds POLLOUT."""
        return self.slots_used >= self.slots

    def write(self, size: int, *, packet: bool = False) -> int:
        """Bytes a non-blocking write of `size` bytes takes; 0 for EAGAIN. `packet`: the writer is in O_DIRECT mode."""
        left = size
        short = size % self.page_size
        if short and self._used and self._merges(self._used[-1], short):
            self._used[-1].length += short
            left -= short
        while left and not self.full:
            length = min(left, self.page_size)
            self._used.append(_Slot(0, length, packet))
            left -= length
        return size - left

    def _merges(self, slot: _Slot, size: int) -> bool:
        return not slot.packet and slot.offset + slot.length + size <= self.page_size

    def read(self, size: int) -> int:
        """Bytes a non-blocking read into a buffer of `size` bytes gives; 0 when there is nothing.

        A read ends with the first packet it meets and discards what of that packet did not fit the buffer.
        """
        left = size
        while left and self._used:
            slot = self._used[0]
            length = min(left, slot.length)
            slot.offset += length
            slot.length -= length
            left -= length
            if slot.packet or not slot.length:
                self._used.popleft()
            if slot.packet:
                break
        return size - left

    def resize(self, size: int) -> int | None:
        """Capacity after F_SETPIPE_SZ of `size` bytes by someone no limit applies to; None for EBUSY or EINVAL."""
        capacity = round_capacity(size, self.page_size)
        if capacity is None or capacity // self.page_size < self.slots_used:
            return None
        self.slots = capacity // self.page_size
        return self.capacity


@dataclass(frozen=True, slots=True)
class Fill:
    """What an empty pipe takes of one pattern of writes, repeated until one of them would block.

    `accepted` is bytes, `rounds` whole repetitions of the pattern and `slots_used` what these take, `writes` whole
    writes (also those of an unfinished repetition) and `partial` the bytes taken of the write that would block.
    """

    accepted: int
    rounds: int
    slots_used: int
    writes: int
    partial: int


def fill(pattern: tuple[int, ...], capacity: int, page_size: int) -> Fill:
    """Predict a fill probe: writes of the sizes in `pattern`, again and again, into an empty pipe of `capacity` bytes.

    With nobody reading, the free slots and the length of the newest slot are the whole state. What a repetition takes
    depends on that length only, so once it comes back, whole cycles are counted instead of run: a 2 GiB pipe costs no
    more than a page.
    """
    slots = free = capacity // page_size
    newest = page_size  # nothing can be merged into a full page: an empty pipe behaves as if its newest slot were one
    rounds = 0
    seen: dict[int, tuple[int, int]] | None = {}
    while True:
        if seen is not None:
            if newest in seen:
                then_free, then_rounds = seen[newest]
                taken, cycle = then_free - free, rounds - then_rounds
                skip = free // taken if taken else 0
                free -= skip * taken
                rounds += skip * cycle
                seen = None  # what is left is less than one cycle
            else:
                seen[newest] = (free, rounds)
        used = slots - free
        for done, size in enumerate(pattern):
            whole, short = divmod(size, page_size)
            merges = 0 < short <= page_size - newest
            needed = whole + (1 if short and not merges else 0)
            if needed > free:
                partial = free * page_size + (short if merges else 0)
                before = rounds * sum(pattern) + sum(pattern[:done])
                return Fill(before + partial, rounds, used, rounds * len(pattern) + done, partial)
            free -= needed
            if merges and not whole:
                newest += short
            else:
                newest = short if short and not merges else page_size
        rounds += 1
