"""Any object -> the pipes under it.

The one home of what multiprocessing keeps private: which attribute of a queue, pool or executor holds its pipe. The
names are those of CPython 3.11 to 3.14, billiard and multiprocess alike; torch wraps the connections and keeps them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pipecap._native import lib
from pipecap.errors import NotAPipe, PipecapError
from pipecap.kernel import pipes
from pipecap.kernel.pipes import PipeState

# Where each kind of object keeps the queues that feed and empty its workers: (attribute, name of the pipe).
_PARTS = (
    (("_inqueue", "task queue"), ("_outqueue", "result queue")),  # multiprocessing.pool.Pool
    (("_call_queue", "call queue"), ("_result_queue", "result queue")),  # concurrent.futures.ProcessPoolExecutor
)


def pipes_of(target: object) -> Mapping[str, int]:
    """Give the pipes of `target`: name -> a descriptor of this process, the write end where it is open.

    A target is an int fd, an object with `fileno()`, a `Connection`, the pair from `Pipe()`, a `Queue`,
    `JoinableQueue`, `SimpleQueue`, a `Pool` or a `ProcessPoolExecutor`; of the standard library, torch, billiard or
    multiprocess. A pair whose ends belong to one pipe is one pipe. The descriptors belong to the target: do not close
    them, and use them only while it lives. Raises NotAPipe, which says what the target is instead.
    """
    if isinstance(target, tuple | list):
        return _pair(target)
    for parts in _PARTS:
        if all(_has(target, attribute) for attribute, _ in parts):
            return {name: _part(target, attribute, name) for attribute, name in parts}
    fd = _descriptor(target)
    return {_name(target): fd}


def capacity(target: object) -> int:
    """Give the capacity in bytes: slots times page size, an upper bound on what fits. Of several pipes, the smallest.

    Raises NotAPipe, Unsupported. Source: fcntl(2), F_GETPIPE_SZ.
    """
    if type(target) is int:
        try:
            size = lib.pipecap_capacity(target)
        except OverflowError:
            size = -1
        if size >= 0:
            return size
    return min(pipes.capacity(fd) for fd in pipes_of(target).values())


def unread(target: object) -> int:
    """Give the bytes that wait in the pipe now; of several pipes, the sum. Raises NotAPipe. Source: FIONREAD."""
    return sum(pipes.unread(fd) for fd in pipes_of(target).values())


def state(target: object) -> PipeState:
    """Give the state of the target's one pipe. Raises NotAPipe, also for several pipes; Unsupported."""
    found = pipes_of(target)
    if len(found) > 1:
        raise NotAPipe(
            f"a {_type(target)}", f"has {len(found)} pipes: {', '.join(found)}", hint="take one of pipecap.pipes_of()"
        )
    return pipes.state(*found.values())


def resize(target: object, size: int | str, *, best_effort: bool = False) -> int:
    """Set every pipe of the target to `size` bytes; give the capacity granted, of several pipes the smallest.

    `size` is rounded up to a power of two and at least a page. With `best_effort` each pipe takes the largest size the
    kernel grants and none is ever made smaller. Without it a refusal leaves all pipes as they were; should one of them
    not be granted its old size again, over the quota, a note of the error says so.

    Raises NotAPipe, InvalidSize, Unsupported and ResizeRefused, whose `.reason` is "max-size", "quota", "busy",
    "invalid", "memory", "unsupported" or "unknown". Source: fcntl(2), F_SETPIPE_SZ.
    """
    found = pipes_of(target)
    before = {fd: pipes.capacity(fd) for fd in found.values()}
    granted: dict[int, int] = {}
    try:
        for name, fd in found.items():  # noqa: B007 -- whose turn it was when one refuses
            granted[fd] = pipes.resize(fd, size, best_effort=best_effort)
    except PipecapError as error:
        if len(found) > 1:
            error.add_note(f"it was the {name} that refused")
        for fd in granted:
            _put_back(fd, before[fd], error)
        raise
    return min(granted.values())


def _put_back(fd: int, capacity: int, error: PipecapError) -> None:
    try:
        pipes.resize(fd, capacity)
    except PipecapError as second:
        error.add_note(f"fd {fd} could not be put back to {capacity:,} bytes: {second}")


def _pair(ends: tuple[object, ...] | list[object]) -> Mapping[str, int]:
    """Give the pipes under the pair from Pipe(), or any ends: a pipe once, whichever of its ends are there."""
    if not ends:
        raise NotAPipe("an empty sequence", "has no pipe in it")
    found: dict[tuple[int, int], tuple[str, int]] = {}
    for end in ends:
        fd = _descriptor(end)
        status = pipes.check_pipe(fd)
        pipe = status.st_dev, status.st_ino
        if pipe not in found or pipes.writable(fd):
            found[pipe] = _name(end), fd
    if len(found) == 1:
        ((_, fd),) = found.values()
        return {"pipe": fd}
    return {f"{name} ({number} of {len(found)})": fd for number, (name, fd) in enumerate(found.values(), start=1)}


def _part(target: object, attribute: str, name: str) -> int:
    queue = getattr(target, attribute)
    if queue is None:
        raise NotAPipe(f"the {name} of this {_type(target)}", "is gone: it was shut down")
    return _descriptor(queue)


def _descriptor(target: object) -> int:
    """Give one descriptor of a single pipe, checked."""
    if isinstance(target, int) and not isinstance(target, bool):
        fd = int(target)
    elif _has(target, "_reader") and _has(target, "_writer"):
        fd = _queue_descriptor(target)
    elif _has(target, "fileno"):
        fd = _fileno(target)
    else:
        raise NotAPipe(f"a {_type(target)}", "holds no pipe", hint=_hint(target))
    pipes.check_pipe(fd)
    return fd


def _has(target: object, attribute: str) -> bool:
    """Whether a target has an attribute; one whose own code fails has not.

    A signal handler may raise meanwhile: only what fails a second time is the target's own.
    """
    try:
        return hasattr(target, attribute)
    except Exception:
        try:
            hasattr(target, attribute)
        except Exception:
            return False
        raise


def _queue_descriptor(queue: object) -> int:
    """Give the write end of a queue; the read end where that is closed, as in a process that only gets."""
    for end in _open_ends(queue):
        return end
    raise NotAPipe(f"this {_type(queue)}", "is closed", hint="look at it before close()")


def _open_ends(queue: object) -> Iterator[int]:
    for attribute in ("_writer", "_reader"):
        end = getattr(queue, attribute)
        if end is not None and not getattr(end, "closed", False):
            yield _fileno(end)


def _fileno(target: object) -> int:
    try:
        fd = target.fileno()  # type: ignore[attr-defined] # looked for by the caller
    except io.UnsupportedOperation:
        raise NotAPipe(
            f"a {_type(target)}", "has no descriptor", hint="it lives in memory: no pipe is under it"
        ) from None
    except Exception as error:  # closed: OSError or ValueError; else whatever the object's own code may raise
        raise NotAPipe(f"this {_type(target)}", f"has no descriptor: {error}", hint="was it closed already?") from error
    if not isinstance(fd, int):
        raise NotAPipe(f"a {_type(target)}", f"has a fileno() that is no descriptor but a {_type(fd)}")
    return fd


def _name(target: object) -> str:
    if isinstance(target, int):
        return f"fd {int(target)}"
    if _has(target, "_reader"):
        return "queue"
    return "connection" if _type(target).endswith("Connection") else _type(target)


def _type(target: object) -> str:
    return type(target).__name__


_HINTS = {
    "queue": "queue.Queue and its kin live in the memory of one process: no pipe is under them",
    "asyncio": "asyncio.Queue lives in the memory of one process: no pipe is under it",
    "subprocess": "a Popen has up to three pipes: give its .stdin, .stdout or .stderr",
    "multiprocessing.managers": "a manager's queue lives in the manager's process, behind a socket",
    "multiprocessing.pool": "a ThreadPool hands its tasks over in memory: no pipe is under it",
}


def _hint(target: object) -> str:
    module = type(target).__module__
    if module == "_queue":
        module = "queue"
    return _HINTS.get(module) or _HINTS.get(module.partition(".")[0]) or "see pipecap.pipes_of() for what is a target"


class QueueParts(NamedTuple):
    """What drain() needs of a queue: its connection and locks; `slots`, the semaphore that counts its items, if any."""

    reader: Any
    read_lock: Any
    write_lock: Any
    slots: Any


def queue_parts(queue: object) -> QueueParts:
    """Take a Queue, JoinableQueue or SimpleQueue apart. Raises NotAPipe for anything else, and for a closed one."""
    if not all(_has(queue, attribute) for attribute in ("_reader", "_rlock", "_wlock")):
        raise NotAPipe(f"a {_type(queue)}", "is no queue to drain", hint=_hint(queue))
    reader = queue._reader  # type: ignore[attr-defined] # looked for above
    if getattr(reader, "closed", False):
        raise NotAPipe(f"this {_type(queue)}", "is closed", hint="drain it before close()")
    return QueueParts(
        reader,
        queue._rlock,  # type: ignore[attr-defined] # looked for above
        queue._wlock,  # type: ignore[attr-defined] # looked for above
        getattr(queue, "_sem", None),
    )


def close_ends(queue: object) -> None:
    """Close both ends of a queue of ours, at once: its own close() leaves the write end to the garbage collector."""
    for attribute in ("_reader", "_writer"):
        getattr(queue, attribute).close()
