"""A child writes to its stdout or stderr, and its parent does not read it. Pure."""

from __future__ import annotations

from pipecap.diagnosis.evidence import Evidence
from pipecap.diagnosis.find import Case
from pipecap.diagnosis.named import STDERR, STDIN, STDOUT, Named, is_child, is_python, kind_of
from pipecap.proc.files import File
from pipecap.proc.snapshot import Thread
from pipecap.words import processes

_STREAMS = {STDOUT: "stdout", STDERR: "stderr"}


def reads_something_else(seen: Evidence, case: Case, writer: Thread, file: File) -> Named | None:
    """Name it where the process that should read this pipe reads another one: stdout, while stderr is full."""
    full = stream(writer)
    if not full:
        return None
    other = "stdout" if full == "stderr" else "stderr"
    for thread in seen.blocked.values():
        if thread.pid in seen.readers(file) and thread.pid != writer.pid:
            files = seen.awaited(thread)
            if file not in files and any(writer.pid in seen.writers(each) for each in files):
                named = output_not_read(seen, writer, file, thread.pid, f"reads its {other} first")
                return Named(f"{full} not read", named.cause, named.fix)
    readers = seen.readers(file) - {writer.pid}
    if any(is_child(seen, writer, pid) for pid in readers):
        return output_not_read(seen, writer, file, next(iter(sorted(readers))), "does not")
    return Named(
        "output not read",
        f"process {writer.pid} writes to its {full}, a full {kind_of(file)}; what should read it,"
        f" {processes(readers)}, does not",
        "look at what the next command of the pipeline waits for: `pipecap doctor` it, or py-spy dump",
    )


def output_not_read(seen: Evidence, writer: Thread, file: File, reader: int, instead: str) -> Named:
    """Name a parent that does not read what its child writes; the fix fits how the two talk."""
    full = stream(writer)
    if _still_asks(seen, writer, reader):
        if is_python(seen, reader):
            how = f"{full}=subprocess.DEVNULL, a file, or None (the parent's own)"
        else:
            how = "the parent's own (node: stdio 'inherit'), a file, or 'ignore'"
        fix = (
            f"it answers requests, so neither communicate() nor mixing {full} into the answers fits: read {full} in a"
            f" thread or task of its own, or send it elsewhere: {how}"
        )
    elif is_python(seen, reader):
        fix = f"Popen.communicate() reads both; or {full}=subprocess.STDOUT, subprocess.DEVNULL or a file"
        if full == "stdout":
            fix = "Popen.communicate() instead of wait(); or send the output to a file or to subprocess.DEVNULL"
    else:
        fix = f"read {full} to its end before waiting for process {writer.pid}; or send it to a file or to /dev/null"
    return Named(
        "output not read",
        f"process {writer.pid} writes to its {full}, a full {kind_of(file)}; process {reader} should read it, and"
        f" {instead}",
        fix,
    )


def _still_asks(seen: Evidence, writer: Thread, reader: int) -> bool:
    """Whether the parent holds the other ends of the child's stdin and stdout, so that it can send requests."""
    process = seen.process(writer)
    stdin, stdout = process.end(STDIN), process.end(STDOUT)
    if stdin is None or stdout is None:
        return False
    return reader in seen.writers(stdin.file) and reader in seen.readers(stdout.file)


def stream(writer: Thread) -> str:
    """Return "stdout" or "stderr" where a process's main thread writes to that; else nothing."""
    fd = writer.wait.fds[0].fd if writer.wait.fds and writer.tid == writer.pid else -1
    return _STREAMS.get(fd, "")
