"""The names of hangs without a full pipe: an end of file, an answer or an item that does not come. Pure.

Those on locks: locks.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from pipecap.diagnosis import locks
from pipecap.diagnosis.evidence import Evidence
from pipecap.diagnosis.find import Case
from pipecap.diagnosis.named import Named, is_python, kind_of, waits_for
from pipecap.proc.files import File
from pipecap.proc.snapshot import End, Thread
from pipecap.words import processes, some

_NOTHING_FULL = "no pipe is full here: growing one helps nobody"


def name(seen: Evidence, case: Case) -> Named:
    """Return the pattern of a case without a blocked writer."""
    if case.verdict == "idle":
        return _idle(seen, case)
    for rule in (
        _fifos,
        _left_behind,
        locks.lock_lost_at_fork,
        locks.own_words,
        locks.queue_lock_lost,
        locks.tasks_not_done,
        locks.task_lost,
        _own_end,
        _answers,
        locks.bounded,
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


# ---- ends of file and answers ----


def _own_end(seen: Evidence, case: Case) -> Named | None:
    """Name it where the reader itself holds the only write end."""
    for reader, file in _reads(seen, case):
        mains = {thread.tid for thread in case.threads if thread.tid == thread.pid} - {reader.tid}
        if mains & (seen.wakers.get(reader.tid) or set()) or seen.writers(file) != {reader.pid}:
            continue
        gone = seen.now.ended_children(reader.pid)
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
        fix = (
            "close the write end there: os.close() after fork(), O_CLOEXEC, subprocess's close_fds=True (its default),"
            " or pass_fds for the few that a child needs"
        )
        if seen.writers(file) == {waiter.pid}:
            fix = (
                f"close the write end in process {waiter.pid} before it waits: stdin.close() of the Popen, or"
                " communicate(), which does both; os.close() of a pipe"
            )
        return Named(
            "end of file that cannot come",
            f"process {reader.pid} reads a {kind_of(file)} to its end, which does not come while the write end is open"
            f" in {held}; process {waiter.pid} waits for {reader.pid} to exit",
            fix,
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
    """Name it where two processes read from each other."""
    readers = [*_reads(seen, case)]
    for one, file in readers:
        for other, back in readers:
            if one.pid == other.pid or file == back or (_is_stdin(seen, one, file) and _is_stdin(seen, other, back)):
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
    ended = [child for pid in pids for child in seen.now.ended_children(pid)]
    gone = f" Ended: {processes(ended)}." if ended else ""
    more = "" if seen.stacks else " pip install 'pipecap[stacks]' adds the Python lines, which would tell them apart."
    return Named(
        "waiting for a lock",
        f"{processes(pids)}: nothing moves.{gone} An idle pool looks like this, and so do an Event that a person or a"
        f" signal sets, and a queue whose lock a dead process had taken.{more}",
        "none if it is idle; if a thread sits in put(), get() or _feed(), the lock's owner died",
        _NOTHING_FULL,
    )
