"""The checks of what callers pass: a PID, a time."""

from __future__ import annotations

import os

from pipecap.errors import InvalidValue, ProcessGone
from pipecap.proc import procfs

_HOUR = 3600


def require_process(pid: object, proc: str = "/proc") -> None:
    """Raise InvalidValue for what is no PID, ProcessGone for that of no process, Unsupported without procfs."""
    procfs.require_procfs(proc)
    if type(pid) is not int or not 0 < pid < 2**31:
        raise InvalidValue("pid", pid, "a whole number above 0", hint="list what runs now with `ps -e`")
    if not os.path.exists(f"{proc}/{pid}"):
        raise ProcessGone(pid)


def require_seconds(name: str, seconds: object, *, usual: float, zero: bool = False, most: float = _HOUR) -> None:
    """Raise InvalidValue for what is no time: more than 0 seconds, or 0 where `zero` is allowed, below `most`."""
    if isinstance(seconds, int | float) and not isinstance(seconds, bool):
        if 0 < seconds < most or (zero and seconds == 0):
            return
    few = "0 seconds or more" if zero else "more than 0 seconds"
    limit = " and less than an hour" if most == _HOUR else ""
    raise InvalidValue(name, seconds, few + limit, hint=f"{usual:g} is usual")
