"""get_context(): a multiprocessing context whose queues and connections are pipecap's."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterable
from multiprocessing import context
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, ClassVar

from pipecap.errors import Unsupported
from pipecap.kernel.sizes import parse_size
from pipecap.queues import connection, process, queue
from pipecap.queues.connection import Connection

if TYPE_CHECKING:
    from pipecap.queues import pool


class Context(context.BaseContext):
    """A multiprocessing context made of pipecap's queues and connections; the rest is the standard library's.

    `capacity`, `chunk` and `exit_warning` are those of the queues it makes. ProcessPoolExecutor(mp_context=...) takes
    its queues from it, but for its call queue, which is a stock one whatever the context.
    """

    capacity: int | str = "auto"
    chunk: int | str = "auto"
    exit_warning: float | None = 5.0
    if TYPE_CHECKING:
        Process: ClassVar[type[BaseProcess]]

    def get_context(self, method: str | None = None) -> Any:
        """Return the context of another start method, with the same settings."""
        if method is None or method == self.get_start_method():
            return self
        return get_context(method, capacity=self.capacity, chunk=self.chunk, exit_warning=self.exit_warning)

    def Queue(self, maxsize: int = 0) -> queue.Queue:
        """Make a pipecap Queue."""
        return queue.Queue(maxsize, ctx=self, capacity=self.capacity, chunk=self.chunk, exit_warning=self.exit_warning)

    def JoinableQueue(self, maxsize: int = 0) -> queue.JoinableQueue:
        """Make a pipecap JoinableQueue."""
        return queue.JoinableQueue(
            maxsize, ctx=self, capacity=self.capacity, chunk=self.chunk, exit_warning=self.exit_warning
        )

    def SimpleQueue(self) -> queue.SimpleQueue:
        """Make a pipecap SimpleQueue."""
        return queue.SimpleQueue(ctx=self, capacity=self.capacity, chunk=self.chunk)

    def Pipe(self, duplex: bool = True) -> tuple[Connection, Connection]:
        """Make two connected Connections: a socketpair; or, not duplex, a pipe of the context's capacity."""
        return connection.two_way() if duplex else connection.one_way(self.capacity, chunk=self.chunk)

    def Pool(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
    ) -> pool.Pool:
        """Make a pipecap Pool, which survives its workers."""
        from pipecap.queues.pool import Pool

        return Pool(processes, initializer, initargs, maxtasksperchild, context=self.get_context())


class ForkContext(Context, context.ForkContext):
    """Of the start method "fork"."""

    Process = process.ForkProcess


class SpawnContext(Context, context.SpawnContext):
    """Of the start method "spawn"."""

    Process = process.SpawnProcess


class ForkServerContext(Context, context.ForkServerContext):
    """Of the start method "forkserver"."""

    Process = process.ForkServerProcess


_CONTEXTS = {"fork": ForkContext, "spawn": SpawnContext, "forkserver": ForkServerContext}


def get_context(
    method: str | None = None,
    *,
    capacity: int | str = "auto",
    chunk: int | str = "auto",
    exit_warning: float | None = 5.0,
) -> Context:
    """Return a multiprocessing context whose queues use the pipe as well as the kernel allows and do not hang.

    `method` is "fork", "spawn", "forkserver" or None for this interpreter's start method, as with
    multiprocessing.get_context(). `capacity` is "auto", a pipe that grows when it must, or the size of every queue's
    pipe in bytes or as "1M". `chunk` is the most bytes of one write(2): "auto" suits most items, recommend() measures
    which suits yours. `exit_warning` is the seconds after which a process that cannot exit, because nobody reads what
    it put, says so; None for never. Raises ValueError for an unknown method, InvalidSize.
    """
    if "gevent.monkey" in sys.modules and sys.modules["gevent.monkey"].is_module_patched("threading"):
        raise Unsupported(
            "queues need real threads", hint="monkey.patch_all(thread=False), or make them in a process without gevent"
        )
    if capacity != "auto":
        parse_size(capacity)
    connection.chunk_of(chunk)
    if exit_warning is not None and not exit_warning >= 0:
        raise ValueError("exit_warning is seconds, or None")
    if method is None:
        method = multiprocessing.get_start_method()
    if method not in _CONTEXTS:
        raise ValueError(f"cannot find context for {method!r}")
    made = _CONTEXTS[method]()
    made._check_available()
    made.capacity = capacity
    made.chunk = chunk
    made.exit_warning = exit_warning
    return made
