"""What a people head is trained with: one term for each thing that is known of a person.

Axes: B images, h w grid, P people of all images together, J joints, V vertices. Every term is a
scalar in float32, 0 where nobody is there. A prediction that is not finite makes its term so:
trainers cancel such a step and say it; a 0 in its place would have a gradient of NaN all the same.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Bodies",
    "CellTargets",
    "LossWeights",
    "cell_targets",
    "detection_loss",
    "people_losses",
    "person_l1",
    "pixel_l1",
    "total_loss",
]

_EPSILON = 1e-7


class Bodies(NamedTuple):
    """People as predicted, or as labelled."""

    scores: Tensor  # [B, h, w]; of labels 1 where a person's primary joint is
    offset: Tensor  # [P, 2] in patches
    rotations: Tensor  # [P, R, 3, 3]
    shape: Tensor  # [P, betas]
    nearness: Tensor  # [P]
    translation: Tensor  # [P, 3] of the primary joint
    pelvis: Tensor  # [P, 3]
    joints: Tensor  # [P, J, 3] metres in the camera's frame
    vertices: Tensor  # [P, V, 3]
    joint_pixels: Tensor  # [P, J, 2]
    vertex_pixels: Tensor  # [P, V, 2]


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Factors of the terms; the defaults are the released ones."""

    detection: float = 10.0
    offset: float = 1.0
    rotations: float = 0.1
    shape: float = 1.0
    nearness: float = 1.0
    translation: float = 1.0
    joints: float = 100.0
    vertices: float = 100.0
    joint_pixels: float = 1.0
    vertex_pixels: float = 1.0


class CellTargets(NamedTuple):
    """Where a location is on the grid."""

    row: Tensor  # [P] int64
    column: Tensor  # [P]
    offset: Tensor  # [P, 2] x and y, in patches from the cell's centre


def cell_targets(location: Tensor, *, grid: int, patch_size: int) -> CellTargets:
    """The cell of each location [P, 2] in pixels, the nearest one for those outside."""
    cell = (location / patch_size).floor().clamp(0, grid - 1)
    offset = location / patch_size - (cell + 0.5)
    column, row = cell.long().unbind(dim=-1)
    return CellTargets(row, column, offset)


def detection_loss(scores: Tensor, truth: Tensor) -> Tensor:  # [B, h, w] each
    """Focal cross-entropy, per person.

        -[sum_{y = 1} (1 - p)^2 log p + sum_{y = 0} p^2 log(1 - p)] / max(number of ones, 1)

    Source: CenterNet (arXiv 1904.07850), equation 1, without its Gaussians: what is less than 1
    in `truth` counts as 0.
    """
    p, one = scores.float(), (truth >= 1).float()
    here = one * (1 - p).square() * (p + _EPSILON).log()
    elsewhere = (1 - one) * p.square() * (1 - p + _EPSILON).log()
    return -(here.sum() + elsewhere.sum()) / one.sum().clamp(min=1)


def person_l1(prediction: Tensor, truth: Tensor) -> Tensor:  # [P, ...] each
    """Sum of a person's absolute differences, mean over people."""
    difference = (prediction.float() - truth).abs()
    return difference.sum() / max(len(difference), 1)


def pixel_l1(prediction: Tensor, truth: Tensor, *, side_px: int) -> Tensor:  # [P, n, 2] each
    """|dx| + |dy|, mean over the points that truly lie in the picture."""
    inside = ((truth > 0) & (truth < side_px)).all(dim=-1, keepdim=True)
    # before the difference: what is not finite outside would have a gradient of NaN after it
    found, true = (torch.where(inside, points, 0.0) for points in (prediction.float(), truth))
    return (found - true).abs().sum() / inside.sum().clamp(min=1)


def people_losses(prediction: Bodies, truth: Bodies, *, side_px: int) -> dict[str, Tensor]:
    """The terms of `LossWeights`; joints and vertices are compared relative to the pelvis.

    Of the labels' shapes as many numbers count as are predicted. Expressions have no term.

    Source: Multi-HMR (arXiv 2402.14654), section 3.4, and its released settings.
    """

    def relative(points: Tensor, pelvis: Tensor) -> Tensor:
        return points.float() - pelvis[:, None]

    terms = {
        "detection": detection_loss(prediction.scores, truth.scores),
        **{
            name: person_l1(getattr(prediction, name), getattr(truth, name))
            for name in ("offset", "rotations", "nearness", "translation")
        },
        "shape": person_l1(prediction.shape, truth.shape[:, : prediction.shape.shape[1]]),
    }
    for name in ("joints", "vertices"):
        found = relative(getattr(prediction, name), prediction.pelvis)
        true = relative(getattr(truth, name), truth.pelvis)
        terms[name] = person_l1(found, true) / true.shape[1]
    for name in ("joint_pixels", "vertex_pixels"):
        terms[name] = pixel_l1(getattr(prediction, name), getattr(truth, name), side_px=side_px)
    return terms


def total_loss(terms: dict[str, Tensor], weights: LossWeights, *, pixels: bool = True) -> Tensor:
    """The weighted sum; without `pixels` as in the published first ten epochs."""
    names = [field.name for field in fields(weights)]
    chosen = [name for name in names if pixels or not name.endswith("_pixels")]
    return torch.stack([getattr(weights, name) * terms[name] for name in chosen]).sum()
