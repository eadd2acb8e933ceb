"""Items for queues that are no plain objects."""

from __future__ import annotations

import pickle
from typing import Any


class Array:
    """Memory outside of the pickle, as numpy's arrays have it, and compared by ==, as they are not."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Array, (pickle.PickleBuffer(self.data),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Array) and bytes(self.data) == bytes(other.data)

    __hash__ = None  # type: ignore[assignment] # it can be changed
