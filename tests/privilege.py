"""Be somebody else: run a function in a forked child as another user, or with fewer capabilities."""

from __future__ import annotations

import ctypes
import itertools
import os
import pickle
import resource
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from unittest import SkipTest

from alone import alone

Result = TypeVar("Result")

CAP_DAC_READ_SEARCH = 2
CAP_SYS_ADMIN = 21
CAP_SYS_RESOURCE = 24
ALL_CAPABILITIES = (1 << 41) - 1
DEADLINE = 30.0

_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_LINUX_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
# PIDs end at 4,194,304, uids at 2**32 - 2.
_unused_uids = itertools.count(1_000_000_000 + 500 * os.getpid())
DESCRIPTORS = 1500


def is_root() -> bool:
    return os.geteuid() == 0


def effective_capabilities() -> int:
    with open("/proc/thread-self/status") as status:
        return next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))


def has_capability(capability: int) -> bool:
    return bool(effective_capabilities() >> capability & 1)


def unused_uid() -> int:
    """Give a uid nobody has, so that its pipe quota is untouched."""
    return next(_unused_uids)


def become_unprivileged(uid: int | None = None, *, keep: int = 0) -> None:
    """Become an ordinary user for good; `keep` is a mask of capabilities to keep, also over exec."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < DESCRIPTORS:
        raise SkipTest(f"takes {DESCRIPTORS:,} descriptors to use up the quota; `ulimit -Hn` allows {hard:,}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    if not is_root():
        return
    uid = unused_uid() if uid is None else uid
    _prctl(_PR_SET_KEEPCAPS, 1)
    try:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise SkipTest(f"this user namespace has no other user: {error}") from None
    set_capabilities(keep)
    for capability in range(41):
        if keep >> capability & 1:
            _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)
    _prctl(_PR_SET_DUMPABLE, 1)  # else /proc/self/fd belongs to root


def drop_capability(capability: int) -> None:
    set_capabilities(effective_capabilities() & ~(1 << capability))


def set_capabilities(mask: int) -> None:
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = (ctypes.c_uint32 * 6)(low, low, low, high, high, high)
    if _libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


def _prctl(*arguments: int) -> None:
    if _libc.prctl(*arguments, *[0] * (5 - len(arguments))):
        raise OSError(ctypes.get_errno(), "prctl")


def in_child(function: Callable[[], Result], *, become: Callable[[], None] = lambda: None) -> Result:
    """Run `function` in a forked child that called `become` first; give its result or raise its exception here."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        outcome: tuple[bool, object]
        try:
            become()
            outcome = True, function()
        except BaseException as error:
            outcome = False, error
        try:
            with open(write_end, "wb") as answer:
                pickle.dump(outcome, answer)
        finally:
            os._exit(0)
    os.close(write_end)
    try:
        with open(read_end, "rb") as answer:
            if not select.select([answer], [], [], DEADLINE)[0]:
                raise TimeoutError(f"the child did not answer within {DEADLINE} s")
            succeeded, value = pickle.load(answer)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if not succeeded:
        raise value
    return value  # type: ignore[no-any-return] # what the child's function gave


def unprivileged(function: Callable[[], Result]) -> Result:
    """Run `function` in a child as a user with a quota of its own, or as the ordinary user we are."""
    return in_child(function, become=become_unprivileged)


@contextmanager
def quota_used_up(*, pages_left: int = 0) -> Iterator[list[int]]:
    """Hold pipes until a new one is shrunk by the soft quota, then give `pages_left` pages back. Be unprivileged."""
    import fcntl

    page = os.sysconf("SC_PAGESIZE")
    held: list[int] = []
    with alone():
        try:
            while True:
                read_end, write_end = os.pipe()
                os.close(read_end)
                held.append(write_end)
                if fcntl.fcntl(write_end, fcntl.F_GETPIPE_SZ) < 16 * page:
                    break
            while pages_left > 0:
                pages_left -= fcntl.fcntl(held[0], fcntl.F_GETPIPE_SZ) // page
                os.close(held.pop(0))
            yield held
        finally:
            for fd in held:
                os.close(fd)
