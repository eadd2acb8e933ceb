"""Contexts and what they make are typed: type checkers find a misspelt method, and accept what the README shows.

Needs the extra dev: mypy and pyright are slow to install and to run.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
CHECKERS = {
    "mypy": ["-m", "mypy", "--strict", "--no-incremental", "--cache-dir=/dev/null"],
    "pyright": ["-m", "pyright", "--pythonpath", sys.executable],
}
USES = """
import pipecap

ctx = pipecap.get_context("fork")
queue = ctx.Queue()
queue.{put}(1)
child = ctx.Process(target=queue.put, args=(1,))
child.{start}()
joinable = ctx.JoinableQueue(16)
joinable.{task_done}()
ctx.SimpleQueue().{empty}()
reader, writer = ctx.Pipe(duplex=False)
reader.{recv}()
with ctx.Pool(2) as pool:
    pool.{map}(abs, [-1])
"""
METHODS = ["put", "start", "task_done", "empty", "recv", "map"]


@pytest.fixture(params=CHECKERS)
def checker(request: pytest.FixtureRequest) -> list[str]:
    if find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed: pip install '.[dev]'")
    return [sys.executable, *CHECKERS[request.param]]


def complaints(checker: list[str], path: Path, code: str) -> list[str]:
    """Return the lines in which a type checker finds errors."""
    program = path / "program.py"
    program.write_text(code)
    answer = subprocess.run(
        [*checker, str(program)], cwd=path, capture_output=True, text=True, timeout=120, check=False
    )
    return [line for line in answer.stdout.splitlines() if re.search(r"\berror:|- error", line)]


@pytest.mark.parametrize("wrong", [None, *METHODS])
def test_a_misspelt_method_is_found(checker: list[str], wrong: str | None, tmp_path: Path) -> None:
    names = {name: f"{name}_it" if name == wrong else name for name in METHODS}
    found = complaints(checker, tmp_path, USES.format(**names))
    assert len(found) == (wrong is not None), found
    assert all(f"{wrong}_it" in line for line in found)


def test_what_the_readme_shows_is_accepted(checker: list[str], tmp_path: Path) -> None:
    section = README.read_text().partition("## Queues that are fast and do not hang")[2].partition("\n## ")[0]
    lines = ["import multiprocessing, pipecap"]
    lines += [line[4:] for line in section.splitlines() if line.startswith((">>> ", "... "))]
    assert len(lines) > 10
    assert complaints(checker, tmp_path, "\n".join(lines) + "\n") == []
