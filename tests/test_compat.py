"""The private names of stock queues that public programs use, and overrides of what is never called."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from children import finish, get

import pipecap
from pipecap.queues.queue import JoinableQueue, Queue

MIB = 1 << 20
small: Any = pipecap.get_context("fork", capacity=4096, exit_warning=None)
queues = pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])


@queues
def test_what_waits_for_the_feeder_is_answered(kind: str) -> None:
    queue = getattr(small, kind)()
    assert not queue._buffer
    assert (queue._thread, queue._jointhread, queue._close) == (None, None, None)
    for _ in range(3):
        queue.put(bytes(MIB))
    assert len(queue._buffer) == 3
    assert isinstance(queue._thread, threading.Thread)
    for _ in range(3):
        get(queue)
    queue._close()
    queue._jointhread()
    assert not queue._thread.is_alive()
    assert not queue._buffer


@queues
@pytest.mark.parametrize(("name", "instead"), [("_notempty", "qsize"), ("_sem", "full"), ("_other", "no attribute")])
def test_what_there_is_not_says_what_to_use(kind: str, name: str, instead: str) -> None:
    queue = getattr(small, kind)()
    with pytest.raises(AttributeError, match=instead):
        getattr(queue, name)
    assert not hasattr(queue, name)
    finish(queue)


@pytest.mark.parametrize("base", [Queue, JoinableQueue])
@pytest.mark.parametrize("name", ["_feed", "_on_queue_feeder_error"])
def test_an_override_that_would_never_be_called_is_refused(base: type, name: str) -> None:
    with pytest.raises(TypeError, match=f"Mine.{name} would never be called"):
        type("Mine", (base,), {name: lambda *_: None})
    type("Mine", (base,), {"other": None})


@queues
def test_the_reader_of_a_queue_receives_between_its_gets(kind: str) -> None:
    queue = getattr(small, kind)()
    queue.put_many(range(5))
    assert [get(queue), queue._reader.recv(), get(queue), queue._reader.recv()] == [0, 1, 2, 3]
    assert queue.qsize() == 1
    assert get(queue) == 4
    assert queue.qsize() == 0
    finish(queue)
