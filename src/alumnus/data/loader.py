"""Batches of a mixture: each a pure function of its first position, whoever makes it.

A data worker is sent the position at which a batch starts and sends the batch back. So the number
of workers cannot matter, and resuming is starting at another position.
"""

import logging
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from alumnus.data.augment import AugmentConfig, AugmentParams
from alumnus.data.batch import BadImage, Batch, Source
from alumnus.data.device_pixels import DevicePixels, DeviceViews
from alumnus.data.drawn_sizes import DrawnSizes
from alumnus.data.mixture import Location, Mixture
from alumnus.data.pixels import Size
from alumnus.data.reader import BatchReader, Readable, Renderer, Teach, Views

__all__ = ["Loader", "make_loader", "sweep"]

_T = TypeVar("_T")
Finish = Callable[[Batch, AugmentParams], Batch]  # the rest of a split augmentation

log = logging.getLogger(__name__)


class Loader:
    """Iterates over batches; `bad_images` lists the broken images of those handed out so far."""

    def __init__(
        self,
        reader: BatchReader[Any],
        starts: Sampler[int],
        *,
        num_workers: int,
        pin: bool,
        finish: Finish | None = None,
    ) -> None:
        self.bad_images: list[BadImage] = []
        self._finish = finish
        self._loader = _data_loader(reader, starts, num_workers=num_workers, pin=pin)

    def __iter__(self) -> Iterator[Batch]:
        for made in self._loader:
            self.bad_images += made.bad_images
            if made.error is not None:
                raise ValueError(made.error)
            if made.batch is None:
                continue
            if self._finish is None:
                yield made.batch
            else:
                assert made.params is not None, "the reader splits where colour is done elsewhere"
                yield self._finish(made.batch, made.params)


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
    colour_on: torch.device | None = None,
    teach: Teach | None = None,
    rank: int = 0,
    ranks: int = 1,
    on_device: DevicePixels | None = None,
    drawn_sizes: DrawnSizes | None = None,
) -> Loader:
    """Endless training batches from `start_position` on, which may be any.

    With several `ranks` every batch of batch_size * ranks positions is dealt out like cards:
    each rank takes every ranks-th, so together they see what one process alone would.

    `seed` is that of the augmentation; the mixture has its own for the order. `teacher_size`
    gives the teachers the same view at another size. `channels` other than 3: 1 is the luminance
    of the augmented image, others need sources with a field "array" [H, W, channels].
    `colour_on` splits the augmentation: workers crop, resize and flip bytes, all else is done
    in batches on that device, from the same draws. `teach` gives the `targets` of each batch, in
    the worker that made it; it needs finished images, so not together with `colour_on`.
    `on_device` holds the images of the mixture's sources: batches are made there, without
    workers. `drawn_sizes` takes the place of `size`, step by step.

    A broken image is replaced by another of its source, chosen by (seed, position). ValueError
    while iterating where 17 tries in a row meet broken ones.
    """
    if teach is not None and colour_on is not None:
        raise ValueError(
            "teachers in the workers need finished images: leave colour to the workers"
        )
    if on_device is not None:
        colour_on, num_workers, pin_memory = None, 0, False
    views = Views(
        augment,
        size,
        teacher_size,
        channels,
        seed,
        split=colour_on is not None,
        drawn_sizes=drawn_sizes,
    )
    sources: Sequence[Readable[Any]] = mixture.sources
    renderer: Renderer[Any] = views
    if on_device is not None:
        sources, renderer = on_device.sources, DeviceViews(views, on_device.pixels)
    reader = BatchReader(
        sources,
        renderer,
        locate=mixture.locate,
        batch_size=batch_size,
        end=None,
        stride=ranks,
        teach=teach,
    )
    return Loader(
        reader,
        _Starts(start_position + rank, None, batch_size * ranks),
        num_workers=num_workers,
        pin=pin_memory,
        finish=partial(views.finish, device=colour_on) if colour_on is not None else None,
    )


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
    reader = BatchReader(
        tuple(sources),
        Views(augment, size, teacher_size, channels, seed),
        locate=_SweepOrder(sizes),
        batch_size=batch_size,
        end=sum(sizes) * views,
    )
    starts = _Starts(start, sum(sizes) * views, batch_size)
    return Loader(reader, starts, num_workers=num_workers, pin=False)


class _Starts(Sampler[int]):
    """First positions of batches, `step` apart; endless where `end` is None."""

    def __init__(self, start: int, end: int | None, step: int) -> None:
        self.start, self.end, self.step = start, end, step

    def __iter__(self) -> Iterator[int]:
        position = self.start
        while self.end is None or position < self.end:
            yield position
            position += self.step


class _SweepOrder:
    """Position to (source, index, view), with views outermost."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.starts = [0, *accumulate(sizes)]

    def __call__(self, position: int) -> Location:
        view, place = divmod(position, self.starts[-1])
        source = bisect_right(self.starts, place) - 1
        return Location(source, place - self.starts[source], view)


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
        generator=torch.Generator(),  # else a number of the default generator is consumed
    )


def _as_it_is(made: "_T") -> "_T":
    return made
