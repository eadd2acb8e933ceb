"""What runs in a worker process of a Pool, and the messages between it and the pool.

A message is a payload and 8 bytes behind it, a serial number. The serial number of a task is the number of its frame in
the task queue; its result has the same. So whose result it is can be read even where the rest cannot be unpickled.
"""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.pool import (  # type: ignore[attr-defined] # the second is not in the stubs
    ExceptionWithTraceback,
    MaybeEncodingError,
    _helper_reraises_exception,
)
from typing import Any, TypeAlias

from pipecap.errors import LostItem, TruncatedItem
from pipecap.queues.native import WITH_BUFFERS, WITHOUT_LIMIT
from pipecap.queues.pickling import Borrowed, Payload, encoded, loads, loads_with_buffers
from pipecap.queues.queue import SimpleQueue

# Serial numbers that no task has: the end, for its reader; look for lost tasks, for the pool.
STOP = 2**64 - 1
LOOK = 2**64 - 2

_TAIL = 8
# A pickle up to this is copied before its serial number.
_COPIED = 64 << 10

Outcome: TypeAlias = tuple[bool, Any]  # success and the value, or the exception


def pack(serial: int, obj: object) -> Payload:
    """Make a message. Raises what pickling raises."""
    tail = serial.to_bytes(_TAIL, "little")
    payload = encoded(obj)
    if type(payload) is bytes:
        return payload + tail if len(payload) <= _COPIED else [payload, tail]
    return Borrowed((*payload, tail)) if type(payload) is Borrowed else [*payload, tail]


def send(queue: SimpleQueue, message: Payload) -> None:
    """Put a message, waiting until all of it is in the pipe."""
    queue._sender.send(message)


def receive(queue: SimpleQueue) -> tuple[int, bool, Any]:
    """Wait for the next message: its serial number, whether it could be unpickled, and the object or the exception.

    Raises what queue.get() raises.
    """
    message: tuple[int, bool, Any] = queue._receiver.get(WITHOUT_LIMIT, _unpack)
    return message


def _unpack(payload: memoryview) -> tuple[int, bool, Any]:
    serial = int.from_bytes(payload[-_TAIL:], "little")
    load = loads_with_buffers if payload[0] == WITH_BUFFERS else loads
    try:
        return serial, True, load(payload[:-_TAIL])
    except Exception as error:  # unpickling runs the objects' own code, which may raise anything
        return serial, False, error


def work(
    tasks: SimpleQueue,
    results: SimpleQueue,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    maxtasks: int | None,
) -> None:
    """Receive tasks and send their results, until STOP, the end of the pool's process, or `maxtasks`."""
    tasks._writer.close()
    results._reader.close()
    if initializer is not None:
        initializer(*initargs)
    completed = 0
    while maxtasks is None or completed < maxtasks:
        try:
            serial, is_whole, task = receive(tasks)
        except (LostItem, TruncatedItem):  # another worker died with it
            send(results, pack(LOOK, None))
            continue
        except EOFError:
            break
        except OSError as error:
            send(results, pack(LOOK, error))
            break
        if serial == STOP:
            break
        outcome = _outcome_of(*task) if is_whole else (False, ExceptionWithTraceback(task, task.__traceback__))
        try:
            message = pack(serial, outcome)
        except Exception as error:
            message = pack(serial, (False, MaybeEncodingError(error, outcome[1])))
        task = outcome = None  # type: ignore[assignment] # nothing of them stays while this waits
        send(results, message)
        del message
        completed += 1


def _outcome_of(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome:
    try:
        return True, func(*args, **kwargs)
    except Exception as error:
        if func is _helper_reraises_exception:  # raised by the iterable, in the pool's process
            return False, error
        return False, ExceptionWithTraceback(error, error.__traceback__)
