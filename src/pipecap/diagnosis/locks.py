"""The names of hangs on locks, and on the counters of a queue: items put, tasks done. Pure."""

from __future__ import annotations

from pipecap.diagnosis import lines
from pipecap.diagnosis.evidence import Evidence
from pipecap.diagnosis.find import Case, is_waited_for, was_forked
from pipecap.diagnosis.named import Named, unread_bytes, waits_for
from pipecap.proc.snapshot import Thread
from pipecap.words import amount, processes

_NO_KILL = (
    "end the program; then do not kill a process that uses a queue (terminate(), OOM), or use pipecap.get_context(),"
    " whose locks know a dead owner"
)


def lock_lost_at_fork(seen: Evidence, case: Case) -> Named | None:
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


def own_words(seen: Evidence, case: Case) -> Named | None:
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


def queue_lock_lost(seen: Evidence, case: Case) -> Named | None:
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


def tasks_not_done(seen: Evidence, case: Case) -> Named | None:
    """Name it where a thread waits in JoinableQueue.join(), by its Python line."""
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


def task_lost(seen: Evidence, case: Case) -> Named | None:
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


def bounded(seen: Evidence, case: Case) -> Named | None:
    """By Python lines: a put() waits for room in a queue with a maxsize."""
    thread = next((each for each in case.threads if _meaning(seen, each) == "put"), None)
    return None if thread is None else _no_credit(seen, case, thread)


def _meaning(seen: Evidence, thread: Thread) -> lines.Meaning:
    return lines.meaning(seen.stacks.get(thread.tid, ()))
