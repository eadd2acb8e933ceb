"""multiprocessing's frames, as bytes; and the sides of a pipe in C, called directly."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from pipecap._native import ffi, lib
from pipecap.queues import native
from pipecap.queues.buffers import Outgoing

MIB = 1 << 20
ANY = 2**40
AT_ONCE, FOR_EVER = native.AT_ONCE, native.WITHOUT_LIMIT


def frame(payload: bytes) -> bytes:
    """Return the bytes of a message on the wire."""
    return struct.pack("!i", len(payload)) + payload


def long_frame(payload: bytes, claimed: int | None = None) -> bytes:
    """Return the same with the header of a message of 2 GiB and more."""
    return struct.pack("!iQ", -1, len(payload) if claimed is None else claimed) + payload


def end_of(fd: int, *, elastic: bool = False) -> Any:
    """Make a struct pipecap_end."""
    return native.new_end(fd, elastic=elastic)


class In:
    """A struct pipecap_receiver, of a plain connection or as given, and a struct pipecap_frames for what comes."""

    def __init__(self, end: Any, receiver: Any = None) -> None:
        self.end = end
        self.receiver = native.new_receiver({"end": end}) if receiver is None else receiver
        self.frames = native.new_frames()

    def receive(self, deadline: int = FOR_EVER, *, most: int = 1, longest: int = ANY) -> int:
        """Receive; return the bytes of the first payload, an outcome or -errno."""
        result = lib.PIPECAP_AGAIN
        while result == lib.PIPECAP_AGAIN:
            result = lib.pipecap_receive(self.receiver, self.frames, deadline, longest, most)
        return result & ~lib.PIPECAP_MOVED if result > 0 else result

    def payloads(self) -> list[bytes]:
        """Return the payloads of all frames that came."""
        bounds = ffi.unpack(self.frames.bounds, 2 * self.frames.count) if self.frames.count else []
        view = native.view_of(self.frames)
        return [bytes(view[begin : begin + size]) for begin, size in zip(bounds[::2], bounds[1::2], strict=True)]

    def allocated(self) -> int:
        """Return the bytes of memory taken for frames."""
        return int(self.frames.allocated + self.receiver.half.allocated)


class Out:
    """A struct pipecap_sender, of a plain connection or as given."""

    def __init__(self, end: Any, sender: Any = None, *, chunk: int = native.CHUNK) -> None:
        self.end = end
        self.sender = native.new_sender({"end": end, "chunk": chunk}) if sender is None else sender
        self.kept: list[Outgoing] = []

    def put(self, payload: bytes, ticket: int = 0) -> int:
        """Send one frame, or leave it in the line."""
        return lib.pipecap_put(self.sender, payload, len(payload), ticket, FOR_EVER)

    def put_frames(self, pieces: Sequence[bytes | bytearray], sizes: Sequence[int], ticket: int = 0) -> int:
        """Send several frames, or leave them in the line; return how many, or why not."""
        self.kept.append(Outgoing(pieces, list(sizes)))
        last = self.kept[-1]
        result = lib.pipecap_put_frames(self.sender, *last.arrays, ticket, FOR_EVER)
        return result & ~native.IN_LINE if result > 0 else result

    def flush(self, ticket: int, deadline: int = FOR_EVER) -> int:
        """Work at the line until a ticket is finished."""
        result = lib.PIPECAP_AGAIN
        while result == lib.PIPECAP_AGAIN:
            result = lib.pipecap_flush(self.sender, ticket, deadline)
        return result

    def line(self) -> tuple[int, int, bool]:
        """Return what waits: frames, bytes, whether the first is partly sent."""
        waiting = native.new_line()
        lib.pipecap_line(self.sender, waiting)
        return waiting.items, waiting.size, bool(waiting.partial)

    def discard(self) -> tuple[int, int, bool]:
        """Drop what waits; return what that was."""
        dropped = native.new_line()
        lib.pipecap_discard(self.sender, dropped)
        return dropped.items, dropped.size, bool(dropped.partial)

    def release(self) -> None:
        """Let go of what was put."""
        for outgoing in self.kept:
            outgoing.release()
        self.kept.clear()
