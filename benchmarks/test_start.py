"""Time to start: an interpreter from exec to exit, against one that only imports what ours builds on."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.conftest import Against


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let all interpreters find bytecode, as an installed package has it, whatever this environment wants."""
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path))
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)


@pytest.mark.parametrize(
    ("statement", "aim"), [("import pipecap", 1.3), ("from pipecap import capacity", None)], ids=["package", "call"]
)
def test_import(against: Against, statement: str, aim: float | None) -> None:
    """`import pipecap` puts the loading off; the second row is what a program pays that uses it."""
    against(python_c("import dataclasses"), python_c(statement), rounds=50, aim=aim)


def test_command_line(against: Against) -> None:
    against(
        python_c("import argparse, json, dataclasses, multiprocessing.queues"),
        ("python -m pipecap --json", python("-m", "pipecap", "--json")),
        rounds=50,
        aim=2.0,
    )


def python_c(statement: str) -> tuple[str, Callable[[], object]]:
    """Name a statement, and run it in an interpreter of its own."""
    return statement, python("-c", statement)


def python(*arguments: str) -> Callable[[], object]:
    """Run an interpreter."""
    return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
