"""`pipecap set`: what was granted, and why not."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from commands import PIPECAP, assert_one_line_of_trouble, pipecap_command, pipecap_json
from scenes import PUT_AND_EXIT, scene, wait_until_blocked_on_a_full_pipe

import pipecap
from pipecap.proc import procfs

PAGE = os.sysconf("SC_PAGESIZE")
DEFAULT = 16 * PAGE
MAX_SIZE = int(Path("/proc/sys/fs/pipe-max-size").read_text())


def test_a_pipe_of_another_process_stays_resized(pipe: tuple[int, int]) -> None:
    found = pipecap_json("set", "128K", f"{os.getpid()}:{pipe[0]}")
    assert found["pipes"] == [{"target": f"{os.getpid()}:{pipe[0]}", "before": DEFAULT, "capacity": 131072}]
    assert pipecap.capacity(pipe) == 131072


@pytest.mark.parametrize(("size", "granted"), [("max", MAX_SIZE), ("100KB", 131072), ("0x20000", 131072), ("1", PAGE)])
def test_sizes(size: str, granted: int, pipe: tuple[int, int]) -> None:
    assert pipecap_command("set", size, "stdin", stdin=pipe[0]).returncode == 0
    assert pipecap.capacity(pipe) == granted


def test_stdout_is_the_default_and_gets_no_byte_of_the_answer(pipe: tuple[int, int]) -> None:
    answer = pipecap_command("set", "128K", stdout=pipe[1])
    assert (answer.returncode, pipecap.capacity(pipe), pipecap.unread(pipe)) == (0, 131072, 0)
    assert "131,072" in answer.stderr


@pytest.mark.parametrize("name", ["stdout", "1", "01", "/dev/stdout", "/proc/self/fd/1", "3", "stdin"])
def test_stdout_by_any_name_gets_no_byte_of_the_answer(name: str, pipe: tuple[int, int]) -> None:
    command = " ".join(f"'{word}'" for word in [*PIPECAP, "set", "128K", name])
    answer = subprocess.run(["sh", "-c", f"{command} 3>&1 <&1"], stdout=pipe[1], stderr=subprocess.PIPE, check=False)
    assert (answer.returncode, pipecap.capacity(pipe), pipecap.unread(pipe)) == (0, 131072, 0)
    assert b"131,072" in answer.stderr


def test_json_shares_its_stream_with_no_warning(pipe: tuple[int, int]) -> None:
    answer = pipecap_command("set", "--json", "128K", "/", "stdout", stdout=pipe[1])
    assert answer.returncode == 1
    assert [row["target"] for row in json.loads(answer.stderr)["failed"]] == ["/"]


def test_a_refusal_is_one_line_with_the_limit_and_changes_nothing(pipe: tuple[int, int]) -> None:
    if pipecap.limits().exempt_from_max_size:
        pytest.skip("this user is exempt from fs.pipe-max-size")
    answer = pipecap_command("set", str(2 * MAX_SIZE), "stdin", stdin=pipe[0])
    assert_one_line_of_trouble(answer, 1, "max-size", "fs.pipe-max-size", "CAP_SYS_RESOURCE")
    assert pipecap.capacity(pipe) == DEFAULT
    (failed,) = pipecap_json("set", str(2 * MAX_SIZE), "stdin", stdin=pipe[0])["failed"]
    assert (failed["error"], failed["reason"], failed["limit"]) == ("ResizeRefused", "max-size", "fs.pipe-max-size")


def test_best_effort_takes_what_there_is_and_never_shrinks(pipe: tuple[int, int]) -> None:
    if not pipecap.limits().exempt_from_max_size:
        assert pipecap_command("set", "-b", "512M", "stdin", stdin=pipe[0]).returncode == 0
        assert pipecap.capacity(pipe) == MAX_SIZE
    before = pipecap.capacity(pipe)
    assert pipecap_command("set", "--best-effort", "4K", "stdin", stdin=pipe[0]).returncode == 0
    assert pipecap.capacity(pipe) == before


def test_a_full_pipe_is_busy(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], bytes(DEFAULT))
    assert_one_line_of_trouble(pipecap_command("set", "4K", "stdin", stdin=pipe[0]), 1, "busy", "slots")


@pytest.mark.parametrize("size", ["12x", "-1", "", "010000", "1e6"])
def test_bad_sizes_are_status_2(size: str, pipe: tuple[int, int]) -> None:
    answer = pipecap_command("set", size, "stdin", stdin=pipe[0])
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr
    assert pipecap.capacity(pipe) == DEFAULT


@pytest.mark.parametrize("size", ["3G", str(2**32)])
def test_sizes_no_kernel_takes_are_refused_not_wrapped(size: str, pipe: tuple[int, int]) -> None:
    assert_one_line_of_trouble(pipecap_command("set", size, "stdin", stdin=pipe[0]), 1, "invalid")
    assert pipecap.capacity(pipe) == DEFAULT


def test_all_targets_are_tried_unless_check_says_stop(pipe: tuple[int, int]) -> None:
    assert pipecap_command("set", "128K", "/", "stdin", stdin=pipe[0]).returncode == 1
    assert pipecap.capacity(pipe) == 131072
    assert pipecap_command("set", "256K", "--check", "/", "stdin", stdin=pipe[0]).returncode == 1
    assert pipecap.capacity(pipe) == 131072


def test_a_fifo_keeps_its_size_as_long_as_it_is_open(fifo: Path) -> None:
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert pipecap_command("set", "128K", str(fifo)).returncode == 0
        assert pipecap.capacity(reader) == 131072
    finally:
        os.close(reader)


def test_no_data_is_lost_in_a_resize_under_load(pipe: tuple[int, int]) -> None:
    with subprocess.Popen(["seq", "200000"], stdout=pipe[1]) as producer:
        os.close(pipe[1])
        read = b""
        for size in ("1M", "4K", "64K", "256K"):
            pipecap_command("set", "-q", size, "stdin", stdin=pipe[0])
            read += os.read(pipe[0], 65536)
        while data := os.read(pipe[0], 65536):
            read += data
        assert producer.wait(timeout=20) == 0
    assert read == "".join(f"{number}\n" for number in range(1, 200001)).encode()


def test_growing_the_pipe_of_a_live_hang_frees_it() -> None:
    """The classic: a child has put one big item and cannot exit. From outside, its queue's pipe is grown."""
    with scene(PUT_AND_EXIT, "b'0' * 500_000") as child:
        wait_until_blocked_on_a_full_pipe(child.pid)
        (fd,) = {
            holder.fd
            for fd in os.listdir(f"/proc/{child.pid}/fd")
            for status in [os.stat(f"/proc/{child.pid}/fd/{fd}")]
            for holder in procfs.holders(status.st_dev, status.st_ino)[0]
            if holder.pid == child.pid and holder.writes and holder.fd > 2
        }
        assert pipecap_json("get", f"{child.pid}:{fd}")["pipes"][0]["state"]["full"] is True
        assert pipecap_command("set", "1M", f"{child.pid}:{fd}").returncode == 0
        assert child.wait(timeout=20) == 0
