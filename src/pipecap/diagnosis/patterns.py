"""The names of hangs: what the parties do, by which name engineers know it, and the code that ends it."""

from __future__ import annotations

from dataclasses import dataclass

from pipecap.diagnosis.evidence import Evidence
from pipecap.proc.procfs import ThreadMemory
from pipecap.proc.snapshot import Thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

_STDOUT, _STDERR = 1, 2


@dataclass(frozen=True, slots=True)
class Case:
    """A hang as found: its threads, of these the blocked writers, the pipes in question, who waits for a lock."""

    verdict: Literal["deadlock", "stall", "quiet"]
    threads: list[Thread]
    writers: list[Thread]
    files: tuple[str, ...]
    waiters: list[Thread] | tuple[()] = ()


@dataclass(frozen=True, slots=True)
class Named:
    """A pattern, the cause in words, and the fix."""

    pattern: str
    cause: str
    fix: str


_DRAIN = (
    "get the items before join(): `for item in pipecap.drain(queue, [process])`, or queue.get(), then process.join()"
)
_SOCKET_FIX = "let one side receive before it sends, or send from a thread; growing helps no socketpair"


def name(seen: Evidence, case: Case) -> Named:
    """Find the pattern of a case."""
    if case.verdict == "quiet":
        return _quiet(seen, case)
    if not case.writers:
        return _died_holding_the_lock(seen, case)
    writer = _first(seen, case)
    file = seen.written(writer)
    if file.startswith("socket:"):
        one, other = case.writers
        return Named(
            "both sides send first",
            f"process {one.pid} and process {other.pid} both send to each other through a socketpair, and neither"
            " receives",
            _SOCKET_FIX,
        )
    for rule in (
        _logging,
        _same_process,
        _stopped,
        _both_send,
        _waits_for_exit,
        _reads_something_else,
        _waits_for_lock,
    ):
        named = rule(seen, case, writer, file)
        if named:
            return named
    readers = _pids(seen.readers(file) - {writer.pid} or {writer.pid})
    verb = "nobody who could read it will ever move" if case.verdict == "deadlock" else "nobody read it meanwhile"
    return Named(
        "consumer stopped early",
        f"process {writer.pid} waits for room in a full pipe; {readers} could read it, and does not: {verb}",
        "read until the producers are gone, `for item in pipecap.drain(queue, processes)`, or tell them to stop first",
    )


def _first(seen: Evidence, case: Case) -> Thread:
    """Give the writer that others are best told from: one whose process somebody waits for, if there is one."""
    waited = {
        thread.wait.child for thread in case.threads if thread.wait.kind == "child" and thread.wait.child is not None
    }
    return next((writer for writer in case.writers if writer.pid in waited), case.writers[0])


def _logging(seen: Evidence, case: Case, writer: Thread, file: str) -> Named | None:
    """Tell log records by the head of what is being written: it is read from the writer's memory, not from the pipe."""
    if writer.wait.address is None or not writer.wait.count:
        return None
    head = ThreadMemory(writer.pid, seen.now.proc).read(writer.wait.address, min(writer.wait.count, 128))
    if not head or b"logging" not in head or b"LogRecord" not in head:
        return None
    return Named(
        "logging queue without a listener",
        f"process {writer.pid} puts log records (logging.handlers.QueueHandler) into a queue that nobody reads any"
        " more",
        "start a logging.handlers.QueueListener on the queue, and stop() it after the last join()",
    )


def _same_process(seen: Evidence, case: Case, writer: Thread, file: str) -> Named | None:
    """Tell where the only ones who could read are threads of the writer's own process."""
    if seen.readers(file) - {writer.pid}:
        return None
    others = [other for other in seen.process(writer).threads if other.tid != writer.tid]
    if case.verdict == "stall" and others and not any(_may_wait_for_the_gil(other) for other in others):
        return None
    if case.verdict == "stall" and others:
        return Named(
            "reader cannot run",
            f"only process {writer.pid} itself could read the full pipe, and its other threads wait with a time limit,"
            " as for the GIL: it looks as if the blocked write holds it",
            "write with the GIL released (os.write, Connection.send), or read in another process",
        )
    if writer.tid == writer.pid:
        return Named(
            "sent before anybody reads",
            f"the main thread of process {writer.pid} itself waits for room in a full pipe that no other process can"
            " read",
            "start the reader first, or send from a thread or by a Queue, whose feeder thread waits instead",
        )
    return Named(
        "exit with unread items",
        f"process {writer.pid} has put more than its pipe holds and waits until it is read, most likely to exit; no"
        " other process can read it",
        "get the items before the end, or give them up: queue.cancel_join_thread(), or queue.close(discard=True) of"
        " pipecap.get_context()",
    )


def _may_wait_for_the_gil(thread: Thread) -> bool:
    """Whether it waits as CPython does for the GIL: in a futex with a short time limit, or just between two."""
    return thread.wait.kind == "running" or thread.wait.call.startswith("futex()")


def _stopped(seen: Evidence, case: Case, writer: Thread, file: str) -> Named | None:
    for pid in sorted(seen.readers(file)):
        if seen.now.processes[pid].state in "Tt":
            return Named(
                "reader stopped",
                f"process {pid}, which reads the full pipe, is stopped (SIGSTOP, SIGTSTP or a debugger)",
                f"let it go on: kill -CONT {pid}, `fg` in its shell, or detach the debugger",
            )
    return None


def _both_send(seen: Evidence, case: Case, writer: Thread, file: str) -> Named | None:
    """Somebody who should read is blocked writing to a pipe that the writer's side should read."""
    for other in case.writers:
        back = seen.written(other)
        if back != file and other.pid in seen.readers(file) and writer.pid in seen.readers(back):
            if other.pid == writer.pid:
                continue
            return Named(
                "both sides send first",
                f"process {writer.pid} waits for process {other.pid} to read, and that waits for process {writer.pid}"
                " to read: both pipes are full",
                "let one side receive before it sends, or send from a thread; with workers, receive results while"
                " sending tasks",
            )
    return None


def _waits_for_exit(seen: Evidence, case: Case, writer: Thread, file: str) -> Named | None:
    """Tell of one who should read, and waits for the writer's process to end, or for one that waits for the writer."""
    behind = sorted({thread.pid for thread in case.threads if thread.pid != writer.pid})
    for thread in case.threads if case.verdict == "deadlock" else [*seen.blocked.values()]:
        if thread.pid == writer.pid or thread.pid not in seen.readers(file):
            continue
        ended = next((pid for pid in (writer.pid, *behind) if _for_end_of(seen, thread, pid)), None)
        if ended is None:
            continue
        if _is_child(seen, writer, thread.pid) and _stream(writer):
            return Named(
                "output not read",
                f"process {writer.pid} writes to its {_stream(writer)}, a full pipe; process {thread.pid}, which should"
                f" read it, waits for {writer.pid} to exit instead",
                "Popen.communicate() instead of wait(); or send the output to a file",
            )
        return Named(
            "join before get",
            f"{_pids({thread.pid})} should read the full pipe, and waits for process {ended} to exit instead"
            + ("" if ended == writer.pid else f", which in turn waits for process {writer.pid}"),
            _DRAIN,
        )
    return None


def _for_end_of(seen: Evidence, thread: Thread, pid: int) -> bool:
    """Whether a thread waits until a process has ended: by wait4, a pidfd, or a pipe that only that one keeps open."""
    movers = seen.movers.get(thread.tid)
    if thread.wait.kind == "child" or any(seen.file(thread, each) == f"pidfd:{pid}" for each in thread.wait.fds):
        return bool(movers) and any(seen.blocked[tid].pid == pid for tid in movers or () if tid in seen.blocked)
    if thread.wait.kind in ("read", "poll") and thread.wait.fds:
        files = {seen.file(thread, each) for each in thread.wait.fds}
        mine = {seen.written(other) for other in seen.blocked.values() if other.pid == pid}
        # multiprocessing's sentinel: a pipe that the child holds open and never writes to.
        return not files & mine and any(
            seen.writers(file) == {pid} and not _writes_now(seen, pid, file) and _is_sentinel(seen, pid, file)
            for file in files
        )
    return False


def _is_sentinel(seen: Evidence, pid: int, file: str) -> bool:
    ends = [end for holder, end in seen.holders.get(file, ()) if holder == pid]
    return all(end.writes and end.fd > _STDERR for end in ends)


def _writes_now(seen: Evidence, pid: int, file: str) -> bool:
    return any(thread.pid == pid and seen.written(thread) == file for thread in seen.blocked.values())


def _reads_something_else(seen: Evidence, case: Case, writer: Thread, file: str) -> Named | None:
    """Who should read this pipe reads another one of the same process: stdout, while stderr is full."""
    full = _stream(writer)
    if not full:
        return None
    other = "stdout" if full == "stderr" else "stderr"
    for thread in seen.blocked.values():
        if thread.pid in seen.readers(file) and thread.wait.kind in ("read", "poll"):
            files = {seen.file(thread, each) for each in thread.wait.fds}
            if file not in files and any(writer.pid in seen.writers(each) for each in files):
                return Named(
                    f"{full} not read",
                    f"process {writer.pid} writes to its {full}, a full pipe; process {thread.pid} reads its {other} to"
                    " the end first",
                    f"Popen.communicate() reads both; or {full}=subprocess.STDOUT, subprocess.DEVNULL or a file",
                )
    if not any(_is_child(seen, writer, pid) for pid in seen.readers(file)):
        return Named(
            "output not read",
            f"process {writer.pid} writes to its {full}, a full pipe;"
            f" {_pids(seen.readers(file) - {writer.pid})} should read it, and does not",
            "look at what the next command of the pipeline waits for: `pipecap doctor` it, or py-spy dump",
        )
    return Named(
        "output not read",
        f"process {writer.pid} writes to its {full}, a full pipe;"
        f" {_pids(seen.readers(file) - {writer.pid})} should read it, and does not",
        "read it (Popen.communicate()), or send it to a file or to subprocess.DEVNULL",
    )


def _stream(writer: Thread) -> str:
    """Give "stdout" or "stderr" where a process's main thread writes to that; else nothing."""
    fd = writer.wait.fds[0].fd if writer.wait.fds and writer.tid == writer.pid else None
    return {_STDOUT: "stdout", _STDERR: "stderr"}.get(fd, "") if fd is not None else ""


def _is_child(seen: Evidence, writer: Thread, pid: int) -> bool:
    return seen.process(writer).ppid == pid


def _waits_for_lock(seen: Evidence, case: Case, writer: Thread, file: str) -> Named | None:
    """Those who could read wait for a lock: tell who may hold it."""
    for thread in case.threads:
        if thread.tid in seen.locks and thread.pid in seen.readers(file) and thread.pid != writer.pid:
            held = [other for other in case.writers if other.pid != thread.pid]
            return Named(
                "workers queue on the lock",
                f"process {thread.pid}, which could read the full pipe, waits for a lock in shared memory; who holds it"
                f" is most likely process {(held or [writer])[0].pid}, blocked in its write",
                "receive results while sending tasks, so that the writer under the lock can go on",
            )
    return None


def _died_holding_the_lock(seen: Evidence, case: Case) -> Named:
    waiters = _pids({thread.pid for thread in case.waiters})
    return Named(
        "reader died holding the lock",
        f"{waiters}: waiting for a lock in shared memory while bytes lie unread in their pipe, which is not full, and"
        " nobody who shares the lock reads: whoever held it has died (or, if they sit in put() of a queue with a"
        " maxsize, nobody gets: see doctor --stacks)",
        "end the program; then never kill a process that uses a queue (terminate(), OOM), or use"
        " pipecap.get_context(), whose locks know a dead holder",
    )


def _quiet(seen: Evidence, case: Case) -> Named:
    pids = _pids({thread.pid for thread in case.threads})
    if case.waiters:
        return Named(
            "waiting for a lock",
            f"{pids}: nothing moves. An idle pool looks like this, and so do a queue whose writer died holding the"
            " write lock, and locks taken in a cycle",
            "none if it is idle; py-spy's lines (doctor --stacks) tell: if somebody sits in put() or _feed(), the"
            " lock's holder died",
        )
    return Named(
        "waiting for input",
        f"{pids}: nothing moves, and nothing waits to be read. Idle workers look like this, and so do readers whose"
        " writers have forgotten them",
        "none if it is idle; if not, close the write ends that nobody uses, so that readers see the end",
    )


def _pids(pids: set[int]) -> str:
    return ("process " if len(pids) == 1 else "processes ") + ", ".join(map(str, sorted(pids))) if pids else "nobody"
