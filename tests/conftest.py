"""Every test leaves no descriptor and no child behind; the header says what this host lacks."""

from __future__ import annotations

import gc
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import hypothesis
import privilege
import pytest
from alone import beside_others

import pipecap

hypothesis.settings.register_profile("quick", max_examples=60, deadline=None, derandomize=True)
hypothesis.settings.register_profile("thorough", max_examples=4000, stateful_step_count=100, deadline=None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thorough",
        action="store_true",
        help="hundreds of thousands of random steps against the kernel, in minutes: add -o faulthandler_timeout=0",
    )
    parser.addoption(
        "--all-programs",
        action="store_true",
        help="every program of tests/hanging and tests/healthy, not one or two of each kind",
    )
    parser.addoption(
        "--kill-matrix",
        action="store_true",
        help="100 kills in every cell of tests/test_kills.py, in an hour or two: add -o faulthandler_timeout=0",
    )
    parser.addoption(
        "--change-sysctls",
        action="store_true",
        help="as root: also the tests that change fs.pipe-* for a moment and put it back",
    )
    parser.addoption(
        "--cpython",
        action="store_true",
        help="also CPython's own tests of multiprocessing and executors, on pipecap's queues, in minutes",
    )
    parser.addoption(
        "--cpython-stock",
        action="store_true",
        help="the same with multiprocessing's own classes and without the list of skips, to compare",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    # The whole suite in two processes; what is asked for by name, or with a debugger, in this one. -n overrules it.
    if "PYTEST_XDIST_WORKER" in os.environ or not config.pluginmanager.hasplugin("xdist"):
        return
    is_whole = config.args_source is config.ArgsSource.TESTPATHS and not config.option.usepdb
    if is_whole and config.option.numprocesses is None:
        config.option.numprocesses = 2
        config.option.dist = "worksteal"


def pytest_configure(config: pytest.Config) -> None:
    # Load all that is loaded when first used: a child that became another user may not be able to read it any more.
    for name in pipecap.__all__:
        getattr(pipecap, name)
    hypothesis.settings.load_profile("thorough" if config.getoption("--thorough") else "quick")
    # The stdlib's helper process for spawned children: started here, so that no test appears to leave it behind.
    resource_tracker.ensure_running()


def pytest_collection_finish() -> None:
    # All that is loaded by now stays: the collection after each test would go through it two thousand times.
    gc.collect()
    gc.freeze()


def pytest_report_header() -> str:
    who = "root" if privilege.is_root() else f"uid {os.getuid()}"
    lacks = [
        name
        for name, number in (
            ("CAP_SYS_RESOURCE", privilege.CAP_SYS_RESOURCE),
            ("CAP_SYS_ADMIN", privilege.CAP_SYS_ADMIN),
        )
        if not privilege.has_capability(number)
    ]
    return f"host: {who}{' without ' + ', '.join(lacks) if lacks else ''}; Linux {platform.release()}"


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    before = open_files()
    children = child_processes()
    with beside_others():
        yield
    gc.collect()
    for _ in range(100):  # a child that was just told to end may take a moment
        if not child_processes() - children:
            break
        time.sleep(0.02)
    assert child_processes() - children == set(), "processes left behind"
    for _ in range(150):  # of an executor's worker that was just killed
        if open_files() == before:
            break
        time.sleep(0.02)
    assert open_files() == before, "descriptors left behind, or closed"


def open_files() -> dict[str, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the directory's own descriptor
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return found


def child_processes() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that ended meanwhile
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Give a fresh pipe: read end, write end."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):  # the test closed it
            os.close(end)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """Give the path of a FIFO that nobody has open."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


@pytest.fixture
def start() -> Iterator[Callable[..., BaseProcess]]:
    """Start processes of multiprocessing; what is left of them at the end of the test is killed."""
    started: list[BaseProcess] = []

    def start(target: Callable[..., object], *args: object, ctx: Any = None) -> BaseProcess:
        process: BaseProcess = (ctx or multiprocessing.get_context("fork")).Process(target=target, args=args)
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()
        process.close()


@pytest.fixture(scope="module")
def forkserver() -> Iterator[None]:
    """Start the helper process of that start method before any test looks at what is left behind, and stop it."""
    from multiprocessing import forkserver

    forkserver.ensure_running()
    yield
    forkserver._forkserver._stop()  # type: ignore[attr-defined] # there is no public way


needs_root = pytest.mark.skipif(not privilege.is_root(), reason="takes root to become another user")
