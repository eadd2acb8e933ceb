"""What a process that cannot exit says: how much of its items waits, why, and what to do. It changes nothing."""

from __future__ import annotations

import errno
import logging
import os
import sys
from typing import TYPE_CHECKING

from pipecap.errors import PipecapError
from pipecap.kernel import pipes
from pipecap.kernel.limits import limits, refusal

if TYPE_CHECKING:
    from pipecap.queues.feeder import Feeder

_log = logging.getLogger("pipecap")


def warn(feeder: Feeder) -> None:
    """Report on stderr, and to the logger "pipecap" where that has a handler."""
    message = text(feeder)
    if _log.hasHandlers():
        _log.warning("%s", message)
    sys.stderr.write(f"pipecap: {message}\n")


def text(feeder: Feeder) -> str:
    """Return the report."""
    waiting = feeder.sender.line()
    pid = os.getpid()
    return (
        f"process {pid} waits to end: {waiting.size:,} bytes of {waiting.items:,} item(s) that it put into the queue on"
        f" fd {feeder.writer._end.fd} are not sent; {pipe_now(feeder)}; {_last_reader(feeder)}. Fix: get() them before"
        " join(), or `for item in pipecap.drain(queue, [process])`, in the process that reads;"
        " or give them up in this one: queue.close(discard=True)."
        f" `python -m pipecap doctor {pid}` shows which process should read"
    )


def pipe_now(feeder: Feeder) -> str:
    """Return how full the pipe is, and why it did not grow for what waits."""
    try:
        fd = feeder.writer.fileno()
        state = pipes.state(fd)
        text = f"its pipe is {'' if state.full else 'not '}full ({state.unread:,} unread of {state.capacity:,} bytes)"
        if not feeder.writer._end.elastic:
            return f"{text}, of a fixed capacity"
        if not state.full:
            return text
        maker = pipes.check_pipe(fd).st_uid
        refused = refusal(errno.EPERM, state.capacity * 2, capacity=state.capacity, maker=maker, host=limits())
    except (PipecapError, OSError) as error:
        return f"its pipe cannot be looked at: {error}"
    return f"{text} and cannot grow: {refused}"


def _last_reader(feeder: Feeder) -> str:
    shared = feeder.sender._shared
    pid = shared.struct.last_reader
    if not pid:
        return "nobody has read from it so far"
    return f"process {pid} read from it last{'' if shared.lives(pid) else ' and has ended'}"
