"""Augmentation of `people` that keeps the labels true: each view is a picture of another camera.

A cut-out is a change of the intrinsics, a turn of the picture one of the camera about its axis,
and the mirror image shows the body with left and right exchanged. Axes: B images.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from alumnus.miniworld.augment import recolour
from alumnus.miniworld.body import BONES, JOINTS
from alumnus.miniworld.torch_body import mirrored

__all__ = ["Draws", "View", "draw_views", "seen_anew", "warped"]

_SCALES = (0.92, 1.18)  # of the picture
_TURN = 0.25  # radians
_SHIFT = 0.08  # of half the picture
_MARGIN = 0.92  # of half the picture: the head stays within, or the view is left as it is
_BONES_MIRRORED = mirrored(tuple(name for name, *_ in BONES))
_HEAD = [name for name, _ in JOINTS].index("head")


class View(NamedTuple):
    """Pictures of people and what is known of them."""

    images: Tensor  # [B, 3, H, W] in [0, 1]
    mask: Tensor  # [B, 1, H, W], 1 on the person
    K: Tensor  # [B, 3, 3]
    shape: Tensor  # [B, 16]
    rotations: Tensor  # [B, bones, 3, 3]
    translation: Tensor  # [B, 3] of the pelvis
    head: Tensor  # [B, 3] of the head joint, metres in the camera's frame


class Draws(NamedTuple):
    """What is done to each picture about its middle, in this order."""

    mirror: Tensor  # [B] bool
    turn: Tensor  # [B] radians, from x to y
    scale: Tensor  # [B]
    shift: Tensor  # [B, 2] in half pictures


def seen_anew(view: View, *, generator: torch.Generator) -> View:
    """Another view of each person, in other colours."""
    view = warped(view, draw_views(view, generator=generator))
    return view._replace(images=recolour(view.images, generator=generator))


def draw_views(view: View, *, generator: torch.Generator) -> Draws:
    """Mirrored half the time, turned by up to 14 degrees, enlarged by 0.92 to 1.18, shifted.

    Only mirrored where the head would come to the edge.
    """
    count = len(view.images)

    def draw(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    mirror = draw(-1, 1) > 0
    draws = Draws(
        mirror,
        draw(-_TURN, _TURN),
        draw(*_SCALES),
        torch.stack([draw(-_SHIFT, _SHIFT), draw(-_SHIFT, _SHIFT)], dim=1),
    )
    plain = Draws(mirror, torch.zeros(count), torch.ones(count), torch.zeros(count, 2))
    focal, half = view.K[:, 0, 0], view.images.shape[-1] / 2
    before = view.head[:, :2] / view.head[:, 2:] * (focal / half)[:, None]  # in half pictures
    after = (_planar(draws) @ before[..., None]).squeeze(-1) + draws.shift
    keep = after.abs().amax(dim=1) < _MARGIN
    return Draws(
        *(
            torch.where(keep.view(-1, *[1] * (new.ndim - 1)), new, old)
            for new, old in zip(draws, plain, strict=True)
        )
    )


def warped(view: View, draws: Draws) -> View:
    """The view after these changes; square pictures with their optical axis in the middle."""
    forward = _planar(draws)  # [B, 2, 2]
    back = torch.linalg.inv(forward)
    matrix = torch.cat([back, -(back @ draws.shift[..., None])], dim=2)  # [B, 2, 3]
    both = torch.cat([view.images, view.mask], dim=1)
    grid = F.affine_grid(matrix, list(both.shape), align_corners=False)
    seen = F.grid_sample(both, grid, padding_mode="border", align_corners=False)

    half = view.images.shape[-1] / 2
    K = view.K.clone()
    K[:, [0, 1], [0, 1]] *= draws.scale[:, None]
    K[:, :2, 2] = half + half * draws.shift
    flip, turn = _flip(draws), _about_axis(draws.turn)  # [B, 3, 3]
    swapped = view.rotations[:, _BONES_MIRRORED]
    rotations = torch.where(draws.mirror[:, None, None, None], swapped, view.rotations)
    rotations = flip[:, None] @ rotations @ flip[:, None]
    camera = turn @ flip  # from the old frame, in which the mirror image is taken, to the new
    rotations = torch.cat([turn[:, None] @ rotations[:, :1], rotations[:, 1:]], dim=1)
    moved = [(camera @ x[..., None]).squeeze(-1) for x in (view.translation, view.head)]
    return View(seen[:, :3], seen[:, 3:], K, view.shape, rotations, *moved)


def _planar(draws: Draws) -> Tensor:  # [B, 2, 2]
    """Mirror, turn and scale in the plane of the picture."""
    camera = _about_axis(draws.turn) @ _flip(draws)
    return camera[:, :2, :2] * draws.scale[:, None, None]


def _flip(draws: Draws) -> Tensor:  # [B, 3, 3]
    """x to -x where mirrored."""
    sign = torch.where(draws.mirror, -1.0, 1.0)
    ones = torch.ones_like(sign)
    return torch.diag_embed(torch.stack([sign, ones, ones], dim=1))


def _about_axis(angle: Tensor) -> Tensor:  # [B] -> [B, 3, 3]
    """The rotation about z, from x to y."""
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = [c, -s, zero, s, c, zero, zero, zero, one]
    return torch.stack(rows, dim=1).reshape(-1, 3, 3)
