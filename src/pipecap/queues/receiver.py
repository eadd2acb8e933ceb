"""Receiving, for connections and queues alike: frames out of the record in C, objects out of their payloads.

A partly received item survives an exception such as Ctrl-C: its bytes, and a queue's read lock, stay in the record for
the next call in this process. A whole one that was not used is given back.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from queue import Empty
from types import CodeType
from typing import Any

from pipecap.queues import buffers, native
from pipecap.queues.buffers import KEPT_BYTES, LONGEST, Frames, spare
from pipecap.queues.native import AGAIN, SMALL, TIMED_OUT, failure, receive
from pipecap.queues.pickling import loads, loads_with_buffers


class Receiver:
    """The receiving side of one end in this process: struct pipecap_receiver, and what it points to.

    `shared` is the memory of the end's queue; without it, a plain connection. `counts`: each frame is an item with a
    credit; `tasks`: and a task until task_done().
    """

    __slots__ = ("__weakref__", "_end", "_shared", "struct")

    def __init__(self, end: Any, shared: Any = None, *, counts: bool = False, tasks: bool = False) -> None:
        self._end = end
        self._shared = shared
        member = native.NULL if shared is None else shared.member
        self.struct = native.new_receiver({"end": end, "member": member, "counts": counts, "tasks": tasks})
        native.reset_in_children(self)

    def forked(self) -> None:
        """Forget the frame under way, in the child of a fork: it is the parent's to receive."""
        native.receiver_forked(self.struct)

    def closed(self, _closed: Callable[[Any], None] = native.receiver_closed) -> None:
        """Abandon a frame that is partly here, after the end was closed; the next reader of a queue reports it."""
        _closed(self.struct)

    def get(self, deadline: int, use: Callable[[memoryview], Any] = loads, longest: int = LONGEST) -> Any:
        """Return what `use` makes of the next payload. Raises Empty at the deadline, and what failure() returns."""
        try:
            frames = spare.pop()
        except IndexError:
            frames = Frames()
        struct = frames.struct
        try:
            size = AGAIN
            while size == AGAIN:  # between two rounds the interpreter runs its signal handlers, which may raise
                size = receive(self.struct, struct, deadline, longest, 1)
            if size > SMALL:
                payload = frames.payload(size)
                item = loads_with_buffers(payload) if use is loads and struct.has_buffers else use(payload)
                struct.count = 0
            elif size >= 0:  # the same, in fewer steps
                item = use(frames.view[:size])
                struct.count = 0
        except BaseException as error:
            self._return_unused(frames, error, use)
            raise
        if size < 0:
            raise _no_item(frames, size)
        # As buffers.give(), without a call: in any call a signal handler may raise, and the item would be lost.
        if frames.room <= KEPT_BYTES:
            kept = spare
            kept += (frames,)
        return item

    def get_many(self, deadline: int, max_items: int) -> list[Any]:
        """Return all objects that are there, at least one and at most `max_items`. Raises as get() does.

        The error of an object that cannot be unpickled has those before it in `items`; those after it stay.
        """
        frames = buffers.take()
        struct = frames.struct
        try:
            size = AGAIN
            while size == AGAIN:
                size = receive(self.struct, struct, deadline, LONGEST, max_items)
            if size >= 0:
                items: list[Any] = []
                _load_all(frames, items)
                struct.count = 0
        except BaseException as error:
            self._return_unused(frames, error, loads)
            raise
        if size < 0:
            raise _no_item(frames, size)
        if frames.room <= KEPT_BYTES:  # as in get()
            kept = spare
            kept += (frames,)
        return items

    def _return_unused(self, frames: Frames, error: BaseException, use: Callable[[memoryview], Any]) -> None:
        """Return what came to the record, but for a payload whose own use is what raised the error."""
        struct = frames.struct
        if struct.count and use is loads:
            struct.taken = _failed_by_itself(frames, error)
        elif _innermost(error) is getattr(use, "__code__", None):
            struct.taken = struct.count
        native.give_back(self.struct, struct)
        struct.count = 0

    def poll(self, deadline: int) -> bool:
        """Wait until something can be received, or an error is owed; False at the deadline. OSError when closed."""
        result = AGAIN
        while result == AGAIN:
            result = native.poll(self.struct, deadline)
        if result < 0:
            raise failure(result)
        return bool(result)


def _innermost(error: BaseException) -> CodeType | None:
    """Return the code that raised an error."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return None if traceback is None else traceback.tb_frame.f_code


def _failed_by_itself(frames: Frames, error: BaseException) -> int:
    """Return the number of payloads up to the one that cannot be unpickled, 0 where the error came from elsewhere.

    A signal handler may have raised it: a second try decides. The objects before that payload are the error's `items`.
    """
    items: list[Any] = []
    if isinstance(error, KeyboardInterrupt):
        return 0
    try:
        _load_all(frames, items, again=True)
    except BaseException:  # unpickling may also exit
        with suppress(AttributeError):  # an exception class may have no room for it
            error.items = items  # type: ignore[attr-defined] # documented
        return len(items) + 1
    return 0


def _load_all(frames: Frames, items: list[Any], *, again: bool = False) -> None:
    """Append the objects of all payloads; where one cannot be unpickled, those before it.

    Objects may change their buffers as they are made: `again`, they get copies.
    """
    if frames.struct.has_buffers:
        frames.look()
        payload = frames.payload(frames.struct.bounds[1])
        items.append(loads_with_buffers(memoryview(bytearray(payload)) if again else payload))
        return
    for payload in frames.payloads():
        items.append(loads(payload))  # noqa: PERF401 -- those before one that fails are wanted


def _no_item(frames: Frames, outcome: int) -> Exception:
    """Put the buffer back, which may have grown; return the exception that an outcome stands for."""
    frames.look()
    buffers.give(frames)
    return Empty() if outcome == TIMED_OUT else failure(outcome)
