"""Queues without memory, descriptors, /proc or byte locks: each call works, or raises what it documents."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from children import Thread, and_stay, finish, forked, wait_until
from shims import NO_LOCKS, compiled, may_unshare, output_of

import pipecap

fork: Any = pipecap.get_context("fork", exit_warning=None)
kinds = pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])

# ---- memory ----

# Fails one allocation of the extension module, and none of Python's own.
NO_MEMORY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>

int calls_left = -1; /* calls that succeed before one fails; negative: all succeed */
int has_failed;

static int fails(void *caller)
{
    Dl_info info;

    if (calls_left < 0 || !dladdr(caller, &info) || !info.dli_fname || !strstr(info.dli_fname, "_native"))
        return 0;
    if (__atomic_fetch_sub(&calls_left, 1, __ATOMIC_SEQ_CST) != 0)
        return 0;
    has_failed = 1;
    errno = ENOMEM;
    return 1;
}

#define NEXT(type, name) ((type)dlsym(RTLD_NEXT, #name))
#define CALLER __builtin_extract_return_addr(__builtin_return_address(0))

extern void *__libc_malloc(size_t);
extern void *__libc_realloc(void *, size_t);

void *malloc(size_t size)
{
    return fails(CALLER) ? NULL : __libc_malloc(size);
}

void *realloc(void *block, size_t size)
{
    return fails(CALLER) ? NULL : __libc_realloc(block, size);
}

void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    if (fails(CALLER))
        return MAP_FAILED;
    return NEXT(void *(*)(void *, size_t, int, int, int, off_t), mmap)(address, size, protection, flags, fd, offset);
}

ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
    if (fails(CALLER))
        return -1;
    return NEXT(ssize_t (*)(int, const struct iovec *, int, off_t, int), pwritev2)(fd, parts, count, offset, flags);
}
"""

SHORT_OF_MEMORY = """
import ctypes, sys, threading
import pipecap
from queue import Empty
kind, size = sys.argv[1], int(sys.argv[2])
process = ctypes.CDLL(None)
left, failed = (ctypes.c_int.in_dll(process, name) for name in ("calls_left", "has_failed"))
context = pipecap.get_context("fork", capacity=65536, exit_warning=None)
errors = 0

def or_no_memory(call):
    global errors
    try:
        return True, call()
    except (MemoryError, OSError) as error:
        assert isinstance(error, MemoryError) or error.errno == 12, repr(error)
        errors += 1
        return False, None

def one_round(number):
    left.value = number
    failed.value = 0
    made = None
    while made is None:
        made = or_no_memory(getattr(context, kind))[1]
    put = []
    def produce():
        for item in ([1], b"a" * size, [b"b" * size, b"c" * size], "d"):
            if or_no_memory(lambda: made.put(item))[0]:
                put.append(item)
        if kind != "SimpleQueue":
            items = ["e", b"f" * size, "g"]
            try:
                made.put_many(items)
            except MemoryError:  # all, or the first ones
                items = items[:made.qsize() - len(put)]
            put.extend(items)
        while not or_no_memory(lambda: made.put("last"))[0]:
            pass
    producer = threading.Thread(target=produce, daemon=True)
    producer.start()
    if kind != "SimpleQueue":
        producer.join()
    got = []
    while True:
        came, item = or_no_memory(made.get)
        if came and type(item) is str and item == "last":
            break
        if came:
            got.append(item)
            if kind == "JoinableQueue":
                made.task_done()
    producer.join()
    if kind == "JoinableQueue":
        made.task_done()
        made.join()
    left.value = -1
    assert got == put, (number, [str(item)[:10] for item in got], [str(item)[:10] for item in put])
    state = made.debug_state()
    assert (state["writing"], state["reading"], state["line"], state["given_back"]) == (0, 0, 0, 0), (number, state)
    if kind != "SimpleQueue":
        assert made.qsize() == 0, number
        made.close()
        made.join_thread()
    else:
        made.close()
    return failed.value

number = 0
while one_round(number):
    number += 1 if number < 25 else 6  # by then they are writes like the ones before
print(number > 5, errors > 0)
"""


@kinds
@pytest.mark.parametrize("size", [100, 10_000, 200_000])
def test_every_allocation_may_fail_and_what_was_put_comes_out(kind: str, size: int, tmp_path: Path) -> None:
    """The call that needed it raises MemoryError; it can be made again, and nothing is left behind."""
    library = compiled(tmp_path, "no_memory", NO_MEMORY)
    assert output_of(SHORT_OF_MEMORY, kind, str(size), library=library).split() == ["True", "True"]


GIVES_BACK = """
import ctypes
import pipecap
left = ctypes.c_int.in_dll(ctypes.CDLL(None), "calls_left")

def fail():
    left.value = 0
    raise ValueError

class Bad:
    def __reduce__(self):
        return fail, ()

made = pipecap.get_context("fork").Queue()
made.put_many(["before", Bad(), "after"])
try:
    made.get_many(3)
except ValueError as error:
    print(*error.items)
left.value = -1
print(made.get(timeout=5))
"""


def test_what_is_given_back_needs_no_memory(tmp_path: Path) -> None:
    """The items behind one that cannot be unpickled stay for the next call."""
    library = compiled(tmp_path, "no_memory", NO_MEMORY)
    assert output_of(GIVES_BACK, library=library).split() == ["before", "after"]


# ---- descriptors ----


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Let this process open at most `count` more descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first = os.dup(0)
    os.close(first)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def use(made: Any) -> None:
    """Put and get small and large items."""
    items: list[object] = [1, bytes(200_000), [bytes(100_000), bytes(100_000)], 2]
    putting = Thread(lambda: [made.put(item) for item in items])
    for item in items:
        assert Thread(made.get).result() == item
    putting.result()


@kinds
def test_a_queue_that_cannot_be_made_for_want_of_descriptors_leaves_none_behind(kind: str) -> None:
    for count in range(4):
        with descriptors_left(count):
            if count < 3:  # two of the pipe, one of the memory
                with pytest.raises(OSError, match="Too many open files"):
                    getattr(fork, kind)()
                continue
            made = getattr(fork, kind)()
        use(made)
        finish(made)


@kinds
def test_a_queue_is_used_without_a_free_descriptor(kind: str) -> None:
    made = getattr(fork, kind)()
    with descriptors_left(0):
        use(made)
        assert made.empty()
    finish(made)


@kinds
def test_a_child_forked_without_a_free_descriptor_uses_the_queue_and_may_die(kind: str) -> None:
    """It has no description of the memory, so it is known by its PID."""
    made = getattr(fork, kind)()
    made.put("first")

    def take_and_own() -> object:
        item = made.get()
        made._wlock.acquire()
        made._rlock.acquire()
        return item

    with descriptors_left(2):  # the pipe to the child
        child_of = forked(and_stay(take_and_own))
        child = child_of.__enter__()
    try:
        wait_until(lambda: made.debug_state()["writing"] == made.debug_state()["reading"] == child.pid)
        known_by = {each["pid"]: each["known_by"] for each in made.debug_state()["participants"]}
        assert known_by[child.pid] == "pid"
        child.end()
        Thread(lambda: made.put("second")).result()
        assert Thread(made.get).result() == "second"
    finally:
        child_of.__exit__(None, None, None)
    finish(made)


# ---- /proc, byte locks ----

WITHOUT = """
import os, signal, sys
import pipecap
from children import Thread, and_stay, forked, wait_until

def main():
    for kind in ("Queue", "SimpleQueue"):
        made = getattr(pipecap.get_context("spawn"), kind)()
        items = [1, bytes(200_000), [bytes(100_000)]]
        with forked(lambda: [made.put(item) for item in items] and made.close()):
            assert [Thread(made.get).result() for _ in items] == items
        with forked(lambda: [made.get() for _ in items]) as child:
            for item in items:
                made.put(item)
            assert child.result() == items
        for lock, word in ((made._rlock, "reading"), (made._wlock, "writing")):
            with forked(and_stay(lock.acquire)) as child:
                wait_until(lambda: made.debug_state()[word] == child.pid)
                assert not lock.acquire(timeout=0.6)
                child.end()
                assert Thread(lambda: lock.acquire(timeout=5)).result()
                lock.release()
        with forked(and_stay(lambda: made.put(bytes(64 << 20)))) as child:
            wait_until(lambda: pipecap.state(made._writer).full)
            child.end()
            try:
                Thread(made.get).result()
            except pipecap.TruncatedItem:
                pass
        process = pipecap.get_context("spawn").Process(target=made.put, args=("from a spawned one",))
        process.start()
        assert Thread(made.get).result() == "from a spawned one"
        process.join()
        with forked(and_stay(lambda: made.put("from a child"))) as child:
            assert Thread(made.get).result() == "from a child"
            known_by = {each["pid"]: each["known_by"] for each in made.debug_state()["participants"]}
            print(known_by[os.getpid()], known_by[child.pid])
        made.close()

if __name__ == "__main__":
    main()
"""


def test_without_proc_processes_are_known_by_their_pids() -> None:
    """A process opens its own description of the memory through /proc, also the one that made it."""
    if not may_unshare("--mount"):
        pytest.skip("this process may not have mounts of its own")
    hidden = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh")
    assert output_of(WITHOUT, prefix=hidden).splitlines() == ["pid pid"] * 2


def test_without_byte_locks_all_are_known_by_their_pids(tmp_path: Path) -> None:
    library = compiled(tmp_path, "no_locks", NO_LOCKS)
    assert output_of(WITHOUT, library=library).splitlines() == ["pid pid"] * 2
