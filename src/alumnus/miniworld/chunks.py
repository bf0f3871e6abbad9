"""Rendered pictures on disk: files of `chunk` pictures, each a pure function of its place.

A file appears whole (temporary name, fsync, rename) or not at all. So rendering can be killed and
goes on where it was, and two processes that render the same file write the same bytes.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alumnus.miniworld.domain import Domain

__all__ = ["Chunk", "chunk_path", "open_chunk", "render_chunk"]

Chunk = NDArray[np.void]  # [domain.chunk] of `domain.dtype(size_px)`


def chunk_path(folder: Path, number: int) -> Path:
    """Where chunk `number` lies."""
    return folder / f"{number:05d}.npy"


def open_chunk(path: Path, domain: Domain, *, size_px: int) -> Chunk | None:
    """The memory-mapped records of a file; None if it is missing or damaged."""
    try:
        records: Chunk = np.load(path, mmap_mode="r")
    except (FileNotFoundError, ValueError, EOFError):  # the latter two: cut off
        return None
    whole = records.dtype == domain.dtype(size_px) and len(records) == domain.chunk
    return records if whole else None


def render_chunk(path: Path, domain: Domain, *, seed: int, number: int, size_px: int) -> None:
    """Render the pictures `domain.chunk * number` onwards into a file."""
    records = np.empty(domain.chunk, domain.dtype(size_px))
    first = domain.chunk * number
    for place in range(0, domain.chunk, domain.views):
        for view, record in enumerate(
            domain.render(seed, (first + place) // domain.views, size_px)
        ):
            records[place + view] = record
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, records)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
