"""Where camera 2 of a pair stands, from pointmaps alone, and how often that is near enough.

Axes: B pairs.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alumnus.evaluation.point_alignment import both_ways_similarity
from alumnus.evaluation.relative_pose import auc, pose_errors
from alumnus.heads.two_view import ViewPrediction
from alumnus.heads.two_view.pairs import ViewPairs

__all__ = ["LIMITS_DEG", "Pair", "Poses", "pointmap_poses", "pose_scores", "true_poses"]

LIMITS_DEG = (5, 10, 20)
STEP = 2  # px

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

    `there` are the predictions of (view 1, view 2), `back` those of (view 2, view 1). Every other
    pixel of both views counts, by the confidences that both predictions have in it.
    """
    poses = []
    for k in range(len(there[0].points)):
        in_1, in_2 = (
            [view.points[k, ::STEP, ::STEP].numpy() for view in views]
            for views in (there, back[::-1])
        )
        sure = [
            (one.conf[k] * other.conf[k])[::STEP, ::STEP].numpy()
            for one, other in zip(there, back[::-1], strict=True)
        ]
        found = both_ways_similarity((in_1[0], in_1[1]), (in_2[0], in_2[1]), (sure[0], sure[1]))
        poses.append((torch.from_numpy(found.rotation), torch.from_numpy(found.translation)))
    return Poses(*(torch.stack(values) for values in zip(*poses, strict=True)))
