"""The Python line each thread is in: this process asks its interpreter, others are read by py-spy (extra `stacks`).

py-spy runs in its non-blocking mode: it reads the memory of a process that goes on meanwhile, so a line may be of a
moment ago, or missing. For threads that hang it is exact.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from types import FrameType
from typing import TypeAlias

from pipecap.proc import procfs
from pipecap.words import first_of

INSTALL = "pip install 'pipecap[stacks]'"

_TIMEOUT = 5.0  # for one process; py-spy takes some 0.1 s
_AT_A_TIME = 4
_TRIES = 5
_NO_STACK = "Failed to"
_ENDED = "it ended before its Python lines were read"
_STDLIB = re.compile(r"/lib(64)?/python3\.\d+t?/(?!(site|dist)-packages/)|/python3\d+\.zip/|^<frozen |/pipecap/")
_PLUMBING = ("threading.py", "connection.py", "selectors.py", "synchronize.py")

Frame = tuple[str, int, str]  # file, line, function
Stack: TypeAlias = tuple[Frame, ...]  # the innermost first


def take(pids: Collection[int]) -> tuple[dict[int, Stack], tuple[str, ...]]:
    """Return the Python stack of each thread of some processes, by its number, and why some are missing.

    Several are read at a time. A program that is no Python is left out. Raises nothing.
    """
    found: dict[int, Stack] = {}
    others = sorted({*pids} - {os.getpid()})
    if len(others) < len({*pids}):
        found |= own()
    others = [pid for pid in others if _is_python(pid)]
    if not others:
        return found, ()
    program = find_program()
    if program is None:
        return found, (f"the Python lines of other processes: py-spy is not installed: {INSTALL}",)
    reasons: defaultdict[str, list[int]] = defaultdict(list)
    for pid, answer in _dump_all(program, others).items():
        if isinstance(answer, str):
            reasons[answer].append(pid)
        else:
            found |= answer
    return found, tuple(f"{first_of(pids)}: {reason}" for reason, pids in reasons.items())


def _dump_all(program: str, pids: Sequence[int]) -> dict[int, dict[int, Stack] | str]:
    """Read several processes at a time. Plain threads: concurrent.futures loads logging."""
    answers: dict[int, dict[int, Stack] | str] = {}
    turn = threading.Semaphore(_AT_A_TIME)

    def dump(pid: int) -> None:
        with turn:
            answers[pid] = _dump(program, pid)

    threads = [threading.Thread(target=dump, args=(pid,), daemon=True) for pid in pids]
    for pid, thread in zip(pids, threads, strict=True):
        try:
            thread.start()
        except RuntimeError as error:  # at the interpreter's shutdown, or RLIMIT_NPROC
            answers[pid] = f"py-spy does not run: {error}"
    for thread in threads:
        if thread.ident is not None:
            thread.join()
    return {pid: answers[pid] for pid in pids if pid in answers}


def _is_python(pid: int) -> bool:
    """Whether the executable is a Python interpreter; yes where that may not be read, and py-spy says why."""
    try:
        return "python" in os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except PermissionError:
        return True
    except OSError:
        return False


def own() -> dict[int, Stack]:
    """Return the Python stack of each thread of this process but the one that asks."""
    natives = {thread.ident: thread.native_id for thread in threading.enumerate()}
    natives.pop(threading.get_ident(), None)
    found: dict[int, Stack] = {}
    for ident, frame in sys._current_frames().items():
        native = natives.get(ident)
        if native is not None:
            found[native] = tuple(_up(frame))
    return found


def _up(frame: FrameType | None) -> Iterator[Frame]:
    while frame is not None:
        yield frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_qualname.rpartition("<locals>.")[2]
        frame = frame.f_back


def place(stack: Stack) -> str:
    """Return the place of a thread as "file.py:123 in function".

    The innermost of the user's code; of a thread that has none, the innermost of the standard library that is no
    plumbing.
    """
    own = [*since_start(stack)]
    chosen = (
        next((frame for frame in own if not _STDLIB.search(frame[0])), None)
        or next((frame for frame in own if os.path.basename(frame[0]) not in _PLUMBING), None)
        or own[0]
    )
    file, line, function = chosen
    return f"{os.path.basename(file) or file}:{line} in {function}"


def since_start(stack: Stack) -> Iterator[Frame]:
    """Leave out what a forked child has on its stack from the time before the fork: start(), and who called it."""
    for frame in stack:
        yield frame
        # Python 3.13 runs what is to be done at exit in popen_fork.py, not under _bootstrap().
        if frame[0].endswith(("/process.py", "/popen_fork.py")) and frame[2].endswith(("_bootstrap", "_launch")):
            return


# ---- py-spy ----


def find_program() -> str | None:
    """Find py-spy: beside this interpreter, on PATH, or where its package put it."""
    beside = os.path.join(os.path.dirname(sys.executable or ""), "py-spy")
    return shutil.which(beside) or shutil.which("py-spy") or _packaged()


def _packaged() -> str | None:
    from importlib import metadata

    with suppress(metadata.PackageNotFoundError, OSError):
        for file in metadata.files("py-spy") or ():
            if file.name == "py-spy":
                return shutil.which(str(file.locate()))
    return None


def _dump(program: str, pid: int, tries: int = _TRIES) -> dict[int, Stack] | str:
    """Read one process; gives why not where that fails."""
    command = [program, "dump", "--nonblocking", "--json", "--pid", str(pid)]
    try:
        answer = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return f"py-spy gave no Python lines within {_TIMEOUT:g} s"
    except (OSError, RuntimeError) as error:  # RuntimeError: the interpreter is shutting down
        return f"py-spy does not run: {error}"
    if answer.returncode:
        if procfs.has_ended(pid, "/proc"):
            return _ENDED
        # What runs meanwhile may change its stack under py-spy's eyes.
        return _dump(program, pid, tries - 1) if tries > 1 and _NO_STACK in answer.stderr else _refusal(answer.stderr)
    try:
        import json  # 5 ms, and only this needs it

        return _read(pid, json.loads(answer.stdout))
    except ImportError as error:  # rights were dropped, and the standard library may not be read any more
        return f"py-spy's answer cannot be read: {error}"
    except (ValueError, LookupError, TypeError, AttributeError):
        return f"py-spy's answer is not understood; another version may help: {INSTALL}"
    except OSError:
        return _ENDED


def _refusal(trouble: str) -> str:
    said = next((line.strip() for line in trouble.splitlines() if line.strip()), "no reason given")
    said = said.removeprefix("Error: ")
    if "permission" in trouble.lower() or "not permitted" in trouble.lower():
        return f"py-spy may not read its Python lines ({said}): run as root, or with CAP_SYS_PTRACE"
    return f"py-spy gives no Python lines ({said}); is it Python? a newer py-spy may know it: {INSTALL}"


def _read(pid: int, threads: Sequence[dict[str, object]]) -> dict[int, Stack]:
    natives = _natives(pid)
    found = {}
    for thread in threads:
        frames = tuple(_frame(each) for each in thread["frames"])  # type: ignore[attr-defined] # a list, or TypeError
        native = _native(pid, thread, natives)
        if frames and native is not None:
            found[native] = frames
    return found


def _frame(frame: dict[str, object]) -> Frame:
    return str(frame["filename"]), int(str(frame["line"])), str(frame["name"])


def _natives(pid: int) -> dict[int, int]:
    """Give the numbers of a process's threads here, by the numbers they have in their own PID namespace."""
    found = {}
    for tid in procfs.threads(pid, "/proc"):
        with suppress(FileNotFoundError, ProcessLookupError, ValueError):
            inner = procfs.status(f"/proc/{pid}/task/{tid}").get("NSpid", str(tid)).split()
            found[int(inner[-1])] = tid
    return found


def _native(pid: int, thread: dict[str, object], natives: dict[int, int]) -> int | None:
    number = thread.get("os_thread_id")
    if isinstance(number, int):
        return natives.get(number, number if number in natives.values() else None)
    # Python before 3.11 does not note the number.
    return pid if len(natives) == 1 or thread.get("thread_name") == "MainThread" else None
