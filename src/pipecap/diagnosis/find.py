"""What hangs, out of the evidence: each thread is in one case at most."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from pipecap.diagnosis import graph
from pipecap.diagnosis.evidence import Evidence
from pipecap.diagnosis.patterns import Case
from pipecap.proc import sockets
from pipecap.proc.snapshot import Thread


def find(seen: Evidence) -> list[Case]:
    """Find all hangs, each thread in one at most."""
    stuck = graph.stuck(seen.movers)
    cases = []
    for group in graph.groups(stuck, seen.movers):
        threads = sorted((seen.blocked[tid] for tid in group), key=lambda thread: thread.tid)
        case = _stuck_case(seen, threads)
        if case:
            cases.append(case)
    cases += _stalls(seen, stuck)
    cases += _stalled_sockets(seen, stuck)
    return cases


def _stuck_case(seen: Evidence, threads: list[Thread]) -> Case | None:
    writers = [thread for thread in threads if _on_full_pipe(seen, thread)]
    if writers:
        return Case("deadlock", threads, writers, _files(seen, writers))
    waiters = [thread for thread in threads if thread.tid in seen.locks]
    if len({seen.locks[thread.tid] for thread in waiters}) > 1:
        return Case("quiet", threads, [], (), waiters)  # several locks: in a cycle, or of several queues
    if not waiters:
        reading = [thread for thread in threads if thread.wait.kind in ("read", "poll")]
        return Case("quiet", threads, [], ()) if reading else None
    unread = _nobody_reads(seen, threads, waiters)
    return Case("deadlock" if unread else "quiet", threads, [], tuple(unread), waiters)


def _on_full_pipe(seen: Evidence, thread: Thread) -> bool:
    file = seen.written(thread)
    return file.startswith(("pipe:", "fifo:")) and seen.is_full(file)


def _files(seen: Evidence, writers: Iterable[Thread]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(seen.written(writer) for writer in writers))


def _nobody_reads(seen: Evidence, threads: list[Thread], waiters: list[Thread]) -> list[str]:
    """Find the pipes with unread bytes that all who wait for the lock could read, and nobody reads.

    Whoever sits in read() of another pipe that they could read, too, holds the lock, and all is as it should be.
    """
    pids = {thread.pid for thread in waiters}
    for thread in threads:
        files = [seen.file(thread, each) for each in thread.wait.fds if each.reads]
        if any(pids <= seen.readers(file) for file in files if file.startswith(("pipe:", "fifo:"))):
            return []
    return [
        file
        for file in sorted(seen.still)
        if pids <= seen.readers(file) and (state := seen.state(file)) is not None and state.unread and not state.full
    ]


def _stalls(seen: Evidence, stuck: set[int]) -> list[Case]:
    """Find full pipes that nobody read during the window, with a writer that waited all of it."""
    by_file: defaultdict[str, list[Thread]] = defaultdict(list)
    for tid, thread in seen.blocked.items():
        if tid not in stuck and _on_full_pipe(seen, thread) and seen.written(thread) in seen.still:
            by_file[seen.written(thread)].append(thread)
    return [Case("stall", writers, writers, (file,)) for file, writers in by_file.items()]


def _stalled_sockets(seen: Evidence, stuck: set[int]) -> list[Case]:
    """Find pairs of threads that wait to send to each other by a socketpair; that a socket is full the kernel hides."""
    sending = {
        file: thread
        for thread in seen.blocked.values()
        if thread.tid not in stuck and (file := seen.written(thread)).startswith("socket:")
    }
    if len(sending) < 2:
        return []
    peers = {f"socket:[{one}]": f"socket:[{other}]" for one, other in sockets.socket_peers().items()}
    return [
        Case("stall", [thread, sending[peers[file]]], [thread, sending[peers[file]]], (file, peers[file]))
        for file, thread in sending.items()
        if peers.get(file, "") > file and peers[file] in sending
    ]
