"""Who could end a wait without being seen: what keeps a proof from being one.

A proof has to know all who hold an end of a pipe, or share a lock. An end is inherited at a fork, or passed through a
socket (SCM_RIGHTS) or by pidfd_getfd(2). A process that may not be read can have inherited it if it descends from the
lowest common ancestor of the known holders, or was started in their session since that one was: the relative that made
the pipe for both may have ended, or closed it. That a descriptor was passed to it is a footnote: nothing short of
reading all processes excludes it. Not seen at all: processes that share memory and are no threads (clone(2) with
CLONE_VM alone).
"""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from functools import cached_property

from pipecap.proc import peek, procfs, sockets
from pipecap.proc.files import File, Pipe, Socket
from pipecap.proc.snapshot import End, Snapshot

_INIT = 1
_SLACK = 200  # clock ticks: relatives are started about the same time
# include/linux/proc_ns.h: PROC_PID_INIT_INO
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC


class UnknownHolders:
    """What is not known of one snapshot, and of the one before it."""

    def __init__(self, before: Snapshot, now: Snapshot) -> None:
        self._now = now
        self._holders = now.holders()
        self._unreadable = [process for process in now.processes.values() if process.closed]
        # What was held before and is not now may have been handed on to a process not listed yet.
        self._let_go = {
            file
            for file, held in before.holders().items()
            if _held_by(before, held) - _held_by(now, self._holders.get(file, []))
        }
        self._known: dict[File, bool] = {}
        self.suspects: set[int] = set()  # that may not be read, and may hold or share what a thread waits for

    def may_hold(self, file: File) -> bool:
        """Whether an unknown process may hold an end of a pipe or a socket."""
        if file not in self._known:
            self._known[file] = self._may_hold(file)
        return self._known[file]

    def _may_hold(self, file: File) -> bool:
        if not isinstance(file, Pipe | Socket) or file in self._let_go:
            return True
        holders = self._holders.get(file, [])
        if self._may_be_in_flight({pid for pid, _ in holders}):
            return True
        maker = peek.owner(holders, proc=self._now.proc)
        return self._older_than_namespace(holders) or self.may_share({pid for pid, _ in holders}, maker)

    def may_share(self, pids: Collection[int], maker: int | None = None) -> bool:
        """Whether a process that may not be read could have inherited what some processes have.

        `maker`: the user who made it. If none of the processes is theirs, it was made before a change of user, and any
        relative may have it.
        """
        known = {pid for pid in pids if pid in self._now.processes}
        if self._hides and self._hidden_children(known):
            return True
        if not self._unreadable or not known:
            return False
        changed = maker is not None and all(self._now.processes[pid].uid != maker for pid in known)
        top = self._common_ancestor(known)
        above = set(self._ancestors(top)) if top is not None else set()
        sessions = {self._now.processes[pid].session for pid in known}
        since = self._now.processes[top].start - _SLACK if top in self._now.processes else 0
        suspects = {
            process.pid
            for process in self._unreadable
            if process.pid != _INIT
            and (
                (top is not None and top in self._ancestors(process.pid))
                or (process.session in sessions and process.pid not in above and process.start >= since)
                or (process.pid in above and process.uid == maker)
                or changed
            )
        }
        self.suspects |= suspects
        return bool(suspects)

    def _common_ancestor(self, pids: Collection[int]) -> int | None:
        """Return the lowest process that all of these are or descend from; None where that is init, or unknown."""
        lines = [[pid, *self._ancestors(pid)] for pid in pids]
        common = set(lines[0]).intersection(*lines[1:])
        lowest = next((pid for pid in lines[0] if pid in common), _INIT)
        return None if lowest == _INIT and _INIT not in pids else lowest

    def _ancestors(self, pid: int) -> list[int]:
        found: list[int] = []
        process = self._now.processes.get(pid)
        while process is not None and process.ppid and process.ppid not in found:
            found.append(process.ppid)
            process = self._now.processes.get(process.ppid)
        return found

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
                    self.suspects.add(child)
                    return True
                if child not in seen:
                    seen.add(child)
                    border.append(child)
        return False

    def _may_be_in_flight(self, holders: Collection[int]) -> bool:
        """Whether a descriptor of relatives of some processes is on its way through a Unix socket."""
        if not self._in_flight:
            return False
        top = self._common_ancestor({*holders})
        relatives = {*holders} if top is None else self._now.tree(top)
        return any(pids & relatives for pids in self._in_flight)

    @cached_property
    def _in_flight(self) -> list[set[int]]:
        """The processes at both ends of each socket in which a descriptor waits (fdinfo has it since Linux 5.6)."""
        found = []
        for file, held in self._holders.items():
            if isinstance(file, Socket):
                pid, end = held[0]
                with suppress(OSError, ValueError):
                    if int(procfs.fdinfo(pid, end.fd, self._now.proc).get("scm_fds", "0")):
                        state = sockets.unix_sockets().get(file.inode)
                        peer = Socket(state.peer) if state is not None and state.peer is not None else file
                        found.append({pid for pid, _ in (*held, *self._holders.get(peer, ()))})
        return found

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
        """Whether a pipe was last written to before our PID namespace was, so that a process outside may hold it."""
        if self._namespace_start is None:
            return False
        for pid, end in holders:
            with suppress(OSError):
                return os.stat(f"{self._now.proc}/{pid}/fd/{end.fd}").st_ctime < self._namespace_start
        return True


def _held_by(seen: Snapshot, held: Collection[tuple[int, End]]) -> set[tuple[int, int]]:
    return {(pid, seen.processes[pid].start) for pid, _ in held}
