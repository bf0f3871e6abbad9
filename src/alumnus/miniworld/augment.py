"""Augmentation of a batch of tensors: one warp for images and masks, then the colours."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["augment", "recolour", "warp"]

_SMALLEST_SCALE, _LARGEST_SCALE = 0.75, 1.15  # side of the cut-out, of the image's
_TURN = 0.15  # radians


class _Warped(NamedTuple):
    images: Tensor  # [B, 3, H, W]
    target: Tensor  # [B, 1, H, W] in [0, 1]


def augment(images: Tensor, target: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images [B, 3, H, W] in [0, 1] and target masks [B, 1, H, W], seen anew."""
    images, target = warp(images, target, generator=generator)
    return recolour(images, generator=generator), target


def warp(images: Tensor, target: Tensor, *, generator: torch.Generator) -> _Warped:
    """A cut-out of 75 to 115%, shifted, turned by up to 9 degrees, mirrored half the time."""

    def draw(low: float, high: float) -> Tensor:  # [B]
        return torch.rand(len(images), generator=generator) * (high - low) + low

    scale, turn = draw(_SMALLEST_SCALE, _LARGEST_SCALE), draw(-_TURN, _TURN)
    room = (1 - scale).clamp(min=0) * 0.6 + 0.06
    shift_x, shift_y = draw(-1, 1) * room, draw(-1, 1) * room
    mirror = draw(-1, 1).sign()
    cosine, sine = turn.cos() * scale, turn.sin() * scale
    matrix = torch.stack(
        [
            torch.stack([cosine * mirror, -sine, shift_x], dim=-1),
            torch.stack([sine * mirror, cosine, shift_y], dim=-1),
        ],
        dim=1,
    )  # [B, 2, 3]
    both = torch.cat([images, target], dim=1)
    grid = F.affine_grid(matrix, list(both.shape), align_corners=False)
    seen = F.grid_sample(both, grid, padding_mode="reflection", align_corners=False)
    return _Warped(seen[:, :3], seen[:, 3:])


def recolour(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Random saturation, brightness, contrast, tint and noise: pattern, not colour, counts."""
    b = len(images)

    def draw(low: float, high: float, channels: int = 1) -> Tensor:
        return torch.rand(b, channels, 1, 1, generator=generator) * (high - low) + low

    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * draw(0.6, 1.3)
    images = images * draw(0.75, 1.25) * draw(0.9, 1.1, 3) + draw(-0.08, 0.08)
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    images = middle + (images - middle) * draw(0.75, 1.25)
    noise = torch.randn(images.shape, generator=generator) * draw(0.0, 0.03)
    return (images + noise).clamp(0, 1)
