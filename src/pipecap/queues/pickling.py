"""Objects to payloads and back: pickling without the standard library's detours.

A payload is one message without its header: one bytes object, or pieces in a row.
"""

from __future__ import annotations

import copyreg
import pickle
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import TypeAlias

    from typing_extensions import Buffer

    Payload: TypeAlias = bytes | tuple[bytes, bytes, bytes] | list[Buffer]

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


def receive_all(payloads: Sequence[Buffer]) -> list[Any]:
    """Unpickle in order."""
    return [loads(payload) for payload in payloads]


def pieces_of(payload: Payload) -> list[Buffer]:
    """Give the pieces of a payload."""
    return [payload] if isinstance(payload, bytes) else list(payload)


def size_of(payload: Payload) -> int:
    """Bytes of a payload."""
    return len(payload) if isinstance(payload, bytes) else sum(memoryview(piece).nbytes for piece in payload)
