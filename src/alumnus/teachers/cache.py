"""Teacher features computed once and replayed: the same images, crops and colours again.

A row belongs to one (source, index, view). The augmentation of these is a pure function
(`alumnus.data.draw`), so the student sees exactly the pixels that the teachers saw; never a
feature of an image that was flipped or cropped afterwards.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from alumnus.cachedir import cache_dir
from alumnus.data import AugmentConfig, BrokenImageError, Size, Source, sweep
from alumnus.spelling import size_text
from alumnus.teachers.base import Teacher
from alumnus.teachers.cache_store import FeatureStore, Layout, StoreDtype
from alumnus.teachers.pool import TeacherPool
from alumnus.tokens import Grid, Tokens

__all__ = ["CachedBatch", "CachedTeachers", "FeatureCache"]

FORMAT = 2  # part of each key; raised when rows get another meaning
KEPT_FREE = 0.05  # share of the disk
IMAGES_PER_MARK = 1024  # a killed build repeats at most these
CONTENT_SAMPLES = 8  # images of a source that are hashed, against equal names of other data

Progress = Callable[[int, int], None]  # (rows done, rows in all)


class CachedBatch(Protocol):
    """What the cache needs of a batch."""

    @property
    def images(self) -> Tensor: ...  # only for its device
    @property
    def source(self) -> Tensor: ...  # [B] int64
    @property
    def index(self) -> Tensor: ...  # [B] int64
    @property
    def view(self) -> Tensor: ...  # [B] int64, below the number of cached views


class FeatureCache:
    """The features of all teachers of a pool for `views` views of each image of some sources.

    Making one only plans: `bytes`, `missing_bytes` and `complete` say what `build` would do.
    Each teacher has a folder of its own, named by a hash of all that its features depend on, so
    another pool with the same teacher finds it.

    Rows are ordered as `alumnus.data.sweep` goes: views outermost, then sources, then images. A
    mixture that replays the cache needs `views` too, and its loader the same `seed`.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        pool: TeacherPool,
        *,
        augment: AugmentConfig,
        size: Size,
        teacher_size: Size | None = None,
        views: int = 1,
        seed: int = 0,
        channels: int = 3,
        dtype: StoreDtype = "bf16",
        folder: str | Path | None = None,  # None: in the user's cache
    ) -> None:
        if views < 1:
            raise ValueError(f"views is {views}, but must be at least 1")
        self.sources, self.pool, self.views = tuple(sources), pool, views
        self.augment, self.seed, self.channels = augment, seed, channels
        self.size, self.teacher_size = size, teacher_size
        self.starts = np.cumsum([0, *(len(source) for source in sources)])
        self.rows = int(self.starts[-1]) * views
        self.folder = cache_dir("features") if folder is None else Path(folder).expanduser()

        seen = pool.probe(_pair(size), None if teacher_size is None else _pair(teacher_size))
        images = self._images_key()
        self.stores: dict[str, FeatureStore] = {}
        for name, teacher in pool.teachers.items():
            layout = Layout.of(seen[name], rows=self.rows, dtype=dtype)
            key = _digest({"images": images, "teacher": _teacher_key(teacher, layout)})
            self.stores[name] = FeatureStore(self.folder / f"{name}-{key[:20]}", layout)

    @property
    def bytes(self) -> int:
        """Size of the whole cache."""
        return sum(store.layout.bytes for store in self.stores.values())

    @property
    def missing_bytes(self) -> int:
        """What `build` will still take from the disk."""
        return sum(store.missing_bytes for store in self.stores.values())

    @property
    def complete(self) -> bool:
        """True: nothing is left to build."""
        return all(store.complete for store in self.stores.values())

    def check_disk(self) -> None:
        """ValueError where the disk would fill beyond 95%."""
        place = next(p for p in (self.folder, *self.folder.absolute().parents) if p.exists())
        usage = shutil.disk_usage(place)
        usable = max(0, usage.free - int(KEPT_FREE * usage.total))
        if self.missing_bytes > usable:
            raise ValueError(
                f"the feature cache needs {size_text(self.missing_bytes)} more in {self.folder}, "
                f"but only {size_text(usable)} may be used there ({KEPT_FREE:.0%} of the disk stay "
                "free); take fewer views, fewer images or int8, or another folder"
            )

    def build(
        self, *, batch_size: int = 32, num_workers: int = 0, progress: Progress | None = None
    ) -> None:
        """Compute what is missing; goes on where a killed build stopped.

        Each image is decoded once for all teachers. ValueError before anything is written where
        the disk is too small.
        """
        unfinished = {n: store for n, store in self.stores.items() if not store.complete}
        if not unfinished:
            return
        self.check_disk()
        for store in unfinished.values():
            store.allocate()
        pool = self.pool.subset(unfinished)
        start = marked = min(store.done for store in unfinished.values())
        batches = sweep(
            self.sources,
            self.augment,
            size=self.size,
            batch_size=batch_size,
            views=self.views,
            start=start,
            num_workers=num_workers,
            seed=self.seed,
            teacher_size=self.teacher_size,
            channels=self.channels,
        )
        for batch in batches:
            rows = batch.position.numpy()  # the order of the sweep is the order of the rows
            batch = batch._replace(
                images=batch.images.to(pool.device),
                teacher_images=batch.teacher_images.to(pool.device),
            )
            for name, tokens in pool.targets(batch).items():
                unfinished[name].write(rows, tokens)
            done = int(rows[-1]) + 1
            if done - marked >= IMAGES_PER_MARK:
                self._mark(unfinished, done)
                marked = done
            if progress is not None:
                progress(done, self.rows)
        self._mark(unfinished, self.rows)

    def _mark(self, stores: Mapping[str, FeatureStore], done: int) -> None:
        for store in stores.values():
            store.mark_done(max(done, store.done))

    def _images_key(self) -> str:
        """A hash of all that decides what the images are."""
        return _digest(
            {
                "sources": [_source_key(source) for source in self.sources],
                "augment": dataclasses.asdict(self.augment),
                "size": _pair(self.size),
                "teacher_size": _pair(self.teacher_size or self.size),
                "views": self.views,
                "seed": self.seed,
                "student_patch_size": self.pool.student_patch_size,
            }
        )


class CachedTeachers:
    """Stands in for a TeacherPool: `targets` reads rows instead of running networks."""

    def __init__(self, cache: FeatureCache) -> None:
        if not cache.complete:
            raise ValueError("the feature cache is not complete yet; build it first")
        self.stores, self.views, self.starts = cache.stores, cache.views, cache.starts

    def targets(self, batch: CachedBatch) -> dict[str, Tokens]:
        """Tokens of each teacher, float32 on the device of the images.

        ValueError for a view that was not cached.
        """
        view = batch.view.cpu().numpy()
        if (view >= self.views).any():
            raise ValueError(
                f"the feature cache holds {self.views} views of each image, but view {view.max()} "
                f"was asked for: give the mixture views={self.views}"
            )
        source, index = batch.source.cpu().numpy(), batch.index.cpu().numpy()
        rows = view * self.starts[-1] + self.starts[source] + index
        device = batch.images.device
        return {name: store.read(rows).to(device) for name, store in self.stores.items()}


def _teacher_key(teacher: Teacher, layout: Layout) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "weights": teacher.fingerprint(),
        "tokens": teacher.token_types,
        "positions": teacher.pos_interp,
        "statistics": [teacher.mean, teacher.std],
        "input": [teacher.input_size, teacher.fixed_size, teacher.patch_size],
        "grid": teacher.grid,
        "layout": dataclasses.asdict(layout),
    }


def _source_key(source: Source) -> list[str]:
    """Name, a hash of all identities, and one of some images."""
    identities, content = hashlib.sha256(), hashlib.sha256()
    for i in range(len(source)):
        identities.update(f"{source.identity(i)}\n".encode())
    for i in np.linspace(0, len(source) - 1, min(CONTENT_SAMPLES, len(source)), dtype=int):
        try:
            content.update(source.read(int(i)).image.tobytes())
        except BrokenImageError:
            content.update(b"broken")
    return [source.name, identities.hexdigest(), content.hexdigest()]


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _pair(size: Size) -> Grid:
    return (size, size) if isinstance(size, int) else size
