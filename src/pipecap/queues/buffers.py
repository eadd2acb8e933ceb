"""The buffers that frames travel in, on their way out and in.

A frame is one message on the wire: a header, then the payload. csrc/send.c writes the headers, csrc/receive.c reads
them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipecap.queues import native

if TYPE_CHECKING:
    from typing_extensions import Buffer

# limits.h: PIPE_BUF. A frame up to this is one write(2), whole or not at all (pipe(7)).
LARGEST_ATOMIC = 4096
HEADER = 4

# No frame is longer than what the machine could hold twice over: a header that claims more is garbage.
LONGEST = 2 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")

# Buffers up to this stay warm for the next frame. A fresh one costs a page fault for each of its pages.
_KEPT_BYTES = 16 << 20
_KEPT_BUFFERS = 2


class Outgoing:
    """Frames on their way out: struct pipecap_outgoing, and what keeps its pointers alive."""

    __slots__ = ("_alive", "struct")

    def __init__(self, pieces: Sequence[Buffer], payloads: Sequence[int], chunk: int) -> None:
        buffers = [native.from_buffer(piece) for piece in pieces]
        array = native.new("struct pipecap_piece[]", [(buffer, len(buffer)) for buffer in buffers])
        sizes = native.new("uint64_t[]", payloads)
        self._alive = (pieces, buffers, array, sizes)
        self.struct = native.new(
            "struct pipecap_outgoing *",
            {
                "pieces": array,
                "piece_count": len(buffers),
                "payloads": sizes,
                "frame_count": len(payloads),
                "chunk": chunk,
            },
        )

    @property
    def sent(self) -> int:
        """Bytes, headers included."""
        return int(self.struct.sent)

    @property
    def done(self) -> bool:
        """Whether all was sent."""
        return bool(self.struct.frame == self.struct.frame_count)

    def skip(self, count: int) -> None:
        """Count the first bytes, headers included, as sent."""
        native.skip(self.struct, count)

    def release(self) -> None:
        """Let go of the pieces.

        A traceback may keep this: when the garbage collector clears a memoryview that cffi still holds the buffer of,
        CPython 3.11 crashes.
        """
        for buffer in self._alive[1]:
            native.release(buffer)

    def own(self) -> Outgoing:
        """Give the same frames, as far as they came, on copies: for when their owner may change what was not sent."""
        pieces, _, _, sizes = self._alive
        copy = Outgoing([bytes(memoryview(piece).cast("B")) for piece in pieces], list(sizes), self.struct.chunk)
        for field in ("piece", "piece_done", "frame", "frame_done", "sent"):
            setattr(copy.struct, field, getattr(self.struct, field))
        return copy


class Incoming:
    """The buffer that frames arrive in: struct pipecap_incoming. One user at a time: take() it, give() it back."""

    __slots__ = ("_room", "_view", "struct")

    def __init__(self) -> None:
        self.struct = native.gc(native.new("struct pipecap_incoming *"), native.incoming_free)
        self._room = 0
        self._view = memoryview(b"")

    def _look(self) -> None:
        self._room = self.struct.allocated
        self._view = memoryview(native.buffer(self.struct.data, self._room))

    def payload(self, size: int) -> memoryview:
        """Give the payload of the first frame; only until the buffer is used again."""
        # Receiving one frame, with the header of the next, moves the buffer only where they do not fit.
        if HEADER + size + HEADER > self._room:
            self._look()
        return self._view[HEADER : HEADER + size]

    def payloads(self) -> list[memoryview]:
        """Give the payloads of all whole frames; only until the buffer is used again."""
        bounds = native.unpack(self.struct.frames, 2 * self.struct.frame_count)
        begins, sizes = bounds[::2], bounds[1::2]
        self._look()
        view = self._view
        return [view[begin : begin + size] for begin, size in zip(begins, sizes, strict=True)]

    @property
    def whole(self) -> int | None:
        """Bytes of the first frame's payload where that is whole, and no lock held for more; else None."""
        struct = self.struct
        return int(struct.frames[1]) if struct.frame_count and not struct.locked else None

    @property
    def amid_frame(self) -> bool:
        """Whether part of a frame is here."""
        return bool(self.struct.filled != self.struct.start)


_spare: list[Incoming] = []


def take() -> Incoming:
    """Give a buffer that nobody else uses, a warm one if there is one."""
    try:
        return _spare.pop()
    except IndexError:
        return Incoming()


def give_unused(incoming: Incoming) -> None:
    """Put a buffer back into which no frame came whole; it may have grown, and so moved, all the same."""
    struct = incoming.struct
    struct.filled = struct.start  # what came of a frame goes no further
    if struct.allocated != incoming._room:
        incoming._look()
    give(incoming)


def give(incoming: Incoming) -> None:
    """Put a buffer back for the next frame, after its payload was looked at."""
    incoming.struct.frame_count = 0
    if len(_spare) < _KEPT_BUFFERS and incoming._room <= _KEPT_BYTES:
        _spare.append(incoming)
