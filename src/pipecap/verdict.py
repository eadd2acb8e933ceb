"""From facts to plain words: what is wrong with the pipes of this host, and the next command or line of code. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pipecap.kernel.limits import Headroom, HostLimits
from pipecap.kernel.slots import DEFAULT_SLOTS, HEADER
from pipecap.results import Result


@dataclass(frozen=True, slots=True)
class Advice(Result):
    """One thing to know: `level` is "ok", "note" or "problem", `action` the next command or line of code."""

    level: str
    text: str
    action: str


def advise(host: HostLimits, left: Headroom | None, *, nominal: int | None, accepted: int) -> tuple[Advice, ...]:
    """Judge a host by its limits, its headroom and what a new pipe gets: `nominal` and `accepted` bytes.

    Problems first; the last one is about what fits, for every host has that edge.
    """
    if nominal is None:
        return (_no_pipe_size(), *_unknown(host))
    found = [
        *(_shrunken(host, left, nominal) or _growth(host, left, nominal)),
        *_differs(nominal, accepted),
        *_container(host),
        *_unknown(host),
        _edge(nominal),
    ]
    rank = {"problem": 0, "ok": 1, "note": 2}
    return tuple(sorted(found, key=lambda advice: rank[advice.level]))


def _no_pipe_size() -> Advice:
    return Advice(
        "problem",
        "This system cannot ask for or set a pipe's capacity (no F_GETPIPE_SZ); only fill probes work.",
        "python -c 'import pipecap; print(pipecap.measure())'",
    )


def _shrunken(host: HostLimits, left: Headroom | None, nominal: int) -> list[Advice]:
    """Tell a pipe made small by the soft quota: alloc_pipe_info() does that when 16 slots more would exceed it."""
    expected = DEFAULT_SLOTS * host.page_size
    if host.pipe_max_size is not None and not host.exempt_from_max_size:
        expected = min(expected, host.pipe_max_size)
    if nominal >= expected:
        return []
    quota = "" if host.user_pages_soft is None else f" of {host.user_pages_soft:,} pages"
    rest = f" ({left.pages:,} pages are left)" if left and left.pages else ""
    raised = 4 * (host.user_pages_soft or 16384)
    above = f", and fs.pipe-user-pages-hard={raised}" if 0 < (host.user_pages_hard or 0) < raised else ""
    return [
        Advice(
            "problem",
            f"New pipes get {nominal:,} bytes instead of {expected:,}: this user's pipes have used up the soft quota"
            f"{quota}{rest}. It counts all processes and containers of the uid; every new queue is small, and none can"
            " grow far.",
            f"close unused queues and pools, or as root: sysctl fs.pipe-user-pages-soft={raised}{above}",
        )
    ]


def _differs(nominal: int, accepted: int) -> list[Advice]:
    if accepted == nominal:
        return []
    return [
        Advice(
            "problem",
            f"A pipe of {nominal:,} bytes took {accepted:,}: this kernel does not fill pipes as Linux does"
            " (a sandbox?). Trust the measured figures, not the predicted ones.",
            "python -c 'import pipecap; print(pipecap.measure(1))'",
        )
    ]


def _growth(host: HostLimits, left: Headroom | None, nominal: int) -> list[Advice]:
    """Tell how far a queue may grow: up to pipe-max-size, as often as the quota allows."""
    if host.pipe_max_size is None:
        return []
    if host.exempt_from_max_size:
        return [_grows(f"A queue's pipe holds {nominal:,} bytes and can grow; no limit holds for this process.")]
    if host.pipe_max_size <= nominal:
        large = f" ({host.page_size // 1024} KiB pages)" if host.page_size > 4096 else ""
        return [
            Advice(
                "problem",
                f"Queues cannot grow: a new pipe has all {host.pipe_max_size:,} bytes of fs.pipe-max-size{large}.",
                f"as root: sysctl fs.pipe-max-size={16 * host.pipe_max_size}",
            )
        ]
    largest = host.pipe_max_size // host.page_size
    growth = largest - nominal // host.page_size
    if left and left.pages is not None and left.exact and left.pages < growth:
        return [
            Advice(
                "problem",
                f"The quota has {left.pages:,} pages left: no queue of this user can grow to "
                f"{host.pipe_max_size:,} bytes ({growth:,} pages more).",
                "who holds pipes: lsof -nu $(id -u) | awk '/FIFO/ {print $1, $2}' | sort | uniq -c | sort -n",
            )
        ]
    grows = f"A queue's pipe holds {nominal:,} bytes and can grow to {host.pipe_max_size:,}"
    return [_grows(f"{grows}; {_how_many(left, largest)}.")]


def _how_many(left: Headroom | None, largest: int) -> str:
    """Say how many queues of the `largest` number of pages the quota takes."""
    if left and left.exempt:
        return "the quota does not count for this process"
    if left is None or left.pages is None:
        return "how many is unknown"
    if not left.exact:
        return f"the quota has {left.pages:,} pages left or more ({left.reason})"
    return f"the quota takes {left.pages // largest:,} more of that size"


def _grows(text: str) -> Advice:
    return Advice("ok", text, 'pipecap.resize(queue, "1M", best_effort=True)')


def _container(host: HostLimits) -> list[Advice]:
    if host.initial_user_namespace is False and (host.cap_sys_resource or host.cap_sys_admin):
        return [
            Advice(
                "note",
                "This is a user namespace: root here is not root to the kernel, so pipe-max-size and the quota hold,"
                " and the quota is shared with all that runs under the same uid outside.",
                "raise the limits on the host, not in the container",
            )
        ]
    return []


def _edge(nominal: int) -> Advice:
    largest = nominal - HEADER
    return Advice(
        "note",
        f"An item above {largest:,} pickled bytes does not fit an empty queue: a process that puts one cannot exit "
        "until somebody reads it, and a parent that joins before it gets hangs.",
        f"python -m pipecap fit {largest + 1}",
    )


def _unknown(host: HostLimits) -> list[Advice]:
    if not host.unknown:
        return []
    return [
        Advice(
            "note",
            f"Not known here: {', '.join(sorted(host.unknown))}.",
            "python -m pipecap --json shows why, under limits.unknown",
        )
    ]
