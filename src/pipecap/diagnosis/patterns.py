"""The names of hangs in which a writer waits for room: what should read, what it does instead, and the fix.

Pure: out of the evidence, nothing is read here. Hangs without a full pipe: waits.py.
"""

from __future__ import annotations

from pipecap.diagnosis import lines
from pipecap.diagnosis.evidence import Evidence
from pipecap.diagnosis.find import Case
from pipecap.diagnosis.finding import Moving
from pipecap.diagnosis.named import Named, is_child, is_python, kind_of, waits_for_end_of
from pipecap.diagnosis.outputs import output_not_read, reads_something_else, stream
from pipecap.proc.files import File, Socket
from pipecap.proc.snapshot import Thread
from pipecap.words import amount, processes

_DRAIN = (
    "get the items before join(): `for item in pipecap.drain(queue, [process])`, or queue.get(), then process.join()"
)
_NOT_READ = "the writer would go on, and still nobody would read"


def name(seen: Evidence, case: Case) -> Named:
    """Return the pattern of a case with a blocked writer."""
    writer = _first(seen, case)
    file = seen.written(writer)
    assert file is not None
    for rule in (
        _logging,
        _stopped,
        _fifo,
        _read_lock_lost,
        _both_send,
        _waits_for_exit,
        _same_process,
        reads_something_else,
        _waits_for_lock,
    ):
        named = rule(seen, case, writer, file)
        if named:
            return named
    readers = processes(seen.readers(file) - {writer.pid} or {writer.pid})
    verb = "nothing that could read it will ever move" if case.verdict == "deadlock" else "nothing read it meanwhile"
    return Named(
        "consumer stopped early",
        f"process {writer.pid} waits for room in a full {kind_of(file)}; what could read it ({readers}) does not:"
        f" {verb}",
        "read until the producers are gone, `for item in pipecap.drain(queue, processes)`, or let them stop first",
    )


def slow(seen: Evidence, case: Case, moving: Moving | None) -> Named:
    """Return the name of a full pipe that moves: which side is the slower one."""
    writers = {thread.pid for thread in case.writers}
    readers = processes(seen.readers(case.files[0]) - writers or writers)
    rate = ""
    if moving is not None:
        rate = f"; seen for {moving.seconds:.1f} s"
        if moving.read:
            rate += f", in which {amount(moving.read)} were read, {amount(round(moving.read / moving.seconds))}/s"
        rate += (
            f"; the writer waited in {moving.writer_waited} of {moving.samples} samples, a reader in"
            f" {moving.reader_waited}"
        )
    return Named(
        "slow reader",
        f"{processes(writers)} waits for room in a full {kind_of(case.files[0])} that moves: the slower side is"
        f" {readers}{rate}",
        "none if that is the work; else more readers, or larger batches: pipecap tune",
        "it moves: a larger pipe would be full as soon",
    )


def _first(seen: Evidence, case: Case) -> Thread:
    """Return the writer that others are best explained by: one whose process another waits for, if there is one."""
    waited = {thread.wait.child for thread in case.threads if thread.wait.kind == "child"} - {None}
    return next((writer for writer in case.writers if writer.pid in waited), case.writers[0])


def _logging(seen: Evidence, case: Case, writer: Thread, file: File) -> Named | None:
    if writer.tid not in seen.log_writers:
        return None
    return Named(
        "logging queue without a listener",
        f"process {writer.pid} puts log records (logging.handlers.QueueHandler) into a queue that nobody reads any"
        " more",
        "start a logging.handlers.QueueListener on the queue, and stop() it after the last join()",
    )


def _stopped(seen: Evidence, case: Case, writer: Thread, file: File) -> Named | None:
    for pid in sorted(seen.readers(file)):
        if seen.now.processes[pid].state in "Tt":
            return Named(
                "reader stopped",
                f"process {pid}, which reads the full {kind_of(file)}, is stopped (SIGSTOP, SIGTSTP or a debugger)",
                f"let it go on: kill -CONT {pid}, `fg` in its shell, or detach the debugger",
                "its reader is stopped, and goes on when it is let",
            )
    return None


def _fifo(seen: Evidence, case: Case, writer: Thread, file: File) -> Named | None:
    """Name it where the process that should read waits in open(2) of a FIFO."""
    for thread in seen.blocked.values():
        if thread.wait.kind == "open" and thread.pid in seen.readers(file) and thread.pid != writer.pid:
            path = thread.wait.path or "a FIFO"
            return Named(
                "FIFO that nobody opens",
                f"process {thread.pid} should read the full {kind_of(file)}, and waits until another process opens"
                f" {path}",
                f"open {path} on its other side: start what should read or write it",
                "the writer would go on, and its reader still wait for the FIFO to be opened",
            )
    return None


def _read_lock_lost(seen: Evidence, case: Case, writer: Thread, file: File) -> Named | None:
    """Those that could read wait for a lock, and have no write end of the pipe: it is its read lock."""
    waiters = [
        thread
        for thread in case.threads
        if thread.tid in seen.locks
        and thread.pid in seen.readers(file)
        and (thread.pid not in seen.writers(file) or lines.meaning(seen.stacks.get(thread.tid, ())) == "get")
    ]
    if not waiters or any(file in seen.awaited(thread) for thread in seen.blocked.values()):
        return None
    return Named(
        "reader died holding the lock",
        f"{processes({thread.pid for thread in waiters})} should read the full {kind_of(file)}, and wait for its read"
        f" lock; no process is reading: the one that had taken the lock was most likely killed",
        "end the program; then do not kill a process that uses a queue (terminate(), OOM), or use"
        " pipecap.get_context(), whose locks know a dead owner",
        _NOT_READ,
    )


def _both_send(seen: Evidence, case: Case, writer: Thread, file: File) -> Named | None:
    """Name it where the process that should read waits for room in a pipe that the writer's process should read."""
    for other in case.writers:
        back = seen.written(other)
        if back is None or back == file or other.pid == writer.pid:
            continue
        if other.pid in seen.readers(file) and writer.pid in seen.readers(back):
            through = "a socketpair" if isinstance(file, Socket) else "two pipes"
            fix = (
                "let one side receive before it sends, or send from a thread; with workers, receive results while"
                " sending tasks"
            )
            if any(_is_asyncio(seen, thread) for thread in (writer, other)):
                fix = (
                    "read stdout while you write: Process.communicate(), or a task that reads beside `await"
                    " stdin.drain()`"
                )
            elif is_child(seen, writer, other.pid) or is_child(seen, other, writer.pid):
                fix = "read while you write, or let another thread or process do one of the two"
                parent = other if is_child(seen, writer, other.pid) else writer
                if is_python(seen, parent.pid):
                    fix = "read while you write: Popen.communicate(input), or a thread for one of the two"
            return Named(
                "both sides send first",
                f"process {writer.pid} and process {other.pid} send to each other through {through}, both are full, and"
                " neither receives",
                fix,
            )
    return None


def _is_asyncio(seen: Evidence, thread: Thread) -> bool:
    stack = seen.stacks.get(thread.tid)
    if stack is not None:
        return lines.mentions(stack, "/asyncio/", "/uvloop/")
    return thread.wait.call.startswith("epoll") and is_python(seen, thread.pid)


def _waits_for_exit(seen: Evidence, case: Case, writer: Thread, file: File) -> Named | None:
    """Name it where a process that should read waits until the writer's process has ended, or one behind it."""
    behind = sorted({thread.pid for thread in case.threads if thread.pid != writer.pid})
    waiting = case.threads if case.verdict == "deadlock" else seen.blocked.values()
    for thread in waiting:
        if thread.pid == writer.pid or thread.pid not in seen.readers(file):
            continue
        ended = next((pid for pid in (writer.pid, *behind) if waits_for_end_of(seen, thread, pid)), None)
        if ended is None:
            continue
        if is_child(seen, writer, thread.pid) and stream(writer):
            return output_not_read(seen, writer, file, thread.pid, f"waits for {writer.pid} to exit instead")
        return Named(
            "join before get",
            f"process {thread.pid} should read the full {kind_of(file)}, and waits for process {ended} to exit instead"
            + ("" if ended == writer.pid else f", which in turn waits for process {writer.pid}"),
            _DRAIN if is_python(seen, thread.pid) else "read the pipe to its end before waiting for the process",
        )
    return None


def _same_process(seen: Evidence, case: Case, writer: Thread, file: File) -> Named | None:
    """Only threads of the writer's own process could read."""
    if seen.readers(file) - {writer.pid}:
        return None
    process = seen.process(writer)
    others = [other for other in process.threads if other.tid != writer.tid]
    if case.verdict == "stall" and others:
        if not any(_may_wait_for_the_gil(other) for other in others):
            return None
        return Named(
            "reader cannot run",
            f"only process {writer.pid} itself could read the full {kind_of(file)}, and its other threads wait with a"
            " time limit, as for the GIL: it looks as if the blocked write holds it",
            "write with the GIL released (os.write, Connection.send), or read in another process",
        )
    stack = seen.stacks.get(writer.tid)
    if writer.tid != writer.pid and (stack is None or lines.meaning(stack) == "feed"):
        return Named(
            "exit with unread items",
            f"process {writer.pid} has put more than its {kind_of(file)} holds and waits until it is read, most likely"
            " to exit; no other process can read it",
            "get the items before the end, or give them up: queue.cancel_join_thread(), or queue.close(discard=True) of"
            " pipecap.get_context()",
        )
    locked = [other for other in others if _may_wait_for_a_lock(seen, other)]
    if locked:
        return Named(
            "reader waits for the writer's lock",
            f"a thread of process {writer.pid} itself should read the full {kind_of(file)}, most likely thread"
            f" {locked[0].tid}, and waits for a lock of the process, which the writer, its main thread, most likely has"
            " taken",
            "put outside of the lock: release it before put() or send(), or let the reading thread not take it",
        )
    gone = seen.now.ended_children(writer.pid)
    if gone:
        return Named(
            "reader has ended",
            f"process {writer.pid} waits for room in a full {kind_of(file)}; {processes(gone)}, most likely to read it,"
            f" has ended, and process {writer.pid} holds the read end itself, so that no write fails",
            "look why it ended (its exit status and its stderr); close the read end in the writer, so that the write"
            " fails with BrokenPipeError instead",
            _NOT_READ,
        )
    handlers = ", and if it wakes a loop from a signal handler make its write end O_NONBLOCK" if case.unless else ""
    return Named(
        "sent before anybody reads",
        f"a thread of process {writer.pid} itself waits for room in a full {kind_of(file)} that no other process"
        " can read",
        "start the reader first, or send from a thread or by a Queue, whose feeder thread waits instead" + handlers,
    )


def _may_wait_for_the_gil(thread: Thread) -> bool:
    """Whether it waits as CPython does for the GIL: in a futex with a short time limit, or just between two."""
    return thread.wait.kind == "running" or thread.wait.call.startswith("futex()")


def _may_wait_for_a_lock(seen: Evidence, thread: Thread) -> bool:
    """Whether a thread waits for a lock that another thread of its process may have; an idle one waits for work."""
    if thread.wait.kind != "private futex" or thread.tid not in seen.blocked:
        return False
    stack = seen.stacks.get(thread.tid)
    return bool(stack) and lines.meaning(stack or ()) == "" if seen.stacks else True


def _waits_for_lock(seen: Evidence, case: Case, writer: Thread, file: File) -> Named | None:
    """Those that could read wait for a lock: say what may own it."""
    for thread in case.threads:
        lock = seen.locks.get(thread.tid)
        if lock is not None and thread.pid in seen.readers(file) and thread.pid != writer.pid:
            owners = [other for other in case.writers if other.pid != thread.pid]
            owner = f"process {(owners or [writer])[0].pid}, blocked in its write, most likely owns it"
            if lock.owner is not None:
                owner = f"process {lock.owner} owns it"
            return Named(
                "workers queue on the lock",
                f"process {thread.pid}, which could read the full {kind_of(file)}, waits for a lock in shared memory;"
                f" {owner}",
                "receive results while sending tasks, so that the writer under the lock can go on",
            )
    return None
