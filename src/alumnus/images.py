"""Image statistics: batches travel ImageNet-normalised, each model re-normalises for itself."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "renormalise"]

IMAGENET_MEAN: tuple[float, ...] = (0.485, 0.456, 0.406)
IMAGENET_STD: tuple[float, ...] = (0.229, 0.224, 0.225)


def renormalise(images: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """From ImageNet statistics to others: `(x * std_i + mean_i - mean) / std`, [B, 3, H, W].

    The images themselves where the statistics are ImageNet's already.
    """
    if tuple(mean) == IMAGENET_MEAN and tuple(std) == IMAGENET_STD:
        return images

    def channels(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=images.dtype, device=images.device).view(-1, 1, 1)

    pixels = images * channels(IMAGENET_STD) + channels(IMAGENET_MEAN)  # in [0, 1]
    return (pixels - channels(mean)) / channels(std)
