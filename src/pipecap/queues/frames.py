"""Objects to frames and back: pickling without the standard library's detours, and the buffers frames travel in.

A frame is one message on the wire: a header, then the payload, a pickle. csrc/frames.c writes and reads the headers.
"""

from __future__ import annotations

import copyreg
import os
import pickle
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

from pipecap._native import ffi, lib

if TYPE_CHECKING:
    from typing import TypeAlias

    from typing_extensions import Buffer

    Payload: TypeAlias = bytes | tuple[bytes, bytes, bytes] | list[Buffer]

# limits.h: PIPE_BUF. A frame up to this is one write(2), whole or not at all (pipe(7)).
LARGEST_ATOMIC = 4096
HEADER = 4

# No frame is longer than what the machine could hold twice over: a header that claims more is garbage.
LONGEST = 2 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")

# Buffers up to this stay warm for the next frame. A fresh one costs a page fault for each of its pages.
_KEPT_BYTES = 16 << 20
_KEPT_BUFFERS = 2
# A pickler is used again after a pickle up to this: the memo of a large one is slow to clear.
_KEPT_PICKLE = 16 << 10


class _Pieces(list):  # type: ignore[type-arg] # of Buffer
    """What a pickler writes, uncopied: it hands over large bytes objects as they are."""

    write = list.append


class _Reducers(dict[type, Callable[[Any], Any]]):
    """The reducers as they are now: ForkingPickler copies them when it is made, and ours are used for long."""

    def __missing__(self, cls: type) -> Callable[[Any], Any]:
        for registered in (ForkingPickler._extra_reducers, copyreg.dispatch_table):  # type: ignore[attr-defined]
            if cls in registered:
                return registered[cls]
        raise KeyError(cls)


_picklers: list[tuple[ForkingPickler, _Pieces]] = []


def _new_pickler() -> tuple[ForkingPickler, _Pieces]:
    pieces = _Pieces()
    pickler = ForkingPickler(pieces)
    pickler.dispatch_table = _Reducers()
    return pickler, pieces


def pickled(obj: object) -> Payload:
    """Pickle as ForkingPickler.dumps() does; gives one bytes object or, for what is large, pieces in a row.

    Three pieces, a tuple, are an item with one large bytes object, and what comes before and after it.
    A pickler is taken out of the shelf for the time of its use: pickling may run the object's own code, which may come
    here again, and other threads.
    """
    try:
        entry = _picklers.pop()
    except IndexError:
        entry = _new_pickler()
    pickler, pieces = entry
    pickler.dump(obj)  # a pickler that failed is not put back
    last = pieces.pop()
    payload: Payload = last
    small = len(last)
    if pieces:
        if len(pieces) != 2 or type(pieces[1]) is not bytes:
            pieces.append(last)
            return _unshared(pieces)
        payload = pieces[0], pieces[1], last
        small += len(pieces[0])
        pieces.clear()
    if small < _KEPT_PICKLE:
        pickler.clear_memo()
        _picklers.append(entry)
    return payload


def _unshared(pieces: list[Buffer]) -> list[Buffer]:
    """Copy what its owner may still change: protocol 5 hands over bytearrays and other buffers as they are."""
    return [piece if type(piece) is bytes else bytes(piece) for piece in pieces]


def pickle_all(objects: Iterable[object], payloads: list[Payload]) -> None:
    """Pickle into `payloads`, one after the other; where it fails, as many are there as did not."""
    try:
        pickler, pieces = _picklers.pop()
    except IndexError:
        pickler, pieces = _new_pickler()
    dump, clear_memo, append = pickler.dump, pickler.clear_memo, payloads.append
    for obj in objects:
        dump(obj)
        payload = pieces.pop()
        if pieces or len(payload) >= _KEPT_PICKLE:
            pieces.append(payload)
            append(_unshared(pieces) if len(pieces) > 1 else payload)
            pickler, pieces = _new_pickler()
            dump, clear_memo = pickler.dump, pickler.clear_memo
        else:
            append(payload)
            clear_memo()
    _picklers.append((pickler, pieces))


loads = pickle.loads


def pieces_of(payload: Payload) -> list[Buffer]:
    """Give the pieces of a payload."""
    return [payload] if isinstance(payload, bytes) else list(payload)


def size_of(payload: Payload) -> int:
    """Bytes of a payload."""
    return len(payload) if isinstance(payload, bytes) else sum(memoryview(piece).nbytes for piece in payload)


class Outgoing:
    """Frames on their way out: struct pipecap_outgoing, and what keeps its pointers alive."""

    __slots__ = ("_alive", "struct")

    def __init__(self, pieces: Sequence[Buffer], payloads: Sequence[int], chunk: int) -> None:
        buffers = [ffi.from_buffer(piece) for piece in pieces]
        array = ffi.new("struct pipecap_piece[]", [(buffer, len(buffer)) for buffer in buffers])
        sizes = ffi.new("uint64_t[]", payloads)
        self._alive = (pieces, buffers, array, sizes)
        self.struct = ffi.new(
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
        lib.pipecap_skip(self.struct, count)

    def release(self) -> None:
        """Let go of the pieces.

        A traceback may keep this: when the garbage collector clears a memoryview that cffi still holds the buffer of,
        CPython 3.11 crashes.
        """
        for buffer in self._alive[1]:
            ffi.release(buffer)

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
        self.struct = ffi.gc(ffi.new("struct pipecap_incoming *"), lib.pipecap_incoming_free)
        self._room = 0
        self._view = memoryview(b"")

    def _look(self) -> None:
        self._room = self.struct.allocated
        self._view = memoryview(ffi.buffer(self.struct.data, self._room))

    def payload(self, size: int) -> memoryview:
        """Give the payload of the first frame; only until the buffer is used again."""
        # Receiving one frame, with the header of the next, moves the buffer only where they do not fit.
        if HEADER + size + HEADER > self._room:
            self._look()
        return self._view[HEADER : HEADER + size]

    def payloads(self) -> list[memoryview]:
        """Give the payloads of all whole frames; only until the buffer is used again."""
        bounds = ffi.unpack(self.struct.frames, 2 * self.struct.frame_count)
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


def receive_all(payloads: Sequence[Buffer]) -> list[Any]:
    """Unpickle in order."""
    return [loads(payload) for payload in payloads]
