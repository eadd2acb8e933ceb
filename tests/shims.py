"""Libraries for LD_PRELOAD, compiled by the test that needs one, and programs run under them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEADLINE = 40.0

# As a sandbox that refuses byte locks.
NO_LOCKS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>

static int refuse(const char *name, int fd, int command, void *argument)
{
    int (*next)(int, int, ...) = (int (*)(int, int, ...))dlsym(RTLD_NEXT, name);

    if (command == F_OFD_SETLK || command == F_OFD_GETLK || command == F_OFD_SETLKW) {
        errno = EPERM;
        return -1;
    }
    return next(fd, command, argument);
}

#define SHIM(name)                                                                                                     \
    int name(int fd, int command, ...)                                                                                 \
    {                                                                                                                  \
        va_list list;                                                                                                  \
        void *argument;                                                                                                \
        va_start(list, command);                                                                                       \
        argument = va_arg(list, void *);                                                                               \
        va_end(list);                                                                                                  \
        return refuse(#name, fd, command, argument);                                                                   \
    }
SHIM(fcntl)
SHIM(fcntl64)
"""


def compiled(folder: Path, name: str, source: str) -> Path:
    """Compile a library; skip where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (cc)")
    path = folder / f"{name}.c"
    path.write_text(source)
    library = path.with_suffix(".so")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, path, "-ldl"], check=True, timeout=60)
    return library


def output_of(program: str, *arguments: str, library: Path | None = None, prefix: tuple[str, ...] = ()) -> str:
    """Run a program and return what it prints; anything on stderr, and a status other than 0, is a failure."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    if library is not None:
        environment["LD_PRELOAD"] = str(library)
    done = subprocess.run(
        [*prefix, sys.executable, "-X", "faulthandler", "-c", program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (done.stderr, done.returncode) == ("", 0), f"{done.returncode}: {done.stderr}{done.stdout}"
    return done.stdout


def may_unshare(*options: str) -> bool:
    """Whether this process may have namespaces of its own."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", *options, "true"], capture_output=True, timeout=DEADLINE).returncode == 0
