"""The two processes of a Stopwatch, from within: a producer and a consumer, which wait for orders."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import time
from contextlib import closing, suppress
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

from pipecap.queues import native
from pipecap.queues.connection import Connection
from pipecap.queues.pickling import encoded, loads, loads_with_buffers

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO, TypeAlias

    _Ways: TypeAlias = "tuple[Callable[[Any], object], Callable[[], Any], bytes | End]"  # in, out, the last item

# Sends between two looks at the clock, for items so small that a look would count.
_BATCH_BYTES = 65536
_LARGEST_BATCH = 32


class End:
    """What comes after the last object."""


def work(role: str, cpu: int | None, data: int, go: int) -> None:
    """Be the producer or the consumer: answer each order that comes on descriptor 0, until there are no more."""
    with socket.socket(fileno=0) as channel, channel.makefile("rb") as orders, suppress(OSError):

        def answer(**facts: object) -> None:
            channel.sendall(json.dumps(facts).encode() + b"\n")

        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            everywhere = os.sched_getaffinity(0)
            item = json.loads(orders.readline())
            made = None
            if role == "producer":
                try:
                    made = _made(item, orders)
                except Exception as error:
                    answer(no_item=f"{type(error).__name__}: {error}")
                    return
            answer(pin_error=_pin({cpu} if cpu is not None else everywhere) or _pin(everywhere))
            for line in orders:
                order = json.loads(line)
                _pin({cpu} if order["pinned"] and cpu is not None else everywhere)
                with closing(_end(order, os.dup(data), readable=role == "consumer")) as end:
                    ways = _bytes_ways(end) if item["bytes"] else _object_ways(end)
                    if role == "producer":
                        answer(start=_produce(ways, made, order["ns"], go))
                    else:
                        items, now = _consume(ways, go)
                        answer(items=items, end=now)
        except Exception as error:
            answer(error=f"{role}: {type(error).__name__}: {error}")


def _made(item: dict[str, Any], orders: BinaryIO) -> Any:
    """Make the item. Bytes not by bytes(size): that would be the kernel's one page of zeros."""
    return b"x" * item["bytes"] if item["bytes"] else _decoded(memoryview(bytearray(orders.read(item["payload"]))))


def _decoded(payload: memoryview) -> Any:
    return loads_with_buffers(payload) if payload[0] == native.WITH_BUFFERS else loads(payload)


def _pin(cpus: set[int]) -> str:
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        return os.strerror(error.errno or errno.EPERM)
    return ""


def _end(order: dict[str, Any], fd: int, *, readable: bool) -> connection.Connection[Any, Any]:
    if order["side"] == "stock":
        return connection.Connection(fd, readable=readable, writable=not readable)
    return Connection(fd, readable, not readable, chunk=order["chunk"])


def _bytes_ways(end: connection.Connection[Any, Any]) -> _Ways:
    return end.send_bytes, end.recv_bytes, b""


def _object_ways(end: connection.Connection[Any, Any]) -> _Ways:
    """As each side's queues do: pipecap's leave the memory of arrays where it is."""
    if not isinstance(end, Connection):
        return end.send, end.recv, End()
    ours = end
    return (
        lambda item: ours._out().send(encoded(item)),
        lambda: ours._receiver.get(native.WITHOUT_LIMIT, _decoded),
        End(),
    )


def _produce(ways: _Ways, item: Any, nanoseconds: int, go: int) -> int:
    """Send items until the time is over, then the last; gives when it began."""
    send, _, last = ways
    batch = range(max(1, min(_LARGEST_BATCH, _BATCH_BYTES // max(1, len(item)))) if isinstance(last, bytes) else 1)
    os.read(go, 1)
    start = time.monotonic_ns()  # one clock for all processes
    stop = start + nanoseconds
    while True:
        for _ in batch:
            send(item)
        if time.monotonic_ns() >= stop:
            break
    send(last)
    return start


def _consume(ways: _Ways, go: int) -> tuple[int, int]:
    """Receive until the last item; gives how many came before, and when all had."""
    _, receive, last = ways
    items = 0
    os.write(go, b"!")
    if isinstance(last, End):
        while type(receive()) is not End:
            items += 1
    else:
        while receive():
            items += 1
    return items, time.monotonic_ns()
