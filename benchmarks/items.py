"""What people put into queues, by name: how it is made, and how the consumer reads it.

All of an array is read: a queue that hands out memory nobody has touched yet would otherwise seem faster than it is.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from string import ascii_letters
from typing import Any

import pytest

KIB = 1 << 10
MIB = 1 << 20
IMAGE = (224, 224, 3)
IMAGE_BYTES = 224 * 224 * 3
# Ten columns of 8 bytes: 10 MB.
FRAME_ROWS = 125_000
COLUMNS = [f"column {i}" for i in range(10)]


@dataclass(slots=True)
class Job:
    """A dataclass as workers are sent."""

    number: int
    path: str
    weight: float
    tags: list[str]


@dataclass(frozen=True, slots=True)
class Item:
    """How an item is made and read; `buffer` is the bytes of its one large buffer, 0 where it has none or several."""

    make: Callable[[], Any]
    read: Callable[[Any], object]
    buffer: int = 0


# ---- how items are read ----


def as_is(item: object) -> object:
    """Read nothing: Python has made an object of every byte, or copied it."""
    return item


def array(item: Any) -> int:
    """Read every byte of a numpy array."""
    return int(item.reshape(-1).view("uint64").sum())


def arrays(item: dict[str, Any]) -> int:
    """Read every byte of a dict of numpy arrays."""
    return sum(map(array, item.values()))


def labelled(item: dict[str, Any]) -> tuple[int, int]:
    """Read an image and its label."""
    return array(item["image"]), item["label"]


def frame(item: Any) -> int:
    """Read every column of a pandas DataFrame."""
    return sum(array(item[name].to_numpy()) for name in item.columns)


def table(item: Any) -> int:
    """Read every column of a pyarrow Table."""
    return sum(array(chunk.to_numpy()) for column in item.columns for chunk in column.chunks)


# ---- how items are made ----


def random_array(shape: int | tuple[int, ...]) -> Any:
    """Make a numpy array of random bytes."""
    return pytest.importorskip("numpy").random.default_rng(0).integers(0, 256, shape, "uint8")


def random_columns() -> dict[str, Any]:
    """Make columns of numbers: every other one of whole ones."""
    rng = pytest.importorskip("numpy").random.default_rng(0)
    return {name: (rng.random(FRAME_ROWS) * 1e6).astype(("f8", "i8")[i % 2]) for i, name in enumerate(COLUMNS)}


def random_text(length: int) -> str:
    """Make a text of one byte a character."""
    return "".join(random.Random(0).choices(ascii_letters, k=length))


def numpy_item(size: int) -> Item:
    """Describe a numpy array of `size` bytes."""
    return Item(lambda: random_array(size), array, size)


ITEMS = {
    "int": Item(lambda: 123_456, as_is),
    "tuple": Item(lambda: (7, "train/0007.jpg", 0.25), as_is),
    "dict of 10": Item(lambda: {f"key {i}": i * 1.5 for i in range(10)}, as_is),
    "dataclass": Item(lambda: Job(7, "train/0007.jpg", 0.25, ["new", "large"]), as_is),
    "list of 1,000 floats": Item(lambda: [random.random() for _ in range(1000)], as_is),
    "list of 1,000 bytes of 64": Item(lambda: [os.urandom(64) for _ in range(1000)], as_is),
    "numpy 1 KiB": numpy_item(KIB),
    "numpy 64 KiB": numpy_item(64 * KIB),
    "numpy image, 150 KB": Item(lambda: random_array(IMAGE), array, IMAGE_BYTES),
    "dict with image": Item(lambda: {"image": random_array(IMAGE), "label": 7}, labelled, IMAGE_BYTES),
    "numpy 1 MiB": numpy_item(MIB),
    "numpy 6 MB": numpy_item(6_000_000),
    "numpy 32 MiB": numpy_item(32 * MIB),
    "dict of 20 numpy 64 KiB": Item(lambda: {f"layer {i}": random_array(64 * KIB) for i in range(20)}, arrays),
    "pandas DataFrame, 10 MB": Item(lambda: pytest.importorskip("pandas").DataFrame(random_columns()), frame),
    "pyarrow Table, 10 MB": Item(lambda: pytest.importorskip("pyarrow").table(random_columns()), table),
    "bytearray 1 MiB": Item(lambda: bytearray(os.urandom(MIB)), as_is, MIB),
    "str 1 MiB": Item(lambda: random_text(MIB), as_is, MIB),
    "bytes 1 MiB": Item(lambda: os.urandom(MIB), as_is, MIB),
}
