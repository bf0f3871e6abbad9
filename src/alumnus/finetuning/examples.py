"""Training examples by number: each a pure function of the seed and its number.

So the number of workers cannot matter, and resuming is starting at another number.
"""

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from alumnus.data import AugmentConfig, BrokenImageError, Source, apply, draw
from alumnus.data.order import Stream
from alumnus.evaluation.head_training import KeptFeatures
from alumnus.randomness import derive_seed

__all__ = [
    "ClassCrops",
    "LabelledImages",
    "Numbers",
    "examples_from",
    "kept_from",
    "numbered_batches",
    "read_labels",
]

log = logging.getLogger(__name__)

CROPS = AugmentConfig(kind="crop_flip", crop_scale=(0.4, 1.0))


class LabelledImages(NamedTuple):
    """Images of a source that can be read, and their classes."""

    source: Source
    indices: Tensor  # [n] int64, places in the source
    labels: Tensor  # [n] int64

    def rows(self, rows: Tensor) -> "LabelledImages":
        """Some of them."""
        return LabelledImages(self.source, self.indices[rows], self.labels[rows])


def read_labels(source: Source, *, num_workers: int) -> LabelledImages:
    """Read all images once; broken ones are left out, with a warning.

    ValueError where an image has no class, or none can be read.
    """
    loader = DataLoader(_Labels(source), batch_size=16, num_workers=num_workers, collate_fn=list)
    found: list[tuple[int, int]] = []
    for batch in loader:
        for place, label in batch:
            if isinstance(label, BrokenImageError):
                log.warning("left out: %s", label)
            elif label is None:
                name = source.identity(place)
                raise ValueError(f"image {name!r} of {source.name!r} has no class")
            else:
                found.append((place, label))
    if not found:
        raise ValueError(f"none of the {len(source)} images of {source.name!r} can be read")
    indices, labels = torch.tensor(found).unbind(dim=1)
    return LabelledImages(source, indices, labels)


class _Labels(Dataset[tuple[int, int | BrokenImageError | None]]):
    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[int, int | BrokenImageError | None]:
        try:
            label = self.source.read(index).fields.get("cls")
        except BrokenImageError as error:
            return index, error
        return index, None if label is None else int(label)


class ClassCrops(Dataset[tuple[Tensor, Tensor]]):
    """Random crops of labelled images, mirrored or not; every image once an epoch."""

    def __init__(self, images: LabelledImages, *, size_px: int, seed: int) -> None:
        self.images, self.size_px, self.seed = images, size_px, seed
        self.order = Stream(len(images.labels), seed=derive_seed(seed, "order of images"))

    def __len__(self) -> int:
        return len(self.images.labels)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        place, epoch = self.order(number)
        index = int(self.images.indices[place])
        params = draw(self.seed, 0, index, epoch, CROPS)[0]
        picture = self.images.source.read(index).image
        return apply(picture, params, self.size_px, CROPS), self.images.labels[place]


def examples_from(
    examples: Dataset[tuple[Tensor, Tensor]],
    position: int,
    *,
    batch_size: int,
    num_workers: int,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of examples from number `position` on, on the device."""
    for images, labels in numbered_batches(examples, position, batch_size, num_workers, device):
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def numbered_batches(
    examples: Dataset[Any], position: int, batch_size: int, num_workers: int, device: torch.device
) -> Iterator[Any]:
    """The same on the host, pinned where the device is an accelerator, of any fields."""
    yield from DataLoader(
        examples,
        sampler=Numbers(position),
        batch_size=batch_size,
        num_workers=num_workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else a number of the default generator is consumed
    )


def kept_from(
    kept: KeptFeatures, position: int, *, batch_size: int, seed: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of features and labels; every window once an epoch."""
    order = Stream(len(kept.masks), seed=derive_seed(seed, "order of windows"))
    while True:
        rows = torch.tensor([order(position + i).index for i in range(batch_size)])
        yield kept.features[rows].to(device), kept.masks[rows].to(device)
        position += batch_size


class Numbers(Sampler[int]):
    """From one on, without end."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        number = self.start
        while True:
            yield number
            number += 1
