"""One descriptor: capacity, unread bytes, state, resize.

Reading changes nothing: no flag of the caller's open file description is touched, and no pipe is ever shrunk to learn
something.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
from dataclasses import dataclass

from pipecap._native import lib
from pipecap.errors import NotAPipe, ResizeRefused, Unsupported
from pipecap.kernel.limits import NO_PIPE_SIZE_HINT, PAGE_SIZE, limits, refusal
from pipecap.kernel.sizes import parse_size
from pipecap.kernel.slots import LARGEST_PIPE, round_capacity
from pipecap.results import Result

_LARGEST_FD = 2**31 - 1


@dataclass(frozen=True, slots=True)
class PipeState(Result):
    """One pipe at one moment.

    `kind` is "pipe" or "fifo" (one with a name). `capacity` and `unread` are bytes, `capacity` is `slots` times
    `page_size`. `full`: no slot is free, so a write that does not merge would block; it can be so with a small
    `unread`. `inode` is the same at both ends and in every process. `full` is None where nobody can tell; `unknown`
    then says why, by field name.
    """

    kind: str
    capacity: int
    slots: int
    unread: int
    full: bool | None
    inode: int
    page_size: int
    unknown: dict[str, str]


def check_pipe(fd: int) -> os.stat_result:
    """Make sure that `fd` is an open pipe or FIFO of this process; NotAPipe tells what else it is."""
    if not 0 <= fd <= _LARGEST_FD:
        raise NotAPipe("this number", "is no descriptor", hint="descriptors are small non-negative integers")
    try:
        status = os.fstat(fd)
    except OSError as error:
        raise NotAPipe(f"fd {fd}", f"cannot be looked at: {error.strerror}", hint="was it closed already?") from None
    if stat.S_ISFIFO(status.st_mode):
        return status
    if stat.S_ISSOCK(status.st_mode):
        raise NotAPipe(
            f"fd {fd}",
            "is a socket: multiprocessing.Pipe() makes a socketpair, which has no pipe capacity",
            hint="Pipe(duplex=False) makes a real pipe",
        )
    raise NotAPipe(f"fd {fd}", f"is {_file_kind(status.st_mode)}, not a pipe")


def _file_kind(mode: int) -> str:
    kinds = {stat.S_IFREG: "a file", stat.S_IFDIR: "a directory", stat.S_IFCHR: "a character device"}
    return kinds.get(stat.S_IFMT(mode), "something else")


def capacity(fd: int) -> int:
    """Give the capacity in bytes; from either end. Raises NotAPipe, or Unsupported without F_GETPIPE_SZ."""
    size = lib.pipecap_capacity(fd) if 0 <= fd <= _LARGEST_FD else -errno.EBADF
    if size < 0:
        raise _unsupported("capacity", fd, -size)
    return size


def _unsupported(what: str, fd: int, number: int) -> Unsupported:
    """Tell why `fd` has no `what`; raises NotAPipe instead where it is no pipe, or none any more."""
    check_pipe(fd)
    hint = "an O_PATH descriptor or a sandbox's pipe has none: open the pipe itself"
    return Unsupported(
        f"no {what} of fd {fd}: {os.strerror(number)}", hint=NO_PIPE_SIZE_HINT if number == errno.ENOTSUP else hint
    )


def unread(fd: int) -> int:
    """Give the unread bytes (FIONREAD), from either end. Raises NotAPipe."""
    check_pipe(fd)
    count = lib.pipecap_unread(fd)
    if count < 0:
        raise _unsupported("unread count", fd, -count)
    return count


def state(fd: int) -> PipeState:
    """Give capacity, unread bytes and whether the pipe is full, as they are now.

    The kernel shows fullness to a write end only (poll(2), POLLOUT). For a read end of an anonymous pipe that still
    has a writer, one more write end is held for some microseconds; in every other case `full` may be None.
    """
    status = check_pipe(fd)
    size = capacity(fd)
    waiting = unread(fd)
    anonymous = is_anonymous(fd)
    full, why = _full(fd, waiting, anonymous=anonymous)
    return PipeState(
        kind="pipe" if anonymous else "fifo",
        capacity=size,
        slots=size // PAGE_SIZE,
        unread=waiting,
        full=full,
        inode=status.st_ino,
        page_size=PAGE_SIZE,
        unknown={"full": why} if why else {},
    )


def is_anonymous(fd: int) -> bool:
    """Whether a pipe came from pipe(2) and has no name. Raises Unsupported where the system does not tell."""
    answer = lib.pipecap_is_anonymous(fd)
    if answer < 0:
        raise _unsupported("kind", fd, -answer)
    return bool(answer)


def writable(fd: int) -> bool:
    """Whether `fd` is a write end (or opened for both). Raises NotAPipe where it was closed meanwhile."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    except OSError as error:
        raise _unsupported("access mode", fd, error.errno or errno.EBADF) from None


def _full(fd: int, waiting: int, *, anonymous: bool) -> tuple[bool | None, str]:
    """Fullness, or None and why it cannot be told."""
    if writable(fd):
        return _poll_full(fd)
    if not waiting:
        return False, ""
    if not anonymous:
        return None, "only a write end shows it, and one more on a FIFO could release a reader that waits in open()"
    if not _has_writer(fd):
        return None, "only a write end shows it, and none is open"
    try:
        write_end = reopen_write_end(fd)
    except OSError as error:
        return None, f"only a write end shows it, and none can be opened: {error.strerror}"
    try:
        return _poll_full(write_end)
    finally:
        os.close(write_end)


def _poll_full(write_end: int) -> tuple[bool | None, str]:
    answer = lib.pipecap_full(write_end)
    return (bool(answer), "") if answer >= 0 else (None, os.strerror(-answer))


def _has_writer(read_end: int) -> bool:
    poll = select.poll()
    poll.register(read_end, 0)
    return not any(event & select.POLLHUP for _, event in poll.poll(0))


def reopen_write_end(fd: int) -> int:
    """Open one more write end of the pipe behind `fd`, non-blocking, on an open file description of its own.

    O_NONBLOCK lives on the description, which other processes may share: setting it on `fd` itself would change
    theirs. Raises OSError where procfs is missing or the pipe was made by another user. The caller closes it.
    """
    return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def resize(fd: int, size: int | str, *, best_effort: bool = False) -> int:
    """Set the capacity; give what the kernel granted: the next power of two, at least a page.

    Growing wakes a writer that is blocked on the pipe (Linux 5.5 and later); shrinking below the slots in use is
    refused, and an unprivileged user over the soft quota may not get back what was given up. With `best_effort` the
    pipe is never shrunk and a refusal is no error: the largest size the kernel grants is taken, or none. (The kernel
    has no compare-and-set: a size that somebody else sets in the microsecond between our look and our set is lost.)

    Raises NotAPipe, InvalidSize for what is no size, ResizeRefused with `.reason`, Unsupported without F_SETPIPE_SZ.
    """
    requested = _requested(size)
    before = capacity(fd)
    if best_effort:
        return _grow_as_far_as_granted(fd, requested, before)
    granted = _set(fd, requested)
    if granted < 0:
        raise _refused(fd, -granted, requested, before)
    return granted


def _requested(size: int | str) -> int:
    # A negative int is a size here, one the kernel refuses (EINVAL): ResizeRefused, not InvalidSize.
    return size if type(size) is int else parse_size(size)


def _set(fd: int, size: int) -> int:
    return lib.pipecap_resize(fd, size) if 0 <= size < 2**64 else -errno.EINVAL


def _refused(fd: int, number: int, requested: int, before: int) -> ResizeRefused:
    # A FIFO's pipe is charged to whoever opened it first, and nobody can tell who that was.
    maker = check_pipe(fd).st_uid if is_anonymous(fd) else None
    return refusal(number, requested, capacity=before, maker=maker, host=limits())


def _grow_as_far_as_granted(fd: int, requested: int, before: int) -> int:
    wanted = round_capacity(min(requested, LARGEST_PIPE), PAGE_SIZE)
    if wanted is None:
        raise _refused(fd, errno.EINVAL, requested, before)
    while wanted > (before := capacity(fd)):  # asked anew each time: somebody else may be growing it, too
        granted = _set(fd, wanted)
        if granted >= 0:
            return granted
        if granted not in (-errno.EPERM, -errno.ENOMEM):
            raise _refused(fd, -granted, requested, before)
        wanted //= 2
    return before
