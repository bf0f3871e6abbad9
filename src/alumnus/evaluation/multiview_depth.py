"""Metrics of multi-view depth: relative error and inliers, after alignment and clipping."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["CLIP_M", "MultiviewDepthScore", "multiview_depth_score"]

CLIP_M = (0.1, 100.0)
INLIER = 1.03


@dataclass(frozen=True, kw_only=True)
class MultiviewDepthScore:
    """Over the pixels with a true depth."""

    rel: float  # mean |d - t| / t, percent
    inlier_103: float  # percent with max(d / t, t / d) < 1.03
    rel_unclipped: float  # as `rel`, of depths that were not clipped
    scale: float | None  # that the prediction was multiplied by


def multiview_depth_score(
    prediction: ArrayLike,  # [H, W] metres
    truth: ArrayLike,  # [H, W] metres, 0 where there is none
    *,
    alignment: Literal["median"] | None = None,
    clip_m: tuple[float, float] = CLIP_M,
) -> MultiviewDepthScore:
    """Compare two depth maps.

    `median` multiplies the prediction by the ratio of the medians; then it is clipped. ValueError
    where no pixel has a true depth.

    Equal in numbers to the published evaluation (a golden test).
    """
    t = np.asarray(truth, np.float64)
    valid = t > 0
    if not valid.any():
        raise ValueError("no pixel has a true depth")
    d, t = np.asarray(prediction, np.float64)[valid], t[valid]
    scale = float(np.median(t) / np.median(d)) if alignment == "median" else None
    aligned = d if scale is None else d * scale
    clipped = np.clip(aligned, *clip_m)
    ratio = np.maximum(clipped / t, t / clipped)
    return MultiviewDepthScore(
        rel=float(100 * (np.abs(clipped - t) / t).mean()),
        inlier_103=float(100 * (ratio < INLIER).mean()),
        rel_unclipped=float(100 * (np.abs(aligned - t) / t).mean()),
        scale=scale,
    )
