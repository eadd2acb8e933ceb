"""Speed of a Pool and of a ProcessPoolExecutor against the same with stock queues. What comes back is read."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import Any

import pytest

from benchmarks.conftest import Contest, placement
from benchmarks.contenders import MIB, STOCK
from benchmarks.items import array, random_array
from pipecap.queues.context import get_context

WORKERS = 2
Work = Callable[[Any, int], Iterable[Any]]


@cache
def made(size: int) -> Any:
    """Make an array, once in each process."""
    return random_array(size)


def nothing(_: int) -> None:
    """Do nothing."""


def echo(item: object) -> object:
    """Send back what came."""
    return item


def map_nothing(pool: Any, count: int) -> Iterable[Any]:
    """One task a message."""
    return list(pool.map(nothing, range(count), chunksize=1))


def imap_arrays(size: int) -> Work:
    """Return arrays as workers do that load and decode."""
    return lambda pool, count: pool.imap_unordered(made, [size] * count)


def map_echo(pool: Any, count: int) -> Iterable[Any]:
    """Arrays there and back."""
    return list(pool.map(echo, [made(MIB)] * count, chunksize=1))


def executor_arrays(executor: Any, count: int) -> Iterable[Any]:
    """Return arrays through an executor."""
    results: Iterable[Any] = executor.map(made, [MIB] * count)
    return results


@dataclass(frozen=True, slots=True)
class Workers:
    """A pool or an executor at work."""

    name: str
    pool: Any
    work: Work

    def turn(self, count: int) -> float:
        """Do so many tasks; gives the seconds."""
        begin = perf_counter()
        for result in self.work(self.pool, count):
            if result is not None:
                array(result)
        return perf_counter() - begin

    def close(self) -> None:
        """Leave that to who made the pool."""


@contextmanager
def pool(ctx: Any) -> Iterator[Any]:
    """Make a pool, and end it as documented."""
    with ctx.Pool(WORKERS) as workers:
        yield workers
        workers.close()
        workers.join()


@contextmanager
def executor(ctx: Any) -> Iterator[Any]:
    """Make an executor."""
    with ProcessPoolExecutor(WORKERS, mp_context=ctx) as workers:
        yield workers


@pytest.mark.parametrize(
    ("what", "make", "work", "aim"),
    [
        ("Pool.map of nothing, chunksize 1", pool, map_nothing, 1.3),
        ("Pool.imap_unordered, arrays of 1 MiB", pool, imap_arrays(MIB), 4.0),
        ("Pool.imap_unordered, arrays of 8 MiB", pool, imap_arrays(8 * MIB), 4.0),
        ("Pool.map, arrays of 1 MiB there and back", pool, map_echo, 2.0),
        ("executor.map, arrays of 1 MiB", executor, executor_arrays, 3.0),
    ],
)
def test_pools(contest: Contest, what: str, make: Any, work: Work, aim: float) -> None:
    """Two workers each; the stock ones rest meanwhile."""
    with make(multiprocessing.get_context("fork")) as stock, make(get_context("fork")) as ours:
        sides = [Workers(STOCK.name, stock, work), Workers("ours", ours, work)]
        contest.between(what, sides, placement(), {STOCK.name: aim})
