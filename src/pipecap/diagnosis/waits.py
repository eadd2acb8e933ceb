"""The names of hangs without a full pipe: an end of file, an answer, a lock or a task that does not come. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from pipecap.diagnosis import lines
from pipecap.diagnosis.evidence import Evidence
from pipecap.diagnosis.find import Case, is_waited_for, was_forked
from pipecap.diagnosis.patterns import Named, is_python, kind_of, serves, unread_bytes, waits_for_end_of
from pipecap.proc.files import File
from pipecap.proc.snapshot import End, Thread
from pipecap.words import amount, processes, some

_NOTHING_FULL = "no pipe is full here: growing one helps nobody"
_NO_KILL = (
    "end the program; then do not kill a process that uses a queue (terminate(), OOM), or use pipecap.get_context(),"
    " whose locks know a dead owner"
)


def name(seen: Evidence, case: Case) -> Named:
    """Return the pattern of a case without a blocked writer."""
    if case.verdict == "idle":
        return _idle(seen, case)
    for rule in (
        _fifos,
        _left_behind,
        _lock_lost_at_fork,
        _own_words,
        _queue_lock_lost,
        _tasks_not_done,
        _task_lost,
        _own_end,
        _answers,
        _bounded,
        _no_more_items,
        _end_of_file,
    ):
        named = rule(seen, case)
        if named:
            return Named(named.pattern, named.cause, named.fix, named.no_growth or _NOTHING_FULL)
    pids = {thread.pid for thread in case.threads}
    return Named(
        "each waits for the other",
        f"{processes(pids)}: every thread waits for another one of them",
        "py-spy's lines show what each waits for: pip install 'pipecap[stacks]', then doctor again",
        _NOTHING_FULL,
    )


def _meaning(seen: Evidence, thread: Thread) -> lines.Meaning:
    return lines.meaning(seen.stacks.get(thread.tid, ()))


# ---- locks ----


def _lock_lost_at_fork(seen: Evidence, case: Case) -> Named | None:
    """Name it where the only thread of a forked child waits for a lock of its process, and its parent for the child."""
    for thread in case.threads:
        process = seen.process(thread)
        alone = len(process.threads) == 1 and thread.wait.kind == "private futex" and thread.tid in seen.stacks
        if not alone or not was_forked(seen, thread.pid) or not is_waited_for(seen, thread.pid):
            continue
        if _meaning(seen, thread) == "queue":
            return Named(
                "queue of threads in another process",
                f"process {thread.pid} has one thread, and it waits in a queue.Queue, which is for threads: a forked"
                " child has a copy of its own, and no other thread is left that could put or get",
                "use multiprocessing.Queue, or pipecap.get_context().Queue, between processes",
            )
        if _meaning(seen, thread) == "":
            return Named(
                "lock held at fork",
                f"process {thread.pid} has one thread, and it waits for a lock of the process: no thread is left that"
                " could release it. Another thread of its parent most likely had it when the process was forked",
                'start processes by "spawn" or "forkserver", or fork before the first thread starts; give the child a'
                " lock of its own (os.register_at_fork)",
            )
    return None


def _own_words(seen: Evidence, case: Case) -> Named | None:
    """Name a wait for a word of one of pipecap's queues."""
    for thread in case.threads:
        lock = seen.locks.get(thread.tid)
        if lock is None or not lock.word:
            continue
        if lock.word == "all_done":
            return _tasks(seen, case, thread)
        if lock.word == "credits":
            return _no_credit(seen, case, thread)
        if lock.owner is not None:
            return Named(
                "workers queue on the lock",
                f"process {thread.pid} waits for a lock of a queue, which process {lock.owner} owns",
                f"look at what process {lock.owner} waits for: python -m pipecap doctor {lock.owner}",
            )
    return None


def _queue_lock_lost(seen: Evidence, case: Case) -> Named | None:
    """By Python lines: threads wait for the read lock of a queue, or for its write lock, and none is beyond it."""
    for word, meanings in (("reader", ("get", "pool")), ("writer", ("feed",))):
        waiters = [thread for thread in case.threads if thread.tid in seen.locks and _meaning(seen, thread) in meanings]
        if not waiters:
            continue
        pids = {thread.pid for thread in waiters}
        files = {end.file for pid in pids for end in seen.now.processes[pid].ends if end.is_pipe}
        left = unread_bytes(seen, pids, files) if word == "reader" else None
        if word == "reader" and left is None:
            continue
        held = f" while {left[1]:,} bytes lie unread" if left else ""
        return Named(
            f"{word} died holding the lock",
            f"{processes(pids)}: waiting for the {'read' if left else 'write'} lock of a queue{held}, and no thread is"
            " beyond that lock: the process that had taken it was killed",
            _NO_KILL,
        )
    return None


def _no_credit(seen: Evidence, case: Case, thread: Thread) -> Named:
    waiter = waits_for(seen, case, thread.pid)
    fix = "read until the producers are gone, `for item in pipecap.drain(queue, processes)`, before you join them"
    if waiter is not None:
        return Named(
            "join before get",
            f"process {thread.pid} waits in put() until an item of a queue with a maxsize is taken, and process"
            f" {waiter.pid}, which should take one, waits for {thread.pid} to exit instead",
            fix,
        )
    return Named(
        "consumer stopped early",
        f"process {thread.pid} waits in put() until an item of a queue with a maxsize is taken, and no thread that"
        " could take one moves",
        fix,
    )


# ---- tasks and items ----


def _tasks_not_done(seen: Evidence, case: Case) -> Named | None:
    thread = next((each for each in case.threads if _meaning(seen, each) == "tasks"), None)
    return None if thread is None else _tasks(seen, case, thread)


def _tasks(seen: Evidence, case: Case, thread: Thread) -> Named:
    files = {end.file for end in seen.process(thread).ends if end.is_pipe and end.reads}
    left = unread_bytes(seen, {thread.pid}, files)
    others = {pid for file in files for pid in seen.readers(file)} - {thread.pid}
    if left is not None and not seen.readers(left[0]) - {thread.pid}:
        state = f"{amount(left[1])} lie unread, and no other process is left that could read them"
    elif others:
        state = f"{processes(others)} could work, and only wait: a task was got, and task_done() was not called for it"
    else:
        state = "no other process is left that could call task_done()"
    return Named(
        "consumer gone",
        f"process {thread.pid} waits in JoinableQueue.join() until each item is done: {state}",
        "call task_done() in a `finally:`, also where a task fails, and watch the workers: pipecap.get_context()'s"
        " join() raises LostItem for items that died with a worker",
    )


def _task_lost(seen: Evidence, case: Case) -> Named | None:
    """By Python lines: the owner of a pool waits for a result, and its workers for a task."""
    owner = next((each for each in case.threads if _meaning(seen, each) == "result"), None)
    if owner is None:
        return None
    workers = {each.pid for each in case.threads if each.pid != owner.pid and _meaning(seen, each) == "get"}
    if not workers:
        return None
    return Named(
        "task lost with its worker",
        f"process {owner.pid} waits for a result, and {processes(workers)} for the next task: the task was lost,"
        " most likely with a worker that was killed",
        "look for a killed worker (the kernel's log for the OOM killer); pipecap.get_context().Pool and"
        " concurrent.futures raise an error for the task of a worker that dies",
    )


def _no_more_items(seen: Evidence, case: Case) -> Named | None:
    """Name it where a process that could write to the pipe, too, as every user of a queue, is waited for."""
    for reader, file in _reads(seen, case):
        writers = seen.writers(file)
        waiter = waits_for(seen, case, reader.pid)
        if is_python(seen, reader.pid) and reader.pid in writers and waiter is not None and waiter.pid in writers:
            return Named(
                "item that cannot come",
                f"process {reader.pid} waits for an item or the end of file, and process {waiter.pid}, which could put"
                f" one, waits for {reader.pid} to exit",
                "put an end marker (None) for each reader before join(), and let the reader return on it; or close the"
                " write end in the reader",
            )
    return None


def _bounded(seen: Evidence, case: Case) -> Named | None:
    """By Python lines: a put() waits for room in a queue with a maxsize."""
    thread = next((each for each in case.threads if _meaning(seen, each) == "put"), None)
    return None if thread is None else _no_credit(seen, case, thread)


def waits_for(seen: Evidence, case: Case, pid: int) -> Thread | None:
    """Return a thread that waits for a process to end: one of the case, or of its parent, for no other child."""
    parent = seen.now.processes[pid].ppid
    threads = [thread for thread in case.threads if not serves(seen, thread.pid)]
    threads += [thread for thread in seen.blocked.values() if thread.pid == parent and (thread.wait.child or 0) > 0]
    return next((thread for thread in threads if thread.pid != pid and waits_for_end_of(seen, thread, pid)), None)


# ---- ends of file and answers ----


def _own_end(seen: Evidence, case: Case) -> Named | None:
    """Name it where the reader itself holds the only write end."""
    for reader, file in _reads(seen, case):
        mains = {thread.tid for thread in case.threads if thread.tid == thread.pid} - {reader.tid}
        if mains & (seen.wakers.get(reader.tid) or set()) or seen.writers(file) != {reader.pid}:
            continue
        gone = [child.pid for child in seen.now.children(reader.pid) if child.state in "ZX"]
        ended = f"; of its children, {processes(gone)} ended" if gone else ""
        return Named(
            "end of file that cannot come",
            f"process {reader.pid} reads a {kind_of(file)} whose write end it holds itself"
            f" ({_fds(seen, reader.pid, file)}), and nobody else does: no byte and no end of file can come{ended}",
            "close the child's end in the parent after start() (connection.close(), os.close), so that recv() raises"
            " EOFError; or read with pipecap.drain(queue, [process])"
            if is_python(seen, reader.pid)
            else "close the write end in the reading process",
        )
    return None


def _end_of_file(seen: Evidence, case: Case) -> Named | None:
    """Name it where a process that is waited for reads a pipe whose write end others hold open."""
    for reader, file in _reads(seen, case):
        waiter = waits_for(seen, case, reader.pid)
        if waiter is None:
            continue
        held = some(
            [
                f"process {pid} ({_fds(seen, pid, file)}{_how(seen, pid, waiter.pid)})"
                for pid in sorted(seen.writers(file))
            ]
        )
        return Named(
            "end of file that cannot come",
            f"process {reader.pid} reads a {kind_of(file)} to its end, which does not come while the write end is open"
            f" in {held}; process {waiter.pid} waits for {reader.pid} to exit",
            "close the write end there: os.close() after fork(), O_CLOEXEC, subprocess's close_fds=True (its default),"
            " or pass_fds for the few that a child needs",
        )
    return None


def _reads(seen: Evidence, case: Case) -> Iterator[tuple[Thread, File]]:
    """Return who reads what, main threads first: others may wait for them alone."""
    for reader in sorted(case.threads, key=lambda thread: thread.tid != thread.pid):
        for file in seen.awaited(reader):
            yield reader, file


def _fds(seen: Evidence, pid: int, file: File) -> str:
    source = seen.source(file)
    ends = [end for holder, end in seen.holders.get(source, ()) if holder == pid and end.writes] if source else []
    return "fd " + some([str(end.fd) for end in _in_order(ends)])


def _in_order(ends: Collection[End]) -> list[End]:
    return sorted(ends, key=lambda end: end.fd)


def _how(seen: Evidence, pid: int, waiter: int) -> str:
    return ", inherited" if pid != waiter and seen.now.processes[pid].ppid == waiter else ""


def _answers(seen: Evidence, case: Case) -> Named | None:
    """Two processes read from each other."""
    readers = [*_reads(seen, case)]
    for one, file in readers:
        for other, back in readers:
            if one.pid == other.pid or (_is_stdin(seen, one, file) and _is_stdin(seen, other, back)):
                continue  # two that read their input to its end, and inherited each other's write ends
            if other.pid in seen.writers(file) and one.pid in seen.writers(back):
                return Named(
                    "answer that cannot come",
                    f"process {one.pid} and process {other.pid} each read from the other, and neither sends: a request"
                    " was not sent, or is still in a buffer",
                    "flush after each request (print(..., flush=True), stdin.flush()), and let one side send first; one"
                    " that reads to the end of file answers only when the other has closed its write end",
                )
    return None


def _is_stdin(seen: Evidence, reader: Thread, file: File) -> bool:
    end = seen.process(reader).end(0)
    return end is not None and end.file == file


def _left_behind(seen: Evidence, case: Case) -> Named | None:
    """Name a reader to the end of file whose write end an orphan holds (find.py: _ends_that_do_not_come)."""
    if case.verdict != "stall" or not case.files:
        return None
    reader, file = case.threads[0], case.files[0]
    holders = sorted(seen.writers(file))
    if not holders:
        return None
    held = "; ".join(
        f"process {pid} [{seen.now.processes[pid].command}] ({_fds(seen, pid, file)}, inherited)" for pid in holders
    )
    return Named(
        "end of file that cannot come",
        f"process {reader.pid} reads a pipe to its end, which does not come while its write end is open in {held}: a"
        " process that what it was started by has left behind, and that waits for something else",
        "start that process with its output elsewhere (`>/dev/null 2>&1 &`, stdout=subprocess.DEVNULL), or read to the"
        " launcher's exit instead of to the end of file",
    )


def _fifos(seen: Evidence, case: Case) -> Named | None:
    opening = [thread for thread in case.threads if thread.wait.kind == "open"]
    if not opening:
        return None
    each = [
        f"process {thread.pid} waits until {thread.wait.path or 'a FIFO'} is opened for"
        f" {'writing' if thread.wait.fds[0].reads else 'reading'}"
        for thread in opening
    ]
    return Named(
        "FIFOs opened in the wrong order",
        some(each) + ": each waits for the other to open another FIFO",
        "open the FIFOs in the same order on both sides, one for reading where the other opens it for writing; or open"
        " one O_RDWR or O_NONBLOCK",
    )


# ---- idle ----


def _idle(seen: Evidence, case: Case) -> Named:
    pids = {thread.pid for thread in case.threads}
    waiters = [thread for thread in case.threads if thread.tid in seen.locks]
    if case.writers:
        return Named(
            "reader waits for its terminal",
            f"{processes(pids)}: waits for room in a full pipe, whose reader waits for a key, as a pager does",
            "none: it goes on when the reader does",
            "its reader waits for a person",
        )
    if not waiters:
        return Named(
            "waiting for input",
            f"{processes(pids)}: nothing moves, and nothing waits to be read. Idle workers look like this, and so do"
            " readers whose writers have forgotten them",
            "none if it is idle; if not, close the write ends that nobody uses, so that readers see the end",
            _NOTHING_FULL,
        )
    ended = [process.pid for pid in pids for process in seen.now.children(pid) if process.state in "ZX"]
    gone = f" Ended: {processes(ended)}." if ended else ""
    more = "" if seen.stacks else " pip install 'pipecap[stacks]' adds the Python lines, which would tell them apart."
    return Named(
        "waiting for a lock",
        f"{processes(pids)}: nothing moves.{gone} An idle pool looks like this, and so do an Event that a person or a"
        f" signal sets, and a queue whose lock a dead process had taken.{more}",
        "none if it is idle; if a thread sits in put(), get() or _feed(), the lock's owner died",
        _NOTHING_FULL,
    )
