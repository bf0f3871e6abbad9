"""Image statistics: batches travel ImageNet-normalised, each model re-normalises for itself."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "luminance", "normalised", "pixels", "renormalise"]

IMAGENET_MEAN: tuple[float, ...] = (0.485, 0.456, 0.406)
IMAGENET_STD: tuple[float, ...] = (0.229, 0.224, 0.225)
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's grey


def renormalise(images: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """From ImageNet statistics to others: `(x * std_i + mean_i - mean) / std`, [B, 3, H, W].

    The images themselves where the statistics are ImageNet's already.
    """
    if tuple(mean) == IMAGENET_MEAN and tuple(std) == IMAGENET_STD:
        return images

    return (pixels(images) - _channels(mean, images)) / _channels(std, images)


def normalised(images: Tensor) -> Tensor:  # [..., 3, H, W] in [0, 1]
    """By the ImageNet statistics."""
    return (images - _channels(IMAGENET_MEAN, images)) / _channels(IMAGENET_STD, images)


def luminance(images: Tensor) -> Tensor:  # [..., 3, H, W] -> [..., 1, H, W]
    """One grey channel of ImageNet-normalised images, normalised with the mean statistics."""
    grey = (pixels(images) * _channels(LUMA, images)).sum(dim=-3, keepdim=True)
    return (grey - sum(IMAGENET_MEAN) / 3) / (sum(IMAGENET_STD) / 3)


def pixels(images: Tensor) -> Tensor:  # [..., 3, H, W]
    """Of ImageNet-normalised images, in [0, 1]."""
    return images * _channels(IMAGENET_STD, images) + _channels(IMAGENET_MEAN, images)


def _channels(values: Sequence[float], like: Tensor) -> Tensor:  # [C, 1, 1]
    return _constant(tuple(values), like.dtype, like.device)


@lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Kept, since bringing numbers to a device makes the host wait for it."""
    return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)
