"""Patches of one view found in another by their tokens alone: what a space says of places.

Axes: n pairs, N patches of the grid h w, D width. Places are x and y in widths and heights of the
picture.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from alumnus.miniworld.pairs import Correspondences, correspondences
from alumnus.tokens import Grid

__all__ = [
    "FINEST",
    "PATCH_PX",
    "MatchScore",
    "Truth",
    "View",
    "match_grid",
    "match_score",
    "nearest_patches",
    "same_place",
    "shared_pixels",
    "true_places",
]

PATCH_PX = 8  # of the input, side of the patches that are matched
FINEST = 14  # patches along each side, the most: the grid of a ViT/16 at 224 px
CHUNK = 64  # pairs at a time


class View(NamedTuple):
    """What is known about a picture of a scene."""

    depth: Tensor  # [H, W] metres along the optical axis, 0 where there is none
    K: Tensor  # [3, 3] pixels; the centre of the first pixel is at (0.5, 0.5)
    pose: Tensor  # [4, 4] camera to world


class Truth(NamedTuple):
    """Where the patches of the first views are in the second ones."""

    seen: Tensor  # [n, N] bool: the middle of the patch is in the second picture, and not hidden
    places: Tensor  # [n, N, 2], of that middle in the second picture
    sizes: Tensor  # [n, 2] width and height of the second picture in pixels


@dataclass(frozen=True, kw_only=True)
class MatchScore:
    """How often a patch was found, of all that both views show."""

    within_one: float  # percent matched at most one patch from the true place
    exact: float  # percent matched with the patch that holds the true place
    median_error_px: float  # in pixels of the stored second picture
    patches: int  # that were counted


def match_grid(size_px: int) -> Grid:
    """The grid on which all models are compared: patches of 8 px, and at most 14 x 14 of them."""
    side = min(FINEST, max(1, round(size_px / PATCH_PX)))
    return side, side


def shared_pixels(one: View, other: View) -> Correspondences:
    """Where each pixel of a view is in another one; what has no depth there hides all."""
    return correspondences(
        one.depth.numpy(),
        torch.where(other.depth > 0, other.depth, 1e-6).numpy(),
        K1=one.K.numpy(),
        K2=other.K.numpy(),
        pose1=one.pose.numpy(),
        pose2=other.pose.numpy(),
    )


def true_places(one: View, other: View, grid: Grid) -> tuple[Tensor, Tensor]:  # [N], [N, 2]
    """Whether both views show the middle of each patch of the first, and where the second does.

    The middle is that of the pixel at the middle of the patch.
    """
    found = shared_pixels(one, other)
    (height, width), (height2, width2) = one.depth.shape, other.depth.shape
    row, column = (
        ((torch.arange(cells) + 0.5) / cells * length).long()
        for cells, length in zip(grid, (height, width), strict=True)
    )
    seen = torch.from_numpy(found.visible) & (one.depth > 0)
    x, y = torch.from_numpy(found.x) / width2, torch.from_numpy(found.y) / height2
    places = torch.stack([x, y], dim=-1)
    return seen[row][:, column].flatten(), places[row][:, column].flatten(0, 1)


def nearest_patches(first: Tensor, second: Tensor) -> Tensor:  # [n, N, D] twice -> [n, N] int64
    """The patch of the second view with the largest cosine, for each of the first."""
    parts = [
        torch.einsum("bnd,bmd->bnm", F.normalize(a, dim=2), F.normalize(b, dim=2)).argmax(dim=2)
        for a, b in zip(first.split(CHUNK), second.split(CHUNK), strict=True)
    ]
    return torch.cat(parts)


def same_place(pairs: int, grid: Grid) -> Tensor:  # [n, N] int64
    """The trivial predictor: what is here in one view is here in the other."""
    return torch.arange(grid[0] * grid[1]).expand(pairs, -1)


def match_score(found: Tensor, truth: Truth, grid: Grid) -> MatchScore:  # found: [n, N] int64
    """Compare matched patches with true places.

    The error is the distance between the centre of the matched patch and the true place, in
    patches along either axis; a patch counts as found where it is at most 1. ValueError where no
    two views show the same.
    """
    if not truth.seen.any():
        raise ValueError("no two views show the same place")
    h, w = grid
    cells = torch.tensor([w, h], dtype=torch.float64)
    column, row = found % w, found // w
    centre = torch.stack([column, row], dim=-1) + 0.5  # [n, N, 2], patches
    true = truth.places * cells
    off = (centre - true)[truth.seen]  # [k, 2]
    scale = (truth.sizes / cells)[:, None].expand(-1, h * w, -1)[truth.seen]  # px of a patch
    return MatchScore(
        within_one=100 * (off.norm(dim=1) <= 1).double().mean().item(),
        exact=100 * (off.abs() <= 0.5).all(dim=1).double().mean().item(),
        median_error_px=(off * scale).norm(dim=1).median().item(),
        patches=len(off),
    )
