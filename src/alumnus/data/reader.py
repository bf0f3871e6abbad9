"""What a data worker does: read, replace what is broken, draw, render, stack."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from alumnus.data.augment import AugmentConfig, AugmentParams, draw
from alumnus.data.batch import BadImage, Batch, Sample
from alumnus.data.colour import develop_batch
from alumnus.data.decode import BrokenImageError
from alumnus.data.drawn_sizes import DrawnSizes
from alumnus.data.mixture import Location
from alumnus.data.pixels import Size, apply, apply_to_array, view
from alumnus.images import luminance
from alumnus.randomness import derive_seed
from alumnus.tokens import Tokens

__all__ = ["BatchReader", "Made", "Readable", "Renderer", "Teach", "Views"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)

Teach = Callable[[Batch], Mapping[str, Tokens]]
MAX_REPLACEMENTS = 16  # tries for one broken image before its source is given up


class Readable(Protocol[T_co]):
    """Numbered images: a Source gives Samples, one on the device gives their places there."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def identity(self, index: int) -> str: ...

    def read(self, index: int) -> T_co:
        """BrokenImageError where the image cannot be decoded."""


class Renderer(Protocol[T_contra]):
    """From what was read and draws to the images of a batch."""

    @property
    def seed(self) -> int: ...

    @property
    def split(self) -> bool:
        """Whether the draws are needed again, to finish the images elsewhere."""

    def at(self, position: int) -> "Renderer[T_contra]":
        """What renders the batch that starts at a position, where sizes are drawn by step."""

    def draw(self, places: Sequence[Location]) -> AugmentParams: ...

    def render(self, samples: Sequence[T_contra], params: AugmentParams) -> tuple[Tensor, Tensor]:
        """Images [B, C, H, W] of the student and of the teachers; may be one tensor."""


class Views(NamedTuple):
    """From samples and draws to what student and teachers see."""

    augment: AugmentConfig
    size: Size
    teacher_size: Size | None
    channels: int
    seed: int
    split: bool = False  # colour is left to `finish`: images in colour are bytes until then
    drawn_sizes: DrawnSizes | None = None  # in the place of `size`

    def at(self, position: int) -> "Views":
        return (
            self if self.drawn_sizes is None else self._replace(size=self.drawn_sizes.at(position))
        )

    def draw(self, places: Sequence[Location]) -> AugmentParams:
        source, index, view = (list(column) for column in zip(*places, strict=True))
        return draw(self.seed, source, index, view, self.augment)

    def render(self, samples: Sequence[Sample], params: AugmentParams) -> tuple[Tensor, Tensor]:
        """Images of the student and of the teachers, one tensor where they are the same."""
        seen = [self._render(sample, params[i]) for i, sample in enumerate(samples)]
        students = torch.stack([student for student, _ in seen])
        teachers = [teacher for _, teacher in seen if teacher is not None]
        return students, torch.stack(teachers) if teachers else students

    def _render(self, sample: Sample, params: AugmentParams) -> tuple[Tensor, Tensor | None]:
        see = view if self.split else apply
        rgb = see(sample.picture, params, self.size, self.augment)
        teachers = None
        if self.teacher_size is not None and self.teacher_size != self.size:
            teachers = see(sample.picture, params, self.teacher_size, self.augment)
        if self.channels == 3 or (self.channels == 1 and self.split):
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

    def finish(self, batch: Batch, params: AugmentParams, device: torch.device) -> Batch:
        """The other half of a split augmentation, with the images on the device from here on.

        Nothing waits for the device. Images that are shared stay one tensor.
        """
        drawn = params.map(lambda values: _single(values).to(device, non_blocking=True))
        seen: dict[int, Tensor] = {}
        for images in (batch.images, batch.teacher_images):
            if id(images) not in seen:
                moved = images.to(device, non_blocking=True)
                bytes_left = images.dtype == torch.uint8
                seen[id(images)] = (
                    develop_batch(moved, drawn, self.augment) if bytes_left else moved
                )
        student, teachers = seen[id(batch.images)], seen[id(batch.teacher_images)]
        student = luminance(student) if self.channels == 1 else student
        return batch._replace(images=student, teacher_images=teachers)


@dataclass(frozen=True)
class Made:
    """What comes back from a worker. An error is a value, to stay one sentence."""

    batch: Batch | None
    bad_images: list[BadImage]
    error: str | None
    params: AugmentParams | None = None  # of a split augmentation that is still to be finished

    def pin_memory(self) -> "Made":
        """Called by the DataLoader; images shared by student and teachers are pinned once."""
        if self.batch is None:
            return self
        pinned = {id(tensor): tensor.pin_memory() for tensor in set(self.batch.tensors.values())}
        targets = self.batch.targets
        if targets is not None:
            targets = {name: t.map(torch.Tensor.pin_memory) for name, t in targets.items()}
        batch = self.batch.map(lambda tensor: pinned[id(tensor)])
        return replace(
            self,
            batch=batch._replace(targets=targets),
            params=None if self.params is None else self.params.map(torch.Tensor.pin_memory),
        )


class BatchReader(Dataset[Made], Generic[T]):
    """`reader[start]` is the batch of positions start, start + stride, ..., batch_size of them."""

    def __init__(
        self,
        sources: Sequence[Readable[T]],
        views: Renderer[T],
        *,
        locate: Callable[[int], Location],
        batch_size: int,
        end: int | None,  # exclusive; None: endless, broken images are replaced
        stride: int = 1,
        teach: Teach | None = None,
    ) -> None:
        self.sources, self.views, self.locate = sources, views, locate
        self.batch_size, self.end, self.stride = batch_size, end, stride
        self.teach = teach

    def __getitem__(self, start: int) -> Made:
        end = start + self.batch_size * self.stride
        end = end if self.end is None else min(end, self.end)
        bad: list[BadImage] = []
        try:
            read = [self._read(position, bad) for position in range(start, end, self.stride)]
            good = [r for r in read if r is not None]
            if not good:
                return Made(None, bad, None)
            views = self.views.at(start)
            params = views.draw([place for _, place, _ in good])
            with _one_thread():
                batch = _batch(good, views, params)
            if self.teach is not None:
                batch = batch._replace(targets=self.teach(batch))
            return Made(batch, bad, None, params if self.views.split else None)
        except ValueError as error:
            return Made(None, bad, str(error))

    def _read(self, position: int, bad: list[BadImage]) -> tuple[int, Location, T] | None:
        """The sample at a position; where it is broken, another of its source or None (skip)."""
        place = self.locate(position)
        source = self.sources[place.source]
        broken: dict[str, BrokenImageError] = {}  # by identity: one tried twice is one
        for attempt in range(1 + (MAX_REPLACEMENTS if self.end is None else 0)):
            if attempt > 0:
                another = derive_seed(self.views.seed, "replace", position, attempt)
                place = place._replace(index=another % len(source))
            try:
                sample = source.read(place.index)
            except BrokenImageError as error:
                broken[error.identity] = error
                continue
            used = source.identity(place.index)
            bad += [BadImage(position, e.source, e.identity, e.why, used) for e in broken.values()]
            return position, place, sample
        bad += [BadImage(-1, e.source, e.identity, e.why, None) for e in broken.values()]
        if self.end is None:
            raise ValueError(
                f"no image of {source.name!r} could be decoded in {1 + MAX_REPLACEMENTS} tries; "
                f"the last: {list(broken.values())[-1]}"
            )
        return None


def _batch(read: list[tuple[int, Location, T]], views: Renderer[T], params: AugmentParams) -> Batch:
    positions, places, samples = zip(*read, strict=True)
    images, teacher_images = views.render(samples, params)
    source, index, view = torch.tensor(places, dtype=torch.int64).unbind(dim=1)
    return Batch(
        images=images,
        teacher_images=teacher_images,
        position=torch.tensor(positions, dtype=torch.int64),
        source=source,
        index=index,
        view=view,
    )


def _single(values: Tensor) -> Tensor:
    """Not every device has float64."""
    return values.float() if values.is_floating_point() else values


@contextmanager
def _one_thread() -> Iterator[None]:
    """One image is too little for several threads: at 64 px two take three times as long."""
    threads = torch.get_num_threads()  # one in data workers; the training's where there are none
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
