"""How large a pipe must become for its blocked writers to go on, and which limit is in the way.

One rule for what a finding promises (`rescuable`), what a dry run prints and what rescue() does. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipecap.diagnosis.finding import Party, PipeNow
from pipecap.kernel.limits import PAGE_SIZE, HostLimits
from pipecap.kernel.slots import round_capacity

# A sleeping sender is woken when what it has sent is a quarter of SO_SNDBUF (af_unix.c: unix_writable), and each piece
# that it sends has a head beside its data.
_SOCKET_WAKES, _SOCKET_OVERHEAD, _LAST_PIECE = 4, 2, 65536


@dataclass(frozen=True, slots=True)
class Plan:
    """`wanted`: bytes, None where no pipe takes it. `refused`: why a limit forbids it, `limit`: the sysctl."""

    wanted: int | None
    refused: str = ""
    limit: str | None = None

    @property
    def works(self) -> bool:
        """Whether it is allowed as far as can be told without trying."""
        return not self.refused


def plan(pipe: PipeNow, writers: Sequence[Party], host: HostLimits, socket_most: int | None) -> Plan:
    """Return how large one pipe must become for all writers that wait for room in it.

    `socket_most`: the largest SO_SNDBUF (proc/sockets.py). Where what is still to be written is not known (a poll for
    room), the double, but no further than the limit.
    """
    if pipe.capacity is None:
        return Plan(None, f"its {pipe.kind} cannot be opened: {pipe.unknown or 'unknown'}")
    capacity = max(pipe.capacity, PAGE_SIZE)
    to_go = [writer.to_go for writer in writers]
    known = sum(each for each in to_go if each)
    most, limit, exempt = host.pipe_max_size, "fs.pipe-max-size", bool(host.exempt_from_max_size)
    if pipe.kind == "socketpair":
        wanted: int | None = _SOCKET_WAKES * (capacity + _LAST_PIECE) + _SOCKET_OVERHEAD * known
        most, limit, exempt = socket_most, "net.core.wmem_max", False
    else:
        wanted = needed(capacity, known) if known else capacity
    if exempt:
        most = None
    if None in to_go and wanted is not None and pipe.kind != "socketpair":
        wanted = max(wanted, min(2 * capacity, most or 2 * capacity))
    if wanted is None:
        return Plan(None, "what is still to be written takes more than any pipe has")
    if most is not None and wanted > max(most, capacity):
        more = f"it takes a {pipe.kind} of at least {wanted:,} bytes, and {limit} allows {most:,}"
        return Plan(wanted, more, limit)
    if wanted <= capacity:
        return Plan(wanted, f"it has the largest size that {limit} allows: {most:,} bytes" if most else "", limit)
    return Plan(wanted)


def needed(capacity: int, to_go: int) -> int | None:
    """Return the capacity, of slots all in use, that takes `to_go` bytes more; None above what any pipe can have."""
    return round_capacity(capacity + -(-to_go // PAGE_SIZE) * PAGE_SIZE, PAGE_SIZE)
