"""The focal length of a picture, from the point that each of its pixels shows.

Axes: H W pixels.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["focal_length"]

ROUNDS = 10  # of reweighting
NEAREST_PX = 1e-8  # in place of smaller distances

Array = NDArray[np.float64]


def focal_length(
    points: ArrayLike,  # [H, W, 3] in the camera's frame
    *,
    centre: tuple[float, float],  # principal point (x, y), pixels; the first pixel is (0, 0)
    method: Literal["median", "weiszfeld"] = "weiszfeld",
) -> float:
    """The focal length in pixels of a pinhole camera with square pixels.

    With (u, v) a pixel from the principal point and (x, y, z) its point,

    - median: that of all votes u z / x and v z / y (of an even number the lower one)
    - weiszfeld: the f with the smallest sum of distances |(u, v) - f (x, y) / z|, from least
      squares by ten rounds of weights 1 / max(distance, 1e-8)

    What is not finite, of points at depth 0, has no vote.
    """
    p = np.asarray(points, np.float64)
    height, width = p.shape[:2]
    u, v = np.meshgrid(np.arange(width) - centre[0], np.arange(height) - centre[1])
    pixels = np.stack([u, v], axis=-1).reshape(-1, 2)
    x, z = p[..., :2].reshape(-1, 2), p[..., 2].reshape(-1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        votes, slopes = pixels * z / x, x / z
    if method == "median":
        ordered = np.sort(votes[np.isfinite(votes)])
        return float(ordered[(len(ordered) - 1) // 2])
    slopes = np.where(np.isfinite(slopes), slopes, 0.0)
    weights = np.ones(len(pixels))
    for _ in range(ROUNDS + 1):
        focal = _least_squares(pixels, slopes, weights)
        distance = np.linalg.norm(pixels - focal * slopes, axis=1)
        weights = 1 / np.maximum(distance, NEAREST_PX)
    return focal


def _least_squares(pixels: Array, slopes: Array, weights: Array) -> float:
    return float(
        (weights * (pixels * slopes).sum(axis=1)).sum()
        / (weights * (slopes * slopes).sum(axis=1)).sum()
    )
