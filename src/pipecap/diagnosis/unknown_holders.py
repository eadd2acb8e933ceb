"""Who could move a thread without being seen: what keeps a proof from being one.

A proof has to know all who hold an end of a pipe, or share a lock. These it cannot know: processes that may not be
looked into, ends on their way through a socket or held outside of a PID namespace, whoever opens a FIFO by its name.
Not seen at all: processes that share memory but are no threads (clone(2) with CLONE_VM alone).
"""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from functools import cached_property

from pipecap.proc import peek, procfs
from pipecap.proc.snapshot import End, Snapshot

_INIT = 1
# include/linux/proc_ns.h: PROC_PID_INIT_INO
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC


class Outsiders:
    """What is not known of one snapshot, and of the one before it."""

    def __init__(self, before: Snapshot, now: Snapshot) -> None:
        self._now = now
        self._holders = now.holders()
        self._closed = [process for process in now.processes.values() if process.closed]
        # Who held an end before and does not now may have handed it on to somebody not listed yet.
        self._let_go = {
            file
            for file, held in before.holders().items()
            if _held_by(before, held) - _held_by(now, self._holders.get(file, []))
        }
        self._known: dict[str, bool] = {}

    def may_hold(self, file: str) -> bool:
        """Whether somebody unknown may hold an end of a pipe."""
        if file not in self._known:
            self._known[file] = self._may_hold(file)
        return self._known[file]

    def _may_hold(self, file: str) -> bool:
        if not file.startswith("pipe:") or file in self._let_go or self._in_flight:
            return True
        holders = self._holders[file]
        return self._older_than_namespace(holders) or self.may_share(
            {pid for pid, _ in holders}, peek.owner(holders, proc=self._now.proc)
        )

    def may_share(self, pids: Collection[int], maker: int | None = None) -> bool:
        """Whether a process that may not be looked into could have got what some processes have.

        It could have inherited it if it descends from one of them or is of the same session, and have made it if it is
        an ancestor and of the user who did. To anybody else it would have to have been sent, which nobody does with a
        queue; and PID 1 hands its own to nobody whom it does not also wait for.
        """
        known = {pid for pid in pids if pid in self._now.processes}
        if self._hides and self._hidden_children(known):
            return True
        if not self._closed:
            return False
        # Made before its holders became who they are: others may have got it from there.
        if (
            maker is not None
            and all(self._now.processes[pid].uid != maker for pid in known)
            and any(process.pid != _INIT for process in self._closed)
        ):
            return True
        sessions = {self._now.processes[pid].session for pid in known}
        return any(
            process.session in sessions
            or self._descends(process.pid, known)
            or (
                process.uid == maker
                and process.pid != _INIT
                and any(self._descends(pid, {process.pid}) for pid in known)
            )
            for process in self._closed
        )

    def _descends(self, pid: int, ancestors: set[int]) -> bool:
        seen: set[int] = set()
        while pid in self._now.processes and pid not in seen:
            seen.add(pid)
            pid = self._now.processes[pid].ppid
            if pid in ancestors:
                return True
        return False

    @cached_property
    def _hides(self) -> bool:
        return self._now.hides or any(process.hidden for process in self._now.processes.values())

    @cached_property
    def _children(self) -> dict[int, list[int]]:
        """Each process's children, as its parent has them: also those that hidepid hides."""
        return {pid: list(procfs.children(pid, self._now.proc)) for pid in self._now.processes}

    def _hidden_children(self, pids: set[int]) -> bool:
        border, seen = [*pids], set(pids)
        while border:
            for child in self._children.get(border.pop(), ()):
                process = self._now.processes.get(child)
                if process is None or process.hidden:
                    return True
                if child not in seen:
                    seen.add(child)
                    border.append(child)
        return False

    @cached_property
    def _in_flight(self) -> bool:
        """Whether any descriptor is on its way through a Unix socket (SCM_RIGHTS; fdinfo tells since Linux 5.6)."""
        for file, held in self._holders.items():
            if file.startswith("socket:"):
                pid, end = held[0]
                with suppress(OSError, ValueError):
                    if int(procfs.fdinfo(pid, end.fd, self._now.proc).get("scm_fds", "0")):
                        return True
        return False

    @cached_property
    def _namespace_start(self) -> float | None:
        """Since when our PID namespace is, in seconds since 1970; None for the first one, from which all is seen."""
        try:
            if os.stat(f"{self._now.proc}/self/ns/pid").st_ino == _INITIAL_PID_NAMESPACE:
                return None
            return procfs.boot_time(self._now.proc) + self._now.processes[_INIT].start / os.sysconf("SC_CLK_TCK")
        except (OSError, KeyError, ValueError):
            return None

    def _older_than_namespace(self, holders: Collection[tuple[int, End]]) -> bool:
        """Whether a pipe was made before our PID namespace was, so that somebody outside may hold it."""
        if self._namespace_start is None:
            return False
        for pid, end in holders:
            with suppress(OSError):
                return os.stat(f"{self._now.proc}/{pid}/fd/{end.fd}").st_ctime < self._namespace_start
        return True


def _held_by(seen: Snapshot, held: Collection[tuple[int, End]]) -> set[tuple[int, int]]:
    return {(pid, seen.processes[pid].start) for pid, _ in held}
