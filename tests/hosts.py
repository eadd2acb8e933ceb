"""Hand-made hosts: limits as they are elsewhere."""

from __future__ import annotations

from pipecap import HostLimits


def host(**facts: object) -> HostLimits:
    usual: dict[str, object] = {
        "page_size": 4096,
        "pipe_max_size": 2**20,
        "user_pages_soft": 16384,
        "user_pages_hard": 0,
        "cap_sys_resource": False,
        "cap_sys_admin": False,
        "initial_user_namespace": True,
        "exempt_from_max_size": False,
        "exempt_from_quota": False,
        "unknown": {},
    }
    return HostLimits(**{**usual, **facts})  # type: ignore[arg-type]
