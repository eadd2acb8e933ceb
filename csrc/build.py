"""Build `pipecap._native` with cffi: API mode, one abi3 wheel for every CPython from 3.11.

`pipecap.h` is both the C header and the cdef, so the two cannot drift apart.
"""

import os
import sysconfig
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
# setuptools wants paths relative to setup.py; they end up in the sdist's manifest.
RELATIVE = os.path.relpath(HERE)
SOURCES = (
    "pipe", "probe", "headroom", "end", "participants", "lock", "salvage", "counters",
    "block", "frames", "read", "receive", "receiver", "send", "batch", "drive", "line", "queue",
)  # fmt: skip
LIMITED_API = not sysconfig.get_config_var("Py_GIL_DISABLED")

ffi = FFI()
ffi.cdef((HERE / "pipecap.h").read_text())
ffi.set_source(
    "pipecap._native",
    '#include <stddef.h>\n#include <stdint.h>\n#include "pipecap.h"\n',
    sources=[f"{RELATIVE}/{name}.c" for name in SOURCES],
    include_dirs=[RELATIVE],
    depends=[f"{RELATIVE}/{name}" for name in ("pipecap.h", "internal.h", "build.py")],
    py_limited_api=LIMITED_API,
)
