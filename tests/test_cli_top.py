"""`pipecap top` on a terminal of its own: what it shows, and how it leaves it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from children import forked, wait_until
from commands import ENVIRONMENT, PIPECAP, assert_one_line_of_trouble, pipecap_command, pipecap_json
from programs import running

DEADLINE = 20.0
ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"
HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"


class Top:
    """A `top` on a terminal: what it has drawn so far, and its keyboard."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int) -> None:
        self.process = process
        self.drawn = b""
        self._terminal = terminal

    def type(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def until(self, pattern: str) -> re.Match[str]:
        """Read on until that is drawn, or give up loudly; what was before is forgotten."""
        begin = len(self.drawn)
        end = time.monotonic() + DEADLINE
        while not (match := re.search(pattern, plain(self.drawn[begin:]))):
            assert time.monotonic() < end, f"never drawn: {pattern}\n{plain(self.drawn[begin:])[-3000:]}"
            assert self._read(), f"ended without {pattern}\n{plain(self.drawn)[-3000:]}"
        return match

    def ended(self) -> int:
        """Wait for its end; gives the exit status."""
        end = time.monotonic() + DEADLINE
        while self.process.poll() is None:
            assert time.monotonic() < end, "does not end"
            self._read(0.05)
        while select.select([self._terminal], [], [], 0)[0] and self._read():
            pass
        return self.process.returncode

    def _read(self, timeout: float = DEADLINE) -> bool:
        if select.select([self._terminal], [], [], timeout)[0]:
            data = os.read(self._terminal, 65536)
            self.drawn += data
            return bool(data)
        return False


def plain(drawn: bytes) -> str:
    """Take the terminal's control sequences out."""
    return re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", drawn).decode(errors="replace")


@contextmanager
def top(*arguments: str, size: tuple[int, int] = (40, 120), **environment: str) -> Iterator[Top]:
    """Run it with a pseudo-terminal as its controlling one; in the end that must be as it was before."""
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        before = termios.tcgetattr(theirs)
        with subprocess.Popen(
            [*PIPECAP, "top", "--interval", "0.2", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**ENVIRONMENT, "TERM": "xterm", **environment},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        ) as process:
            try:
                yield Top(process, ours)
            finally:
                process.kill()
        assert termios.tcgetattr(theirs) == before
    finally:
        os.close(ours)
        os.close(theirs)


def assert_left_clean(shown: Top) -> None:
    """Check that the alternate screen was left and the cursor is back, both once and last."""
    for on, off in ((ENTER, LEAVE), (SHOW, HIDE)):
        assert shown.drawn.count(on) == shown.drawn.count(off) == 1
    assert set(re.findall(rb"\x1b\[\?\d+[hl]", shown.drawn[-40:])) == {SHOW, LEAVE}
    assert shown.drawn.endswith((SHOW, LEAVE))
    assert "Traceback" not in plain(shown.drawn)


@pytest.mark.parametrize(
    ("keys", "status"), [(b"q", 0), (b"Q", 0), (b"xyq", 0), (b"\x03", 0)], ids=["q", "Q", "others and q", "Ctrl-C"]
)
def test_keys_end_it_and_leave_the_terminal_clean(keys: bytes, status: int) -> None:
    with top(str(os.getpid())) as shown:
        shown.until("every 0.2 s; q ends it")
        shown.type(keys)
        assert shown.ended() == status
        assert_left_clean(shown)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 0)])
def test_signals_leave_the_terminal_clean_too(number: signal.Signals, status: int) -> None:
    with top() as shown:
        shown.until("q ends it")
        shown.process.send_signal(number)
        assert shown.ended() == status
        assert_left_clean(shown)


def test_a_signal_while_it_ends_changes_nothing() -> None:
    with top("--interval", "3000") as shown:
        shown.until("q ends it")
        for _ in range(20):
            shown.process.send_signal(signal.SIGINT)
            shown.process.send_signal(signal.SIGTERM)
        assert shown.ended() in (
            0,
            143,
            -signal.SIGINT,
            -signal.SIGTERM,
        )  # a late one meets Python's own handlers again
        assert_left_clean(shown)


def test_while_it_runs_keys_are_not_echoed_and_ctrl_z_does_not_leave_it_half_way() -> None:
    with top(str(os.getpid())) as shown:
        shown.until("q ends it")
        shown.until("q ends it")  # from the first sample on it reads keys
        shown.type(b"~~~\x1aq")
        assert shown.ended() == 0
        assert "~~~" not in plain(shown.drawn)
        assert "^Z" not in plain(shown.drawn)
        assert_left_clean(shown)


TOLD_TO_HANG = """
import sys
from multiprocessing import get_context
fork = get_context("fork")
queue = fork.Queue()
print("ready", flush=True)
sys.stdin.readline()
child = fork.Process(target=lambda: queue.put("X" * 1000000))
child.start()
child.join()
"""


def test_a_deadlock_is_shown_as_it_happens(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(TOLD_TO_HANG)
    with running(tmp_path / "program.py") as parent:
        with top("--tree", str(parent.pid)) as shown:
            shown.until("0 full; every")
            shown.until("0 full; every")
            assert "DEADLOCK" not in plain(shown.drawn)
            assert parent.stdin is not None
            parent.stdin.write("hang\n")
            parent.stdin.flush()
            shown.until("DEADLOCK: join before get")
            shown.until(r"-> python -m pipecap rescue \d+")
            shown.until(r"█+.*FULL")
            shown.until(r"write\(fd \d+, ")
            shown.type(b"q")
            assert shown.ended() == 0
            assert_left_clean(shown)


def test_bytes_in_and_out_are_lower_bounds_from_the_samples(pipe: tuple[int, int]) -> None:
    """30,000 bytes more in one interval: at least so many per second came in; and they fade with the next sample."""
    inode = os.fstat(pipe[0]).st_ino
    with top(str(os.getpid()), size=(100, 120)) as shown:
        shown.until(rf" 0 +65,536 [^\n]*{inode}")
        os.write(pipe[1], bytes(30_000))
        shown.until(rf"[█▉]\S* +30,000 +65,536 +>=[\d,]+ +moves +{inode}")
        shown.until(rf"[█▉]\S* +30,000 +65,536 +>=\d+\.\d s +{inode}")
        os.read(pipe[0], 25_000)
        shown.until(rf"[█▉]\S* +5,000 +65,536 +>=[\d,]+ +moves +{inode}")
        shown.type(b"q")
        assert shown.ended() == 0


def test_a_process_that_ends_is_told_and_the_others_go_on() -> None:
    with forked(signal.pause) as one, forked(signal.pause) as other, top(str(one.pid), str(other.pid)) as shown:
        shown.until(f"{one.pid}:")
        one.end()
        shown.until(f"no process {one.pid}")
        shown.until(f"{other.pid}:")
        shown.type(b"q")
        assert shown.ended() == 0


@pytest.mark.parametrize("size", [(5, 20), (24, 80), (10, 300)])
def test_any_size_of_terminal_will_do(size: tuple[int, int]) -> None:
    with top(size=size) as shown:
        shown.until("pipecap top")
        shown.until("pipecap top")
        shown.type(b"q")
        assert shown.ended() == 0
        assert_left_clean(shown)
    lines = re.split(r"\r?\n", plain(shown.drawn.rpartition(ENTER)[2].rpartition(b"\x1b[H")[2]))
    assert [line for line in lines if len(line) > size[1]] == []


def test_a_terminal_without_blocks_gets_hashes(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], bytes(65_536))
    with top(str(os.getpid()), PYTHONIOENCODING="ascii") as shown:
        shown.until(r"#{12} +65,536")
        shown.type(b"q")
        assert shown.ended() == 0
    assert shown.drawn.isascii()


def test_without_a_keyboard_a_signal_ends_it() -> None:
    """What comes through stdin is somebody's data, not keys: it is left there."""
    ours, theirs = pty.openpty()
    data, feed = os.pipe()
    try:
        os.write(feed, b"qqq")
        with subprocess.Popen(
            [*PIPECAP, "top"], stdin=data, stdout=theirs, stderr=theirs, env={**ENVIRONMENT, "TERM": "xterm"}
        ) as process:
            shown = Top(process, ours)
            shown.until("q ends it")
            shown.until("q ends it")
            process.send_signal(signal.SIGINT)
            assert shown.ended() == 0
        assert_left_clean(shown)
        assert os.read(data, 10) == b"qqq"
    finally:
        for end in (ours, theirs, data, feed):
            os.close(end)


def test_a_terminal_that_goes_ends_it() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*PIPECAP, "top"],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**ENVIRONMENT, "TERM": "xterm"},
        start_new_session=True,
    ) as process:
        os.close(theirs)
        Top(process, ours).until("q ends it")
        os.close(ours)
        wait_until(lambda: process.poll() is not None)
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()


# Without a terminal.


def test_without_a_terminal_it_says_what_to_use() -> None:
    assert_one_line_of_trouble(pipecap_command("top"), 1, "terminal", "use `pipecap ps`")


def test_json_is_one_document_as_of_ps(pipe: tuple[int, int]) -> None:
    found = pipecap_json("top", str(os.getpid()), "--interval", "0.1")
    assert found["schema"] == "pipecap.ps/1"
    assert os.fstat(pipe[0]).st_ino in [row["inode"] for row in found["pipes"]]
    assert json.dumps(found)


def test_a_process_that_is_gone_is_said_before_anything_is_drawn() -> None:
    with forked(signal.pause) as child, top(str(child.end())) as shown:
        assert shown.ended() == 1
        assert plain(shown.drawn).splitlines()[0].startswith(f"pipecap: no process {child.pid}")
        assert ENTER not in shown.drawn


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "x", "1e9"])
def test_what_is_no_interval_is_status_2(interval: str) -> None:
    assert_one_line_of_trouble(pipecap_command("top", "--interval", interval), 2)


def test_rich_is_loaded_to_draw_only() -> None:
    answer = pipecap_command("top", "--json", "--interval", "0.1", env={**ENVIRONMENT, "PYTHONPROFILEIMPORTTIME": "1"})
    assert "pipecap.proc.listing" in answer.stderr
    assert "rich" not in answer.stderr
