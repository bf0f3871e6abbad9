"""`miniworld:objects` as a source: rendered into the local cache once, then read."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alumnus.cachedir import cache_dir
from alumnus.data.batch import Sample
from alumnus.miniworld.chunks import CHUNK, Chunk, chunk_path, open_chunk, render_chunk
from alumnus.miniworld.objects import CLASSES, GENERATOR_VERSION

__all__ = ["SPLIT_LENGTHS", "SPLIT_SEEDS", "ObjectsSource", "render_dataset"]

SPLIT_SEEDS = {"train": 1, "test": 2}  # other seeds, other scenes: nothing is shared
SPLIT_LENGTHS = {"train": 9600, "test": 960}

Progress = Callable[[int, int], None]  # (scenes ready, scenes in all)


class ObjectsSource:
    """Scenes of the domain `objects`: fields "cls", "mask" uint8 and "depth" float32 (metres).

    A scene is rendered when it is first read, with the 95 others of its file (under a second), or
    ahead of time by `render_dataset`; the cache does not depend on `length`. "mask" holds 0 for
    the background, 1 for the target, 2 for other objects; both arrays are [size_px, size_px].
    """

    name = "miniworld:objects"
    domain = "objects"
    generic = False
    classes: tuple[str, ...] | None = CLASSES

    def __init__(
        self, split: str = "train", *, length: int | None = None, size_px: int = 64
    ) -> None:
        if split not in SPLIT_SEEDS:
            raise ValueError(f"split is {split!r}, but must be one of {', '.join(SPLIT_SEEDS)}")
        if length is not None and length < 1:
            raise ValueError(f"length is {length}, but must be at least 1")
        self.split, self.size_px = split, size_px
        self.length = SPLIT_LENGTHS[split] if length is None else length
        self._chunks: dict[int, Chunk] = {}

    def __len__(self) -> int:
        return self.length

    def __getstate__(self) -> dict[str, Any]:
        """Without the memory maps, which would travel to worker processes as copies."""
        return {**self.__dict__, "_chunks": {}}

    @property
    def seed(self) -> int:
        """The first argument of `render_object`."""
        return SPLIT_SEEDS[self.split]

    @property
    def folder(self) -> Path:
        """Where the scenes are cached."""
        key = f"objects-v{GENERATOR_VERSION}-seed{self.seed}-{self.size_px}px"
        return cache_dir("miniworld", key)

    def identity(self, index: int) -> str:
        """Generator version, split and number."""
        return f"objects-v{GENERATOR_VERSION}/{self.split}/{self._checked(index):06d}"

    def fields(self, index: int) -> dict[str, Any]:
        """All but the image."""
        scene = self._scene(index)
        return {
            "cls": int(scene["cls"]),
            "mask": np.array(scene["mask"]),
            "depth": scene["depth"].astype(np.float32),
        }

    def read(self, index: int) -> Sample:
        """One scene; rendered if it is not yet in the cache."""
        return Sample(Image.fromarray(np.array(self._scene(index)["image"])), self.fields(index))

    def chunk(self, number: int) -> Chunk:
        """The scenes `CHUNK * number` onwards, as a structured array (see `scene_dtype`)."""
        if number not in self._chunks:
            path = chunk_path(self.folder, number)
            scenes = open_chunk(path, size_px=self.size_px)
            if scenes is None:
                render_chunk(path, seed=self.seed, number=number, size_px=self.size_px)
                scenes = open_chunk(path, size_px=self.size_px)
            assert scenes is not None, "a file just rendered is whole"
            self._chunks[number] = scenes
        return self._chunks[number]

    def missing(self) -> list[int]:
        """Numbers of the chunks that are not in the cache."""
        folder, chunks = self.folder, range(-(-self.length // CHUNK))
        return [
            n for n in chunks if open_chunk(chunk_path(folder, n), size_px=self.size_px) is None
        ]

    def _checked(self, index: int) -> int:
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} is outside the {self.length} scenes of {self.name}")
        return index

    def _scene(self, index: int) -> Any:
        number, place = divmod(self._checked(index), CHUNK)
        return self.chunk(number)[place]


def render_dataset(
    source: ObjectsSource, *, progress: Progress | None = None, processes: int = 1
) -> int:
    """Render whatever the cache lacks; the number of scenes rendered.

    Can be killed and called again. About 150 scenes of 64 px per second and process.
    """
    numbers, folder = source.missing(), source.folder
    chunks = -(-len(source) // CHUNK)
    ready = chunks - len(numbers)

    def report(more: int) -> None:
        if progress is not None:
            progress(min((ready + more) * CHUNK, len(source)), len(source))

    report(0)
    if processes == 1 or len(numbers) < 2:
        for done, number in enumerate(numbers, start=1):
            source.chunk(number)
            report(done)
        return len(numbers) * CHUNK
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        jobs = [
            pool.submit(
                render_chunk,
                chunk_path(folder, number),
                seed=source.seed,
                number=number,
                size_px=source.size_px,
            )
            for number in numbers
        ]
        for done, job in enumerate(as_completed(jobs), start=1):
            job.result()
            report(done)
    return len(numbers) * CHUNK
