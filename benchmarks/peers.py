"""Queues made for large items, and rings that hold them: the peers of real items."""

from __future__ import annotations

import pickle
from functools import cached_property
from typing import Any
from uuid import uuid4

from benchmarks.contenders import DEJAQ, RING, STOCK, ZMQ, Contender, ring

# Items that a ring holds at least, so that neither side waits for every item of the other's.
RINGFUL = 3
HIGH_WATER_MARK = 8


class ZmqQueue:
    """PUSH to PULL over ipc, each buffer of an item a frame of its own; a socket is made where it is first used."""

    def __init__(self) -> None:
        self._address = f"ipc://@{uuid4().hex}"

    @cached_property
    def _push(self) -> Any:
        socket = _socket("PUSH")
        socket.connect(self._address)
        return socket

    @cached_property
    def _pull(self) -> Any:
        socket = _socket("PULL")
        socket.bind(self._address)
        return socket

    def put(self, item: object) -> None:
        """Send an item; waits at the high-water mark."""
        buffers: list[pickle.PickleBuffer] = []
        head = pickle.dumps(item, 5, buffer_callback=buffers.append)
        self._push.send_multipart([head, *(buffer.raw() for buffer in buffers)], copy=False)

    def get(self) -> Any:
        """Receive an item; its arrays are views of the frames."""
        head, *frames = self._pull.recv_multipart(copy=False)
        return pickle.loads(head.buffer, buffers=[frame.buffer for frame in frames])


def _socket(kind: str) -> Any:
    import zmq

    socket: Any = zmq.Context.instance().socket(getattr(zmq, kind))
    socket.set_hwm(HIGH_WATER_MARK)
    return socket


def _dejaq(size: int) -> Any:
    from dejaq import DejaQueue

    return DejaQueue(buffer_bytes=size)


def peers_for(size: int) -> list[Contender]:
    """Return the peers of items of `size` pickled bytes."""
    held = max(RING, RINGFUL * size)
    return [STOCK, ring(held), Contender(ZMQ, ZmqQueue), Contender(DEJAQ, lambda: _dejaq(held))]
