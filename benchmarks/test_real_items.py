"""Speed with what people put into queues: numbers and records, arrays, frames, tables, text. What comes is read."""

import pickle
from dataclasses import replace

import pytest

from benchmarks.conftest import Contest
from benchmarks.contenders import DEJAQ, FASTER_FIFO, OURS, RAW, STOCK, ZMQ, Placement, get_and_read
from benchmarks.items import ITEMS, KIB
from benchmarks.peers import peers_for

BEST = (FASTER_FIFO.name, ZMQ, DEJAQ)
# What get() of dejaq 0.7 hands out is a deep copy; that of a DataFrame shares the column names, where they are Arrow's
# as since pandas 3, with the ring: they change, or the reader crashes, when the ring comes round.
CORRUPTED = ("pandas DataFrame, 10 MB", DEJAQ)


@pytest.mark.parametrize(
    ("name", "stock", "best", "raw"),
    [
        ("int", 2.5, 1.3, None),
        ("tuple", 2.3, 1.3, None),
        ("dict of 10", 1.8, 1.3, None),
        ("dataclass", 1.3, 1.3, None),
        ("list of 1,000 floats", 1.0, 1.0, None),
        ("list of 1,000 bytes of 64", 1.3, 1.0, None),
        ("numpy 1 KiB", 1.5, 1.2, None),
        ("numpy 64 KiB", 2.5, 1.2, None),
        ("numpy image, 150 KB", 3.0, 1.2, None),
        ("dict with image", 4.0, 1.2, None),
        ("numpy 1 MiB", 8.0, 1.0, 0.7),
        ("numpy 6 MB", 8.0, 1.0, 0.7),
        ("numpy 32 MiB", 4.0, 1.3, 0.7),
        ("dict of 20 numpy 64 KiB", 4.0, 1.0, None),
        ("pandas DataFrame, 10 MB", 4.0, 1.0, None),
        ("pyarrow Table, 10 MB", 4.0, 1.0, None),
        ("bytearray 1 MiB", 5.0, 0.95, 0.7),
        ("str 1 MiB", 4.0, 0.95, 0.7),
        ("bytes 1 MiB", 6.0, 0.95, 0.7),
    ],
)
def test_real_items(
    contest: Contest, placed: Placement, name: str, stock: float, best: float, raw: float | None
) -> None:
    """The aim of the best peer holds for each."""
    kind = ITEMS[name]
    item = kind.make()
    consume = get_and_read(kind.read, kind.read(item))
    able = [peer for peer in peers_for(len(pickle.dumps(item, 5))) if (name, peer.name) != CORRUPTED]
    ours, *peers = (replace(one, consume=consume) for one in (OURS, *able))
    contest(
        name,
        ours,
        peers,
        item=item,
        placement=placed,
        aims={STOCK.name: stock, **dict.fromkeys(BEST, best), RAW: raw},
        raw=kind.buffer if kind.buffer >= 64 * KIB else 0,
    )
