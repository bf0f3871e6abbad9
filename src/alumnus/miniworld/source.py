"""`miniworld:DOMAIN` as a source: rendered into the local cache once, then read."""

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from alumnus.cachedir import cache_dir
from alumnus.data.batch import Sample
from alumnus.data.picture import pixels_of
from alumnus.miniworld.chunks import Chunk, chunk_path, open_chunk, render_chunk
from alumnus.miniworld.domain import Domain
from alumnus.miniworld.domains import DOMAINS
from alumnus.spelling import unknown

__all__ = ["SPLIT_LENGTHS", "SPLIT_SEEDS", "MiniworldSource", "render_dataset"]

SPLIT_SEEDS = {"train": 1, "test": 2, "val": 3}  # other scenes: nothing is shared
SPLIT_LENGTHS = {"train": 9600, "test": 960, "val": 960}

Progress = Callable[[int, int], None]  # (pictures ready, pictures in all)


class MiniworldSource:
    """Pictures of one domain; their fields are those of the domain's row in `DOMAINS`.

    A picture is rendered when it is first read, with the others of its file (a second or two), or
    ahead of time by `render_dataset`; the cache does not depend on `length`.
    """

    generic = False

    def __init__(
        self, domain: str, split: str = "train", *, length: int | None = None, size_px: int = 64
    ) -> None:
        if domain not in DOMAINS:
            raise unknown("miniworld", domain, DOMAINS)
        if split not in SPLIT_SEEDS:
            raise unknown(f"split of miniworld:{domain}", split, SPLIT_SEEDS)
        views = DOMAINS[domain].views
        if length is not None and length < 1:
            raise ValueError(f"length is {length}, but must be at least 1")
        if length is not None and length % views:
            raise ValueError(f"length is {length}, but {domain} has {views} pictures of each scene")
        self.domain, self.split, self.size_px = domain, split, size_px
        self.length = SPLIT_LENGTHS[split] if length is None else length
        self._chunks: dict[int, Chunk] = {}

    def __len__(self) -> int:
        return self.length

    def __getstate__(self) -> dict[str, Any]:
        """Without the memory maps, which would travel to worker processes as copies."""
        return {**self.__dict__, "_chunks": {}}

    @property
    def name(self) -> str:
        return f"miniworld:{self.domain}"

    @property
    def row(self) -> Domain:
        """The domain's row in `DOMAINS`."""
        return DOMAINS[self.domain]

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self.row.classes

    @property
    def field_names(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the values of "mask" and of the rows of "joints"; see `names_of`."""
        return self.row.names

    @property
    def seed(self) -> int:
        """The first argument of the domain's renderer."""
        return SPLIT_SEEDS[self.split]

    @property
    def folder(self) -> Path:
        """Where the pictures are cached."""
        key = f"{self.domain}-v{self.row.version}-seed{self.seed}-{self.size_px}px"
        return cache_dir("miniworld", key)

    def identity(self, index: int) -> str:
        """Generator version, split and number."""
        return f"{self.domain}-v{self.row.version}/{self.split}/{self._checked(index):06d}"

    def fields(self, index: int) -> dict[str, Any]:
        """All but the image."""
        return self.row.fields(self._record(index))

    def read(self, index: int) -> Sample:
        """One picture; rendered if it is not yet in the cache."""
        return Sample(pixels_of(np.array(self._record(index)["image"])), self.fields(index))

    def chunk(self, number: int) -> Chunk:
        """The pictures `row.chunk * number` onwards, as a structured array (see `row.dtype`)."""
        if number not in self._chunks:
            path = chunk_path(self.folder, number)
            records = open_chunk(path, self.row, size_px=self.size_px)
            if records is None:
                render_chunk(path, self.row, seed=self.seed, number=number, size_px=self.size_px)
                records = open_chunk(path, self.row, size_px=self.size_px)
            assert records is not None, "a file just rendered is whole"
            self._chunks[number] = records
        return self._chunks[number]

    @property
    def chunks(self) -> int:
        """Number of files that hold the source."""
        return -(-self.length // self.row.chunk)

    def missing(self) -> list[int]:
        """Numbers of the chunks that are not in the cache."""
        paths = [chunk_path(self.folder, number) for number in range(self.chunks)]
        return [
            number
            for number, path in enumerate(paths)
            if open_chunk(path, self.row, size_px=self.size_px) is None
        ]

    def _checked(self, index: int) -> int:
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} is outside the {self.length} pictures of {self.name}")
        return index

    def _record(self, index: int) -> Any:
        number, place = divmod(self._checked(index), self.row.chunk)
        return self.chunk(number)[place]


def render_dataset(
    source: MiniworldSource, *, progress: Progress | None = None, processes: int = 1
) -> int:
    """Render whatever the cache lacks; the number of pictures rendered.

    Can be killed and called again. For the time it takes see docs/miniworld.md.
    """
    numbers, folder, domain = source.missing(), source.folder, source.row
    ready = source.chunks - len(numbers)

    def report(more: int) -> None:
        if progress is not None:
            progress(min((ready + more) * domain.chunk, len(source)), len(source))

    report(0)
    if processes == 1 or len(numbers) < 2:
        for done, number in enumerate(numbers, start=1):
            source.chunk(number)
            report(done)
        return len(numbers) * domain.chunk
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        jobs = [
            pool.submit(
                render_chunk,
                chunk_path(folder, number),
                domain,
                seed=source.seed,
                number=number,
                size_px=source.size_px,
            )
            for number in numbers
        ]
        for done, job in enumerate(as_completed(jobs), start=1):
            job.result()
            report(done)
    return len(numbers) * domain.chunk
