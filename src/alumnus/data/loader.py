"""Batches of a mixture: each a pure function of its first position, whoever makes it.

A data worker is sent the position at which a batch starts and sends the batch back. So the number
of workers cannot matter, and resuming is starting at another position.
"""

import logging
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from alumnus.data.augment import AugmentConfig, AugmentParams, draw
from alumnus.data.batch import BadImage, Batch, Sample, Source
from alumnus.data.decode import BrokenImageError
from alumnus.data.mixture import Location, Mixture
from alumnus.data.pixels import Size, apply, apply_to_array, luminance
from alumnus.randomness import derive_seed

__all__ = ["Loader", "iterate", "make_loader", "sweep"]

_T = TypeVar("_T")

log = logging.getLogger(__name__)

MAX_REPLACEMENTS = 16  # tries for one broken image before its source is given up


class Loader:
    """Iterates over batches; `bad_images` lists the broken images of those handed out so far."""

    def __init__(self, reader: "_Reader", starts: "Sampler[int]", *, num_workers: int, pin: bool):
        self.bad_images: list[BadImage] = []
        self._loader = _data_loader(reader, starts, num_workers=num_workers, pin=pin)

    def __iter__(self) -> Iterator[Batch]:
        for made in self._loader:
            self.bad_images += made.bad_images
            if made.error is not None:
                raise ValueError(made.error)
            if made.batch is not None:
                yield made.batch


def make_loader(
    mixture: Mixture,
    augment: AugmentConfig,
    *,
    size: Size,
    batch_size: int,
    start_position: int = 0,
    num_workers: int = 0,
    seed: int = 0,
    teacher_size: Size | None = None,
    channels: int = 3,
    pin_memory: bool = False,
) -> Loader:
    """Endless training batches from `start_position` on, which may be any.

    `seed` is that of the augmentation; the mixture has its own for the order. `teacher_size`
    gives the teachers the same view at another size. `channels` other than 3: 1 is the luminance
    of the augmented image, others need sources with a field "array" [H, W, channels].

    A broken image is replaced by another of its source, chosen by (seed, position). ValueError
    while iterating where 16 in a row are broken.
    """
    reader = _Reader(
        mixture.sources,
        _Views(augment, size, teacher_size, channels, seed),
        locate=mixture.locate,
        batch_size=batch_size,
        end=None,
    )
    starts = _Starts(start_position, None, batch_size)
    return Loader(reader, starts, num_workers=num_workers, pin=pin_memory)


def sweep(
    sources: Sequence[Source],
    augment: AugmentConfig,
    *,
    size: Size,
    batch_size: int,
    views: int = 1,
    start: int = 0,
    num_workers: int = 0,
    seed: int = 0,
    teacher_size: Size | None = None,
    channels: int = 3,
) -> Loader:
    """Every view of every image once, in order: view by view, source by source, index by index.

    Made for feature caches: image and augmentation of a (source, index, view) are those that
    `make_loader` gives with the same seed. `position` counts within the sweep, `start` resumes
    there. Broken images are left out, so a batch may be short.
    """
    sizes = [len(source) for source in sources]
    reader = _Reader(
        tuple(sources),
        _Views(augment, size, teacher_size, channels, seed),
        locate=_SweepOrder(sizes),
        batch_size=batch_size,
        end=sum(sizes) * views,
    )
    starts = _Starts(start, sum(sizes) * views, batch_size)
    return Loader(reader, starts, num_workers=num_workers, pin=False)


def iterate(
    source: Source,
    transform: Callable[[Image.Image], Tensor],
    *,
    batch_size: int,
    num_workers: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(transformed images [B, ...], their indices [B] int64), once through a source, in order.

    Broken images are left out with a warning; hence the indices.
    """
    reader = _PlainReader(source, transform, batch_size)
    starts = _Starts(0, len(source), batch_size)
    for images, indices, broken in _data_loader(reader, starts, num_workers=num_workers, pin=False):
        for why in broken:
            log.warning("left out: %s", why)
        if len(indices):
            yield images, indices


class _Starts(Sampler[int]):
    """First positions of batches; endless where `end` is None."""

    def __init__(self, start: int, end: int | None, batch_size: int) -> None:
        self.start, self.end, self.batch_size = start, end, batch_size

    def __iter__(self) -> Iterator[int]:
        position = self.start
        while self.end is None or position < self.end:
            yield position
            position += self.batch_size


class _SweepOrder:
    """Position to (source, index, view), with views outermost."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.starts = [0, *accumulate(sizes)]

    def __call__(self, position: int) -> Location:
        view, place = divmod(position, self.starts[-1])
        source = bisect_right(self.starts, place) - 1
        return Location(source, place - self.starts[source], view)


class _Views(NamedTuple):
    """From samples and draws to what student and teachers see."""

    augment: AugmentConfig
    size: Size
    teacher_size: Size | None
    channels: int
    seed: int

    def draw(self, places: Sequence[Location]) -> AugmentParams:
        source, index, view = (list(column) for column in zip(*places, strict=True))
        return draw(self.seed, source, index, view, self.augment)

    def render(self, sample: Sample, params: AugmentParams) -> tuple[Tensor, Tensor | None]:
        """Images of the student and, where they differ, of the teachers."""
        rgb = apply(sample.image, params, self.size, self.augment)
        teachers = None
        if self.teacher_size is not None and self.teacher_size != self.size:
            teachers = apply(sample.image, params, self.teacher_size, self.augment)
        if self.channels == 3:
            return rgb, teachers
        if self.channels == 1:
            return luminance(rgb), rgb if teachers is None else teachers
        array = sample.fields.get("array")
        if array is None or array.shape[-1] != self.channels:
            held = "none" if array is None else str(array.shape[-1])
            raise ValueError(
                f"the student takes {self.channels} channels, but the images have 3 and a field "
                f'"array" of {self.channels} channels is needed (found: {held})'
            )
        student = apply_to_array(array, params, self.size, self.augment)
        return student, rgb if teachers is None else teachers


class _Made(NamedTuple):
    """What comes back from a worker. An error is a value, to stay one sentence."""

    batch: Batch | None
    bad_images: list[BadImage]
    error: str | None


class _Reader(Dataset[_Made]):
    """`reader[start]` is the batch of positions start .. start + batch_size."""

    def __init__(
        self,
        sources: tuple[Source, ...],
        views: _Views,
        *,
        locate: Callable[[int], Location],
        batch_size: int,
        end: int | None,  # exclusive; None: endless, broken images are replaced
    ) -> None:
        self.sources, self.views, self.locate = sources, views, locate
        self.batch_size, self.end = batch_size, end

    def __getitem__(self, start: int) -> _Made:
        end = (
            start + self.batch_size if self.end is None else min(start + self.batch_size, self.end)
        )
        bad: list[BadImage] = []
        try:
            read = [self._read(position, bad) for position in range(start, end)]
            good = [r for r in read if r is not None]
            return _Made(self._batch(good) if good else None, bad, None)
        except ValueError as error:
            return _Made(None, bad, str(error))

    def _batch(self, read: "list[tuple[int, Location, Sample]]") -> Batch:
        positions, places, samples = zip(*read, strict=True)
        params = self.views.draw(places)
        images, teacher_images = zip(
            *(self.views.render(sample, params[i]) for i, sample in enumerate(samples)), strict=True
        )
        stacked = torch.stack(images)
        source, index, view = torch.tensor(places, dtype=torch.int64).unbind(dim=1)
        return Batch(
            images=stacked,
            teacher_images=stacked if teacher_images[0] is None else torch.stack(teacher_images),
            position=torch.tensor(positions, dtype=torch.int64),
            source=source,
            index=index,
            view=view,
        )

    def _read(self, position: int, bad: list[BadImage]) -> tuple[int, Location, Sample] | None:
        """The sample at a position; where it is broken, another of its source or None (skip)."""
        place = self.locate(position)
        source = self.sources[place.source]
        broken: list[BrokenImageError] = []
        found: Sample | None = None
        while found is None and len(broken) <= MAX_REPLACEMENTS:
            if broken:
                if self.end is not None:
                    break
                another = derive_seed(self.views.seed, "replace", position, len(broken))
                place = place._replace(index=another % len(source))
            try:
                found = source.read(place.index)
            except BrokenImageError as error:
                broken.append(error)
        replaced_by = source.identity(place.index) if found is not None else None
        bad += [
            BadImage(position if self.end is None else -1, e.source, e.identity, e.why, replaced_by)
            for e in {e.identity: e for e in broken}.values()  # one drawn twice is one
        ]
        if found is None and self.end is None:
            raise ValueError(
                f"{len(broken)} images of {source.name!r} tried in a row cannot be decoded; "
                f"the last: {broken[-1]}"
            )
        return None if found is None else (position, place, found)


class _PlainReader(Dataset[tuple[Tensor, Tensor, list[str]]]):
    """Transformed images of one source, in batches by first index."""

    def __init__(
        self, source: Source, transform: Callable[[Image.Image], Tensor], batch_size: int
    ) -> None:
        self.source, self.transform, self.batch_size = source, transform, batch_size

    def __getitem__(self, start: int) -> tuple[Tensor, Tensor, list[str]]:
        images: list[Tensor] = []
        indices: list[int] = []
        broken: list[str] = []
        for index in range(start, min(start + self.batch_size, len(self.source))):
            try:
                images.append(self.transform(self.source.read(index).image))
                indices.append(index)
            except BrokenImageError as error:
                broken.append(str(error))
        stacked = torch.stack(images) if images else torch.empty(0)
        return stacked, torch.tensor(indices, dtype=torch.int64), broken


def _data_loader(
    reader: "Dataset[_T]", starts: "Sampler[int]", *, num_workers: int, pin: bool
) -> "DataLoader[_T]":
    """Workers make whole batches, in order, one torch thread each (torch's default there)."""
    return DataLoader(
        reader,
        sampler=starts,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        pin_memory=pin,
        prefetch_factor=4 if num_workers else None,
    )


def _as_it_is(made: "_T") -> "_T":
    return made
