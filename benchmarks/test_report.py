"""The whole report, against making the queues that it measures."""

import multiprocessing
from typing import Any

import pipecap
from benchmarks.conftest import Against
from pipecap.tracker import resource_tracker_as_it_was


def test_report(against: Against) -> None:
    """The resource tracker, which both need, runs already: its start would hide the difference."""
    with resource_tracker_as_it_was():
        against(("making the same queues", make_the_queues), ("pipecap.report()", pipecap.report), rounds=100)


def make_the_queues() -> None:
    """Make and close a queue of each kind for each start method, as report() does."""
    for method in multiprocessing.get_all_start_methods():
        context: Any = multiprocessing.get_context(method)
        queues = [context.Queue(), context.JoinableQueue(), context.SimpleQueue()]
        ends = [end for queue in queues for end in (queue._reader, queue._writer)]
        for end in (*ends, *context.Pipe(duplex=False), *context.Pipe()):
            end.close()
