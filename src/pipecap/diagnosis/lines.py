"""What a thread waits for, by its Python stack: what /proc cannot tell apart. Pure."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pipecap.proc.stacks import Stack, since_start

Meaning: TypeAlias = Literal["get", "put", "feed", "tasks", "result", "pool", "thread", "queue", "event", "idle", ""]

# The first stack frame, from the innermost on, that is one of these decides.
_MEANINGS: dict[tuple[str, str], Meaning] = {
    ("multiprocessing/queues.py", "get"): "get",
    ("multiprocessing/queues.py", "put"): "put",
    ("multiprocessing/queues.py", "_feed"): "feed",
    ("multiprocessing/queues.py", "join"): "tasks",
    ("multiprocessing/pool.py", "_help_stuff_finish"): "pool",
    ("multiprocessing/pool.py", "wait"): "result",
    ("multiprocessing/pool.py", "get"): "result",
    ("multiprocessing/pool.py", "next"): "result",
    ("multiprocessing/synchronize.py", "wait"): "event",
    ("multiprocessing/synchronize.py", "wait_for"): "event",
    ("concurrent/futures/_base.py", "result"): "result",
    ("concurrent/futures/_base.py", "exception"): "result",
    ("concurrent/futures/_base.py", "wait"): "result",
    ("concurrent/futures/_base.py", "as_completed"): "result",
    ("concurrent/futures/process.py", "shutdown"): "thread",
    ("concurrent/futures/thread.py", "_worker"): "idle",
    ("concurrent/futures/thread.py", "shutdown"): "thread",
    ("pipecap/queues/queue.py", "get"): "get",
    ("pipecap/queues/queue.py", "put"): "put",
    ("pipecap/queues/queue.py", "join"): "tasks",
    ("/queue.py", "get"): "queue",
    ("/queue.py", "put"): "queue",
    ("/queue.py", "join"): "queue",
    ("/threading.py", "join"): "thread",
    ("/threading.py", "_wait_for_tstate_lock"): "thread",
    ("/threading.py", "_shutdown"): "thread",
    ("/threading.py", "wait"): "event",
    ("/threading.py", "wait_for"): "event",
}
# A Condition's wait() is how these wait, so a stack frame further out says more.
_OUTER = 4


def meaning(stack: Stack) -> Meaning:
    """Return what a thread waits for; empty where its stack shows none of what the standard library waits in.

    "get" (at the read lock or in the read), "put" (for a credit), "feed" (a feeder thread), "tasks"
    (JoinableQueue.join), "result" (of a pool or an executor), "pool" (Pool.terminate), "thread" (a join of one),
    "queue" (queue.Queue), "event" (an Event or Condition, which anything may set), "idle" (a worker thread).
    """
    found: Meaning = ""
    for path, _, function in [*since_start(stack)][:_OUTER]:
        file = path.replace("/multiprocess/", "/multiprocessing/").replace("/billiard/", "/multiprocessing/")
        name = function.rpartition(".")[2]
        for (tail, wanted), what in _MEANINGS.items():
            if name == wanted and file.endswith(tail):
                if what != "event":
                    return what
                found = found or what
    return found


def only_serves(stack: Stack) -> bool:
    """Whether it is a thread of a Pool that starts workers or hands out tasks: it reads no results."""
    return any(
        file.endswith("multiprocessing/pool.py") and function.endswith(("_handle_workers", "_handle_tasks"))
        for file, _, function in stack
    )


def mentions(stack: Stack, *parts: str) -> bool:
    """Whether a stack frame is in one of these modules or packages."""
    return any(part in file for file, _, _ in stack for part in parts)
