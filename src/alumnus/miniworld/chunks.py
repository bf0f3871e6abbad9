"""Rendered scenes on disk: files of 96 scenes, each a pure function of (seed, number, size).

A file appears whole (temporary name, fsync, rename) or not at all. So rendering can be killed and
goes on where it was, and two processes that render the same file write the same bytes.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alumnus.miniworld.objects import CLASSES, render_object

__all__ = ["CHUNK", "Chunk", "chunk_path", "open_chunk", "render_chunk", "scene_dtype"]

CHUNK = 2 * len(CLASSES)  # scenes per file; whole turns through the classes
Chunk = NDArray[np.void]  # [CHUNK] of `scene_dtype`


def scene_dtype(size_px: int) -> np.dtype[np.void]:
    """One scene: image uint8 [H, W, 3], mask uint8 [H, W], depth float16 [H, W], cls uint8."""
    return np.dtype(
        [
            ("image", np.uint8, (size_px, size_px, 3)),
            ("mask", np.uint8, (size_px, size_px)),
            ("depth", np.float16, (size_px, size_px)),
            ("cls", np.uint8),
        ]
    )


def chunk_path(folder: Path, number: int) -> Path:
    """Where chunk `number` lies."""
    return folder / f"{number:05d}.npy"


def open_chunk(path: Path, *, size_px: int) -> Chunk | None:
    """The memory-mapped scenes of a file; None if it is missing or damaged."""
    try:
        scenes: Chunk = np.load(path, mmap_mode="r")
    except (FileNotFoundError, ValueError, EOFError):  # the latter two: cut off
        return None
    return scenes if scenes.dtype == scene_dtype(size_px) and len(scenes) == CHUNK else None


def render_chunk(path: Path, *, seed: int, number: int, size_px: int) -> None:
    """Render scenes `CHUNK * number` onwards into a file."""
    scenes = np.empty(CHUNK, scene_dtype(size_px))
    for place in range(CHUNK):
        scene = render_object(seed, CHUNK * number + place, size_px)
        scenes[place] = (scene.image, scene.mask, scene.depth, scene.cls)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, scenes)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
