"""Images with a class for every pixel: read, counted, scaled, cut into windows.

Axes: n images, H W pixels, S side of a window.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alumnus.data import BrokenImageError, Source
from alumnus.data.colour import normalise
from alumnus.evaluation.miou import IGNORE
from alumnus.evaluation.windows import padded, window_boxes

__all__ = [
    "Census",
    "LabelledSource",
    "Pair",
    "census",
    "count_classes",
    "cut",
    "has_mask",
    "read_pair",
    "scaled",
    "scaled_image",
]

log = logging.getLogger(__name__)

VALUES = 256  # that a mask can have


class Pair(NamedTuple):
    """An image and a value for each of its pixels."""

    image: Image.Image  # RGB
    mask: Tensor  # [H, W]: classes, uint8, or any other values


@dataclass(frozen=True, kw_only=True)
class Census:
    """Which images of a source can be read, how large they are and what is in them."""

    indices: Tensor  # [n] int64, places in the source
    sizes: Tensor  # [n, 2] int64, width and height in pixels
    pixels: Tensor  # [256] int64, by mask value

    def __len__(self) -> int:
        return len(self.indices)


def has_mask(fields: dict[str, Any]) -> bool:
    """Whether a sample brings a mask."""
    return "mask" in fields


def read_pair(source: Source, index: int) -> Pair:
    """One image with its mask; ValueError where there is none, or none that fits."""
    sample = source.read(index)
    image, fields = sample.image, sample.fields
    where = f"of {source.identity(index)!r} in {source.name!r}"
    if not has_mask(fields):
        raise ValueError(f"there is no mask {where}")
    mask = np.asarray(fields["mask"])
    if mask.dtype.kind not in "biu" or mask.ndim != 2:
        raise ValueError(f"the mask {where} is no picture of one channel with a class a pixel")
    if mask.shape != (image.height, image.width):
        raise ValueError(
            f"the mask {where} is {mask.shape[1]}x{mask.shape[0]} px, but its image "
            f"{image.width}x{image.height}"
        )
    if mask.size and not 0 <= mask.min() <= mask.max() < VALUES:
        raise ValueError(f"the mask {where} holds {mask.max()}, but classes are 0 to {IGNORE - 1}")
    return Pair(image, torch.from_numpy(mask.astype(np.uint8)))


class LabelledSource(NamedTuple):
    """Images with a value for each pixel: those that can be used, and how they are read."""

    source: Source
    indices: Tensor  # [n] int64, places in the source
    read: Callable[[Source, int], Pair] = read_pair
    blank: float = IGNORE  # the value of pixels that have none


class _Count(NamedTuple):
    place: int
    size: tuple[int, int]
    pixels: Tensor


class _Counted(Dataset[_Count | BrokenImageError]):
    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> _Count | BrokenImageError:
        try:
            image, mask = read_pair(self.source, index)
        except BrokenImageError as error:
            return error
        return _Count(index, image.size, mask.flatten().bincount(minlength=VALUES))


def census(source: Source, *, num_workers: int = 0) -> Census:
    """Read all images and masks once; broken ones are left out, with a warning."""
    found: list[_Count] = []
    loader = DataLoader(_Counted(source), batch_size=16, num_workers=num_workers, collate_fn=list)
    for batch in loader:
        for read in batch:
            if isinstance(read, BrokenImageError):
                log.warning("left out: %s", read)
            else:
                found.append(read)
    if not found:
        raise ValueError(f"none of the {len(source)} images of {source.name!r} can be read")
    return Census(
        indices=torch.tensor([read.place for read in found]),
        sizes=torch.tensor([read.size for read in found]),
        pixels=torch.stack([read.pixels for read in found]).sum(dim=0),
    )


def count_classes(train: Census, test: Census, names: tuple[str, ...] | None) -> int:
    """The number of classes: that of their names, else by the highest value in a mask.

    ValueError for a mask with a value beyond the names.
    """
    seen = (train.pixels + test.pixels)[:IGNORE].nonzero().flatten()
    highest = int(seen.max()) if len(seen) else -1
    if names is not None and highest >= len(names):
        raise ValueError(
            f"a mask holds {highest}, but there are {len(names)} classes, numbered from 0"
        )
    return len(names) if names is not None else highest + 1


def scaled(pair: Pair, short_px: int) -> tuple[Tensor, Tensor]:  # [3, H, W], [H, W]
    """The image as of `scaled_image` and the mask, by its nearest pixels, at the same size."""
    size = _scaled_size(pair.image, short_px)
    mask = Image.fromarray(pair.mask.numpy()).resize(size, Image.Resampling.NEAREST)
    return scaled_image(pair.image, short_px), torch.from_numpy(np.array(mask))


def scaled_image(image: Image.Image, short_px: int) -> Tensor:  # [3, H, W]
    """The ImageNet-normalised image, its short side `short_px` long.

    Resized by Pillow's bicubic filter, as in all evaluations.
    """
    resized = image.resize(_scaled_size(image, short_px), Image.Resampling.BICUBIC)
    return normalise(torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous())


def _scaled_size(image: Image.Image, short_px: int) -> tuple[int, int]:  # width, height
    width, height = image.size
    factor = short_px / min(width, height)
    return (
        short_px if width <= height else max(short_px, round(width * factor)),
        short_px if height <= width else max(short_px, round(height * factor)),
    )


def cut(
    image: Tensor,  # [3, H, W]
    mask: Tensor,  # [H, W]
    *,
    window: int,
    stride: int,
    blank: float = IGNORE,
) -> Iterator[tuple[Tensor, Tensor]]:  # [3, S, S], [S, S]
    """The windows of an image as `slide` sees them, with their masks, `blank` outside of it."""
    image, mask = padded(image, window, value=0.0), padded(mask, window, value=float(blank))
    for top, left in window_boxes(*image.shape[-2:], window=window, stride=stride):
        rows, columns = slice(top, top + window), slice(left, left + window)
        yield image[:, rows, columns], mask[rows, columns]
