"""Where the camera of a second picture is: from matches, or from points and their pixels.

Axes: k matches or points. Pixels are (x, y). A pose maps points of camera 1 to camera 2,
x2 = R x1 + t; x right, y down, z forward.
"""

import importlib.util
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alumnus.evaluation.point_alignment import both_ways_similarity, robust_similarity

__all__ = [
    "RelativePose",
    "both_ways_similarity",
    "have_poselib",
    "pose_from_matches",
    "pose_from_points",
    "robust_similarity",
]

LEAST = 8  # matches or points that agree: fewer do by chance
MOST_ROUNDS = 10_000  # of RANSAC

Array = NDArray[np.float64]


class RelativePose(NamedTuple):
    """Camera 2 as seen from camera 1."""

    rotation: Array  # [3, 3]
    translation: Array  # [3], in the unit of the points; of length 1 where matches alone told it
    agree: NDArray[np.bool_]  # [k] which of the matches or points fit

    @property
    def eye(self) -> Array:  # [3]
        """The second camera's centre in the frame of the first."""
        return -self.rotation.T @ self.translation

    @property
    def turn_deg(self) -> float:
        """The angle between both cameras."""
        cosine = (np.trace(self.rotation) - 1) / 2
        return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def have_poselib() -> bool:
    """Whether the library that estimates poses is installed."""
    return importlib.util.find_spec("poselib") is not None


def pose_from_matches(
    first: ArrayLike,  # [k, 2] pixels of picture 1
    second: ArrayLike,  # [k, 2] of picture 2
    *,
    K1: ArrayLike,  # [3, 3]
    K2: ArrayLike,
    within_px: float = 1.0,  # of its epipolar line, a match agrees
) -> RelativePose | None:
    """The pose by the essential matrix: its translation has length 1. None where too few agree.

    RANSAC of five matches, refined on those that agree (PoseLib); the same result every time.
    """
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if len(one) < LEAST:
        return None
    pose, found = _poselib().estimate_relative_pose(
        one,
        other,
        _camera(K1),
        _camera(K2),
        {"max_epipolar_error": within_px, "max_iterations": MOST_ROUNDS},
        {},
    )
    return _agreed(pose, found)


def pose_from_points(
    points: ArrayLike,  # [k, 3] in the frame of camera 1
    pixels: ArrayLike,  # [k, 2] of picture 2
    *,
    K2: ArrayLike,  # [3, 3]
    within_px: float = 2.0,  # of its pixel, a projected point agrees
) -> RelativePose | None:
    """The pose from which camera 2 sees each point at its pixel (PnP). None where too few agree.

    The translation is in the unit of the points: in metres, where a network learned those.
    RANSAC of three points, refined on those that agree (PoseLib); the same result every time.
    """
    x, uv = np.asarray(points, np.float64), np.asarray(pixels, np.float64)
    if len(x) < LEAST:
        return None
    pose, found = _poselib().estimate_absolute_pose(
        uv,
        x,
        _camera(K2),
        {"max_reproj_error": within_px, "max_iterations": MOST_ROUNDS},
        {},
    )
    return _agreed(pose, found)


def _agreed(pose: Any, found: dict[str, Any]) -> RelativePose | None:
    agree = np.array(found["inliers"], bool)
    rotation, translation = np.array(pose.R, np.float64), np.array(pose.t, np.float64)
    if agree.sum() < LEAST or not np.isfinite([*rotation.ravel(), *translation]).all():
        return None
    return RelativePose(rotation, translation, agree)


def _camera(K: ArrayLike) -> dict[str, Any]:
    matrix = np.asarray(K, np.float64)
    values = matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
    return {"model": "PINHOLE", "width": 0, "height": 0, "params": list(values)}


def _poselib() -> Any:
    try:
        import poselib
    except ModuleNotFoundError as error:
        if error.name != "poselib":
            raise
        raise ValueError("poses of cameras need poselib: pip install 'alumnus[scenes]'") from error
    return poselib
