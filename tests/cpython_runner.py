"""Run CPython's own tests in this process and write down how they went. tests/test_cpython.py starts it."""

from __future__ import annotations

import argparse
import faulthandler
import fnmatch
import importlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
import traceback
import unittest
from collections.abc import Iterator
from multiprocessing import connection
from pathlib import Path
from types import ModuleType
from typing import Any

from cpython_borrowed import Version
from cpython_skips import skips

# What makes no queue, connection or pool, or not multiprocessing's.
UNRELATED = re.compile(
    r"WithThreads"
    r"|With(Processes|Manager)Test"
    r"(Lock|Semaphore|Condition|Event|Barrier|Value|Array|Heap|SharedCTypes|SharedMemory|Containers|ImportStar)$"
    r"|(TestFlags|TestForkAwareThreadLock|TestResourceTracker|TestNamedResource|_TestImportStar|SemLockTests)$"
)
EXECUTOR_MODULES = ("as_completed", "deadlock", "init", "process_pool", "shutdown", "wait")
LACKS = "needs what this CPython lacks"


def modules(suite: str, method: str) -> list[str]:
    """Give the modules of a suite that this interpreter has."""
    if suite == "multiprocessing":
        return [f"cpython_{method}"]
    package = importlib.import_module("test.test_concurrent_futures")
    if not hasattr(package, "__path__"):
        return [package.__name__]
    return [f"{package.__name__}.test_{name}" for name in EXECUTOR_MODULES]


def related(case: unittest.TestCase, suite: str, method: str) -> bool:
    """Whether a test is one of this suite and start method."""
    name = type(case).__name__
    if suite == "multiprocessing":
        return not UNRELATED.search(name)
    return re.match(f"ProcessPool{method.capitalize()}(?!server)", name) is not None


def cases(tests: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """Give the tests of a suite, one by one."""
    for test in tests:
        if isinstance(test, unittest.TestSuite):
            yield from cases(test)
        else:
            yield test


def name_of(case: unittest.TestCase) -> str:
    """Give Class.test."""
    return ".".join(case.id().split(".")[-2:])


def classes_in_force(method: str | None = None) -> dict[str, str]:
    """Tell the module of each class that this process gets, by all ways of asking for one."""
    found = {
        "connection.Connection": connection.Connection.__module__,
        "connection.Pipe()": _module_of(*connection.Pipe()),
    }
    sources: dict[str, Any] = {"multiprocessing": multiprocessing, "context": multiprocessing.get_context(method)}
    for source, maker in sources.items():
        for name in ("Queue", "JoinableQueue", "SimpleQueue"):
            found[f"{source}.{name}()"] = _module_of(getattr(maker, name)())
        for duplex in (False, True):
            found[f"{source}.Pipe({duplex})"] = _module_of(*maker.Pipe(duplex))
    return found


def _module_of(*objects: Any) -> str:
    for each in objects:
        each.close()
    return " and ".join({type(each).__module__ for each in objects})


def tell(queue: Any, method: str) -> None:
    """Say through a queue which classes are in force in this child, and which the queue itself is of."""
    queue.put({"the queue itself": type(queue).__module__, **classes_in_force(method)})


def evidence(method: str) -> dict[str, dict[str, str]]:
    """Tell the classes in force here, in a child by the start method, and in a Python that ignores the environment."""
    multiprocessing.set_start_method(method, force=True)
    queue: Any = multiprocessing.Queue()
    child = multiprocessing.Process(target=tell, args=(queue, method))
    child.start()
    in_child = queue.get(timeout=60)
    child.join()
    queue.close()
    queue.join_thread()
    program = "import cpython_runner, json; print(json.dumps(cpython_runner.classes_in_force()))"
    alone = subprocess.run([sys.executable, "-I", "-c", program], stdout=subprocess.PIPE, check=True)
    return {"runner": classes_in_force(method), "child": in_child, "python -I": json.loads(alone.stdout)}


def lacked(error: BaseException | None) -> str | None:
    """Return what borrowed tests need and this interpreter's library has not, if the error is about that."""
    module = None
    if isinstance(error, ImportError):
        module = error.name
    elif isinstance(error, AttributeError) and isinstance(error.obj, ModuleType):
        module = error.obj.__name__
    if module is None or module.partition(".")[0] not in sys.stdlib_module_names:
        return None
    return f"{LACKS}: {error}"


class BorrowedResult(unittest.TextTestResult):
    """A result in which a test that needs what this interpreter lacks is skipped, with that reason."""

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        reason = lacked(err[1])
        if reason:
            self.addSkip(test, reason)
        else:
            super().addError(test, err)


def run(method: str, suite: str, only: str, listed: dict[str, str], borrowed: bool) -> dict[str, Any]:
    """Run a suite; give what there is to say about it."""
    classes = evidence(method)
    multiprocessing.set_start_method(None, force=True)
    chosen = unittest.TestSuite()
    skipped: dict[str, str] = {}
    lacking: list[str] = []
    for module in modules(suite, method):
        try:
            tests = unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(module))
        except (ImportError, AttributeError) as error:
            reason = lacked(error)
            if not borrowed or reason is None:
                raise
            lacking.append(f"{module}: {reason}")
            continue
        for case in cases(tests):
            name = name_of(case)
            if related(case, suite, method) and fnmatch.fnmatch(name, only):
                pattern = next((pattern for pattern in listed if fnmatch.fnmatch(name, pattern)), None)
                if pattern is None:
                    chosen.addTest(case)
                else:
                    skipped[pattern] = listed[pattern]
    in_threads: list[str] = []
    threading.excepthook = lambda args: in_threads.append("".join(traceback.format_exception(args.exc_value)))
    result_class: Any = BorrowedResult if borrowed else unittest.TextTestResult
    began = time.monotonic()
    result = unittest.TextTestRunner(verbosity=2, resultclass=result_class).run(chosen)
    by_cpython = [f"{test}: {why}" for test, why in result.skipped]
    lacking += [line for line in by_cpython if LACKS in line]
    ours: Any = sys.modules.get("cpython_ours")
    support: Any = importlib.import_module("test.support")
    return {
        "evidence": classes,
        "made": dict(ours.made) if ours else {},
        "ran": result.testsRun - len(result.skipped),
        "failed": [(str(test), text) for test, text in result.failures + result.errors],
        "raised_in_threads": in_threads,
        "skipped": skipped,
        "skipped_by_cpython": [line for line in by_cpython if LACKS not in line],
        "lacking": lacking,
        "stale_skips": sorted(listed.keys() - skipped.keys()) if only == "*" else [],
        "left_behind": bool(support.environment_altered),
        "seconds": round(time.monotonic() - began, 1),
    }


def version(text: str) -> Version:
    """Parse "3.13.0"."""
    return tuple(map(int, text.split(".")))


def main() -> None:
    """Run one suite by one start method."""
    parser = argparse.ArgumentParser()
    parser.add_argument("method")
    parser.add_argument("suite", choices=("multiprocessing", "executors"))
    parser.add_argument("report", type=Path)
    parser.add_argument("--tests-of", type=version, default=sys.version_info[:3], help="their version of CPython")
    parser.add_argument("--only", default="*")
    parser.add_argument("--all", action="store_true", help="those too that are on the list of skips")
    arguments = parser.parse_args()
    faulthandler.enable()
    interpreter = sys.version_info[:3]
    listed = {} if arguments.all else skips(arguments.suite, arguments.tests_of, interpreter)
    report = run(arguments.method, arguments.suite, arguments.only, listed, arguments.tests_of != interpreter)
    arguments.report.write_text(json.dumps(report, indent=1))
    if report["failed"]:
        os._exit(1)  # a test that failed may have left an executor behind, which exit would wait for


if __name__ == "__main__":
    main()
