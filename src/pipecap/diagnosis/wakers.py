"""Who can end a wait: of each blocked thread, the threads that could; None where anybody else could."""

from __future__ import annotations

from pipecap.diagnosis.evidence import Evidence, mapping
from pipecap.diagnosis.unknown_holders import UnknownHolders
from pipecap.kernel.pipes import PipeState
from pipecap.proc import procfs
from pipecap.proc.files import EventFd, File, PidFd, Pipe, Socket
from pipecap.proc.snapshot import Thread
from pipecap.proc.sockets import SocketState
from pipecap.proc.syscalls import Watched

_FORK_SERVER = "from multiprocessing.forkserver import main"


def note_wakers(seen: Evidence) -> None:
    """Note the wakers of each blocked thread, and the processes that may not be read and could be some."""
    found = _Wakers(seen)
    seen.wakers = found.of_all()
    seen.suspects = found.unknown.suspects


class _Wakers:
    def __init__(self, seen: Evidence) -> None:
        self._seen = seen
        self.unknown = UnknownHolders(seen.before, seen.now)
        self._mapping = mapping(seen)
        self._awake: dict[int, int] = {}
        self._sharing: dict[str, set[int] | None] = {}

    def of_all(self) -> dict[int, set[int] | None]:
        seen = self._seen
        rings = {process.pid for process in seen.now.processes.values() if process.has_io_uring}
        process_of = {thread.tid: thread.pid for thread in seen.now.threads()} if rings else {}
        found = {}
        for thread in seen.blocked.values():
            others = self._of(thread)
            # io_uring reads and writes for a process whose threads all sleep.
            if others is not None and rings and rings & {thread.pid, *map(process_of.get, others)}:
                others = None
            found[thread.tid] = others
        return found

    def _of(self, thread: Thread) -> set[int] | None:
        seen = self._seen
        match thread.wait.kind:
            case "open":
                return None  # any process may open a file that has a name
            case "child":
                return self._children(thread)
            case "private futex":
                return self._of_one_process(thread)
            case "shared futex":
                return self._lock(thread)
        if thread.wait.weak:
            file = seen.written(thread)
            return None if file is None else self._room(thread, file)
        found: set[int] = set()
        for each in thread.wait.fds:
            others = self._polled(thread, each)
            if others is None:
                return None
            found |= others
        return found

    def _of_one_process(self, thread: Thread) -> set[int]:
        """Return the other threads of a process, or of thousands one that is not blocked: that suffices."""
        pid = thread.pid
        if pid not in self._awake:
            threads = (each.tid for each in self._seen.now.processes[pid].threads)
            self._awake[pid] = next((tid for tid in threads if tid not in self._seen.blocked), 0)
        awake = self._awake[pid]
        return {awake} if awake else self._seen.now.threads_of([pid], but=thread.tid)

    def _polled(self, thread: Thread, watched: Watched) -> set[int] | None:
        """Return who could end a wait for one descriptor, to read, to write, or both."""
        end = self._seen.process(thread).end(watched.fd)
        if end is None or (watched.writes and not end.writes):
            return None
        if watched.reads and not end.reads:
            # It waits for the last read end to be closed; asyncio does so beside its wait for room.
            return self._room(thread, end.file) if watched.writes else None
        if not (watched.reads or watched.writes):
            return None  # for an error or the end alone
        found: set[int] = set()
        if watched.reads:
            others = self._bytes(thread, end.file)
            if others is None:
                return None
            found |= others
        if watched.writes and not isinstance(end.file, EventFd):
            others = self._room(thread, end.file)
            if others is None:
                return None
            found |= others
        return found

    def _bytes(self, thread: Thread, file: File) -> set[int] | None:
        """Return who could write bytes, or close the last write end."""
        seen = self._seen
        match file:
            case PidFd(pid):
                return self._living_threads([pid])
            case EventFd():
                holders = {pid for pid, _ in seen.holders[file]}
                others = seen.now.threads_of(holders, but=thread.tid)
                # The kernel signals some, and so may a signal handler of the only thread.
                return None if not others or self.unknown.may_share(holders) else others
            case Pipe():
                state = seen.states.get(file)
                if not isinstance(state, PipeState) or state.unread:
                    return None
            case Socket():
                state = seen.states.get(file)
                if not isinstance(state, SocketState) or not state.stream or state.unread:
                    return None
            case _:
                return None  # a FIFO, which any process may open
        return self._others(thread, file, self._without_servers(seen.writers(file)))

    def _without_servers(self, pids: set[int]) -> set[int]:
        """Put the children of a fork server in its place: it writes to a sentinel once one of them has ended.

        multiprocessing/forkserver.py: main().
        """
        found = set(pids)
        for pid in pids:
            process = self._seen.now.processes[pid]
            parent = self._seen.now.processes.get(process.ppid)
            if _FORK_SERVER in process.command and (parent is None or _FORK_SERVER not in parent.command):
                found.remove(pid)
                found |= {child.pid for child in self._seen.now.children(pid)}
        return found

    def _room(self, thread: Thread, file: File) -> set[int] | None:
        """Return who could read bytes, or close the last read end."""
        seen = self._seen
        if not isinstance(file, Pipe | Socket) or not seen.is_full(file):
            return None
        if isinstance(file, Socket) and not isinstance(seen.states.get(file), SocketState):
            return None
        return self._others(thread, file, seen.readers(file))

    def _others(self, thread: Thread, file: File, pids: set[int]) -> set[int] | None:
        source = self._seen.source(file)
        if not pids or source is None or self.unknown.may_hold(source):
            return None  # nobody: it ends at once, with an end of file or EPIPE
        return self._seen.now.threads_of(pids, but=thread.tid)

    def _living_threads(self, pids: list[int]) -> set[int] | None:
        processes = [self._seen.now.processes.get(pid) for pid in pids]
        if any(process is None or process.closed or process.has_ended for process in processes):
            return None
        return self._seen.now.threads_of(pids)

    def _children(self, thread: Thread) -> set[int] | None:
        """Return the threads of the children waited for; None where one has ended, or may not be read.

        A wait for any child can also be ended by a descendant, re-parented to it when its own parent ends.
        """
        seen = self._seen
        children = seen.now.children(thread.pid)
        wanted = thread.wait.child
        if wanted is not None and wanted > 0:
            depth = len(_pids_of(thread.pid, seen.now.proc))
            children = [
                child for child in children if _pids_of(child.pid, seen.now.proc)[depth - 1 : depth] == [wanted]
            ]
        if not children:
            return None
        below = [child.pid for child in children]
        if wanted is None or wanted <= 0:
            below = [pid for pid in seen.now.tree(*below) if not seen.now.processes[pid].has_ended]
            if any(child.has_ended for child in children):
                return None
        return self._living_threads(below)

    def _lock(self, thread: Thread) -> set[int] | None:
        seen = self._seen
        lock = seen.locks.get(thread.tid)
        if lock is None:  # not in shared memory: a lock of its process
            return self._of_one_process(thread)
        if not lock.memory or not self._mapping[lock.memory]:
            return None
        if lock.word in ("writing", "reading"):
            # A lock of ours without an owner, or with one that has ended, is taken over by the waiter itself.
            return None if lock.owner is None else self._living_threads([self._outer(lock.owner, lock.memory)])
        if lock.memory not in self._sharing:
            sharing = self._without_servers(seen.now.tree(*self._mapping[lock.memory]))
            unknown = self.unknown.may_share(sharing)
            self._sharing[lock.memory] = None if unknown else seen.now.threads_of(sharing)
        threads = self._sharing[lock.memory]
        return None if threads is None else threads - {thread.tid}

    def _outer(self, pid: int, memory: str) -> int:
        """Return the number here of a process that shares memory, by the number in its own PID namespace."""
        return next((each for each in self._mapping[memory] if _pids_of(each, self._seen.now.proc)[-1] == pid), -1)


def _pids_of(pid: int, proc: str) -> list[int]:
    """Return the PIDs of a process, from the namespace of this /proc down to its own."""
    try:
        return [int(each) for each in procfs.status(f"{proc}/{pid}")["NSpid"].split()]
    except (OSError, KeyError, ValueError):
        return [pid]
