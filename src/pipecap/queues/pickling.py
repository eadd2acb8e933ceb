"""Objects to payloads and back, without the standard library's detours.

A payload is one bytes object or, for what is large, pieces in a row: a pickler hands over large bytes objects as they
are, uncopied.
"""

from __future__ import annotations

import copyreg
import pickle
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeAlias

from pipecap.errors import NotPicklable

Payload: TypeAlias = bytes | list[bytes]

# A pickler is used again after a pickle up to this: the memo of a large one is slow to clear.
_KEPT_PICKLE = 16 << 10

loads = pickle.loads


class _Pieces(list):  # type: ignore[type-arg] # of Buffer
    """What a pickler writes, uncopied."""

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
    """Pickle as ForkingPickler.dumps() does. Raises what pickling raises.

    Picklers are pooled; one is checked out while in use, since pickling may run user code that re-enters.
    """
    try:
        entry = _picklers.pop()
    except IndexError:
        entry = _new_pickler()
    pickler, pieces = entry
    pickler.dump(obj)  # a pickler that failed is not used again
    if len(pieces) == 1:
        payload: Payload = pieces.pop()
        size = len(payload)
    else:
        payload = _unshared(pieces)
        size = sum(map(len, pieces[::2]))  # a large bytes object is every other one
        pieces.clear()
    if size < _KEPT_PICKLE:
        pickler.clear_memo()
        _picklers.append(entry)
    return payload


def _unshared(pieces: list[Any]) -> list[bytes]:
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


def all_pickled(objects: Sequence[object]) -> list[Payload]:
    """Pickle all, or raise what refusal() returns for the first that cannot be."""
    payloads: list[Payload] = []
    try:
        pickle_all(objects, payloads)
    except Exception as error:  # pickling runs the objects' own code, which may raise anything
        if len(payloads) == len(objects):
            raise  # out of a signal handler, when all was done
        raise refusal(objects[len(payloads)], error) from error.__cause__
    return payloads


def refusal(obj: object, error: Exception) -> Exception:
    """Return NotPicklable where pickling `obj` is what raised the error, else the error itself.

    An exception that a signal handler raises meanwhile, or a lack of memory, says nothing about the object. One that
    the pickler itself raised comes out of our own stack frame; of any other, a second try decides.
    """
    innermost = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    if isinstance(error, MemoryError):
        return error
    if innermost is None or innermost.tb_frame.f_code not in (pickled.__code__, pickle_all.__code__):
        try:
            pickled(obj)
        except Exception:
            pass
        else:
            return error
    return NotPicklable(type(obj).__name__, error)


def size_of(payload: Payload) -> int:
    """Return the bytes of a payload."""
    return len(payload) if isinstance(payload, bytes) else sum(map(len, payload))
