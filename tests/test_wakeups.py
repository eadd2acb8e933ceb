"""A process that dies between a change and waking those who wait for it delays them by a round of half a second."""

from __future__ import annotations

from pathlib import Path

import pytest
from shims import compiled, output_of

DIE_AT_WAKE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

int dies_at_wake; /* the process that has it set, in place of waking others */

long syscall(long number, ...)
{
    static long (*next)(long, ...);
    va_list list;
    long a[6];

    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_futex && (a[1] & ~FUTEX_PRIVATE_FLAG) == FUTEX_WAKE && dies_at_wake)
        kill(getpid(), SIGKILL);
    if (!next)
        next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
"""

DEATH_AT_WAKE = """
import ctypes, os, signal, sys, threading
import pipecap
from children import forked, Thread, wait_until, wait_until_in
what = sys.argv[1]
made = pipecap.get_context("fork", exit_warning=None).JoinableQueue(1)
armed = ctypes.c_int.in_dll(ctypes.CDLL(None), "dies_at_wake")

def dies(call, before=lambda: None):
    def run():
        before()
        print("ready", flush=True)
        signal.sigwait([signal.SIGUSR1])
        armed.value = 1
        call()
        armed.value = 0  # it woke nobody
    return run

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
if what == "credit":
    made.put("first")
    call, before, waits = made.get, (lambda: None), lambda: made.put("second", timeout=8)
elif what == "task":
    made.put("first")
    made.get()
    call, before, waits = made.task_done, (lambda: None), made.join
else:
    lock = getattr(made, what)
    call, before, waits = lock.release, lock.acquire, lambda: lock.acquire(timeout=8)
with forked(dies(call, before)) as child:
    if "lock" in what:
        wait_until(lambda: made.debug_state()["reading" if what == "_rlock" else "writing"] == child.pid)
    waiting = Thread(waits)
    wait_until_in("futex", os.getpid(), waiting.native_id)
    child.signal(signal.SIGUSR1)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    try:
        print(waiting.result(), flush=True)
    except pipecap.LostItem as error:
        print(type(error).__name__, error.count, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(
    ("what", "outcome"), [("credit", "None"), ("_rlock", "True"), ("_wlock", "True"), ("task", "None")]
)
def test_a_death_between_a_change_and_its_wake_up_delays_by_a_round(what: str, outcome: str, tmp_path: Path) -> None:
    library = compiled(tmp_path, "die_at_wake", DIE_AT_WAKE)
    assert output_of(DEATH_AT_WAKE, what, library=library).splitlines() == ["ready", outcome]
