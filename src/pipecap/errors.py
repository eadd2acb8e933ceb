"""The error tree: one root, and below it classes that are also the fitting builtin.

Every error has a `hint` (what to do about it, also shown under a traceback), carries its facts as attributes and
survives pickling, so it can come back from a worker process whole. Nothing in pipecap matches on error text.
"""

from __future__ import annotations

import errno
import os
from _pickle import PicklingError  # pickle itself takes as long to load as all of this

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, which costs the import of typing
if TYPE_CHECKING:
    from collections.abc import Sequence


class PipecapError(Exception):
    """Root of everything pipecap raises on purpose."""

    hint: str
    _call: tuple[tuple[object, ...], dict[str, object]]

    def __new__(cls, *args: object, **facts: object) -> PipecapError:
        """Keep what the error was made of, for pickling."""
        # Nothing is passed on: OSError.__new__ would take it for (errno, strerror).
        self = super().__new__(cls)
        self._call = (args, facts)
        return self

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.args = (message,)
        self.hint = hint
        if hint:
            self.add_note(f"hint: {hint}")

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), *self._call), {"__notes__": [*getattr(self, "__notes__", [])]}


def _rebuild(cls: type[PipecapError], args: tuple[object, ...], facts: dict[str, object]) -> PipecapError:
    return cls(*args, **facts)  # type: ignore[arg-type] # the very arguments that built the original


class InvalidSize(PipecapError, ValueError):
    """A size that is no size: a wrong type, text that does not parse, a number out of range."""

    def __init__(self, size: object, why: str, *, hint: str = 'bytes as an int, or text such as "64K", "1MiB", "1MB"'):
        super().__init__(f"invalid size {_short(size)}: {why}", hint=hint)

    def __reduce__(self) -> tuple[object, ...]:
        (size, *rest), facts = self._call
        return _rebuild, (type(self), (_Shown(_short(size)), *rest), facts)  # the object itself may not pickle


class InvalidValue(PipecapError, ValueError, TypeError):
    """An argument of the wrong kind, or out of its range; `parameter` is its name."""

    def __init__(self, parameter: str, value: object, why: str, *, hint: str = "") -> None:
        super().__init__(f"{parameter} must be {why}, not {_short(value)}", hint=hint)
        self.parameter = parameter

    def __reduce__(self) -> tuple[object, ...]:
        (parameter, value, *rest), facts = self._call
        return _rebuild, (type(self), (parameter, _Shown(_short(value)), *rest), facts)


class NotPicklable(PipecapError, PicklingError, TypeError):
    """An object that cannot travel through a queue; `__cause__` is what its pickling raised."""

    def __init__(self, what: str, cause: object) -> None:
        super().__init__(
            f"a {what} cannot be pickled: {cause}",
            hint="send plain data, or objects of classes that can be imported by name",
        )

    def __reduce__(self) -> tuple[object, ...]:
        (what, cause), facts = self._call
        return _rebuild, (type(self), (what, str(cause)), facts)  # what is not picklable must not stop its error


class NotAPipe(PipecapError, TypeError):
    """The target leads to no pipe: a socket, a closed descriptor, an object that holds none."""

    def __init__(
        self, what: str, why: str, *, hint: str = "see pipecap.pipes_of() for what counts as a target"
    ) -> None:
        super().__init__(f"{what} {why}", hint=hint)


_ERRNO_OF = {
    "max-size": errno.EPERM,
    "quota": errno.EPERM,
    "busy": errno.EBUSY,
    "invalid": errno.EINVAL,
    "memory": errno.ENOMEM,
    "unsupported": errno.EOPNOTSUPP,
    "unknown": errno.EPERM,
}


class ResizeRefused(PipecapError, OSError):
    """The kernel refused a capacity.

    `reason` is one of "max-size" (above pipe-max-size), "quota" (pipe-user-pages-soft or -hard), "busy" (more slots in
    use than the new size has), "invalid" (no size the kernel takes), "memory" (no memory for the slots), "unsupported"
    (a pipe that cannot be resized at all) and "unknown" (max-size or quota, where /proc does not tell the limits).
    `limit` names the sysctl that was hit and `limit_value` is its content; both None where no sysctl is behind it or
    where it cannot be read. `requested` and `capacity` are bytes; `capacity` is what the pipe still has.
    """

    def __init__(
        self,
        reason: str,
        why: str,
        *,
        requested: int,
        capacity: int | None = None,
        limit: str | None = None,
        limit_value: int | None = None,
        hint: str = "",
    ) -> None:
        kept = "" if capacity is None else f"; it keeps its {capacity:,} bytes"
        super().__init__(f"a pipe of {_bytes(requested)} was refused ({reason}): {why}{kept}", hint=hint)
        self.reason = reason
        self.requested = requested
        self.capacity = capacity
        self.limit = limit
        self.limit_value = limit_value
        self.errno = _ERRNO_OF[reason]


class NoScratchPipe(PipecapError, OSError):
    """A measurement could not get a pipe of its own: no descriptors left, or over the hard quota."""

    def __init__(self, number: int) -> None:
        hints = {
            errno.EMFILE: "this process is out of descriptors: close some, or raise `ulimit -n`",
            errno.ENFILE: "this user is over fs.pipe-user-pages-hard, or the host over fs.file-max: close pipes",
        }
        super().__init__(f"no scratch pipe to measure with: {os.strerror(number)}", hint=hints.get(number, ""))
        self.errno = number


class Unsupported(PipecapError, RuntimeError):
    """Not available on this host or in this build."""


class ProcessGone(PipecapError, ProcessLookupError):
    """The process ended, or never was."""

    def __init__(self, pid: int, *, hint: str = "list what runs now with `ps -e`") -> None:
        super().__init__(f"no process {_short(pid)}", hint=hint)
        self.pid = pid
        self.errno = errno.ESRCH


class AccessDenied(PipecapError, PermissionError):
    """The kernel does not let this user look there; the hint names the privilege that would help."""

    def __init__(self, message: str, *, hint: str = "run as the user who owns it, or with CAP_SYS_PTRACE") -> None:
        super().__init__(message, hint=hint)
        self.errno = errno.EACCES


_CUT_SHORT_HINT = "what was whole came out before; look at how the producer ended: its exit code, the kernel's OOM log"


class DrainTimeout(PipecapError, TimeoutError):
    """The producers did not end in time. `pids` are those that still run, `items` what join() had read."""

    def __init__(self, pids: Sequence[int] = ()) -> None:
        who = ", ".join(map(str, pids)) or "none, but the queue is not empty"
        super().__init__(
            f"not all producers ended in time; still running: {who}",
            hint="what came out before is valid: continue with another drain(), or ask `python -m pipecap doctor PID`",
        )
        self.pids = tuple(pids)
        self.items: list[object] = []


class TruncatedItem(PipecapError, OSError, EOFError):
    """An item was cut short: its producer died, or closed its end, in the middle of it.

    All whole items came out before this was raised; of join() they are in `items`. It is an OSError too: that is what
    the standard library raises.
    """

    items: Sequence[object] = ()

    def __init__(self, message: str = "got end of file during message", *, hint: str = _CUT_SHORT_HINT) -> None:
        super().__init__(message, hint=hint)


class LostItem(PipecapError, EOFError):
    """Items are lost: a process died with them in its hands. `count` is how many.

    Each is reported once; all others come out as ever. Of join() what came out before is in `items`.
    """

    items: Sequence[object] = ()

    def __init__(self, count: int = 1) -> None:
        what = "an item is" if count == 1 else f"{count:,} items are"
        super().__init__(
            f"{what} lost: a process died with {'it' if count == 1 else 'them'}",
            hint="look at how it ended: its exit code, the kernel's OOM log; then put again what is missing",
        )
        self.count = count


class WorkerLost(PipecapError, RuntimeError):
    """A worker of a pool ended while it had a task.

    `pid` and `exitcode` are the worker's (negative: the signal that killed it), None where they are not known; `task`
    is which task it was, in words.
    """

    def __init__(self, pid: int | None, exitcode: int | None, task: str) -> None:
        super().__init__(
            f"{_worker(pid)} {_ended(exitcode)} while it had {task}",
            hint="the pool continues with a new worker; a task that kills its worker each time must not be put again",
        )
        self.pid = pid
        self.exitcode = exitcode
        self.task = task


class PoolBroken(WorkerLost):
    """The pool has no workers and starts no more: what was not done raises this, and so do later calls.

    `why` is the reason. `pid` and `exitcode` are those of the last worker that ended before it asked for a task, None
    where that is not why. `task` is empty.
    """

    def __init__(
        self,
        why: str,
        *,
        pid: int | None = None,
        exitcode: int | None = None,
        hint: str = "look at what its workers print to stderr, and at its initializer; then make a new pool",
    ) -> None:
        last = "" if pid is None else f"; the last one, {_worker(pid)}, {_ended(exitcode)}"
        PipecapError.__init__(self, f"the pool is broken: {why}{last}", hint=hint)
        self.why = why
        self.pid = pid
        self.exitcode = exitcode
        self.task = ""


def _worker(pid: int | None) -> str:
    return "a worker" if pid is None else f"worker {pid}"


def _ended(exitcode: int | None) -> str:
    if exitcode is None:
        return "ended"
    return f"was killed by signal {-exitcode}" if exitcode < 0 else f"exited with status {exitcode}"


class BadFrame(PipecapError, OSError):
    """What arrived is no message of multiprocessing, and where the next one begins is unknown.

    `items` is what join() had read before.
    """

    items: Sequence[object] = ()

    def __init__(
        self,
        message: str = "bad message length: the bytes that arrived are no message of multiprocessing",
        *,
        hint: str = "something else writes to this pipe, or a reader took part of a message; make a new one",
    ) -> None:
        super().__init__(message, hint=hint)


class _Shown(str):
    """Text that is its own repr: stands for an object in an error that was pickled."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _short(value: object, longest: int = 60) -> str:
    if isinstance(value, int) and value.bit_length() > 200:
        return f"an int of {value.bit_length():,} bits"  # CPython refuses to write out the largest
    try:
        text = repr(value)
    except Exception:  # its own code
        text = f"a {type(value).__name__}"
    return text if len(text) <= longest else f"{text[:longest]}... ({type(value).__name__})"


def _bytes(size: int) -> str:
    return f"{size:,} bytes" if size.bit_length() <= 200 else f"bytes: {_short(size)}"
