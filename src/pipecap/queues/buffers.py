"""Memory that C works on, from Python: payloads on their way out, frames that came in."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipecap.queues import native
from pipecap.queues.native import MOVED

if TYPE_CHECKING:
    from typing_extensions import Buffer

HEADER = 4

# No frame is longer than what the machine could hold twice over: a header that claims more is garbage.
LONGEST = 2 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")

# Buffers up to this stay warm for the next frame. A fresh one costs a page fault for each of its pages.
KEPT_BYTES = 16 << 20


class Outgoing:
    """Payloads as C takes them, and what keeps their memory where it is.

    `arrays`: pieces, their sizes, how many; sizes of the payloads, how many. `is_borrowed`: their owner may change them
    once they were put.
    """

    __slots__ = ("_buffers", "arrays", "is_borrowed")

    def __init__(self, pieces: Sequence[Buffer], sizes: list[int], *, is_borrowed: bool = False) -> None:
        self.is_borrowed = is_borrowed
        self._buffers = buffers = list(map(native.from_buffer, pieces))
        piece_sizes = native.new_sizes(list(map(len, buffers)))
        self.arrays = native.new_pieces(buffers), piece_sizes, len(buffers), native.new_sizes(sizes), len(sizes)

    def release(self) -> None:
        """Let go of the memory.

        A traceback may keep this: when the garbage collector clears a memoryview that cffi still holds the buffer of,
        CPython 3.11 crashes.
        """
        for buffer in self._buffers:
            native.release(buffer)


class Frames:
    """The buffer that frames arrive in: struct pipecap_frames. One user at a time: take() it, give() it back.

    `view`: its memory from the first payload on, valid until pipecap_receive() says PIPECAP_MOVED. `room`: its bytes.
    """

    __slots__ = ("room", "struct", "view")

    def __init__(self) -> None:
        self.struct = native.new_frames()
        self.room = 0
        self.view = memoryview(b"")

    def look(self) -> None:
        """See where the memory is now, and how large."""
        self.room = self.struct.allocated
        self.view = native.view_of(self.struct)[HEADER:]

    def payload(self, size: int) -> memoryview:
        """Return the payload of the first frame, of `size` bytes and perhaps PIPECAP_MOVED.

        Valid until the buffer is used again; one with buffers while it is in use: other frames come to other memory.
        """
        if size >= MOVED:
            size -= MOVED
            self.look()
        if self.struct.has_buffers:
            return native.held(self.struct, HEADER + size)[HEADER:]
        return self.view[:size]

    def payloads(self) -> list[memoryview]:
        """Return the payloads of all frames; valid until the buffer is used again."""
        bounds = native.unpack(self.struct.bounds, 2 * self.struct.count)
        begins, sizes = bounds[::2], bounds[1::2]
        self.look()
        view = self.view
        return [view[begin - HEADER : begin - HEADER + size] for begin, size in zip(begins, sizes, strict=True)]


spare: deque[Frames] = deque(maxlen=2)  # not a list, which gives its memory back each time it is empty


def take() -> Frames:
    """Return a buffer that nobody else uses, a warm one if there is one."""
    try:
        return spare.pop()
    except IndexError:
        return Frames()


def give(frames: Frames) -> None:
    """Put a buffer back for the next frame, after its payload was used."""
    if frames.room <= KEPT_BYTES:
        spare.append(frames)
