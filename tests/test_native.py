"""The C module, called directly."""

from __future__ import annotations

import ast
import errno
import os
import signal
import socket
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import pipecap
from pipecap._native import ffi, lib
from pipecap.queues import native

PAGE = os.sysconf("SC_PAGESIZE")


def fill(fd: int, *sizes: int) -> tuple[int, ...]:
    result = ffi.new("struct pipecap_fill *")
    error = lib.pipecap_fill(fd, ffi.new("size_t[]", sizes), len(sizes), result)
    return error, result.accepted, result.writes, result.partial


def stub() -> list[ast.stmt]:
    """Return what the stub says of `lib`."""
    tree = ast.parse(Path(pipecap.__file__).with_name("_native.pyi").read_text())
    (described,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "_Lib")
    return described.body


def test_the_stub_names_every_symbol_and_no_other() -> None:
    named = [node.name for node in stub() if isinstance(node, ast.FunctionDef)]
    named += [ast.unparse(node.target) for node in stub() if isinstance(node, ast.AnnAssign)]
    assert sorted(named) == sorted(dir(lib))


def test_the_stub_has_as_many_parameters_as_the_header() -> None:
    functions = [node for node in stub() if isinstance(node, ast.FunctionDef)]
    described = {node.name: len(node.args.posonlyargs + node.args.args) - 1 for node in functions}
    assert described == {name: len(ffi.typeof(getattr(lib, name)).args) for name in described}


@pytest.mark.parametrize("function", [lib.pipecap_capacity, lib.pipecap_unread, lib.pipecap_full])
def test_a_closed_descriptor_is_ebadf(function: object, pipe: tuple[int, int]) -> None:
    for end in pipe:
        os.close(end)
    assert function(pipe[1]) == -errno.EBADF  # type: ignore[operator]


def test_no_size_wraps_around(pipe: tuple[int, int]) -> None:
    """The stdlib's fcntl reads 2**32 as 0 and shrinks the pipe to one page; 2**31 + 1 is the first size too many."""
    for size in (2**31 + 1, 2**32, 2**64 - 1):
        assert lib.pipecap_resize(pipe[1], size) == -errno.EINVAL
    assert lib.pipecap_capacity(pipe[1]) == 16 * PAGE


def test_the_fill_probe_tells_whole_writes_from_a_partial_one(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    assert fill(pipe[1], 10 * PAGE) == (0, 16 * PAGE, 1, 6 * PAGE)


def test_the_fill_probe_repeats_a_pattern(pipe: tuple[int, int]) -> None:
    """Header and payload of a 32 KiB message: the header takes a page, so only one message fits 64 KiB."""
    os.set_blocking(pipe[1], False)
    error, _, writes, _ = fill(pipe[1], 4, 8 * PAGE)
    assert (error, writes // 2) == (0, 1)


def test_the_fill_probe_never_sets_a_flag_and_never_waits(pipe: tuple[int, int]) -> None:
    assert fill(pipe[1], 1)[0] == -errno.EINVAL
    assert os.get_blocking(pipe[1])
    assert lib.pipecap_unread(pipe[0]) == 0


@pytest.mark.parametrize("sizes", [(), (0,), (4, 0), (2**63,)])
def test_the_fill_probe_refuses_sizes_that_make_no_sense(sizes: tuple[int, ...], pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    assert fill(pipe[1], *sizes)[0] == -errno.EINVAL


def test_the_fill_probe_does_not_run_for_ever_into_what_never_fills() -> None:
    fd = os.open(os.devnull, os.O_WRONLY | os.O_NONBLOCK)
    try:
        assert fill(fd, 1)[0] == -errno.EINVAL
    finally:
        os.close(fd)


def test_the_fill_probe_ends_though_somebody_reads() -> None:
    """It outruns the reader, or gives up above 2 GiB: that is no scratch pipe."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.settimeout(10)
        reader = threading.Thread(target=_read_all, args=(theirs,))
        reader.start()
        error, accepted, _, _ = fill(ours.fileno(), 64)
        ours.shutdown(socket.SHUT_RDWR)
        reader.join()
    assert error in (0, -errno.EFBIG)
    assert 0 < accepted <= 2**31 + 64


def _read_all(end: socket.socket) -> None:
    while end.recv(1 << 20):
        pass


def test_a_huge_write_costs_no_memory(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    assert fill(pipe[1], 0x7FFFF000) == (0, 16 * PAGE, 0, 16 * PAGE)


def test_an_eintr_storm_changes_nothing(pipe: tuple[int, int]) -> None:
    ticks = []
    previous = signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        lib.pipecap_resize(pipe[1], 2**20)
        os.set_blocking(pipe[1], False)
        for _ in range(5):
            assert fill(pipe[1], 1)[:3] == (0, 2**20, 2**20)
            while lib.pipecap_unread(pipe[0]):
                os.read(pipe[0], 2**20)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert ticks


def test_the_gil_is_free_during_a_probe(pipe: tuple[int, int]) -> None:
    lib.pipecap_resize(pipe[1], 2**20)
    os.set_blocking(pipe[1], False)
    probe = threading.Thread(target=fill, args=(pipe[1], 1))
    seen = []
    probe.start()
    while probe.is_alive():
        seen.append(lib.pipecap_unread(pipe[0]))
    probe.join()
    assert any(0 < unread < 2**20 for unread in seen), "nothing else ran while the probe did"


# ---- the door to it: pipecap.queues.native ----


@pytest.mark.parametrize("timeout", [None, float("inf"), 1e18, 10**400, 1e9 + 1])
def test_no_timeout_and_an_endless_one_have_no_limit(timeout: float | None) -> None:
    assert native.deadline_of(timeout) == native.WITHOUT_LIMIT
    assert native.deadline_of(timeout, block=False) == native.AT_ONCE


@pytest.mark.parametrize("timeout", [0, 0.0, -0.0, -1, -0.5, float("-inf"), -(10**400)])
def test_a_timeout_that_is_over_does_not_wait(timeout: float) -> None:
    assert native.deadline_of(timeout) == native.AT_ONCE


@pytest.mark.parametrize("timeout", [1e-12, 0.5, 1, True, 1e9, Fraction(1, 3)])
def test_a_timeout_in_seconds_is_a_deadline_in_nanoseconds(timeout: Any) -> None:
    before = time.monotonic_ns()
    deadline = native.deadline_of(timeout)
    after = time.monotonic_ns()
    assert before <= deadline - int(float(timeout) * 1e9) <= after


@pytest.mark.parametrize(
    "timeout", [float("nan"), "1", b"", [], object()], ids=["nan", "str", "bytes", "list", "object"]
)
def test_what_is_no_number_of_seconds_is_refused_by_name(timeout: Any) -> None:
    with pytest.raises(pipecap.InvalidValue, match="timeout must be seconds") as caught:
        native.deadline_of(timeout)
    assert caught.value.parameter == "timeout"


@pytest.mark.parametrize(
    ("result", "kind", "number"),
    [
        ("PIPECAP_END_OF_FILE", EOFError, None),
        ("PIPECAP_TRUNCATED", pipecap.TruncatedItem, None),
        ("PIPECAP_LOST", pipecap.LostItem, None),
        ("PIPECAP_TOO_LONG", pipecap.BadFrame, None),
        ("PIPECAP_BAD_HEADER", pipecap.BadFrame, None),
        ("PIPECAP_BROKEN", pipecap.BadFrame, None),
        ("PIPECAP_TABLE_FULL", pipecap.Unsupported, None),
        ("PIPECAP_CLOSED", OSError, errno.EBADF),
        (-errno.EBADF, OSError, errno.EBADF),
        (-errno.ENOMEM, MemoryError, None),
        (-errno.EPIPE, BrokenPipeError, errno.EPIPE),
        (-errno.EAGAIN, BlockingIOError, errno.EAGAIN),
        (-errno.EMFILE, OSError, errno.EMFILE),
    ],
)
def test_an_outcome_is_an_exception(result: str | int, kind: type[Exception], number: int | None) -> None:
    error = native.failure(getattr(lib, result) if isinstance(result, str) else result)
    assert type(error) is kind
    assert getattr(error, "errno", None) == number


def test_no_outcome_is_an_errno_or_another_outcome() -> None:
    outcomes = [
        getattr(lib, name)
        for name in dir(lib)
        if isinstance(getattr(lib, name), int) and getattr(lib, name) < 0 and name != "PIPECAP_EAGER"
    ]
    assert len(outcomes) == len(set(outcomes)) >= 11
    assert max(outcomes) < -max(errno.errorcode)
