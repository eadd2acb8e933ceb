"""Limits, privileges, headroom; and which limit it was that refused."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import SkipTest

import pytest
from commands import PIPECAP
from conftest import needs_root
from hosts import host
from privilege import (
    CAP_DAC_READ_SEARCH,
    CAP_SYS_ADMIN,
    CAP_SYS_RESOURCE,
    become_unprivileged,
    drop_capability,
    effective_capabilities,
    in_child,
    is_root,
    quota_used_up,
    unprivileged,
)

import pipecap
from pipecap.kernel.limits import HostLimits, limits, refusal

PAGE = os.sysconf("SC_PAGESIZE")
SOFT = int(Path("/proc/sys/fs/pipe-user-pages-soft").read_text())
HARD = int(Path("/proc/sys/fs/pipe-user-pages-hard").read_text())
INITIAL_NAMESPACE = os.stat("/proc/self/ns/user").st_ino == 0xEFFFFFFD


def test_limits_are_those_of_proc() -> None:
    found = limits()
    capabilities = effective_capabilities()
    assert found.pipe_max_size == int(Path("/proc/sys/fs/pipe-max-size").read_text())
    assert (found.user_pages_soft, found.user_pages_hard, found.page_size) == (SOFT, HARD, PAGE)
    assert found.cap_sys_resource == bool(capabilities >> CAP_SYS_RESOURCE & 1)
    assert found.cap_sys_admin == bool(capabilities >> CAP_SYS_ADMIN & 1)
    assert found.unknown == {}


def test_an_ordinary_user_is_exempt_from_nothing() -> None:
    found = unprivileged(limits)
    assert (found.cap_sys_resource, found.cap_sys_admin) == (False, False)
    assert (found.exempt_from_max_size, found.exempt_from_quota) == (False, False)


@needs_root
def test_cap_sys_admin_lifts_the_quota_but_not_the_maximum() -> None:
    def look() -> HostLimits:
        drop_capability(CAP_SYS_RESOURCE)
        return limits()

    found = in_child(look)
    assert (found.exempt_from_max_size, found.exempt_from_quota) == (False, found.cap_sys_admin and INITIAL_NAMESPACE)


def test_root_of_a_user_namespace_is_exempt_from_nothing() -> None:
    """As root in a container: all capabilities, none of which the kernel asks for here."""
    if subprocess.run(["unshare", "-Ur", "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("this host forbids user namespaces")
    program = (
        "import pipecap; l = pipecap.limits(); print(l.cap_sys_admin, l.initial_user_namespace, l.exempt_from_quota)"
    )
    answer = subprocess.run(
        ["unshare", "-Ur", sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "True False False\n"


# A /proc that this host cannot show.


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Give a /proc with the usual limits of an ordinary user."""
    (tmp_path / "sys/fs").mkdir(parents=True)
    for name, value in (("pipe-max-size", 2**20), ("pipe-user-pages-soft", 16384), ("pipe-user-pages-hard", 0)):
        (tmp_path / "sys/fs" / name).write_text(f"{value}\n")
    (tmp_path / "thread-self").mkdir()
    (tmp_path / "thread-self/status").write_text("Name:\tpython\nCapEff:\t0000000000000000\n")
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/user").symlink_to("/proc/self/ns/user")
    return tmp_path


def test_an_empty_proc_is_unknown_not_a_crash(tmp_path: Path) -> None:
    found = limits(proc=str(tmp_path))
    facts = found.to_dict()
    assert {name for name, value in facts.items() if value is None} == set(found.unknown)
    assert len(found.unknown) == 8
    assert "No such file" in found.unknown["pipe_max_size"]


def test_missing_sysctls_as_in_gvisor(proc: Path) -> None:
    shutil.rmtree(proc / "sys")
    found = limits(proc=str(proc))
    assert (found.pipe_max_size, found.exempt_from_quota) == (None, False)
    assert set(found.unknown) == {"pipe_max_size", "user_pages_soft", "user_pages_hard"}


def test_a_status_without_capabilities_is_unknown(proc: Path) -> None:
    (proc / "thread-self/status").write_text("Name:\tpython\n")
    assert "CapEff" in limits(proc=str(proc)).unknown["cap_sys_admin"]


def test_a_namespace_that_cannot_be_read_leaves_a_lack_of_privilege_certain(proc: Path) -> None:
    (proc / "self/ns/user").unlink()
    found = limits(proc=str(proc))
    assert (found.initial_user_namespace, found.exempt_from_quota) == (None, False)


def test_garbage_in_a_sysctl_is_unknown(proc: Path) -> None:
    (proc / "sys/fs/pipe-max-size").write_text("lots\n")
    assert "lots" in limits(proc=str(proc)).unknown["pipe_max_size"]


@pytest.mark.parametrize(
    ("capabilities", "max_size", "quota"),
    [(0, False, False), (1 << CAP_SYS_RESOURCE, True, True), (1 << CAP_SYS_ADMIN, False, True)],
)
def test_who_is_exempt_from_what(proc: Path, capabilities: int, max_size: bool, quota: bool) -> None:
    """Read from fs/pipe.c: pipe_set_size() and pipe_is_unprivileged_user()."""
    (proc / "thread-self/status").write_text(f"CapEff:\t{capabilities:016x}\n")
    found = limits(proc=str(proc))
    assert found.exempt_from_max_size == (max_size and INITIAL_NAMESPACE)
    assert found.exempt_from_quota == (quota and INITIAL_NAMESPACE)


# Headroom.


def headroom_of_a_quiet_moment() -> pipecap.Headroom:
    """Measure until the time limit did not get in the way: on a busy host that may take a few tries."""
    for _ in range(20):
        found = pipecap.headroom()
        if "time limit" not in found.reason and "meanwhile" not in found.reason:
            return found
    raise SkipTest(f"too slow a host for the time limit of the count: {found}")


def held_pages(count: int) -> int:
    """Open pipes until `count` of them are held for good; give their pages."""
    pages = 0
    for _ in range(count):
        read_end, write_end = os.pipe()
        os.close(read_end)
        pages += fcntl.fcntl(write_end, fcntl.F_GETPIPE_SZ) // PAGE
    return pages


@needs_root
@pytest.mark.skipif(SOFT != 16384 or HARD != 0 or PAGE != 4096, reason="counts on the default quota of small pages")
@pytest.mark.parametrize("pipes", [0, 1, 40, 500, 1000, 1020])
def test_headroom_is_exact_to_the_page(pipes: int) -> None:
    """A user of its own holds some pipes: what is left is the quota less their pages."""

    def look() -> tuple[int, int | None, bool]:
        pages = held_pages(pipes)
        found = headroom_of_a_quiet_moment()
        return pages, found.pages, found.exact

    pages, left, exact = unprivileged(look)
    assert (left, exact) == (SOFT - pages, True)


@needs_root
@pytest.mark.skipif(SOFT != 16384 or HARD != 0 or PAGE != 4096, reason="counts on the default quota of small pages")
@pytest.mark.parametrize(
    "left", [0, 1, 2, 3, 15, 16, 17, 255, 256, 257, 264, 265, 266, 267, 511, 512, 513, 520, 521, 522, 523, 777, 1024]
)
def test_headroom_at_the_edges_of_its_pieces(left: int) -> None:
    def look() -> tuple[int | None, bool]:
        pages = held_pages((SOFT - left) // 16)
        for _ in range(SOFT - left - pages):
            read_end, write_end = os.pipe()
            os.close(read_end)
            fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PAGE)
        found = headroom_of_a_quiet_moment()
        return found.pages, found.exact

    # With a single page left no pipe can grow: the smallest step takes two.
    assert unprivileged(look) == (0 if left == 1 else left, True)


def test_headroom_gives_everything_back() -> None:
    """Twenty rounds in a row find about the same; an ordinary user's other processes may come and go meanwhile."""

    def look() -> tuple[list[int], int]:
        before = len(os.listdir("/proc/self/fd"))
        found = [headroom_of_a_quiet_moment().pages or 0 for _ in range(20)]
        return found, len(os.listdir("/proc/self/fd")) - before

    pages, left_open = unprivileged(look)
    assert min(pages) > (max(pages) - 1 if is_root() else max(pages) / 2)
    assert left_open == 0


def test_a_child_forked_meanwhile_keeps_nothing_of_the_quota() -> None:
    """A second thread forks again and again while the first one counts."""

    def look() -> int:
        stop = threading.Event()
        children: list[int] = []

        def fork() -> None:
            while not stop.is_set():
                child = os.fork()
                if not child:
                    # Held by the child alone: what it inherited of a count in progress.
                    os._exit(sum(_is_pipe(fd) for fd in range(3, 400)) - pipes_before)
                children.append(child)

        pipes_before = sum(_is_pipe(fd) for fd in range(3, 400))
        forker = threading.Thread(target=fork)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork in a process with threads
            forker.start()
            for _ in range(60):
                pipecap.headroom()
            stop.set()
            forker.join()
        return sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)

    assert unprivileged(look) == 0


def _is_pipe(fd: int) -> bool:
    try:
        return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) > 0
    except OSError:
        return False


def test_no_headroom_over_the_quota() -> None:
    def look() -> tuple[int | None, bool, bool]:
        with quota_used_up():
            found = headroom_of_a_quiet_moment()
            return found.pages, found.exact, found.exempt

    assert unprivileged(look) == (0, True, False)


def test_headroom_with_few_descriptors_is_a_lower_bound() -> None:
    def look() -> tuple[bool, str, bool]:
        soft = len(os.listdir("/proc/self/fd")) + 8
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        found = headroom_of_a_quiet_moment()
        return found.exact, found.reason, bool(found.pages)

    pipecap.limits()
    assert unprivileged(look) == (False, "out of descriptors for scratch pipes", True)


@needs_root
def test_who_is_exempt_is_said_so_and_takes_nothing() -> None:
    if not limits().exempt_from_quota:
        pytest.skip("root of this host is not exempt")
    found = pipecap.headroom()
    assert (found.pages, found.exempt, found.elapsed_ns) == (None, True, 0)
    assert "lifts the quota" in found.reason


# Which limit was it?


@pytest.mark.parametrize(
    ("number", "requested", "facts", "reason", "limit"),
    [
        (errno.EPERM, 2**21, {}, "max-size", "fs.pipe-max-size"),
        (errno.EPERM, 2**20, {}, "quota", "fs.pipe-user-pages-soft"),
        (errno.EPERM, 2**20, {"user_pages_hard": 100}, "quota", "fs.pipe-user-pages-hard"),
        (errno.EPERM, 2**20, {"user_pages_hard": 20000}, "quota", "fs.pipe-user-pages-soft"),
        (errno.EPERM, 2**20, {"user_pages_soft": 0, "user_pages_hard": 100}, "quota", "fs.pipe-user-pages-hard"),
        (errno.EPERM, 2**20, {"user_pages_soft": None}, "quota", None),
        (errno.EPERM, 2**21, {"exempt_from_max_size": True}, "quota", "fs.pipe-user-pages-soft"),
        (errno.EPERM, 2**21, {"exempt_from_max_size": None}, "max-size", "fs.pipe-max-size"),
        (errno.EPERM, 2**21, {"pipe_max_size": None}, "unknown", None),
        (errno.EPERM, 2**21, {"pipe_max_size": None, "exempt_from_max_size": True}, "quota", "fs.pipe-user-pages-soft"),
        (errno.EPERM, 2**20, {"exempt_from_quota": True}, "unsupported", None),
        (errno.EPERM, 2**20, {"user_pages_soft": 0}, "unsupported", None),
        (errno.EPERM, 4096, {}, "unsupported", None),
        (errno.EBUSY, 4096, {}, "busy", None),
        (errno.EBUSY, 2**20, {}, "unsupported", None),
        (errno.EINVAL, 2**33, {}, "invalid", None),
        (errno.ENOMEM, 2**30, {"exempt_from_max_size": True}, "memory", None),
    ],
)
def test_the_reason_follows_from_the_order_of_the_kernels_checks(
    number: int, requested: int, facts: dict[str, object], reason: str, limit: str | None
) -> None:
    error = refusal(number, requested, capacity=65536, maker=1000, host=host(**facts))
    assert (error.reason, error.limit) == (reason, limit)
    assert error.hint


def test_a_user_namespace_is_named_where_its_privileges_do_not_count() -> None:
    error = refusal(
        errno.EPERM,
        2**20,
        capacity=65536,
        maker=0,
        host=host(cap_sys_resource=True, cap_sys_admin=True, initial_user_namespace=False),
    )
    assert "user namespace" in str(error)


# The hard quota is off by default: these change the sysctl for a moment.


@contextmanager
def sysctl(name: str, value: int) -> Iterator[None]:
    path = Path("/proc/sys/fs", name)
    before = path.read_text()
    path.write_text(str(value))
    try:
        yield
    finally:
        path.write_text(before)


@pytest.fixture
def may_change_sysctls(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--change-sysctls"):
        pytest.skip("changes a sysctl of this host for a moment: asks for --change-sysctls")


@needs_root
@pytest.mark.usefixtures("may_change_sysctls")
@pytest.mark.parametrize("quota", [60, 200, 16 + 256 + 9 + 7, 16 + 512 + 9 + 1, 1000, 10_000])
def test_the_hard_quota_is_named_and_headroom_exact(quota: int) -> None:
    """Also where less than the 16 pages of a new pipe are left, which the old ones can still take."""

    def grow() -> tuple[str, str | None, int | None, int | None, bool]:
        ends = os.pipe()
        found = headroom_of_a_quiet_moment()
        held = held_pages((quota - 16) // 16)
        with pytest.raises(pipecap.ResizeRefused) as caught:
            pipecap.resize(ends, 2**20)
        return caught.value.reason, caught.value.limit, caught.value.limit_value, found.pages, found.exact and held > 0

    with sysctl("pipe-user-pages-hard", quota):
        found = unprivileged(grow)
    assert found == ("quota", "fs.pipe-user-pages-hard", quota, quota - 16, True)


@needs_root
@pytest.mark.usefixtures("may_change_sysctls")
def test_over_the_hard_quota_there_is_no_pipe_to_measure_with() -> None:
    def measure() -> int | None:
        for _ in range(3):
            os.pipe()
        with pytest.raises(pipecap.NoScratchPipe) as caught:
            pipecap.measure()
        return caught.value.errno

    with sysctl("pipe-user-pages-hard", 60):
        assert unprivileged(measure) == errno.ENFILE


@needs_root
@pytest.mark.usefixtures("may_change_sysctls")
def test_over_the_hard_quota_the_command_says_so_in_one_line() -> None:
    def probe() -> tuple[int, str]:
        ends = os.pipe()
        held = [os.pipe() for _ in range(2)]
        streams = [(os.POSIX_SPAWN_DUP2, ends[1], 1), (os.POSIX_SPAWN_DUP2, ends[1], 2)]
        # subprocess would need a pipe of its own.
        pid = os.posix_spawn(PIPECAP[0], PIPECAP, os.environ, file_actions=streams)
        _, status = os.waitpid(pid, 0)
        del held
        return os.waitstatus_to_exitcode(status), os.read(ends[0], 4096).decode()

    with sysctl("pipe-user-pages-hard", 60):
        status, text = in_child(probe, become=lambda: become_unprivileged(keep=1 << CAP_DAC_READ_SEARCH))
    assert (status, text.count("\n")) == (1, 1)
    assert "fs.pipe-user-pages-hard" in text


@needs_root
@pytest.mark.usefixtures("may_change_sysctls")
def test_a_lowered_maximum_makes_smaller_pipes_and_is_reported() -> None:
    with sysctl("pipe-max-size", 4 * PAGE):
        found = unprivileged(pipecap.report)
    assert (found.limits.pipe_max_size, found.queues[0].nominal) == (4 * PAGE, 4 * PAGE)
    assert found.verdict[0].level == "problem"
    assert "cannot grow" in found.verdict[0].text
