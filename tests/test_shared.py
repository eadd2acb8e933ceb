"""The memory that the processes of a queue share: it has no name, and is gone with its last user."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import resource_sharer
from multiprocessing.reduction import ForkingPickler
from queue import Full
from typing import Any

import pytest
from children import DEADLINE, forked
from ours import made, own_descriptors

import pipecap
from pipecap.queues.connection import one_way
from pipecap.queues.shared import UNLIMITED, Shared


def _put_all(queue: Any, answer: Any) -> None:
    """Put until the queue is full; send how many that were."""
    count = 0
    with suppress(Full):
        while True:
            queue.put(count, block=False)
            count += 1
    answer.send((count, os.getpid() in [each["pid"] for each in queue.debug_state()["participants"]]))
    answer.close()


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_the_memory_lives_in_a_child_though_its_maker_dropped_it(method: str) -> None:
    """The standard library unlinks its semaphores too early for that: a spawned child then finds no file."""
    queue: Any = pipecap.get_context(method).Queue(5)
    queue.put("the parent's")
    reader, writer = one_way("auto")
    context: Any = multiprocessing.get_context(method)
    child = context.Process(target=_put_all, args=(queue, writer))
    child.start()
    del queue
    child._args = ()  # else the Process object keeps it
    writer.close()
    try:
        assert reader.poll(DEADLINE)
        assert reader.recv() == (4, True)
    finally:
        reader.close()
        child.join(DEADLINE)
        child.close()


def test_dropping_it_gives_back_memory_and_descriptors() -> None:
    mapped = _mappings()
    for _ in range(3):
        shared = Shared(1)
        assert len(own_descriptors("memfd:pipecap")) == 1
        assert _mappings() == mapped + 1
        del shared
        assert own_descriptors("memfd:pipecap") == []
        assert _mappings() == mapped


def _mappings() -> int:
    with open("/proc/self/maps") as maps:
        return sum("memfd:pipecap" in line for line in maps)


USES: dict[str, Callable[[Any], object]] = {
    "nothing": lambda queue: None,
    "put and get": lambda queue: (queue.put(1), queue.get()),
    "put": lambda queue: queue.put(bytes(5000)),
    "empty()": lambda queue: queue.empty(),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_no_descriptor_outlives_its_queue(kind: str, use: str) -> None:
    """Nor does a mapping. Dropped without close(), as most programs do it."""
    context = pipecap.get_context("fork")
    before, mapped = len(os.listdir("/proc/self/fd")), _mappings()
    for _ in range(100):
        queue = getattr(context, kind)()
        USES[use](queue)
        del queue
    assert (len(os.listdir("/proc/self/fd")), _mappings()) == (before, mapped)


@pytest.mark.parametrize("left", [0, 1, 2])
@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])
def test_without_descriptors_no_queue_is_made_and_none_is_kept(kind: str, left: int) -> None:
    """A queue takes three."""
    context = pipecap.get_context("fork")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with suppress(OSError):
            while True:
                held.append(os.dup(0))
        for _ in range(left):
            os.close(held.pop())
        with pytest.raises(OSError, match="Too many open files"):
            getattr(context, kind)()
        os.close(held.pop())
        if left == 2:
            queue = getattr(context, kind)()
            queue.put(1)
            assert queue.get() == 1
            queue.close()
            del queue
        held.append(os.dup(0))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in held:
            os.close(fd)


def test_without_memory_to_map_no_queue_is_made_and_none_is_kept() -> None:
    def make() -> tuple[str, list[int]]:
        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * os.sysconf("SC_PAGESIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used, resource.RLIM_INFINITY))
        try:
            Shared(1)
        except MemoryError as error:
            made = type(error).__name__
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return made, own_descriptors("memfd:pipecap")

    if resource.getrlimit(resource.RLIMIT_AS)[1] != resource.RLIM_INFINITY:
        pytest.skip("this host limits the address space for good: `ulimit -Hv`")
    with forked(make) as child:
        assert child.result() == ("MemoryError", [])


def test_it_is_not_inherited_by_other_programs() -> None:
    with made("SimpleQueue") as queue:
        queue.put(1)
        (fd,) = own_descriptors("memfd:pipecap")
        assert not os.get_inheritable(fd)
        with forked(lambda: [os.get_inheritable(fd) for fd in own_descriptors("memfd:pipecap")]) as child:
            assert child.result() == [False]


def test_a_pickle_to_itself_is_the_same_memory_and_another_participant() -> None:
    """Through the descriptor's server, as over a Connection."""
    shared = Shared(7)
    copy = pickle.loads(ForkingPickler.dumps(shared))
    resource_sharer.stop(timeout=DEADLINE)  # the thread that handed the descriptor out
    copy.struct.credits -= 1
    assert (shared.struct.credits, copy.maxsize, copy.struct.maxsize) == (6, 7, 7)
    assert copy.member.fd != shared.member.fd


@pytest.mark.parametrize(("asked", "maxsize"), [(0, UNLIMITED), (-1, UNLIMITED), (1, 1), (2**40, UNLIMITED)])
def test_as_many_items_as_the_standard_librarys_semaphores_take_is_without_limit(asked: int, maxsize: int) -> None:
    with made("Queue", asked) as queue:
        assert queue.debug_state()["credits"] == maxsize
        queue.put(1)
        assert queue.debug_state()["credits"] == maxsize - 1
        assert queue.full() == (maxsize == 1)
        queue.get()
