"""Which threads of a case a finding shows, the few that matter, and the pipes as they are now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, TypeAlias

from pipecap.diagnosis.evidence import Evidence, pids
from pipecap.diagnosis.find import Case
from pipecap.diagnosis.finding import Party, PipeNow
from pipecap.diagnosis.named import waits_for
from pipecap.kernel.pipes import PipeState
from pipecap.proc import stacks
from pipecap.proc.files import Fifo, File, Pipe, Socket
from pipecap.proc.snapshot import Process, Thread
from pipecap.proc.sockets import SocketState

_MOST = 6
Role: TypeAlias = Literal["writer", "reader", "waits"]


def of(seen: Evidence, case: Case) -> tuple[Party, ...]:
    """Return the writers, those that should read, and those that wait for them: at most six."""
    shown: dict[int, Party] = {}
    for thread, role in _in_order(seen, case):
        if len(shown) == _MOST:
            break
        if thread.tid not in shown:
            shown[thread.tid] = _party(seen, thread, role)
    return tuple(shown.values())


def _in_order(seen: Evidence, case: Case) -> Iterator[tuple[Thread, Role]]:
    members = {thread.tid: thread for thread in case.threads}
    first = [*case.writers[: _MOST // 2]]
    yield from ((thread, "writer") for thread in first)
    readers = sorted({pid for file in case.files for pid in seen.readers(file)}) if case.writers else []
    first_to_show = {tid for tid, thread in members.items() if thread.wait.kind in ("child", "read", "poll")}
    for pid in readers:
        process = seen.now.processes[pid]
        mine = [thread for thread in process.threads if thread.tid in members or case.verdict != "deadlock"]
        # The thread that waits for a child or for bytes says more than one that waits for a lock of its process.
        for thread in sorted(mine, key=lambda each: (each.tid not in first_to_show, each.tid != pid))[:1]:
            yield thread, "reader"
    if not case.writers:
        yield from ((thread, "reader") for thread in case.threads if seen.awaited(thread) and thread.tid == thread.pid)
        waiters = (waits_for(seen, case, pid) for pid in pids(case.threads))
        yield from ((thread, "waits") for thread in waiters if thread is not None)
    border, known = [*first], {thread.tid for thread in first}
    while border:  # along the graph, main threads before others
        others = [members[tid] for tid in seen.wakers.get(border.pop(0).tid) or () if tid in members]
        for thread in sorted(others, key=lambda each: (each.tid != each.pid, each.tid)):
            if thread.tid not in known and not _is_helper(thread):
                known.add(thread.tid)
                border.append(thread)
                yield thread, "waits"
    yield from ((thread, "waits") for thread in case.threads if not _is_helper(thread))


def _is_helper(thread: Thread) -> bool:
    """Whether it is a thread or process that only serves others: it is counted, not shown."""
    return thread.tid != thread.pid and thread.wait.kind == "private futex"


def _party(seen: Evidence, thread: Thread, role: Role) -> Party:
    wait = thread.wait
    written = seen.written(thread)
    awaited = seen.awaited(thread)
    file = written if role == "writer" and written is not None else (awaited[0] if awaited else written)
    to_go = None
    if role == "writer" and wait.count is not None and written is not None:
        to_go = max(1, wait.count - (_sent(seen, written) or 0))
    call = {"T": "stopped by a signal", "t": "stopped by a tracer"}.get(thread.state, wait.call)
    fd = next((each.fd for each in wait.fds if file is None or seen.file(thread, each) == file), None)
    return Party(
        role=role,
        pid=thread.pid,
        tid=thread.tid,
        command=seen.process(thread).command,
        wait=wait.kind,
        call=call,
        file="" if file is None else str(file),
        fd=fd if fd is not None and fd >= 0 else None,
        count=wait.count,
        to_go=to_go,
        waits_for=tuple(sorted(seen.wakers.get(thread.tid) or ())),
        weak=wait.weak,
        line=_line(seen, thread),
    )


def _line(seen: Evidence, thread: Thread) -> str | None:
    stack = seen.stacks.get(thread.tid)
    return stacks.place(stack) if stack else None


def _sent(seen: Evidence, file: File) -> int | None:
    """Return how many bytes that were written lie unread."""
    state = seen.state(file)
    if isinstance(state, SocketState):
        peer = seen.state(Socket(state.peer)) if state.peer is not None else None
        return peer.unread if peer is not None else None
    return None if state is None else state.unread


def pipe_now(seen: Evidence, file: File) -> PipeNow:
    """Return a file as a finding shows it."""
    state = seen.states.get(file)
    readers, writers = tuple(sorted(seen.readers(file))), tuple(sorted(seen.writers(file)))
    inode = file.inode if isinstance(file, Pipe | Fifo | Socket) else 0
    device = file.device if isinstance(file, Fifo) else None
    if isinstance(state, SocketState):
        writers = tuple(sorted({pid for pid, _ in seen.holders.get(file, ())}))
    pipe = PipeNow(_kind(file), str(file), device, inode, None, None, None, None, readers, writers, "")
    if isinstance(state, PipeState):
        return replace(pipe, capacity=state.capacity, slots=state.slots, unread=state.unread, full=state.full)
    if isinstance(state, SocketState):
        unread = _sent(seen, file) if state.full else state.unread
        return replace(pipe, capacity=state.limit, unread=unread, full=state.full)
    return replace(pipe, unknown=state or "")


def _kind(file: File) -> Literal["pipe", "fifo", "socketpair"]:
    return "socketpair" if isinstance(file, Socket) else "fifo" if isinstance(file, Fifo) else "pipe"


def program(seen: Evidence, case: Case, pid: int | None) -> Process:
    """Return the process that a finding is about: the one asked about, or the topmost of its parties."""
    if pid is not None and pid in seen.now.processes:
        return seen.now.processes[pid]
    members = pids(case.threads)
    top = min(members, key=lambda each: (seen.now.processes[each].ppid in members, each))
    return seen.now.processes[top]


def unproven(seen: Evidence, case: Case) -> str:
    """Say why a stall is no deadlock: what may yet go on."""
    for writer in case.writers or case.threads:
        wakers = seen.wakers.get(writer.tid)
        if wakers is None:
            if writer.wait.kind == "open":
                return "any process may open a FIFO by its name"
            return "not all processes that may hold the other end are known"
        for thread in seen.now.threads():
            if thread.tid in wakers and thread.tid not in seen.blocked:
                return f"thread {thread.tid} of process {thread.pid}, in {thread.wait.call}, may go on by itself"
    return "others that could end it may go on by themselves"
