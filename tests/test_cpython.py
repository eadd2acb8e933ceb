"""CPython's own tests of multiprocessing and ProcessPoolExecutor, with pipecap's classes in place of the stock ones.

They run in an environment of their own, whose every interpreter imports cpython_ours at its start. For comparison, the
same with stock classes: --cpython-stock. By hand, in minutes: `pytest tests/test_cpython.py --cpython -s`.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import site
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cpython_borrowed import Origin, Version, find_tests, lend

import pipecap

pytestmark = pytest.mark.cpython

METHODS = ("fork", "spawn", "forkserver")
SUITES = {"multiprocessing": "test._test_multiprocessing", "executors": "test.test_concurrent_futures"}
# Seconds for one suite by one start method. It takes 30 to 80 on two cores.
LIMIT = 300
FEWEST_TESTS = 30

HERE = Path(__file__).parent


def environment(directory: Path, tests: Origin, *, stock: bool) -> Path:
    """Return a Python in whose processes, all of them, multiprocessing makes pipecap's classes; or `stock` ones."""
    venv.create(directory, symlinks=True)
    (packages,) = directory.glob("lib/python*/site-packages")
    for module in HERE.glob("cpython_*.py"):
        (packages / module.name).symlink_to(module)
    for method in METHODS:  # children import the module that their function is of
        (packages / f"cpython_{method}.py").write_text(
            "from test._test_multiprocessing import install_tests_in_module_dict\n"
            f"install_tests_in_module_dict(globals(), {method!r})\n"
        )
    lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
    lines.append(str(Path(pipecap.__file__).parents[1]))
    if tests.borrowed:
        lines.append(lend(tests, packages))
    if not stock:
        lines.append("import cpython_ours")
    (packages / "pipecap_in_place.pth").write_text("\n".join(lines))
    return directory / "bin" / "python"


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("method", METHODS)
def test_cpythons_own_tests_pass(request: pytest.FixtureRequest, tmp_path: Path, suite: str, method: str) -> None:
    stock = request.config.getoption("--cpython-stock")
    if not stock and not request.config.getoption("--cpython"):
        pytest.skip("takes minutes: asks for --cpython")
    # The executor's interface is the same in all versions; multiprocessing's tests reach into their own version.
    tests = find_tests(SUITES[suite], elsewhere=suite == "executors")
    if tests is None:
        pytest.skip(f"no Python here that may lend it ships with {SUITES[suite]} (Debian: in libpython3-testsuite)")
    python = environment(tmp_path / "environment", tests, stock=stock)
    faulthandler.cancel_dump_traceback_later()  # pytest's limit for a test; here it is LIMIT

    options = ["--tests-of", dotted(tests.version), *(["--all"] if stock else [])]
    report, output = run(python, tmp_path, suite, method, *options)

    # The proof that it was our classes that were tested: in the runner, its child, and a Python without environment.
    places = {where: set(classes.values()) for where, classes in report["evidence"].items()}
    ours = {"pipecap.queues.queue", "pipecap.queues.connection"}
    theirs = {"multiprocessing.queues", "multiprocessing.connection"}
    assert places == dict.fromkeys(("runner", "child", "python -I"), theirs if stock else ours)
    tested = ("Pipe", "SimpleQueue", "Pool") if suite == "multiprocessing" else ("Pipe", "SimpleQueue")
    assert stock or all(report["made"].get(name) for name in tested), report["made"]

    failures = "\n".join(f"{name}\n{text}" for name, text in report["failed"])
    assert not failures, f"{failures}\n{summary(report)}"
    assert not report["raised_in_threads"], "\n".join(report["raised_in_threads"])
    assert report["ran"] >= FEWEST_TESTS, output
    assert not report["stale_skips"], "on the list of skips, but not in CPython's tests"
    assert not report["left_behind"], f"threads or processes left behind:\n{output}"
    versions = f"CPython {dotted(sys.version_info[:3])}, tests of {dotted(tests.version)}"
    print(f"\n{suite}, {method}, {versions}: {summary(report)}", *report["lacking"], sep="\n")  # noqa: T201 # for -s


def dotted(version: Version) -> str:
    return ".".join(map(str, version))


def summary(report: dict[str, Any]) -> str:
    ours, theirs, lacking = (len(report[why]) for why in ("skipped", "skipped_by_cpython", "lacking"))
    return (
        f"{report['ran']} ran, {len(report['failed'])} failed, {ours} on our list, {theirs} skipped by CPython,"
        f" {lacking} need what it lacks, in {report['seconds']} s; made {report['made']}"
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
