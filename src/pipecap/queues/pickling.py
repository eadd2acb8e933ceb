"""Objects to payloads and back, without the standard library's detours.

A payload is one bytes object or, for what is large, pieces in a row: a pickler hands over large bytes objects as they
are, uncopied, and the memory of arrays apart from the pickle.
"""

from __future__ import annotations

import copyreg
import pickle
import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from multiprocessing.reduction import ForkingPickler
from operator import methodcaller
from typing import Any, TypeAlias

from pipecap.errors import BadFrame, NotPicklable
from pipecap.queues import native


class Borrowed(list):  # type: ignore[type-arg] # of bytes, memoryview
    """The pieces of a payload, some of them memory that its owner may change after put()."""


Payload: TypeAlias = bytes | list[bytes] | Borrowed

# A pickler is used again after a pickle up to this: the memo of a large one is slow to clear.
_KEPT_PICKLE = 16 << 10

# A payload with buffers: its first byte, how many, bytes of the pickle, bytes of each; the pickle; the buffers, each
# at a multiple of _ALIGNED. Buffers below _BUFFER are in the pickle: so a frame with others comes alone (receive.c).
_HEAD = struct.Struct("<B3xIQ")
_ALIGNED = 64
_BUFFER = native.SMALL
_PADDING = bytes(_ALIGNED)

_registered_here: dict[type, Callable[[Any], Any]] = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
_registered_anywhere: dict[type, Callable[[Any], Any]] = copyreg.dispatch_table

_plain: object = object.__getattribute__

loads = pickle.loads


class _Pieces(deque):  # type: ignore[type-arg] # of Buffer
    """What a pickler writes, uncopied. Not a list, which gives its memory back each time it is empty."""

    write = deque.append


class _Reducers(dict[type, Callable[[Any], Any]]):
    """The reducers as they are now: ForkingPickler copies them when it is made, and ours are used for long.

    Nothing is kept here: a class may get a reducer of its own at any time.
    """

    def __init__(self, protocol: int | None) -> None:
        self._with_buffers = protocol is not None
        self._by_itself = methodcaller("__reduce_ex__", protocol or pickle.DEFAULT_PROTOCOL)

    def __missing__(self, cls: type) -> Callable[[Any], Any]:
        reducer = _registered_here.get(cls) or _registered_anywhere.get(cls)
        if reducer is not None:
            return reducer
        if self._with_buffers and cls.__name__ == "ndarray" and cls.__module__ == "numpy":
            return _reduce_array
        if cls.__getattribute__ is _plain and not issubclass(cls, type):
            return self._by_itself  # as a pickler does that finds none, which takes longer here
        raise KeyError(cls)


class _Buffers(list):  # type: ignore[type-arg] # of memoryview
    """What a pickler leaves out of a pickle: the memory of arrays."""

    def take(self, buffer: pickle.PickleBuffer) -> bool:
        """Say whether a buffer goes into the pickle: a small one does, and one in pieces, which the pickler refuses."""
        try:
            view = buffer.raw()
        except BufferError:
            return True
        if view.nbytes < _BUFFER:
            return True
        self.append(view)
        return False


class _Picklers(deque):  # type: ignore[type-arg] # of tuples: dump, clear_memo, what it writes, what it leaves out
    """Warm picklers; one is taken out while in use, since pickling may run user code that comes here again."""

    def __init__(self, protocol: int | None) -> None:
        super().__init__()
        self._protocol = protocol
        self._reducers = _Reducers(protocol)

    def new(self) -> tuple[Callable[[object], object], Callable[[], object], _Pieces, _Buffers]:
        """Make one more."""
        pieces, buffers = _Pieces(), _Buffers()
        if self._protocol is None:
            pickler = ForkingPickler(pieces)
        else:
            pickler = ForkingPickler(pieces, self._protocol, True, buffers.take)
        pickler.dispatch_table = self._reducers
        return pickler.dump, pickler.clear_memo, pieces, buffers


def _encoder(picklers: _Picklers) -> Callable[[object], Payload]:
    pop, append = picklers.pop, picklers.append

    def encode(obj: object) -> Payload:
        try:
            entry = pop()
        except IndexError:
            entry = picklers.new()
        dump, clear_memo, pieces, buffers = entry
        dump(obj)  # a pickler that failed is not used again
        if len(pieces) == 1 and not buffers:
            payload: Payload = pieces.pop()
            size = len(payload)
        else:
            payload = _payload_of(pieces, buffers)
            size = sum(map(len, islice(pieces, 0, None, 2)))  # a large bytes object is every other one
            pieces.clear()
            buffers.clear()
        if size < _KEPT_PICKLE:
            clear_memo()
            append(entry)
        return payload

    return encode


# As ForkingPickler.dumps() does. Raises what pickling raises.
pickled = _encoder(_Picklers(protocol=None))
# For another process with pipecap: the memory of arrays and their like is not copied (PEP 574).
_ours = _Picklers(protocol=5)
encoded = _encoder(_ours)


def _payload_of(pieces: _Pieces, buffers: _Buffers) -> Payload:
    """Return the payload of what a pickler wrote and what it left out."""
    payload: Payload = pieces[0] if len(pieces) == 1 else _lasting(pieces)
    return _with_buffers(payload, buffers) if buffers else payload


def _with_buffers(payload: Payload, buffers: list[memoryview]) -> Borrowed:
    pickled = payload if isinstance(payload, bytes) else b"".join(payload)
    sizes = [view.nbytes for view in buffers]
    head = _HEAD.pack(native.WITH_BUFFERS, len(sizes), len(pickled)) + struct.pack(f"<{len(sizes)}Q", *sizes)
    pieces = Borrowed((head + pickled,))
    at = len(head) + len(pickled)
    for view, size in zip(buffers, sizes, strict=True):
        if at % _ALIGNED:
            pieces.append(_PADDING[at % _ALIGNED :])
            at += _ALIGNED - at % _ALIGNED
        pieces.append(view)
        at += size
    return pieces


def loads_with_buffers(payload: memoryview) -> Any:
    """Unpickle a payload with buffers; the objects use its memory. Raises BadFrame where it is not one."""
    try:
        _, count, size = _HEAD.unpack_from(payload)
        sizes = struct.unpack_from(f"<{count}Q", payload, _HEAD.size)
    except struct.error:
        raise _bad_buffers(payload) from None
    begin = _HEAD.size + 8 * count
    at = begin + size
    buffers = []
    for each in sizes:
        at += -at % _ALIGNED
        buffers.append(payload[at : at + each])
        at += each
    if at != payload.nbytes:
        raise _bad_buffers(payload)
    return loads(payload[begin : begin + size], buffers=buffers)


def _bad_buffers(payload: memoryview) -> BadFrame:
    return BadFrame(f"a message of {payload.nbytes:,} bytes has no valid list of buffers")


def _lasting(pieces: Iterable[Any]) -> list[bytes] | Borrowed:
    """Copy what lasts only as long as the pickler writes, views of a string's memory, say; keep bytearrays in place.

    Raises RuntimeError where one has another size by now than the pickle says: in the 8 bytes before it.
    """
    lasting: list[Any] = []
    for before, piece in zip([b"", *pieces], pieces, strict=False):
        if type(piece) is bytearray:
            view = memoryview(piece)  # from here on its size stays
            if view.nbytes != int.from_bytes(before[-8:], "little"):
                raise RuntimeError("a bytearray changed its size while it was pickled")
            lasting.append(view)
        else:
            lasting.append(piece if type(piece) is bytes else bytes(piece))
    return Borrowed(lasting) if memoryview in map(type, lasting) else lasting


def _reduce_array(array: Any) -> Any:
    """Reduce a numpy array so that it comes out writable: of one that is not, protocol 5 has the other side know.

    The usual kinds by numpy.ndarray itself: numpy's own way takes twice as long, over a function and a dtype by name.
    """
    flags, dtype = array.flags, array.dtype
    if not flags.forc:
        return array.__reduce__()
    if dtype.isbuiltin != 1 or dtype.kind not in "biufc":
        return array.__reduce_ex__(5) if flags.writeable else array.__reduce__()
    memory = pickle.PickleBuffer(array)
    if memoryview(memory).readonly:
        return array.__reduce__()
    return type(array), (array.shape, dtype.char, memory, 0, None, "C" if flags.c_contiguous else "F")


def pickle_all(objects: Iterable[object], payloads: list[Payload]) -> None:
    """Encode into `payloads`, one after the other; where it fails, as many are there as did not."""
    try:
        entry = _ours.pop()
    except IndexError:
        entry = _ours.new()
    dump, clear_memo, pieces, buffers = entry
    append = payloads.append
    for obj in objects:
        dump(obj)
        if buffers or len(pieces) > 1 or len(pieces[0]) >= _KEPT_PICKLE:
            append(_payload_of(pieces, buffers))
            entry = _ours.new()
            dump, clear_memo, pieces, buffers = entry
        else:
            append(pieces.pop())
            clear_memo()
    _ours.append(entry)


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
    if innermost is None or innermost.tb_frame.f_code not in (encoded.__code__, pickle_all.__code__):
        try:
            encoded(obj)
        except Exception:
            pass
        else:
            return error
    return NotPicklable(type(obj).__name__, error)


def size_of(payload: Payload) -> int:
    """Return the bytes of a payload."""
    return len(payload) if isinstance(payload, bytes) else sum(map(len, payload))
