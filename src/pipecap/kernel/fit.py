"""Will my items fit? Whole multiprocessing messages in the pipe of an empty queue, predicted by the slot rule."""

from __future__ import annotations

from dataclasses import dataclass

from pipecap.errors import InvalidSize, NotPicklable
from pipecap.kernel.limits import PAGE_SIZE
from pipecap.kernel.probe import default_capacity
from pipecap.kernel.sizes import parse_size
from pipecap.kernel.slots import LARGEST_PIPE, LARGEST_SHORT_PAYLOAD, fill, frame_writes, round_capacity
from pipecap.results import Result

_LARGEST_ITEM = LARGEST_SHORT_PAYLOAD * 2**20


@dataclass(frozen=True, slots=True)
class Fit(Result):
    """How items of one size fill an empty queue's pipe of `capacity` bytes.

    `item` is pickled bytes, `writes` the sizes of the write(2) calls one item becomes, `frame` their sum. `items` whole
    items fit and take `unread` bytes in `slots_used` of `slots` slots; `wasted` bytes of the capacity are out of reach
    for items of this size.
    """

    item: int
    writes: tuple[int, ...]
    frame: int
    capacity: int
    items: int
    unread: int
    slots: int
    slots_used: int
    wasted: int


def pickled_size(obj: object) -> int:
    """Bytes of `obj` on the wire without the header: what multiprocessing's own pickler makes of it.

    Raises NotPicklable. A Connection or a socket pickles by handing over its descriptor, which starts a thread that
    waits for the receiver (multiprocessing.resource_sharer): do not ask for the size of these.
    """
    from multiprocessing.reduction import ForkingPickler

    try:
        return len(ForkingPickler.dumps(obj))
    except Exception as error:  # pickling runs the object's own code, which may raise anything
        raise NotPicklable(type(obj).__name__, error) from error


def items_that_fit(item: object, *, capacity: int | str | None = None) -> int:
    """Whole items that the pipe of an empty queue takes before a writer blocks.

    `item` is pickled bytes if it is an int; any other object is pickled to learn its size. `capacity` is bytes, rounded
    up as the kernel does; default: what a new pipe gets here and now. Raises InvalidSize, NotPicklable.
    """
    return fit(item if type(item) is int else pickled_size(item), capacity=capacity).items


def fit(item: int | str, *, capacity: int | str | None = None) -> Fit:
    """Predict how items of `item` pickled bytes fill an empty queue's pipe. Raises InvalidSize."""
    size = parse_size(item, least=1)
    if size > _LARGEST_ITEM:
        raise InvalidSize(item, "no item is that large")
    room = default_capacity() if capacity is None else _rounded(capacity)
    writes = frame_writes(size)
    frame = sum(writes)
    filled = fill(writes, room, PAGE_SIZE)
    return Fit(
        item=size,
        writes=writes,
        frame=frame,
        capacity=room,
        items=filled.rounds,
        unread=filled.rounds * frame,
        slots=room // PAGE_SIZE,
        slots_used=filled.slots_used,
        wasted=room - filled.rounds * frame,
    )


def _rounded(capacity: int | str) -> int:
    rounded = round_capacity(parse_size(capacity), PAGE_SIZE)
    if rounded is None:
        raise InvalidSize(capacity, f"a pipe holds at most {LARGEST_PIPE:,} bytes")
    return rounded


def smallest_capacity(item: int) -> int | None:
    """Give the smallest capacity that takes one item of `item` pickled bytes whole; None above 2 GiB."""
    capacity = PAGE_SIZE
    while capacity <= LARGEST_PIPE:
        if fill(frame_writes(item), capacity, PAGE_SIZE).rounds:
            return capacity
        capacity *= 2
    return None
