"""`pipecap get`: own descriptors, other processes, FIFOs; nobody is disturbed, nothing hangs."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import assert_one_line_of_trouble, pipecap_command, pipecap_json
from conftest import needs_root
from privilege import CAP_DAC_READ_SEARCH, become_unprivileged, in_child

import pipecap
from pipecap.cli import endpoint
from pipecap.kernel import pipes
from pipecap.proc import procfs

PAGE = os.sysconf("SC_PAGESIZE")
DEFAULT = 16 * PAGE


def test_stdin_is_the_default(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"abc")
    (row,) = pipecap_json("get", stdin=pipe[0])["pipes"]
    assert row["target"] == "stdin"
    assert (row["state"]["capacity"], row["state"]["unread"], row["state"]["full"]) == (DEFAULT, 3, False)
    assert row["state"]["inode"] == os.fstat(pipe[0]).st_ino


def test_words_and_numbers_in_the_order_given(pipe: tuple[int, int]) -> None:
    found = pipecap_json("get", str(pipe[1]), "stdin", str(pipe[0]), stdin=pipe[0], pass_fds=pipe)
    assert [row["target"] for row in found["pipes"]] == [str(pipe[1]), "stdin", str(pipe[0])]


def test_text_is_a_table(pipe: tuple[int, int]) -> None:
    text = pipecap_command("get", stdin=pipe[0]).stdout
    assert [line.split() for line in text.splitlines()] == [
        ["target", "kind", "capacity", "unread", "full"],
        ["stdin", "pipe", f"{DEFAULT:,}", "0", "no"],
    ]


def test_a_pipe_of_another_process(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], bytes(DEFAULT))
    (row,) = pipecap_json("get", f"{os.getpid()}:{pipe[1]}")["pipes"]
    assert (row["state"]["full"], row["state"]["unread"]) == (True, DEFAULT)


def test_a_pipe_by_its_path_in_proc(pipe: tuple[int, int]) -> None:
    (row,) = pipecap_json("get", f"/proc/{os.getpid()}/fd/{pipe[0]}")["pipes"]
    assert row["state"]["kind"] == "pipe"


def test_a_process_that_is_gone_and_a_descriptor_that_is_not_open() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert_one_line_of_trouble(pipecap_command("get", f"{child.pid}:1"), 1, f"no process {child.pid}")
    assert_one_line_of_trouble(pipecap_command("get", f"{os.getpid()}:999"), 1, "is not open")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("/dev/null", "is no pipe or FIFO"),
        ("/nonexistent", "No such file"),
        ("/", "is no pipe or FIFO"),
        ("999", "fd 999"),
        ("4294967296", "is no descriptor"),
        ("stdin", "character device"),
        ("", "cannot be opened"),
    ],
)
def test_bad_targets_are_one_line_and_status_1(target: str, words: str) -> None:
    assert_one_line_of_trouble(pipecap_command("get", target), 1, words)


def test_the_good_are_shown_beside_the_bad(pipe: tuple[int, int]) -> None:
    answer = pipecap_command("get", "/", "stdin", stdin=pipe[0])
    assert (answer.returncode, answer.stdout.count("\n"), answer.stderr.count("\n")) == (1, 2, 1)
    found = pipecap_json("get", "/", "stdin", stdin=pipe[0])
    assert [row["error"] for row in found["failed"]] == ["NotAPipe"]
    assert found["failed"][0]["hint"]


def test_check_stops_at_the_first_failure(pipe: tuple[int, int]) -> None:
    found = pipecap_json("get", "--check", "/", "stdin", stdin=pipe[0])
    assert (found["pipes"], len(found["failed"])) == ([], 1)


def test_quiet_drops_the_warnings(pipe: tuple[int, int]) -> None:
    answer = pipecap_command("get", "-q", "/", "stdin", stdin=pipe[0])
    assert (answer.returncode, answer.stderr) == (1, "")


# FIFOs.


def test_a_fifo_nobody_has_open_does_not_hang(fifo: Path) -> None:
    assert_one_line_of_trouble(pipecap_command("get", str(fifo)), 1, "reader", "waiting writer its data")


def test_a_fifo_with_a_reader_but_no_writer_does_not_hang(fifo: Path) -> None:
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        (row,) = pipecap_json("get", str(fifo))["pipes"]
    finally:
        os.close(reader)
    assert (row["state"]["kind"], row["state"]["capacity"]) == ("fifo", DEFAULT)


def test_a_writer_that_waits_for_a_reader_is_not_let_through(fifo: Path) -> None:
    """The peer, pipesz(1), becomes that reader: the writer goes on, and dies of SIGPIPE or loses its data."""
    writer = subprocess.Popen(["sh", "-c", f"echo precious > '{fifo}'"])
    try:
        _wait_until_it_waits_in_open(writer.pid)
        assert_one_line_of_trouble(pipecap_command("get", str(fifo)), 1, "reader", "waiting writer its data")
        assert writer.poll() is None
        assert fifo.read_text() == "precious\n"
        assert writer.wait(timeout=20) == 0
    finally:
        writer.kill()
        writer.wait()


def _wait_until_it_waits_in_open(pid: int) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if "wait_for_partner" in Path(f"/proc/{pid}/wchan").read_text():
            return
        time.sleep(0.01)
    raise AssertionError("the writer never waited in open()")


@needs_root
def test_a_fifo_whose_reader_may_not_be_seen_is_left_alone(fifo: Path) -> None:
    """Unprivileged, beside processes of root: whether somebody reads cannot be told, so nobody is let through."""

    def look() -> subprocess.CompletedProcess[str]:
        os.close(reader)  # the child's copy
        return pipecap_command("get", str(fifo))

    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        answer = in_child(look, become=lambda: become_unprivileged(keep=1 << CAP_DAC_READ_SEARCH))
    finally:
        os.close(reader)
    assert_one_line_of_trouble(answer, 1, "not all processes may be looked into")


@needs_root
def test_another_users_process_is_denied_with_the_privilege_that_helps() -> None:
    def look() -> subprocess.CompletedProcess[str]:
        return pipecap_command("get", f"{os.getppid()}:0")

    answer = in_child(look, become=lambda: become_unprivileged(keep=1 << CAP_DAC_READ_SEARCH))
    assert_one_line_of_trouble(answer, 1, "may not be looked at", "CAP_SYS_PTRACE")


def test_a_strangers_pipe_is_opened_in_the_way_others_notice_least(pipe: tuple[int, int], fifo: Path) -> None:
    with endpoint.opened(f"{os.getpid()}:{pipe[0]}") as fd:
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_NONBLOCK) == os.O_WRONLY | os.O_NONBLOCK
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with endpoint.opened(str(fifo)) as fd:
            assert fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_NONBLOCK) == os.O_RDONLY | os.O_NONBLOCK
    finally:
        os.close(reader)


def test_a_writer_nobody_reads_from_is_still_told_so(pipe: tuple[int, int]) -> None:
    """EPIPE comes while `get` looks, too: a reader of ours would take in what then is lost."""
    os.close(pipe[0])
    with endpoint.opened(f"{os.getpid()}:{pipe[1]}") as fd:
        assert pipes.state(fd).capacity == DEFAULT
        with pytest.raises(BrokenPipeError):
            os.write(pipe[1], b"x")


def test_holders_are_found_with_what_they_hold(pipe: tuple[int, int]) -> None:
    status = os.fstat(pipe[0])
    found, _ = procfs.holders(status.st_dev, status.st_ino)
    assert {(holder.pid, holder.fd, holder.reads, holder.writes) for holder in found} == {
        (os.getpid(), pipe[0], True, False),
        (os.getpid(), pipe[1], False, True),
    }


def test_a_zombie_has_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    try:
        with pytest.raises(pipecap.ProcessGone):
            procfs.open_path(child.pid, 0)
    finally:
        child.wait()


def test_a_missing_procfs_is_said_so(tmp_path: Path) -> None:
    for look in (lambda: procfs.holders(1, 1, proc=str(tmp_path)), lambda: procfs.open_path(1, 0, proc=str(tmp_path))):
        with pytest.raises(pipecap.Unsupported, match="shows no processes"):
            look()


def test_a_bare_pid_is_asked_for_its_descriptor() -> None:
    assert_one_line_of_trouble(pipecap_command("get", str(os.getpid())), 1, f"ls -l /proc/{os.getpid()}/fd")


def test_control_characters_of_a_name_are_shown_not_sent(tmp_path: Path) -> None:
    assert_one_line_of_trouble(pipecap_command("get", f"{tmp_path}/\x1b[31mred"), 1, r"\x1b[31mred")


def test_processes_that_end_meanwhile_are_no_error(tmp_path: Path) -> None:
    """A fake /proc: 7 has lost its fd directory, 8 closed its descriptor between the listing and the look."""
    (tmp_path / "7").mkdir()
    (tmp_path / "8/fd").mkdir(parents=True)
    (tmp_path / "8/fd/3").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self").mkdir()
    assert procfs.holders(1, 1, proc=str(tmp_path)) == ([], [])
    with pytest.raises(pipecap.ProcessGone):
        procfs.open_path(9, 0, proc=str(tmp_path))
