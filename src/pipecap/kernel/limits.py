"""What this host allows a pipe to be: sysctls, privileges, the quota's headroom; why a resize was refused.

fs/pipe.c, pipe_set_size(): growing past fs.pipe-max-size takes CAP_SYS_RESOURCE; growing while the user's pipes hold
more than fs.pipe-user-pages-soft or -hard takes CAP_SYS_RESOURCE or CAP_SYS_ADMIN. Both are looked up with capable(),
that is in the initial user namespace: root of a container with a user namespace of its own has neither.
"""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass

from pipecap._native import ffi, lib
from pipecap.errors import ResizeRefused, Unsupported
from pipecap.kernel.slots import DEFAULT_SLOTS, LARGEST_PIPE, round_capacity
from pipecap.results import Result

PAGE_SIZE = os.sysconf("SC_PAGESIZE")
NO_PIPE_SIZE_HINT = "F_GETPIPE_SZ is Linux only (2.6.35 and later); fill probes work everywhere: pipecap.measure()"

# include/uapi/linux/capability.h
_CAP_SYS_ADMIN = 21
_CAP_SYS_RESOURCE = 24
# include/linux/proc_ns.h: PROC_USER_INIT_INO, the inode of the initial user namespace on every Linux.
_INITIAL_USER_NAMESPACE = 0xEFFFFFFD
# A run over the default quota (64 pipes of 1 MiB) ends by itself well before; this bounds how long others are held up.
_HEADROOM_DEADLINE_NS = 4_000_000
# On a busy host a run may be put aside until its deadline has passed; the next one seldom is.
_HEADROOM_ATTEMPTS = 5

# A child forked by another thread while the quota is taken would keep it for as long as it lives.
_no_fork = threading.Lock()
os.register_at_fork(before=_no_fork.acquire, after_in_parent=_no_fork.release, after_in_child=_no_fork.release)


@dataclass(frozen=True, slots=True)
class HostLimits(Result):
    """The limits on pipes and who is exempt. None is "could not be read"; `unknown` says why, by field name.

    `pipe_max_size` is bytes; `user_pages_soft` and `user_pages_hard` are pages of all pipes a user made (0: no limit).
    `initial_user_namespace`: whether privileges of this process count with the kernel at all. The `exempt_` fields are
    what follows: growth past pipe_max_size, growth past the quota.
    """

    page_size: int
    pipe_max_size: int | None
    user_pages_soft: int | None
    user_pages_hard: int | None
    cap_sys_resource: bool | None
    cap_sys_admin: bool | None
    initial_user_namespace: bool | None
    exempt_from_max_size: bool | None
    exempt_from_quota: bool | None
    unknown: dict[str, str]


@dataclass(frozen=True, slots=True)
class Headroom(Result):
    """Pages this user's pipes may still take; a single one, with which no pipe can grow, counts as none.

    `pages` is None for who is `exempt` (a privilege, or no quota set: `reason` says which) and where it could not be
    measured. With `exact` false it is a lower bound, `reason` says what stopped the count. `elapsed_ns` is how long the
    pages were held.
    """

    pages: int | None
    exempt: bool
    exact: bool
    reason: str
    elapsed_ns: int


def limits(*, proc: str = "/proc") -> HostLimits:
    """Read the limits on pipes and the privileges of this thread.

    Never raises for a file that is missing or closed to us (gVisor, hidepid, masked /proc): that field is None and
    stands in `unknown`. `proc` is where procfs is mounted.
    """
    unknown: dict[str, str] = {}

    def sysctl(field: str, name: str) -> int | None:
        path = f"{proc}/sys/fs/{name}"
        try:
            with open(path) as file:
                return int(file.read())
        except (OSError, ValueError) as error:
            unknown[field] = f"{path}: {_why(error)}"
            return None

    pipe_max_size = sysctl("pipe_max_size", "pipe-max-size")
    soft = sysctl("user_pages_soft", "pipe-user-pages-soft")
    hard = sysctl("user_pages_hard", "pipe-user-pages-hard")

    capabilities: int | None = None
    try:
        capabilities = _effective_capabilities(f"{proc}/thread-self/status")
    except (OSError, ValueError) as error:
        why = f"{proc}/thread-self/status: {_why(error)}"
        unknown |= {"cap_sys_resource": why, "cap_sys_admin": why}
    resource = None if capabilities is None else bool(capabilities >> _CAP_SYS_RESOURCE & 1)
    admin = None if capabilities is None else bool(capabilities >> _CAP_SYS_ADMIN & 1)

    initial: bool | None = None
    try:
        initial = os.stat(f"{proc}/self/ns/user").st_ino == _INITIAL_USER_NAMESPACE
    except OSError as error:
        unknown["initial_user_namespace"] = f"{proc}/self/ns/user: {_why(error)}"

    exempt_from_max_size = _all(initial, resource)
    exempt_from_quota = _all(initial, _any(resource, admin))
    for field, value in (("exempt_from_max_size", exempt_from_max_size), ("exempt_from_quota", exempt_from_quota)):
        if value is None:
            unknown[field] = "the privileges above are not known"
    return HostLimits(
        page_size=PAGE_SIZE,
        pipe_max_size=pipe_max_size,
        user_pages_soft=soft,
        user_pages_hard=hard,
        cap_sys_resource=resource,
        cap_sys_admin=admin,
        initial_user_namespace=initial,
        exempt_from_max_size=exempt_from_max_size,
        exempt_from_quota=exempt_from_quota,
        unknown=unknown,
    )


def headroom() -> Headroom:
    """Measure how many pages this user's pipes may still take before the quota refuses growth.

    Grows scratch pipes until the kernel says no, then gives all back, in one native call of at most about 5 ms. While
    it lasts, pipe-max-size is free for other processes of the user, but for some microseconds in which nothing is: a
    pipe that one of them makes just then gets two pages. A call that ran out of time is repeated a few times. Takes
    nothing at all for who is exempt. Raises Unsupported on a build without F_SETPIPE_SZ.
    """
    return headroom_within(limits())


def headroom_within(host: HostLimits) -> Headroom:
    """Measure headroom() for a caller who has read the limits already."""
    if not lib.pipecap_has_pipe_size():
        raise Unsupported("pipes have no quota here", hint=NO_PIPE_SIZE_HINT)
    if host.exempt_from_quota:
        privilege = "CAP_SYS_RESOURCE" if host.cap_sys_resource else "CAP_SYS_ADMIN"
        return Headroom(pages=None, exempt=True, exact=True, reason=f"{privilege} lifts the quota", elapsed_ns=0)
    if host.user_pages_soft == 0 and host.user_pages_hard == 0:
        return Headroom(pages=None, exempt=True, exact=True, reason="no quota is set", elapsed_ns=0)
    largest = host.pipe_max_size or DEFAULT_SLOTS * PAGE_SIZE
    if largest < 2 * PAGE_SIZE:
        return _unmeasured("fs.pipe-max-size lets no pipe grow")
    found = ffi.new("struct pipecap_headroom *")
    for _ in range(_HEADROOM_ATTEMPTS):
        with _no_fork:
            error = lib.pipecap_headroom(largest // PAGE_SIZE, _HEADROOM_DEADLINE_NS, found)
        if error or found.stopped_by not in (errno.ETIME, errno.EAGAIN):
            break
    if error:
        return _unmeasured(os.strerror(-error))
    return Headroom(
        pages=found.pages,
        exempt=False,
        exact=bool(found.exact),
        reason="" if found.exact else _STOPPED_BY.get(found.stopped_by) or os.strerror(found.stopped_by),
        elapsed_ns=found.elapsed_ns,
    )


def _unmeasured(reason: str) -> Headroom:
    return Headroom(pages=None, exempt=False, exact=False, reason=reason, elapsed_ns=0)


_STOPPED_BY = {
    errno.ETIME: "stopped at its time limit",
    errno.EAGAIN: "other processes gave pages back meanwhile",
    errno.E2BIG: "stopped at 256 scratch pipes",
    errno.EMFILE: "out of descriptors for scratch pipes",
}


def refusal(number: int, requested: int, *, capacity: int, maker: int | None, host: HostLimits) -> ResizeRefused:
    """Tell why F_SETPIPE_SZ of `requested` bytes failed with errno `number`.

    The kernel says EPERM for three causes; which one it was follows from the order of its checks. `capacity` is what
    the pipe had, `maker` the uid its pages are charged to: who made it, not who holds it; None for a FIFO.
    """
    rounded = round_capacity(requested, host.page_size)

    def refused(
        reason: str, why: str, *, hint: str, limit: str | None = None, value: int | None = None
    ) -> ResizeRefused:
        return ResizeRefused(
            reason, why, requested=requested, capacity=capacity, limit=limit, limit_value=value, hint=hint
        )

    if rounded is None or number == errno.EINVAL:
        return refused(
            "invalid",
            f"the kernel takes 0 to {LARGEST_PIPE:,} bytes",
            hint="ask for a power of two between a page and fs.pipe-max-size",
        )
    if number == errno.EBUSY and rounded < capacity:
        slots = rounded // host.page_size
        return refused(
            "busy",
            f"unread data hold more slots than the {slots:,} of the new size",
            hint="read from the pipe first, or ask for more: slots count, not bytes",
        )
    if number == errno.ENOMEM:
        return refused("memory", "the kernel has no memory for that many slots", hint="ask for less; 1 MiB is plenty")
    if number != errno.EPERM:
        return refused("unsupported", os.strerror(number), hint="notification pipes have a fixed size")
    if host.pipe_max_size is not None and rounded > host.pipe_max_size and not host.exempt_from_max_size:
        return refused(
            "max-size",
            f"fs.pipe-max-size is {host.pipe_max_size:,}, and this process lacks CAP_SYS_RESOURCE{_outside(host)}",
            limit="fs.pipe-max-size",
            value=host.pipe_max_size,
            hint=f"as root: sysctl fs.pipe-max-size={rounded}; or best effort takes what there is",
        )
    if host.pipe_max_size is None and not host.exempt_from_max_size:
        return refused(
            "unknown",
            f"above fs.pipe-max-size or over the quota; which, is not to be seen ({host.unknown.get('pipe_max_size')})",
            hint="best effort takes what there is",
        )
    no_quota = host.exempt_from_quota or (host.user_pages_soft == 0 and host.user_pages_hard == 0)
    if no_quota or rounded <= capacity:
        return refused(
            "unsupported",
            "no limit of pipes explains it, so a security policy forbids it (seccomp, an LSM, a sandbox)",
            hint="look at the policy of the container or service",
        )
    limit, value = _binding_quota(host)
    who = "who opened this FIFO first" if maker is None else f"uid {maker}, as this one was,"
    pages = "no more" if value is None else f"no more than {value:,}"
    return refused(
        "quota",
        f"all pipes made by {who} may hold {pages} pages"
        f" ({limit or 'fs.pipe-user-pages-soft or -hard'}){_outside(host)}",
        limit=limit,
        value=value,
        hint="close pipes of that user, raise the limit with sysctl as root, or run with CAP_SYS_RESOURCE",
    )


def _binding_quota(host: HostLimits) -> tuple[str | None, int | None]:
    """Name the quota that refuses first: the smaller of those that are set."""
    quotas = (("fs.pipe-user-pages-soft", host.user_pages_soft), ("fs.pipe-user-pages-hard", host.user_pages_hard))
    if any(value is None for _, value in quotas):
        return None, None
    return min(((name, value) for name, value in quotas if value), key=lambda quota: quota[1], default=(None, None))


def _outside(host: HostLimits) -> str:
    privileged = host.cap_sys_resource or host.cap_sys_admin
    if host.initial_user_namespace is False and privileged:
        return "; the privileges of this user namespace do not count with the kernel here"
    return ""


def _effective_capabilities(path: str) -> int:
    with open(path) as file:
        for line in file:
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    raise ValueError("no CapEff line")


def _why(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _all(*values: bool | None) -> bool | None:
    """Combine by a three-valued and: one certain False decides."""
    if False in values:
        return False
    return None if None in values else True


def _any(*values: bool | None) -> bool | None:
    """Combine by a three-valued or: one certain True decides."""
    if True in values:
        return True
    return None if None in values else False
