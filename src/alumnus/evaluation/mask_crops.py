"""Random crops of images with their masks, to train a dense head on."""

import torch
from torch import Tensor

from alumnus.evaluation.masks import Pair, scaled
from alumnus.evaluation.miou import IGNORE
from alumnus.evaluation.windows import padded

__all__ = ["RATIO", "random_crop"]

RATIO = (0.5, 2.0)  # of the short side to the window, uniform
MOST = 0.75  # of a crop's pixels with a class, that one class should have at most
ATTEMPTS = 10  # at a place where it has no more
FLIP_P = 0.5


def random_crop(
    pair: Pair,
    *,
    window: int,
    generator: torch.Generator,
    ratio: tuple[float, float] = RATIO,
    blank: float = IGNORE,
) -> tuple[Tensor, Tensor]:  # [3, S, S], [S, S]
    """A window of the image resized at random, and its mask; half of them mirrored.

    Of ten places the first is taken where no class has more than three quarters of the pixels (of
    masks of other values, depths, the first). What the image does not fill is the mean colour, and
    `blank` in the mask.

    Source: mmsegmentation's training pipeline, as in DINOv2's configurations. Differs: the long
    side is not bounded, and colours are not distorted.
    """
    low, high = ratio
    drawn = low + (high - low) * _uniform(generator)
    image, mask = scaled(pair, max(1, round(window * drawn)))
    image, mask = padded(image, window, value=0.0), padded(mask, window, value=float(blank))
    room = [side - window + 1 for side in mask.shape]
    for _ in range(ATTEMPTS):
        top, left = (int(_uniform(generator) * places) for places in room)
        crop = mask[top : top + window, left : left + window]
        if mask.is_floating_point() or not _monotonous(crop):
            break
    view = image[:, top : top + window, left : left + window]
    if _uniform(generator) < FLIP_P:
        view, crop = view.flip(-1), crop.flip(-1)
    return view.contiguous(), crop.contiguous()


def _uniform(generator: torch.Generator) -> float:
    return torch.rand((), generator=generator, dtype=torch.float64).item()


def _monotonous(mask: Tensor) -> bool:
    """Whether one class has too much of the pixels with a class."""
    pixels = mask[mask != IGNORE].long().bincount()
    return len(pixels) == 0 or int(pixels.max()) > MOST * int(pixels.sum())
