"""Run `python -m pipecap` for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

# As a user has it. Buffered: what is not written yet when the interpreter ends can fail then. And as wide as its
# terminal, where pytest-xdist says how wide pytest's is.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PYTHONUNBUFFERED", "COLUMNS")}
PIPECAP = [sys.executable, "-W", "error", "-m", "pipecap"]


def pipecap_command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run one command to its end; stdout and stderr are captured unless the options say otherwise."""
    usual = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": ENVIRONMENT}
    options = {**usual, **options}
    return subprocess.run([*PIPECAP, *arguments], text=True, timeout=30, check=False, **options)


def pipecap_json(*arguments: str, **options: Any) -> Any:
    """Run one command with --json; give what it printed."""
    return json.loads(pipecap_command(*arguments, "--json", **options).stdout)


def assert_one_line_of_trouble(answer: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    """Check that a command failed as it should: one line on stderr, no traceback."""
    assert answer.returncode == status, answer
    assert len(answer.stderr.splitlines()) == 1, answer.stderr
    assert answer.stderr.startswith("pipecap: ")
    for word in words:
        assert word in answer.stderr
