"""The private names of multiprocessing.Queue that public programs use: answered truthfully, or refused with a hint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import threading

    from pipecap.queues.feeder import Feeder
    from pipecap.queues.sender import Sender

# What the stock queue's thread calls, and ours does not.
_NOT_CALLED = {
    "_feed": "the feeder thread of a pipecap queue runs in C",
    "_on_queue_feeder_error": "put() itself raises NotPicklable",
}


class _Missing:
    """A name that a pipecap queue does not have; the AttributeError says what to use.

    Not by __getattr__: with that, every attribute of a queue takes Python twice as long to find.
    """

    def __init__(self, instead: str) -> None:
        self._instead = instead

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, queue: object, owner: type) -> Any:
        raise AttributeError(f"a pipecap queue has no {self._name}: {self._instead}", name=self._name, obj=queue)


class _Waiting:
    """As the stock queue's buffer of items that wait for the feeder: how many there are."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


class StockNames:
    """What a Queue has besides its documented methods."""

    _feeder: Feeder
    _sender: Sender
    _finish: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse to override what is never called. Raises TypeError."""
        super().__init_subclass__(**kwargs)
        for name, reason in _NOT_CALLED.items():
            if name in cls.__dict__:
                raise TypeError(f"{cls.__name__}.{name} would never be called: {reason}")

    @property
    def _buffer(self) -> _Waiting:
        return _Waiting(int(self._sender.struct.items))

    @property
    def _thread(self) -> threading.Thread | None:
        return self._feeder.thread

    @property
    def _jointhread(self) -> Any:
        return self._feeder.join if self._feeder.thread is not None else None

    @property
    def _close(self) -> Any:
        return self._finish if self._feeder.thread is not None else None

    _notempty = _Missing("put() wakes the feeder; qsize() counts what waits, close(discard=True) drops it")
    _sem = _Missing("qsize() and full() say what a queue has room for; get() gives a place back")
