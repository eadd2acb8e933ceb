"""Raising an exception in the middle of a call, as a signal handler does, at a moment of the test's choice.

A handler's exception comes out where CPython looks for signals: as a function begins and after a call. Most tests raise
at each such moment in turn, which finds more than a thousand signals at random times; some send a real signal to a
thread that was seen asleep.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import util
from types import CodeType, FrameType
from typing import Any

from children import Thread, wait_until_in

Moment = Callable[[str, object], object]

MOST_MOMENTS = 2000


class Interrupt(BaseException):
    """What a handler raises that is like Ctrl-C."""


def out_of_a_handler() -> list[BaseException]:
    """Return one of each kind: put() and get() must let either pass."""
    return [Interrupt(), TimeoutError("out of a handler")]


# Of the standard library's: half a Finalize complains when it goes, a Condition stays locked or is unlocked twice, and
# what a callback of a weak reference raises is printed.
NOT_OURS = {
    util.Finalize.__init__.__code__,
    weakref.WeakSet()._remove.__code__,  # type: ignore[attr-defined] # set by its __init__
    *(member.__code__ for member in vars(threading.Condition).values() if hasattr(member, "__code__")),
}


def interrupted(call: Callable[[], object], moment: Moment, error: BaseException | None = None) -> object:
    """Make a call, with Interrupt or this raised at the first such moment; return what began or ended there, if any.

    A moment is "call", with the code of a Python function that begins, or "c_return", with a C function that ends. An
    exception other than the one that was raised is passed on.
    """
    hit: list[object] = []
    error = error or Interrupt()

    def look(frame: FrameType, event: str, called: object) -> None:
        if event not in ("call", "c_return") or called is sys.setprofile or frame.f_code in NOT_OURS:
            return
        place = frame.f_code if event == "call" else called
        if moment(event, place):
            sys.setprofile(None)
            hit.append(place)
            raise error

    gc.disable()  # the exception would be swallowed where it comes out of a finalizer
    try:
        sys.setprofile(look)
        call()
    except BaseException as raised:
        if not hit or raised is not error:
            raise
    else:
        sys.setprofile(None)
        assert not hit, f"the exception raised at {hit[0]} was swallowed"
    finally:
        sys.setprofile(None)
        gc.enable()
        error.with_traceback(None)  # lets go of what its stack frames have
    return hit[0] if hit else None


def after(name: str) -> Moment:
    """Be the moment in which a C function returns whose name begins like this."""
    return lambda event, place: event == "c_return" and getattr(place, "__name__", "").startswith(name)


def beginning(code: CodeType) -> Moment:
    """Be the moment in which a Python function begins."""
    return lambda _, place: place is code


def nth(number: int) -> Moment:
    """Be the moment after `number` others."""
    left = iter(range(number))
    return lambda *_: next(left, None) is None


def moments(least: int = 5) -> Iterator[tuple[Moment, BaseException, list[object]]]:
    """Yield a moment after the other, with an exception to raise there, of either kind, and a list for what was hit.

    Ends after a call in which there was no such moment; fails where that came after fewer than `least`.
    """
    for number in range(MOST_MOMENTS):
        missed = False
        for error in out_of_a_handler():
            hit: list[object] = []
            yield nth(number), error, hit
            assert hit, "the loop appends what interrupted() returns"
            missed = hit[0] is None
        if missed:
            assert number > least
            return
    raise AssertionError("there is no end of moments")


def interrupted_asleep(call: Callable[[], object], function: str, error: BaseException | None = None) -> None:
    """Make a call in the main thread; once that is asleep in a kernel function, have a signal handler raise in it."""
    error = error or Interrupt()
    main = threading.main_thread()

    def handler(*_: Any) -> None:
        raise error

    def disturb() -> None:
        wait_until_in(function, os.getpid(), main.native_id)
        signal.pthread_kill(main.ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        disturbing = Thread(disturb)
        try:
            call()
        except BaseException as raised:
            if raised is not error:
                raise
        else:
            raise AssertionError("the call ended before it slept, or swallowed the exception")
        disturbing.result()
    finally:
        signal.signal(signal.SIGUSR1, before)
        error.with_traceback(None)
