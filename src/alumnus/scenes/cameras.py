"""Cameras of photographs: square pixels, the axis through the middle, a focal length.

Axes: H W pixels of a photograph as the network sees it. Focal lengths are in pixels of the
photograph itself; whole numbers are centres of pixels.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from alumnus.evaluation.focal import focal_length
from alumnus.heads.two_view import Photo

__all__ = ["camera_matrix", "estimated_focal", "given_focals", "seen_camera"]

Array = NDArray[np.float64]


def estimated_focal(
    points: Tensor,  # [H, W, 3] in the frame of the photograph's own camera
    sure: Tensor,  # [H, W]
    photo: Photo,
    *,
    step: int = 1,  # they are those of every so many-th pixel
) -> float:
    """The focal length that fits the surer half of a photograph's points best (Weiszfeld).

    NaN where no such point is ahead of the camera, or the picture would be upside down.
    """
    used = (sure >= sure.nanmedian()) & (points[..., 2] > 0) & points.isfinite().all(dim=-1)
    if not used.any():
        return float("nan")
    kept = np.where(used[..., None].numpy(), points.double().numpy(), np.nan)
    x, y = photo.middle
    found = focal_length(kept, centre=(x / step, y / step))
    return step * found / float(np.mean(photo.scale)) if found > 0 else float("nan")


def camera_matrix(photo: Photo, focal_px: float) -> Array:  # [3, 3]
    """K of the photograph itself."""
    x, y = ((side - 1) / 2 for side in photo.size)
    return np.array([[focal_px, 0, x], [0, focal_px, y], [0, 0, 1]], np.float64)


def seen_camera(photo: Photo, focal_px: float) -> Array:  # [3, 3]
    """K of the photograph as the network sees it, resized and cropped."""
    (sx, sy), (x, y) = photo.scale, photo.middle
    return np.array([[focal_px * sx, 0, x], [0, focal_px * sy, y], [0, 0, 1]], np.float64)


def given_focals(focal: float | Sequence[float] | None, count: int) -> list[float | None]:
    """One for each photograph, of a number or any list of numbers, None where none is given.

    ValueError for ones that cannot be, or not as many.
    """
    if focal is None:
        return [None] * count
    given = [float(value) for value in np.ravel(focal)]
    if len(given) not in (1, count):
        raise ValueError(f"{len(given)} focal lengths are given: name one for all, or {count}")
    for value in given:
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"a focal length of {value} px cannot be: it is more than 0")
    return [*given] * (count // len(given))
