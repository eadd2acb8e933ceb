"""How large a pipe must become, and whether that frees who waits for room in it."""

from __future__ import annotations

from pipecap.diagnosis.evidence import Evidence
from pipecap.diagnosis.patterns import Case
from pipecap.kernel.limits import PAGE_SIZE, HostLimits
from pipecap.kernel.slots import round_capacity


def needed(capacity: int, to_go: int) -> int | None:
    """Give the capacity, of slots all in use, that takes so many bytes more; None above what any pipe can have."""
    return round_capacity(capacity + -(-to_go // PAGE_SIZE) * PAGE_SIZE, PAGE_SIZE)


def rescuable(seen: Evidence, case: Case, host: HostLimits, pid: int | None) -> tuple[bool, str]:
    """Tell whether growing can free it, as far as can be told without trying."""
    if not case.writers:
        return False, "no pipe is full here: growing one helps nobody"
    most = None if host.exempt_from_max_size else host.pipe_max_size
    for writer in case.writers:
        file = seen.written(writer)
        if file.startswith("socket:"):
            return False, "it is a socketpair, which has no pipe to grow"
        state = seen.state(file)
        if state is None:
            return False, f"its pipe cannot be opened: {seen.states.get(file)}"
        to_go = max(1, (writer.wait.count or 1) - state.unread)
        wanted = needed(state.capacity, to_go)
        if wanted is None or (most is not None and wanted > max(most, state.capacity)):
            more = "more than any pipe takes" if wanted is None else f"a pipe of {wanted:,} bytes"
            limit = "" if most is None else f", and fs.pipe-max-size is {most:,}"
            return False, f"what is still to be written takes at least {more}{limit}"
    if any(seen.now.processes[pid].state in "Tt" for file in case.files for pid in seen.readers(file)):
        return False, "its reader is stopped, and goes on when it is let"
    return True, f"python -m pipecap rescue {pid or case.writers[0].pid}"
