"""Speed of queues: one producer and one consumer, items of bytes; batches; round trips; four producers."""

import os

import pytest

from benchmarks.conftest import Contest
from benchmarks.contenders import (
    FASTER_FIFO,
    OUR_SIMPLE,
    OURS,
    RAW,
    SIMPLE,
    SIMPLE_LARGE,
    STOCK,
    STOCK_LARGE,
    Contender,
    Placement,
    batches,
    round_trips,
)

PEERS = [STOCK, STOCK_LARGE, SIMPLE, SIMPLE_LARGE, FASTER_FIFO]


@pytest.mark.parametrize(
    ("what", "size", "stock", "faster_fifo", "raw"),
    [
        ("100 B", 100, 2.5, 2.0, None),
        ("4 KiB", 4 << 10, 2.0, 1.5, None),
        ("64 KiB", 64 << 10, 3.0, 0.8, 0.4),
        ("256 KiB", 256 << 10, 7.0, 0.9, 0.5),
        ("1 MiB", 1 << 20, 8.0, 0.9, 0.5),
        ("4 MiB", 4 << 20, 8.0, 1.0, 0.7),
    ],
)
def test_items(
    contest: Contest, placed: Placement, what: str, size: int, stock: float, faster_fifo: float, raw: float | None
) -> None:
    aims = {STOCK.name: stock, FASTER_FIFO.name: faster_fifo, RAW: raw}
    contest(what, OURS, PEERS, item=os.urandom(size), placement=placed, aims=aims, raw=size)


@pytest.mark.parametrize("batch", [100, 1000])
def test_batches(contest: Contest, placed: Placement, batch: int) -> None:
    """Stock queues know no batches: they take one item after the other."""
    contest(
        f"100 B, {batch:,} a put_many, get_many",
        batches(OURS, batch),
        [*PEERS[:-1], batches(FASTER_FIFO, batch)],
        item=os.urandom(100),
        placement=placed,
        aims={STOCK.name: 6.0, FASTER_FIFO.name: 6.0},
        raw=100,
    )


@pytest.mark.parametrize(("ours", "what"), [(OURS, "Queue"), (OUR_SIMPLE, "SimpleQueue")], ids=["queue", "simple"])
def test_round_trip(contest: Contest, placed: Placement, ours: Contender, what: str) -> None:
    contest(
        f"100 B there and back, {what}",
        round_trips(ours),
        [round_trips(peer) for peer in (STOCK, SIMPLE, FASTER_FIFO)],
        item=os.urandom(100),
        placement=placed,
        aims={SIMPLE.name: 1.0},
    )


@pytest.mark.parametrize(
    ("what", "size"), [("100 B", 100), ("4 KiB", 4 << 10), ("64 KiB", 64 << 10)], ids=lambda value: str(value)
)
def test_four_producers(contest: Contest, what: str, size: int) -> None:
    contest(
        f"{what}, four producers",
        OURS,
        PEERS,
        item=os.urandom(size),
        placement=Placement(),
        aims={STOCK.name: 1.0, FASTER_FIFO.name: 1.0},
        producers=4,
    )
