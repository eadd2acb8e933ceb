"""The fill probe: what a pipe really takes, found by filling one of our own until EAGAIN.

Nothing here ever sees a user's pipe: probes write only to pipes made here and closed here, or handed in by a caller
who made them for it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pipecap._native import ffi, lib
from pipecap.errors import InvalidSize, NoScratchPipe, Unsupported
from pipecap.kernel import pipes
from pipecap.kernel.limits import PAGE_SIZE
from pipecap.kernel.sizes import parse_size
from pipecap.kernel.slots import LARGEST_WRITE, fill
from pipecap.results import Result


@dataclass(frozen=True, slots=True)
class Measurement(Result):
    """What a fill probe found: writes of `write_size` bytes into an empty scratch pipe until EAGAIN.

    `nominal` is the capacity by F_GETPIPE_SZ and `slots` its pages, `predicted` the bytes the slot rule expects; all
    three are None on a build without F_GETPIPE_SZ. `accepted` is the bytes really taken: `writes` whole writes and
    `partial` bytes of one more that was cut short. `elapsed_ns` is the time of the writes alone.
    """

    write_size: int
    nominal: int | None
    slots: int | None
    accepted: int
    writes: int
    partial: int
    predicted: int | None
    elapsed_ns: int


@contextmanager
def scratch_pipe(capacity: int | str | None = None) -> Iterator[tuple[int, int]]:
    """Hold a new pipe (read end, write end), the write end non-blocking, and close it after."""
    try:
        read_end, write_end = os.pipe()
    except OSError as error:
        raise NoScratchPipe(error.errno or errno.EMFILE) from error
    try:
        os.set_blocking(write_end, False)
        if capacity is not None:
            pipes.resize(write_end, capacity)
        yield read_end, write_end
    finally:
        os.close(read_end)
        os.close(write_end)


def default_capacity() -> int:
    """Give the capacity that a new pipe of this user gets now: 16 slots, or as few as 2 when over the soft quota."""
    with scratch_pipe() as (_, write_end):
        return pipes.capacity(write_end)


def probe(write_end: int, pattern: Sequence[int]) -> tuple[int, int, int, int]:
    """Write `pattern`, sizes in bytes, again and again to a pipe of our own until EAGAIN.

    Gives bytes accepted, whole writes, bytes of a last partial write, nanoseconds. `write_end` is non-blocking and
    nobody reads it.
    """
    result = ffi.new("struct pipecap_fill *")
    error = lib.pipecap_fill(write_end, ffi.new("size_t[]", pattern), len(pattern), result)
    if error:
        raise Unsupported(
            f"the fill probe failed: {os.strerror(-error)}",
            hint="a scratch pipe or socket, non-blocking and read by nobody, is what it can fill",
        )
    return result.accepted, result.writes, result.partial, result.elapsed_ns


def measure(write_size: int | str | None = None, *, capacity: int | str | None = None) -> Measurement:
    """Fill a scratch pipe with writes of `write_size` bytes (default: a page) and report what it took.

    `capacity` resizes the scratch pipe first. Only writes of 1 byte, of whole pages or of at least the capacity are
    sure to reach it: a page is a slot, however little of it is used. Raises InvalidSize, ResizeRefused, NoScratchPipe.
    """
    size = PAGE_SIZE if write_size is None else parse_size(write_size, least=1)
    if size > LARGEST_WRITE:
        raise InvalidSize(write_size, f"one write(2) takes at most {LARGEST_WRITE:,} bytes")
    with scratch_pipe(capacity) as (_, write_end):
        nominal = pipes.capacity(write_end) if lib.pipecap_has_pipe_size() else None
        accepted, writes, partial, elapsed_ns = probe(write_end, (size,))
    return Measurement(
        write_size=size,
        nominal=nominal,
        slots=None if nominal is None else nominal // PAGE_SIZE,
        accepted=accepted,
        writes=writes,
        partial=partial,
        predicted=None if nominal is None else fill((size,), nominal, PAGE_SIZE).accepted,
        elapsed_ns=elapsed_ns,
    )


def capacity_curve(write_sizes: Iterable[int | str], *, capacity: int | str | None = None) -> list[Measurement]:
    """Measure once for each of `write_sizes`, each on a scratch pipe of its own. Raises what `measure` raises."""
    if isinstance(write_sizes, str | bytes) or not isinstance(write_sizes, Iterable):
        raise InvalidSize(write_sizes, "several sizes are needed", hint='a list such as [1, "4K", 10000]')
    return [measure(size, capacity=capacity) for size in write_sizes]
