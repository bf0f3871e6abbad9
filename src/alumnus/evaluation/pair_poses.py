"""Where camera 2 of a pair stands, from pointmaps alone, and how often that is near enough.

Axes: B pairs, n points.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alumnus.evaluation.relative_pose import auc, pose_errors
from alumnus.heads.two_view import ViewPrediction
from alumnus.heads.two_view.pairs import ViewPairs

__all__ = ["LIMITS_DEG", "Poses", "aligned", "pointmap_poses", "pose_scores", "true_poses"]

LIMITS_DEG = (5, 10, 20)
ROUNDS = 10  # of reweighting
LEAST_OFF = 1e-3  # of the mean distance: residuals below weigh as much as these

Pair = tuple[ViewPrediction, ViewPrediction]


class Poses(NamedTuple):
    """Poses that map points of camera 1 to camera 2."""

    rotation: Tensor  # [B, 3, 3]
    translation: Tensor  # [B, 3]


def pose_scores(poses: Poses, truth: Poses) -> dict[str, float]:
    """Area under the curve of pose errors up to 5, 10 and 20 degrees, percent of pairs.

    The error of a pose is that of its rotation or of its translation's direction, whichever is
    larger.
    """
    found, true = ((p.rotation.numpy(), p.translation.numpy()) for p in (poses, truth))
    off = np.asarray(pose_errors(*found, *true).pose_deg)
    return {f"auc{limit}": 100 * auc(off, limit) for limit in LIMITS_DEG}


def true_poses(pairs: ViewPairs) -> Poses:
    """What the cameras' poses say."""
    first, second = pairs.pose.double().unbind(dim=1)
    turn = second[:, :3, :3].transpose(1, 2)
    apart = (first[:, :3, 3] - second[:, :3, 3])[..., None]
    return Poses(turn @ first[:, :3, :3], (turn @ apart)[..., 0])


def pointmap_poses(there: Pair, back: Pair) -> Poses:
    """The pose by which a pair's points, seen in the frame of camera 1, are those seen in 2's.

    `there` are the predictions of (view 1, view 2), `back` those of (view 2, view 1). The pixels
    of both views count, by the confidences that both predictions have in them.

    Source: DUSt3R (arXiv 2312.14132), section 3.3, which aligns the points of one view; here those
    of both are, robustly.
    """
    in_1 = [there[0].points, there[1].points]
    in_2 = [back[1].points, back[0].points]
    sure = [(there[0].conf * back[1].conf), (there[1].conf * back[0].conf)]
    return aligned(_joined(in_1), _joined(in_2), torch.cat([s.flatten(1) for s in sure], dim=1))


def aligned(points: Tensor, others: Tensor, weights: Tensor) -> Poses:
    """The rotation and shift (and change of size) that bring points to the others: [B, n, 3].

        others = s R points + t

    Minimises the weighed sum of distances, which outliers do not decide, by ten rounds of weighed
    least squares. float64, weights [B, n] at least 0.

    Source: Umeyama, "Least-squares estimation of transformation parameters between two point
    patterns", PAMI 1991; for sums of distances Weiszfeld's reweighting.
    """
    a, b, given = points.double(), others.double(), weights.double()
    least = LEAST_OFF * b.norm(dim=-1).mean(dim=1, keepdim=True) + 1e-12
    counted = given
    for _ in range(ROUNDS):
        rotation, shift, size = _least_squares(a, b, counted / counted.sum(dim=1, keepdim=True))
        moved = size[:, None, None] * a @ rotation.transpose(1, 2) + shift[:, None]
        counted = given / (moved - b).norm(dim=-1).clamp(min=least)
    return Poses(rotation, shift)


def _least_squares(a: Tensor, b: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """R [B, 3, 3], t [B, 3] and s [B] for shares [B, n] that sum to 1."""
    mean_a, mean_b = ((share[..., None] * p).sum(dim=1) for p in (a, b))
    from_a, from_b = a - mean_a[:, None], b - mean_b[:, None]
    product = (share[..., None] * from_b).transpose(1, 2) @ from_a  # [B, 3, 3]
    left, singular, right = torch.linalg.svd(product)
    sign = torch.ones(len(a), 3, dtype=a.dtype)
    sign[:, 2] = torch.linalg.det(left @ right).sign()
    rotation = left * sign[:, None] @ right
    spread = (share * from_a.square().sum(dim=-1)).sum(dim=1)
    size = (singular * sign).sum(dim=1) / spread.clamp(min=1e-12)
    shift = mean_b - size[:, None] * (rotation @ mean_a[..., None])[..., 0]
    return rotation, shift, size


def _joined(points: list[Tensor]) -> Tensor:  # [B, n, 3]
    return torch.cat([p.flatten(1, 2) for p in points], dim=1)
