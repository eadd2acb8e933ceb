"""The parts of the build that pyproject.toml cannot say: the cffi module and the abi3 wheel tag."""

import sysconfig

from setuptools import setup

# A free-threaded CPython has no limited API before 3.15: such a build gets a wheel of its own, without the abi3 tag.
abi3 = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    cffi_modules=["csrc/build.py:ffi"],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if abi3 else {},
)
