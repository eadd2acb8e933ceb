"""The exit guard: a process that cannot end, because nobody reads what it put, says so and lets its pipe grow."""

from __future__ import annotations

import logging
import os
import sys

from pipecap.errors import PipecapError
from pipecap.kernel import pipes
from pipecap.queues import native
from pipecap.queues.connection import Connection
from pipecap.queues.shared import Shared

_log = logging.getLogger("pipecap")


def warn(queue: str, items: int, size: int, writer: Connection, shared: Shared) -> None:
    """Say what the exit waits for: so many items and bytes put into `queue`, and who should read them."""
    message = (
        f"process {os.getpid()} waits to end: {size:,} bytes of {items:,} item(s) that it put into {queue}"
        f" are not sent; {pipe_now(writer)}; {_who_could_read(shared)}. Fix: get() them before join(), or"
        " `for item in pipecap.drain(queue, [process])`, in the process that reads;"
        " or give them up in this one: queue.close(discard=True)."
        f" `python -m pipecap doctor {os.getpid()}` tells who should read"
    )
    if _log.hasHandlers():
        _log.warning("%s", message)
    sys.stderr.write(f"pipecap: {message}\n")


def pipe_now(writer: Connection) -> str:
    """Describe the pipe; an elastic one is resized to twice its capacity, which may be all that it takes."""
    try:
        state = pipes.state(writer.fileno())
    except (PipecapError, OSError) as error:
        return f"its pipe cannot be looked at: {error}"
    text = f"its pipe is {'' if state.full else 'not '}full ({state.unread:,} unread of {state.capacity:,} bytes)"
    if not writer._end.elastic:
        return f"{text}, of a fixed capacity"
    try:
        pipes.resize(writer.fileno(), state.capacity * 2)
    except (PipecapError, OSError) as error:
        return f"{text} and cannot grow: {error}"
    return f"{text}, and was let grow now"


def _who_could_read(shared: Shared) -> str:
    reader = shared.struct.last_reader
    if not reader:
        return "nobody has read from it so far"
    ended = " and has ended" if native.has_ended(reader) else ""
    return f"process {reader} read from it last{ended}"
