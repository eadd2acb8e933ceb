"""Measure this host and this Python: everything `python -m pipecap` shows."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from pipecap.errors import PipecapError, Unsupported
from pipecap.kernel import limits as host_limits
from pipecap.kernel import pipes, probe
from pipecap.kernel.fit import Fit, fit
from pipecap.kernel.limits import PAGE_SIZE, Headroom, HostLimits
from pipecap.results import Result
from pipecap.targets import close_ends, pipes_of
from pipecap.tracker import resource_tracker_as_it_was
from pipecap.verdict import Advice, advise
from pipecap.version import VERSION

TYPE_CHECKING = False  # typing takes 2 ms to load
if TYPE_CHECKING:
    from typing import Any

TYPICAL_ITEMS = (100, 1024, 4096, 16384, 65536, 1048576)


@dataclass(frozen=True, slots=True)
class QueueMeasurement(Result):
    """What one throwaway queue took: its `nominal` capacity and the bytes its pipe `accepted`, in writes of a page.

    `start_method` is None for os.pipe(). A `socketpair` is no pipe and has no nominal capacity. What could not be
    measured is None, and `unknown` says why, by field name.
    """

    kind: str
    start_method: str | None
    socketpair: bool
    nominal: int | None
    accepted: int | None
    unknown: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ItemMeasurement(Result):
    """How items of one size fill a new queue: predicted by the slot rule (`fit`) and `measured` on a scratch pipe."""

    fit: Fit
    measured: int


@dataclass(frozen=True, slots=True)
class HostReport(Result):
    """The pipes that queues really get on this host, with this Python. `queues` has a row a kind and start method.

    `headroom` is None and `items` empty on a build without F_GETPIPE_SZ.
    """

    pipecap: str
    python: str
    system: str
    release: str
    machine: str
    uid: int
    limits: HostLimits
    headroom: Headroom | None
    queues: tuple[QueueMeasurement, ...]
    items: tuple[ItemMeasurement, ...]
    verdict: tuple[Advice, ...]


def report() -> HostReport:
    """Measure a throwaway queue of every kind and start method, what typical items fill, limits and headroom.

    What this host does not let us see is reported as unknown. Leaves nothing behind, but for one thing: in a program
    with several threads, multiprocessing's resource tracker stays, once started, until the program ends. What
    headroom() says of other processes holds here too. Raises NoScratchPipe where not even a pipe is to be had.
    """
    queues = tuple(_measure_queues())
    host = host_limits.limits()
    left, items = _quota_and_items(host)
    name = os.uname()
    return HostReport(
        pipecap=VERSION,
        python=f"{sys.implementation.name} {sys.version.split()[0]}",
        system=name.sysname,
        release=name.release,
        machine=name.machine,
        uid=os.getuid(),
        limits=host,
        headroom=left,
        queues=queues,
        items=items,
        verdict=advise(host, left, nominal=queues[0].nominal, accepted=queues[0].accepted or 0),
    )


def _quota_and_items(host: HostLimits) -> tuple[Headroom | None, tuple[ItemMeasurement, ...]]:
    try:
        left = host_limits.headroom_within(host)
        capacity = probe.default_capacity()
    except Unsupported:
        return None, ()
    return left, tuple(_measure_item(item, capacity) for item in TYPICAL_ITEMS)


def _measure_item(item: int, capacity: int) -> ItemMeasurement:
    predicted = fit(item, capacity=capacity)
    with probe.scratch_pipe() as (_, write_end):
        _, writes, _, _ = probe.probe(write_end, predicted.writes)
    return ItemMeasurement(fit=predicted, measured=writes // len(predicted.writes))


def _measure_queues() -> Iterator[QueueMeasurement]:
    import multiprocessing

    plain = probe.measure()
    yield QueueMeasurement(
        kind="os.pipe", start_method=None, socketpair=False, nominal=plain.nominal, accepted=plain.accepted
    )
    kinds: tuple[tuple[str, str, dict[str, bool]], ...] = (
        ("Queue", "Queue", {}),
        ("JoinableQueue", "JoinableQueue", {}),
        ("SimpleQueue", "SimpleQueue", {}),
        ("Pipe(duplex=False)", "Pipe", {"duplex": False}),
        ("Pipe()", "Pipe", {}),
    )
    with resource_tracker_as_it_was():
        for method in multiprocessing.get_all_start_methods():
            context = multiprocessing.get_context(method)
            for kind, maker, arguments in kinds:
                yield _measure_queue(kind, method, partial(getattr(context, maker), **arguments))


def _measure_queue(kind: str, method: str, make: Callable[[], Any]) -> QueueMeasurement:
    socketpair = kind == "Pipe()"
    nominal = accepted = None
    unknown: dict[str, str] = {}
    try:
        with _throwaway(make) as queue:
            if socketpair:
                accepted = _fill_socketpair(queue)
            else:
                (fd,) = pipes_of(queue).values()
                nominal = _nominal(fd, unknown)
                accepted = _fill_queue(fd)
    except (OSError, ImportError, PipecapError) as error:
        # No descriptors, no /dev/shm for the locks, no procfs to reopen the pipe through.
        unknown["accepted"] = str(error)
    return QueueMeasurement(kind, method, socketpair, nominal, accepted, unknown)


@contextmanager
def _throwaway(make: Callable[[], Any]) -> Iterator[Any]:
    queue = make()
    try:
        yield queue
    finally:
        if isinstance(queue, tuple):
            for end in queue:
                end.close()
        else:
            close_ends(queue)


def _nominal(fd: int, unknown: dict[str, str]) -> int | None:
    try:
        return pipes.capacity(fd)
    except Unsupported as error:
        unknown["nominal"] = str(error)
        return None


def _fill_queue(fd: int) -> int:
    """Fill a throwaway queue's own pipe, through a write end of its own open file description."""
    write_end = pipes.reopen_write_end(fd)
    try:
        return probe.probe(write_end, (PAGE_SIZE,))[0]
    finally:
        os.close(write_end)


def _fill_socketpair(pair: tuple[Any, Any]) -> int:
    _, end = pair
    os.set_blocking(end.fileno(), False)  # ours, and nobody else has it
    return probe.probe(end.fileno(), (PAGE_SIZE,))[0]
