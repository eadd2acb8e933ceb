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
_INSTEAD = {
    "_notempty": "put() wakes the feeder; qsize() counts what waits, close(discard=True) drops it",
    "_sem": "qsize() and full() say what a queue has room for; get() gives a place back",
}


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

    if not TYPE_CHECKING:  # which would take any name for an attribute

        def __getattr__(self, name: str) -> Any:
            if name in _INSTEAD:
                raise AttributeError(f"a pipecap queue has no {name}: {_INSTEAD[name]}", name=name, obj=self)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
