"""Find CPython's own tests, and borrow them from another interpreter on this machine where this one lacks them."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

Version = tuple[int, ...]

PROBE = """
import importlib.util, json, sys
spec = importlib.util.find_spec(sys.argv[1])
print(json.dumps([sys.version_info[:3], spec and spec.origin]))
"""


@dataclass(frozen=True)
class Origin:
    """Where a module of CPython's tests comes from: the interpreter, its version, and the file."""

    python: str
    version: Version
    file: Path

    @property
    def borrowed(self) -> bool:
        return self.python != sys.executable


@functools.cache
def find_tests(name: str, *, elsewhere: bool) -> Origin | None:
    """Return the tests of this interpreter; or, `elsewhere`, of the one of the nearest minor version that has them."""
    own = _probe(sys.executable, name)
    if own or not elsewhere or not _probe(sys.executable, "test"):
        return own
    others = [tests for python in _other_pythons() if (tests := _probe(python, name))]
    return min(others, key=lambda tests: (abs(tests.version[1] - sys.version_info[1]), tests.version), default=None)


def lend(tests: Origin, packages: Path) -> str:
    """Copy tests next to an environment's packages; return the line of its .pth file by which they are imported.

    The helpers that they import from test.support change with them, in names and in arguments, and are copied too.
    """
    directory = packages / "borrowed"
    module = tests.file.parent if tests.file.name == "__init__.py" else tests.file
    for source in (module, module.parent / "support"):
        if source.is_dir():
            shutil.copytree(source, directory / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            directory.mkdir()
            shutil.copy(source, directory)
    return f"import test; test.__path__.insert(0, {str(directory)!r})"


def _probe(python: str, name: str) -> Origin | None:
    # What does not run, a shim of pyenv or Python 2, has no tests.
    with suppress(OSError, subprocess.CalledProcessError):
        output = subprocess.run([python, "-I", "-c", PROBE, name], capture_output=True, check=True, timeout=30).stdout
        version, file = json.loads(output)
        if file:
            return Origin(python, tuple(version), Path(file))
    return None


def _other_pythons() -> Iterator[str]:
    yield from filter(None, (shutil.which(f"python3.{minor}") for minor in range(9, 20)))
    with suppress(OSError, subprocess.CalledProcessError):
        root = subprocess.run(["pyenv", "root"], capture_output=True, check=True, text=True).stdout.strip()
        yield from map(str, Path(root).glob("versions/3.*/bin/python"))
