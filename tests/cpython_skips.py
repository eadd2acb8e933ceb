"""CPython's tests that pipecap's classes are not held to, and why: by suite, `Class.test` as fnmatch takes it."""

import sys

SKIPS: dict[str, dict[str, str]] = {
    "multiprocessing": {
        "WithProcessesTestQueue.test_queue_feeder_donot_stop_onexc": (
            "on purpose: put() pickles at once and raises NotPicklable itself; there is no error in a feeder thread"
        ),
        "TestStartMethod.test_mixed_startmethod": (
            "on purpose: wants RuntimeError for a fork context's Queue in a spawned process (its locks are SemLocks);"
            " ours go to processes of any start method"
        ),
        "MiscTestCase.test_spawn_sys_executable_none_allows_import": (
            "of this runner, not of pipecap: wants a Python that has not imported multiprocessing yet; cpython_ours has"
        ),
    },
    "executors": {},
}
if (3, 12) <= sys.version_info < (3, 12, 8) or sys.version_info[:3] == (3, 13, 0):
    SKIPS["executors"]["ProcessPool*.test_shutdown_deadlock_pickle"] = (
        "hangs now and then with stock classes too (seen on 3.13.0, 2 of 120): python/cpython#125451, fixed later"
    )
