"""2D rotary positions: queries and keys are turned by where their patch lies.

Axes: N patches, d channels of one head.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from alumnus.tokens import Grid

__all__ = ["ROPE_BASE", "Rotation", "grid_positions", "rotate", "rotation"]

ROPE_BASE = 100.0  # of CroCo, DUSt3R and MASt3R


class Rotation(NamedTuple):
    """By how much each channel of a head is turned; float32."""

    cos: Tensor  # [..., N, d], of the channel's angle
    sin: Tensor  # [..., N, d], negative in the first channel of each pair


def grid_positions(grid: Grid, *, device: torch.device | None = None) -> Tensor:  # [N, 2] int64
    """(row, column) of each patch of a (h, w) grid, row-major, from 0."""
    rows, columns = (torch.arange(side, device=device) for side in grid)
    return torch.cartesian_prod(rows, columns)


def rotation(
    positions: Tensor,  # [..., N, 2] (row, column)
    head_dim: int,
    *,
    base: float = ROPE_BASE,
) -> Rotation:
    """By how much heads of `head_dim` channels are turned at these positions.

        angle_i = position * base^(-2 i / (head_dim / 2)),  i = 0 .. head_dim / 4 - 1

    ValueError for a head that two axes of pairs do not divide.
    """
    if head_dim % 4:
        raise ValueError(
            f"2D rotary positions turn pairs of channels for rows and for columns, so heads of "
            f"{head_dim} channels do not do: choose a multiple of 4"
        )
    exponents = torch.arange(0, head_dim // 2, 2, device=positions.device) / (head_dim // 2)
    angles = positions.unsqueeze(-1) * base**-exponents  # [..., N, 2, d / 4]
    cos, sin = angles.cos(), angles.sin()
    return Rotation(
        torch.cat([cos, cos], dim=-1).flatten(-2), torch.cat([-sin, sin], dim=-1).flatten(-2)
    )


def rotate(x: Tensor, by: Rotation) -> Tensor:  # [..., N, d], float32 inside
    """Queries or keys turned: the first half of each head by the row, the second by the column.

    Within a half of 2k channels, channel i forms a pair with channel i + k:
    (a, b) -> (a cos - b sin, b cos + a sin).

    Source: RoFormer (arXiv 2104.09864), section 3.4.2, for two axes as in CroCo v2
    (arXiv 2211.10408). Differs from RoFormer: its pairs are neighbours.
    """
    partners = x.unflatten(-1, (2, 2, -1)).flip(-2).flatten(-3)  # the other one of each pair
    turned: Tensor = torch.addcmul(x * by.cos, partners, by.sin)
    return turned.to(x.dtype)
