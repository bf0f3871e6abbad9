"""From raw numbers of each pixel to points in metres, confidences and unit descriptors.

Axes: B images, H W pixels, C channels of a descriptor.
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from alumnus.spelling import unknown

__all__ = [
    "ConfidenceRange",
    "PointScale",
    "Rise",
    "ViewPrediction",
    "confidence",
    "points_of",
    "predict",
]

PointScale = Literal["exp", "square", "linear"]
Rise = Literal["exp", "sigmoid"]
SHORTEST = 1e-8  # a raw point is divided by its length, or by this


class ConfidenceRange(NamedTuple):
    """Confidences lie from `low` to `high`; without `high` they have no upper end (`exp` only)."""

    low: float = 1.0
    high: float | None = None
    rise: Rise = "exp"


class ViewPrediction(NamedTuple):
    """What the network says of each pixel of one view."""

    points: Tensor  # [B, H, W, 3] in the camera frame of view 1, metres where it learned those
    conf: Tensor  # [B, H, W], of the points
    desc: Tensor  # [B, H, W, C] of length 1
    desc_conf: Tensor  # [B, H, W]


def points_of(raw: Tensor, *, scale: PointScale = "exp") -> Tensor:  # [..., 3]
    """The direction of a raw point, times its length brought to scale.

        exp: (e^n - 1) raw / n;  square: n raw;  linear: raw;    n = |raw|, at least 1e-8

    Source: DUSt3R (arXiv 2312.14132); `exp` is that of the released models.
    """
    if scale == "linear":
        return raw
    if scale not in get_args(PointScale):
        raise unknown("scale of points", scale, get_args(PointScale))
    length = torch.linalg.vector_norm(raw, dim=-1, keepdim=True)
    scaled = length.expm1() if scale == "exp" else length.square()
    points: Tensor = raw / length.clamp(min=SHORTEST) * scaled
    return points


def confidence(raw: Tensor, within: ConfidenceRange) -> Tensor:  # [...]
    """From low to high as the raw number rises.

    exp: low + e^raw, at most high;  sigmoid: low + (high - low) / (1 + e^-raw)

    Source: DUSt3R (arXiv 2312.14132); `exp` is that of the released models.
    """
    low, high, rise = within
    if rise == "sigmoid":
        assert high is not None, "TwoViewSpec asks for it"
        return low + (high - low) * raw.sigmoid()
    return low + raw.exp().clamp(max=torch.inf if high is None else high - low)


def predict(
    raw_points: Tensor,  # [B, 4, H, W]: point, then confidence
    raw_descriptors: Tensor,  # [B, C + 1, H, W]: descriptor, then confidence
    *,
    point_scale: PointScale,
    conf: ConfidenceRange,
    desc_conf: ConfidenceRange,
) -> ViewPrediction:
    """All outputs of one view, float32.

    Source: MASt3R (arXiv 2406.09756), section 3.2.
    """
    points, point_conf = raw_points.float().permute(0, 2, 3, 1).split([3, 1], dim=-1)
    channels = raw_descriptors.shape[1] - 1
    desc, match_conf = raw_descriptors.float().permute(0, 2, 3, 1).split([channels, 1], dim=-1)
    return ViewPrediction(
        points=points_of(points, scale=point_scale),
        conf=confidence(point_conf.squeeze(-1), conf),
        desc=desc / torch.linalg.vector_norm(desc, dim=-1, keepdim=True),
        desc_conf=confidence(match_conf.squeeze(-1), desc_conf),
    )
