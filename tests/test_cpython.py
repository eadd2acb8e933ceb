"""CPython's own tests of multiprocessing and ProcessPoolExecutor, with pipecap's classes in place of the stock ones.

They run in an environment of their own, whose every interpreter imports cpython_ours at its start. For comparison, the
same with stock classes: --cpython-stock. By hand, in minutes: `pytest tests/test_cpython.py --cpython -s`.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import os
import signal
import site
import subprocess
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import pipecap

pytestmark = pytest.mark.cpython

METHODS = ("fork", "spawn", "forkserver")
SUITES = {"multiprocessing": "test._test_multiprocessing", "executors": "test.test_concurrent_futures"}
# Seconds for one suite by one start method. It takes 30 to 80 on two cores.
LIMIT = 300
FEWEST_TESTS = 30

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a Python in whose processes, all of them, multiprocessing makes pipecap's classes."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory, symlinks=True)
    (packages,) = directory.glob("lib/python*/site-packages")
    for name in ("cpython_ours.py", "cpython_runner.py", "cpython_skips.py"):
        (packages / name).symlink_to(HERE / name)
    for method in METHODS:  # children import the module that their function is of
        (packages / f"cpython_{method}.py").write_text(
            "from test._test_multiprocessing import install_tests_in_module_dict\n"
            f"install_tests_in_module_dict(globals(), {method!r})\n"
        )
    lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
    lines.append(str(Path(pipecap.__file__).parents[1]))
    if not request.config.getoption("--cpython-stock"):
        lines.append("import cpython_ours")
    (packages / "pipecap_in_place.pth").write_text("\n".join(lines))
    return directory / "bin" / "python"


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("method", METHODS)
def test_cpythons_own_tests_pass(request: pytest.FixtureRequest, tmp_path: Path, suite: str, method: str) -> None:
    stock = request.config.getoption("--cpython-stock")
    if not stock and not request.config.getoption("--cpython"):
        pytest.skip("takes minutes: asks for --cpython")
    if not has_module(SUITES[suite]):
        pytest.skip(f"this Python ships without {SUITES[suite]} (Debian: in libpython3-testsuite)")
    python = request.getfixturevalue("python")
    faulthandler.cancel_dump_traceback_later()  # pytest's limit for a test; here it is LIMIT

    report, output = run(python, tmp_path, suite, method, *(["--all"] if stock else []))

    # The proof that it was our classes that were tested: in the runner, its child, and a Python without environment.
    places = {where: set(classes.values()) for where, classes in report["evidence"].items()}
    ours = {"pipecap.queues.queue", "pipecap.queues.connection"}
    theirs = {"multiprocessing.queues", "multiprocessing.connection"}
    assert places == dict.fromkeys(("runner", "child", "python -I"), theirs if stock else ours)
    assert stock or (report["made"]["Pipe"] and report["made"]["SimpleQueue"]), report["made"]

    failures = "\n".join(f"{name}\n{text}" for name, text in report["failed"])
    assert not failures, f"{failures}\n{summary(report)}"
    assert report["ran"] >= FEWEST_TESTS, output
    assert not report["stale_skips"], "on the list of skips, but not in CPython's tests"
    assert not report["left_behind"], f"threads or processes left behind:\n{output}"
    print(f"\n{suite}, {method}: {summary(report)}")  # noqa: T201 # for -s


def has_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def summary(report: dict[str, Any]) -> str:
    skipped = len(report["skipped"]), len(report["skipped_by_cpython"])
    return (
        f"{report['ran']} ran, {len(report['failed'])} failed, {skipped[0]} on our list, {skipped[1]} skipped by"
        f" CPython, in {report['seconds']} s; made {report['made']}"
    )


def run(python: Path, directory: Path, suite: str, method: str, *options: str) -> tuple[dict[str, Any], str]:
    """Run a suite to its end; give its report and its output."""
    report, log = directory / "report.json", directory / "log"
    command = [str(python), "-m", "cpython_runner", method, suite, str(report), *options]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=directory, start_new_session=True
        ) as runner,
        whole_group_killed(runner.pid),
    ):
        try:
            runner.wait(LIMIT)
        except subprocess.TimeoutExpired:
            runner.send_signal(signal.SIGABRT)  # faulthandler writes the stacks to the log
            runner.wait(5)
            pytest.fail(f"not done after {LIMIT} s:\n{log.read_text(errors='replace')}")
    text = log.read_text(errors="replace")
    assert report.exists(), f"the runner ended with status {runner.returncode}:\n{text}"
    return json.loads(report.read_text()), text


@contextmanager
def whole_group_killed(group: int) -> Iterator[None]:
    """Leave no process of a group behind."""
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
