"""Position embeddings for other grids than the one they were trained on."""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from alumnus.spelling import unknown
from alumnus.tokens import Grid

__all__ = ["PosInterp", "grid_side", "interpolate_positions", "is_square", "resize_pos_embed"]

PosInterp = Literal["offset", "antialias", "size"]


def is_square(number: int) -> bool:
    """Whether that many patches make a square grid.

    >>> is_square(196), is_square(197)
    (True, False)
    """
    return math.isqrt(number) ** 2 == number


def grid_side(pos_embed: Tensor) -> int:  # [1, 1 + M*M, D] -> M
    """Side of the square grid that a position embedding with a [CLS] entry covers."""
    if not is_square(pos_embed.shape[1] - 1):
        raise ValueError(
            f"a position embedding of {pos_embed.shape[1]} entries is not one for [CLS] and a "
            "square grid"
        )
    return math.isqrt(pos_embed.shape[1] - 1)


def interpolate_positions(
    pos_embed: Tensor,  # [1, 1 + M*M, D], [CLS] first
    grid: Grid,
    *,
    mode: PosInterp,
) -> Tensor:  # [1, 1 + h*w, D]
    """Positions for an h x w grid: bicubic over the patches, the [CLS] entry unchanged.

    - "offset": scale factors (h + 0.1) / M and (w + 0.1) / M, which also drive the sampling
      positions, no antialiasing: UNIC, DUNE, DINO, iBOT, DINOv2 without registers.
    - "antialias": explicit size, antialiased: DINOv2 with registers, timm.
    - "size": explicit size, not antialiased: how DUNE starts at another image size.

    On its own grid the embedding is used as it is; another grid with as many patches (so one
    that is not square) is interpolated.
    """
    side = grid_side(pos_embed)
    if grid == (side, side):
        return pos_embed
    patches = pos_embed[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)  # [1, D, M, M]
    if mode == "offset":
        scale = ((grid[0] + 0.1) / side, (grid[1] + 0.1) / side)
        patches = F.interpolate(patches, scale_factor=scale, mode="bicubic")
    elif mode in get_args(PosInterp):
        patches = F.interpolate(patches, size=grid, mode="bicubic", antialias=mode == "antialias")
    else:
        raise unknown("position interpolation", mode, get_args(PosInterp))
    assert patches.shape[-2:] == grid, "the offset of 0.1 never changes the floor of h + 0.1"
    return torch.cat([pos_embed[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)


def resize_pos_embed(pos_embed: Tensor, side: int, *, mode: PosInterp = "size") -> Tensor:
    """A stored embedding [1, 1 + M*M, D] for a new native grid: [1, 1 + side*side, D].

    For starting at another image size, as DUNE does between 336 and 448 px.
    """
    return interpolate_positions(pos_embed, (side, side), mode=mode)
