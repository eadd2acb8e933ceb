"""Queues that compete: each with a producer and a consumer in processes of their own, told to move items in turns.

The processes live as long as the contest, so that all they use is warm: rings, pipes, the allocator. A turn is timed by
the consumer: from the moment it lets the producers go until it has the last item.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fcntl import F_SETPIPE_SZ, fcntl
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from pipecap.queues.context import get_context

try:
    import faster_fifo
except ImportError:
    faster_fifo = None

MIB = 1 << 20
RING = 16_000_000
RAW = "raw C pipe"
ZMQ = "pyzmq"
DEJAQ = "dejaq"
# No turn takes near as long: who does is hung.
HUNG = 30.0

_fork = multiprocessing.get_context("fork")
_ours = get_context("fork")


# ---- how items are moved ----

Move = Callable[[Any, Any, int], None]


def put(queue: Any, item: Any, count: int) -> None:
    """Put one by one."""
    put = queue.put
    for _ in range(count):
        put(item)


def get(queue: Any, item: Any, count: int) -> None:
    """Get one by one, each kept until the next has come, as a loop does that uses them."""
    get = queue.get
    for _ in range(count):
        got = get()
    assert len(got) == len(item)


def get_and_read(read: Callable[[Any], object], expected: object) -> Move:
    """Get one by one and read each; `expected` is what the last is to read as."""

    def move(queue: Any, item: Any, count: int) -> None:
        get = queue.get
        for _ in range(count):
            got = get()
            seen = read(got)
        assert seen == expected

    return move


def put_many(batch: int) -> Move:
    """Put `batch` items a call."""

    def move(queue: Any, item: Any, count: int) -> None:
        items = [item] * batch
        for _ in range(count // batch):
            queue.put_many(items)
        if rest := count % batch:
            queue.put_many(items[:rest])

    return move


def get_many(batch: int, most: str) -> Move:
    """Get as many as are there, `batch` at most: the parameter of that name."""
    limit = {most: batch}

    def move(queue: Any, item: Any, count: int) -> None:
        while count > 0:
            got = queue.get_many(**limit)
            count -= len(got)
        assert count == 0
        assert len(got[-1]) == len(item)

    return move


def ping(queues: Any, item: Any, count: int) -> None:
    """Send an item there and wait until it is back."""
    there, back = queues
    for _ in range(count):
        there.put(item)
        got = back.get()
    assert len(got) == len(item)


def pong(queues: Any, item: Any, count: int) -> None:
    """Send back what comes."""
    there, back = queues
    for _ in range(count):
        back.put(there.get())


# ---- who competes ----


@dataclass(frozen=True, slots=True)
class Contender:
    """A queue to be made, and how the producer and the consumer use it."""

    name: str
    make: Callable[[], Any]
    produce: Move = put
    consume: Move = get


def _large(queue: Any) -> Any:
    fcntl(queue._writer.fileno(), F_SETPIPE_SZ, MIB)
    return queue


def _ring(size: int = RING) -> Any:
    return faster_fifo.Queue(size)


OURS = Contender("ours", _ours.Queue)
OUR_SIMPLE = Contender("our SimpleQueue", _ours.SimpleQueue)
STOCK = Contender("stock Queue", _fork.Queue)
STOCK_LARGE = Contender("stock Queue, 1 MiB", lambda: _large(_fork.Queue()))
SIMPLE = Contender("SimpleQueue", _fork.SimpleQueue)
SIMPLE_LARGE = Contender("SimpleQueue, 1 MiB", lambda: _large(_fork.SimpleQueue()))
FASTER_FIFO = Contender("faster-fifo", _ring)


def ring(size: int) -> Contender:
    """Return faster-fifo with a ring of `size` bytes."""
    return Contender(FASTER_FIFO.name, lambda: _ring(size))


def batches(contender: Contender, batch: int) -> Contender:
    """Give the contender that puts and gets many at once."""
    most = "max_messages_to_get" if contender is FASTER_FIFO else "max_items"
    return Contender(contender.name, contender.make, put_many(batch), get_many(batch, most))


def round_trips(contender: Contender) -> Contender:
    """Give the contender that sends each item there and back, through two queues."""
    return Contender(contender.name, lambda: (contender.make(), contender.make()), pong, ping)


def missing() -> dict[str, str]:
    """Tell which peers cannot take part here, and why."""
    reasons = {}
    if faster_fifo is None:
        reasons[FASTER_FIFO.name] = "not installed: pip install '.[benchmark]'; it has no wheel for CPython 3.14"
    for name, module in ((ZMQ, "zmq"), (DEJAQ, "dejaq")):
        if find_spec(module) is None:
            reasons[name] = "not installed: pip install '.[benchmark]'"
    if not compiler():
        reasons[RAW] = "no C compiler: cc, or what CC names"
    return reasons


def compiler() -> list[str]:
    """Give the command of the C compiler; nothing where there is none."""
    command = shlex.split(os.environ.get("CC", "cc"))
    return command if command and shutil.which(command[0]) else []


# ---- their turns ----


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the two sides run; None is anywhere."""

    producer_cpu: int | None = None
    consumer_cpu: int | None = None

    def __str__(self) -> str:
        if self.producer_cpu is None:
            return f"free, {len(os.sched_getaffinity(0))} CPUs"
        return f"pinned, CPU {self.producer_cpu} to {self.consumer_cpu}"


class Sides(Protocol):
    """What a contest needs of a contender at work."""

    @property
    def name(self) -> str:
        """The contender's."""

    def turn(self, count: int) -> float:
        """Move so many items; gives the seconds."""

    def close(self) -> None:
        """End."""


class Processes:
    """A contender at work: `producers` processes that put `item` over and over, and one that gets it."""

    def __init__(self, contender: Contender, item: object, placement: Placement, producers: int = 1) -> None:
        self.name = contender.name
        queue = contender.make()
        go = os.pipe()
        sides = [(contender.produce, placement.producer_cpu, _wait(go[0]))] * producers
        sides += [(contender.consume, placement.consumer_cpu, _let_go(go[1], producers))]
        self._processes = []
        self._controls: list[Connection] = []
        for move, cpu, start in sides:
            control, childs = _fork.Pipe()
            process = _fork.Process(target=_side, args=(childs, cpu, start, move, queue, item), daemon=True)
            process.start()
            childs.close()
            self._processes.append(process)
            self._controls.append(control)
        for end in go:
            os.close(end)

    def turn(self, count: int) -> float:
        """Move so many items, or a few more where producers share them; gives the seconds."""
        *producers, consumer = self._controls
        each = -(-count // len(producers))
        for producer in producers:
            producer.send(each)
            self._answer(producer)  # it waits to be let go
        consumer.send(each * len(producers))
        self._answer(consumer)
        seconds = self._answer(consumer)
        for producer in producers:
            self._answer(producer)
        return seconds

    def _answer(self, control: Connection) -> float:
        if not control.poll(HUNG):
            raise TimeoutError(f"{self.name}: hung")
        return float(control.recv())

    def close(self) -> None:
        """End the processes."""
        for control, process in zip(self._controls, self._processes, strict=True):
            with suppress(OSError):
                control.send(0)
            process.join(HUNG)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
            control.close()


def _wait(fd: int) -> Callable[[], object]:
    return lambda: os.read(fd, 1)


def _let_go(fd: int, count: int) -> Callable[[], object]:
    return lambda: os.write(fd, bytes(count))


def _side(control: Connection, cpu: int | None, start: Callable[[], object], move: Move, queue: Any, item: Any) -> None:
    gc.freeze()  # what this process inherited is none of the queue's business
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    while count := control.recv():
        control.send(0)
        begin = perf_counter()
        start()
        move(queue, item, count)
        control.send(perf_counter() - begin)


@dataclass(frozen=True, slots=True)
class RawPipe:
    """raw_pipe.c at work, with that largest write which suits it best."""

    program: Path
    size: int
    placement: Placement
    chunk: int
    name: str = RAW

    def turn(self, count: int) -> float:
        """Move so many items, after some to get warm; gives the seconds."""
        cpus = [-1 if cpu is None else cpu for cpu in (self.placement.producer_cpu, self.placement.consumer_cpu)]
        arguments = [self.size, count, min(count, 20), self.chunk, *cpus]
        done = subprocess.run(
            [self.program, *map(str, arguments)], check=True, capture_output=True, text=True, timeout=HUNG
        )
        return int(done.stdout) / 1e9

    def close(self) -> None:
        """Nothing is left."""


_CHUNKS = (4096, 8192, 16384, 65536)


def raw_pipe(program: Path, size: int, placement: Placement, *, trial: int) -> RawPipe:
    """Find the largest write with which raw_pipe.c is fastest, by the best of a few turns of `trial` bytes each."""
    candidates = [RawPipe(program, size, placement, chunk) for chunk in _CHUNKS if chunk <= max(size, 8192)]
    if not trial or size < 4096:  # one write in any case
        return candidates[-1]
    return min(candidates, key=lambda raw: min(raw.turn(max(1, trial // size)) for _ in range(3)))


def compile_raw_pipe(folder: Path) -> Path:
    """Compile raw_pipe.c; raises CalledProcessError with the compiler's words on stderr."""
    program = folder / "raw_pipe"
    subprocess.run([*compiler(), "-O2", "-o", program, Path(__file__).with_name("raw_pipe.c")], check=True)
    return program


def items_in(seconds: float, sides: Sides) -> int:
    """Find how many items a contender moves in about so many seconds."""
    sides.turn(1)  # what they make at the first use takes its time
    count = 1
    while (took := sides.turn(count)) < seconds / 4:
        count *= 4
    return max(1, round(count * seconds / took))


def in_turns(contest: Sequence[Sides], counts: Sequence[int]) -> list[float]:
    """Let each have its turn; gives the seconds per item."""
    return [sides.turn(count) / count for sides, count in zip(contest, counts, strict=True)]
