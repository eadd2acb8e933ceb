"""What fits in a pipe, what memory it takes, and that what was put is what comes out."""

from __future__ import annotations

import mmap
import os
import pickle
import resource
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from children import Thread, finish, forked, get
from scenes import DEADLINE
from shims import compiled

import pipecap
from pipecap.kernel.limits import PAGE_SIZE
from pipecap.queues import buffers, native
from pipecap.queues.connection import one_way

MIB = 1 << 20
CAPACITY = 65_536
fork: Any = pipecap.get_context("fork")
small: Any = pipecap.get_context("fork", capacity=CAPACITY, exit_warning=None)
kinds = pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])


# ---- pages ----


@pytest.mark.parametrize("short_of_pages", [0, 1, 63, 64, 65, 4095])
@pytest.mark.parametrize("place", [0, 9, 16, 4080])
def test_a_frame_of_the_pages_of_the_pipe_fits(place: int, short_of_pages: int) -> None:
    """Wherever its source lies in a page, though a first write that is a little shorter would be copied faster."""
    queue = small.SimpleQueue()
    size = CAPACITY - short_of_pages - buffers.HEADER - 7 - 2
    with mmap.mmap(-1, 2 * CAPACITY) as source, memoryview(source) as view, view[place : place + size] as body:
        frames = buffers.Outgoing([b"h" * 7, body, b"tt"], [size + 9])
        result = native.put_frames(queue._sender.struct, *frames.arrays, 1, native.AT_ONCE)
        frames.release()
    assert (result, queue.debug_state()["line"]) == (1, 0)
    assert pipecap.unread(queue) == CAPACITY - short_of_pages
    queue.close()


def test_a_message_of_the_pages_of_the_pipe_fits() -> None:
    reader, writer = one_way(CAPACITY)
    os.set_blocking(writer.fileno(), False)
    with mmap.mmap(-1, CAPACITY) as source, memoryview(source) as whole, whole[: CAPACITY - 4] as message:
        writer.send_bytes(message)  # BlockingIOError where it does not fit
        assert len(reader.recv_bytes()) == CAPACITY - 4
    reader.close()
    writer.close()


# ---- buffers ----


@pytest.mark.parametrize("batch", [False, True])
def test_a_buffer_is_sent_as_it_was_put(batch: bool) -> None:
    queue = small.Queue()
    buffer = bytearray(b"a" * MIB)
    if batch:
        queue.put_many([buffer])
    else:
        queue.put(buffer)
    buffer[:] = b"X" * MIB
    buffer.append(1)  # BufferError while somebody owns a part of it
    assert get(queue) == b"a" * MIB
    finish(queue)


@kinds
@pytest.mark.parametrize("more", [b"C\5", b"B\5", b"X\0"])
def test_a_pickle_that_goes_on_where_it_should_end_takes_nothing_of_the_next(kind: str, more: bytes) -> None:
    queue = getattr(fork, kind)()
    writing = Thread(lambda: queue._writer.send_bytes(b"\x80\x04B" + struct.pack("<I", MIB) + bytes(MIB) + more))
    with pytest.raises((pickle.UnpicklingError, EOFError)):
        get(queue)
    writing.result()
    assert queue.debug_state()["reading"] == 0
    queue.put("the next item, which is longer")
    assert get(queue) == "the next item, which is longer"
    assert queue.empty()
    finish(queue)


# ---- memory ----


def test_without_memory_for_a_large_item_it_is_kept() -> None:
    size = 64 * MIB - 9  # malloc finds no room for it in the heap of another thread

    def poor() -> tuple[int, bool]:
        queue = fork.Queue()
        queue.put(bytes(size))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (pages * PAGE_SIZE + 20 * MIB, limits[1]))
        with pytest.raises(MemoryError):
            queue.get(timeout=DEADLINE)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        queue.put("next")
        return len(queue.get(timeout=DEADLINE)), queue.get(timeout=DEADLINE) == "next"

    with forked(poor) as child:
        assert child.result() == (size, True)


NO_MEMORY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sys/uio.h>

int calls = -1; /* of pwritev2(2), until one fails */

ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
    ssize_t (*real)(int, const struct iovec *, int, off_t, int) = dlsym(RTLD_NEXT, "pwritev2");

    if (calls >= 0 && calls-- == 0) {
        errno = ENOMEM;
        return -1;
    }
    return real(fd, parts, count, offset, flags);
}
"""

SHORT_OF_MEMORY = """
import ctypes, sys, threading, time, pipecap
kind, number = sys.argv[1:]
queue = getattr(pipecap.get_context("fork", capacity=65536, exit_warning=None), kind)()
failed = []
left = ctypes.c_int.in_dll(ctypes.CDLL(None), "calls")
left.value = int(number)
def put():
    try:
        queue.put(b"a" * 200_000)
    except MemoryError:
        failed.append("failed")
    queue.put(b"b" * 200_000)
    queue.put(None)
putting = threading.Thread(target=put, daemon=True)
putting.start()
got = []
while (item := queue.get()) is not None:
    assert item == item[:1] * 200_000
    got.append(item[:1].decode())
putting.join()
state = queue.debug_state()
print(*failed, *got, left.value, state["writing"], queue._shared.maxsize - state["credits"], state["line"])
"""


@pytest.fixture(scope="module")
def no_memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile what stands in for a cgroup at its limit: pages of a pipe are accounted (fs/pipe.c)."""
    return compiled(tmp_path_factory.mktemp("no_memory"), "no_memory", NO_MEMORY)


@kinds
@pytest.mark.parametrize(
    ("number", "outcome"),
    [
        (0, "failed b -1 0 0 0"),  # nothing was sent yet: an error
        *[(number, "a b -1 0 0 0") for number in (1, 2, 5, 12, 20, 24)],  # a part of it was: the rest must follow
    ],
)
def test_want_of_memory_amid_an_item_is_waited_out(kind: str, number: int, outcome: str, no_memory: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY, kind, str(number)],
        env={**os.environ, "LD_PRELOAD": str(no_memory)},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == (outcome, "")
