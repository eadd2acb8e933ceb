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
    found = (
        [_no_pipe_size()]
        if nominal is None
        else [
            *_shrunken(host, nominal),
            *_differs(nominal, accepted),
            *_growth(host, left, nominal),
            *_container(host),
            _edge(host, nominal),
        ]
    )
    if host.unknown:
        found.insert(-1, _unknown(host))
    rank = {"problem": 0, "ok": 1, "note": 2}
    return tuple(sorted(found, key=lambda advice: rank[advice.level]))


def _no_pipe_size() -> Advice:
    return Advice(
        "problem",
        "This system cannot ask for or set a pipe's capacity (no F_GETPIPE_SZ); only fill probes work.",
        "python -c 'import pipecap; print(pipecap.measure())'",
    )


def _shrunken(host: HostLimits, nominal: int) -> list[Advice]:
    expected = DEFAULT_SLOTS * host.page_size
    if host.pipe_max_size is not None and not host.exempt_from_max_size:
        expected = min(expected, host.pipe_max_size)
    if nominal >= expected:
        return []
    quota = "" if host.user_pages_soft is None else f" of {host.user_pages_soft:,} pages"
    return [
        Advice(
            "problem",
            f"New pipes get {nominal:,} bytes instead of {expected:,}: the user's pipes are over the soft quota{quota},"
            " which counts all processes and containers of the uid. Every new queue is that small, and none can grow.",
            "close unused queues and pools, or as root: "
            f"sysctl fs.pipe-user-pages-soft={4 * (host.user_pages_soft or 16384)}",
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
    """How far a queue may grow: up to pipe-max-size, as often as the quota allows."""
    if host.pipe_max_size is None:
        return []
    if host.pipe_max_size <= nominal and not host.exempt_from_max_size:
        return [
            Advice(
                "problem",
                f"Queues cannot grow: fs.pipe-max-size is {host.pipe_max_size:,} bytes, which a new pipe has already"
                + (f" ({host.page_size // 1024} KiB pages)." if host.page_size > 4096 else "."),
                f"as root: sysctl fs.pipe-max-size={16 * host.pipe_max_size}",
            )
        ]
    growth = (host.pipe_max_size - nominal) // host.page_size
    if left is None or left.exempt or left.pages is None:
        exempt = left is not None and left.exempt
        room = "the quota does not count for this process" if exempt else "how many is unknown"
        return [_grows(host, nominal, room)]
    if left.pages < growth:
        quality = "" if left.exact else "at least "
        return [
            Advice(
                "problem",
                f"The quota has {quality}{left.pages:,} pages left: no queue of this user can grow to "
                f"{host.pipe_max_size:,} bytes ({growth:,} pages more).",
                "see who holds pipes: lsof -u $(id -un) | grep -c FIFO",
            )
        ]
    more = f"{left.pages // growth:,} of them before the quota is used up"
    return [_grows(host, nominal, more if left.exact else f"at least {more}")]


def _grows(host: HostLimits, nominal: int, how_many: str) -> Advice:
    return Advice(
        "ok",
        f"A queue's pipe holds {nominal:,} bytes and can grow to {host.pipe_max_size:,}; {how_many}.",
        'pipecap.resize(queue, "1M", best_effort=True)',
    )


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


def _edge(host: HostLimits, nominal: int) -> Advice:
    largest = nominal - HEADER
    return Advice(
        "note",
        f"An item above {largest:,} pickled bytes does not fit an empty queue: a process that puts one cannot exit "
        "until somebody reads it, and a parent that joins before it gets hangs.",
        f"python -m pipecap fit {largest + 1}",
    )


def _unknown(host: HostLimits) -> Advice:
    return Advice(
        "note",
        f"Not known here: {', '.join(sorted(host.unknown))}.",
        "python -m pipecap --json shows why, under limits.unknown",
    )
