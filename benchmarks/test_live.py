"""Looking at live processes: what a diagnosis costs, how that grows, and what it costs those who are looked at."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from scenes import hung

from benchmarks.conftest import Against
from pipecap.diagnosis.diagnose import diagnose
from pipecap.proc.listing import list_pipes

# Two looks without waiting in between: what a diagnosis costs besides its window.
NO_WINDOW = 1e-9
WINDOW = 0.3
FEW, MANY = 50, 500
PIPES = 10
CHUNK = 1 << 16
CHUNKS = 8000


@pytest.fixture
def pair() -> Iterator[int]:
    """Hang the documented example: a child puts, its parent joins before it gets."""
    with hung("join_before_get") as program:
        yield program.pid


def test_diagnosis(against: Against, pair: int) -> None:
    """Beyond the window, against reading as much of /proc and knowing nothing."""

    def diagnosis() -> None:
        assert [finding.verdict for finding in diagnose(pair, window=NO_WINDOW).findings] == ["deadlock"]

    against(("two bare walks of /proc", two_walks), ("diagnose() of a hung pair", diagnosis), rounds=20)


def test_doctor(against: Against, pair: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From start to end, against an interpreter that sleeps as long as the window."""
    # As an installed package has it, whatever this environment wants.
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path))
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    doctor = ["-m", "pipecap", "doctor", str(pair), "--window", str(WINDOW)]
    against(
        (f"python -c 'time.sleep({WINDOW})'", python(0, "-c", f"import time; time.sleep({WINDOW})")),
        ("pipecap doctor of a hung pair", python(3, *doctor)),
        rounds=8,
    )


@pytest.fixture(scope="module")
def idle() -> Iterator[list[int]]:
    """Start many processes that wait to read, each with pipes of its own."""

    def pipes() -> list[tuple[int, int]]:
        os.closerange(3, 256)
        return [os.pipe() for _ in range(PIPES)]

    yield from readers(pipes)


@pytest.fixture(scope="module")
def workers() -> Iterator[list[int]]:
    """Start many processes that wait to read from one pipe, and share some more."""
    ends = [os.pipe() for _ in range(PIPES)]
    yield from readers(lambda: ends)
    for fd in (fd for pipe in ends for fd in pipe):
        os.close(fd)


def readers(pipes: Callable[[], list[tuple[int, int]]]) -> Iterator[list[int]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    if hard != resource.RLIM_INFINITY and hard < 2 * MANY:
        pytest.skip(f"takes {MANY} processes; `ulimit -Hu` allows {hard:,}")
    resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
    pids: list[int] = []
    try:
        pids += (start(lambda: os.read(pipes()[0][0], 1)) for _ in range(MANY))
        while not all("pipe_read" in Path(f"/proc/{pid}/wchan").read_text() for pid in pids):
            time.sleep(0.01)
        yield pids
    finally:
        end(*pids)
        resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))


def test_growth(against: Against, idle: list[int], tmp_path: Path) -> None:
    compare_growth(against, idle, tmp_path, f"with {PIPES} pipes of its own each", found=(FEW, MANY))


def test_growth_of_a_pool(against: Against, workers: list[int], tmp_path: Path) -> None:
    """All wait for all others."""
    compare_growth(against, workers, tmp_path, f"that share {PIPES} pipes", found=(1, 1))


def compare_growth(against: Against, pids: list[int], directory: Path, what: str, *, found: tuple[int, int]) -> None:
    """Time ten times as many processes, against the few ten times: with cost in proportion, the ratio is 1."""
    few, many = view(directory / "few", pids[:FEW]), view(directory / "many", pids)

    def look(proc: str, times: int, findings: int) -> Callable[[], None]:
        def look() -> None:
            for _ in range(times):
                assert len(diagnose(window=NO_WINDOW, proc=proc).findings) == findings

        return look

    against(
        (f"{FEW} of them, {MANY // FEW} times", look(few, MANY // FEW, found[0])),
        (f"diagnose() of {MANY} processes {what}", look(many, 1, found[1])),
        rounds=5,
        aim=1.2,
    )


def test_many(against: Against, idle: list[int]) -> None:
    assert len(idle) == MANY
    against(
        ("two bare walks of /proc", two_walks),
        (f"diagnose() beside {MANY} processes with {MANY * PIPES:,} pipes", lambda: diagnose(window=NO_WINDOW)),
        rounds=5,
    )


@pytest.mark.parametrize("pause", [1.0, 0.1], ids=["as top does", "ten times as often"])
def test_ps_beside_a_pipe_under_load(against: Against, pause: float) -> None:
    """A reader and a writer, alone and while a third process lists all pipes again and again."""
    data, tokens, done = os.pipe(), os.pipe(), os.pipe()
    with mmap.mmap(-1, mmap.PAGESIZE) as listing:
        pids = [
            start(lambda: write_when_told(data[1], tokens[0])),
            start(lambda: read_and_tell(data[0], done[1])),
            start(lambda: list_while(listing, pause)),
        ]

        def transfer() -> None:
            os.write(tokens[1], b"x")
            os.read(done[0], 1)

        def transfer_listed() -> None:
            listing[0] = 1
            transfer()
            listing[0] = 0

        try:
            against(
                ("the same alone", transfer),
                (f"a pipe under load, list_pipes() {1 / pause:.0f} times a second", transfer_listed),
                rounds=8,
                calls=3,
                aim=1.05,
            )
        finally:
            end(*pids)
    for fd in (*data, *tokens, *done):
        os.close(fd)


def two_walks() -> None:
    for _ in range(2):
        walk()


def walk() -> int:
    """Read of every process what a diagnosis reads, and throw it away: stat, descriptors, each thread's call."""
    seen = 0
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended, or may not be read
            (path / "stat").read_bytes()
            for fd in os.listdir(path / "fd"):
                os.readlink(f"{path}/fd/{fd}")
                seen += 1
            for tid in os.listdir(path / "task"):
                for name in ("syscall", "stat", "status"):
                    with open(f"{path}/task/{tid}/{name}", "rb") as file:
                        seen += len(file.read())
    return seen


def view(directory: Path, pids: list[int]) -> str:
    """Make a /proc that shows only some processes, by links into the real one."""
    directory.mkdir()
    for name in ("self", *map(str, pids)):
        (directory / name).symlink_to(f"/proc/{name}")
    return str(directory)


def python(status: int, *arguments: str) -> Callable[[], None]:
    """Run an interpreter that exits with this status."""

    def run() -> None:
        answer = subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=False)
        assert answer.returncode == status

    return run


def start(function: Callable[[], object]) -> int:
    """Fork a process that ends with this one; its function never returns."""
    pid = os.fork()
    if not pid:
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
        try:
            function()
        finally:
            os._exit(1)
    return pid


def end(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)


def write_when_told(data: int, tokens: int) -> None:
    chunk = bytes(CHUNK)
    while os.read(tokens, 1):
        for _ in range(CHUNKS):
            os.write(data, chunk)


def read_and_tell(data: int, done: int) -> None:
    while True:
        left = CHUNK * CHUNKS
        while left:
            left -= len(os.read(data, CHUNK))
        os.write(done, b"x")


def list_while(wanted: mmap.mmap, pause: float) -> None:
    while True:
        if wanted[0]:
            list_pipes()
            time.sleep(pause)
        else:
            time.sleep(0.001)
