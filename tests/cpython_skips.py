"""CPython's tests that pipecap's classes are not held to, and why: by suite, `Class.test` as fnmatch takes it."""

from __future__ import annotations

from cpython_borrowed import Version


def skips(suite: str, tests: Version, interpreter: Version) -> dict[str, str]:
    """Return the list for a suite.

    `tests` is the version of CPython that the tests are of: it decides which tests there are. `interpreter` runs them,
    and differs where the tests are borrowed: it decides which faults of the standard library they run into.
    """
    listed = {}
    if suite == "multiprocessing":
        listed["WithProcessesTestQueue.test_queue_feeder_donot_stop_onexc"] = (
            "on purpose: put() pickles at once and raises NotPicklable itself; there is no error in a feeder thread"
        )
        if tests >= (3, 11, 5):
            listed["TestStartMethod.test_mixed_startmethod"] = (
                "on purpose: wants RuntimeError for a fork context's Queue in a spawned process (its locks are"
                " SemLocks); ours go to processes of any start method"
            )
            listed["MiscTestCase.test_spawn_sys_executable_none_allows_import"] = (
                "of this runner, not of pipecap: wants a Python that has not imported multiprocessing yet;"
                " cpython_ours has"
            )
    elif tests >= (3, 9) and ((3, 12) <= interpreter < (3, 12, 8) or interpreter == (3, 13, 0)):
        listed["ProcessPool*.test_shutdown_deadlock_pickle"] = (
            "hangs now and then with stock classes too (seen on 3.13.0, 2 of 120): python/cpython#125451, fixed later"
        )
    return listed
