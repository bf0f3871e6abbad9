"""Millions of names in two arrays.

A list of strings would be copied page by page into every data worker, because reading a string
changes its reference count; a flat buffer stays shared.
"""

from collections.abc import Iterable

import numpy as np

__all__ = ["Names"]


class Names:
    """An immutable list of strings in one buffer."""

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._starts = np.concatenate([np.zeros(1, np.int64), ends])
        self._buffer = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"name {index} of {len(self)}")
        start, end = self._starts[index : index + 2]
        return self._buffer[start:end].decode("utf-8", "surrogateescape")
