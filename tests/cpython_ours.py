"""Put pipecap's classes in the place of multiprocessing's own, in every process that imports this.

The environment that tests/test_cpython.py makes imports it at the start of each interpreter: spawned children, fork
servers and `python -I -c ...` too.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter
from multiprocessing import connection, context
from typing import Any

from pipecap.queues.connection import Connection, one_way, two_way
from pipecap.queues.context import Context, get_context

NAMES = ("Queue", "JoinableQueue", "SimpleQueue", "Pipe", "Pool")
METHODS = ("fork", "spawn", "forkserver")

# How many of each this process has made.
made: Counter[str] = Counter()


def put_in_place() -> None:
    """Replace the contexts, what the module multiprocessing offers, and the Connection behind Pipe, Listener, Client.

    multiprocessing.queues.Queue stays: ProcessPoolExecutor derives its call queue from it, whatever the context.
    """
    contexts: Any = context  # what is private is in no stub
    connections: Any = connection
    for name in NAMES:
        setattr(Context, name, _counted(name, getattr(Context, name)))
        setattr(contexts.DefaultContext, name, _delegated(name))
        setattr(multiprocessing, name, getattr(contexts._default_context, name))
    for method in METHODS:
        contexts._concrete_contexts[method] = get_context(method)
    default = contexts._default_context
    default._default_context = default.get_context(default._default_context.get_start_method())
    connections.Connection = Connection
    connections.Pipe = _pipe


def _counted(name: str, make: Any) -> Any:
    def counted(*args: Any, **kwargs: Any) -> Any:
        made[name] += 1
        return make(*args, **kwargs)

    return counted


def _delegated(name: str) -> Any:
    def delegated(self: context.DefaultContext, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.get_context(), name)(*args, **kwargs)

    return delegated


def _pipe(duplex: bool = True) -> Any:
    return two_way() if duplex else one_way("auto")


put_in_place()
