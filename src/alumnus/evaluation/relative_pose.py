"""How far the relative pose of two cameras is off, and what share of pairs is near enough.

Axes: n pairs of cameras. Angles are in degrees. A pose maps points of camera 0 to camera 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "PairScore",
    "PoseErrors",
    "angle_between_deg",
    "auc",
    "maa",
    "pair_score",
    "pose_errors",
    "precision",
    "relative_pose",
    "rotation_angle_deg",
    "share_below",
]

RATIOS = (1.25, 1.25**2, 1.25**3)  # of lengths of translations

Array = NDArray[np.float64]


def relative_pose(
    rotation_a: ArrayLike,  # [..., 3, 3] world to camera
    translation_a: ArrayLike,  # [..., 3]
    rotation_b: ArrayLike,
    translation_b: ArrayLike,
) -> tuple[Array, Array]:  # [..., 3, 3], [..., 3]
    """The pose that maps points of camera a to camera b: R = R_b R_a', t = t_b - R t_a."""
    a, b = np.asarray(rotation_a, np.float64), np.asarray(rotation_b, np.float64)
    rotation = b @ np.swapaxes(a, -1, -2)
    moved = rotation @ np.asarray(translation_a, np.float64)[..., None]
    return rotation, np.asarray(translation_b, np.float64) - moved[..., 0]


def rotation_angle_deg(one: ArrayLike, other: ArrayLike) -> Array:  # [..., 3, 3] twice -> [...]
    """The angle of the rotation between two, 0 to 180."""
    between = np.swapaxes(np.asarray(one, np.float64), -1, -2) @ np.asarray(other, np.float64)
    axis = [
        between[..., 2, 1] - between[..., 1, 2],
        between[..., 0, 2] - between[..., 2, 0],
        between[..., 1, 0] - between[..., 0, 1],
    ]
    sine = np.linalg.norm(np.stack(axis, axis=-1), axis=-1)
    cosine = np.trace(between, axis1=-2, axis2=-1) - 1
    return np.asarray(np.degrees(np.arctan2(sine, cosine)))  # exact near 0 too, unlike acos


def angle_between_deg(one: ArrayLike, other: ArrayLike) -> Array:  # [..., 3] twice -> [...]
    """The angle between two directions whose signs do not count, 0 to 90."""
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    sine = np.linalg.norm(np.cross(a, b), axis=-1)
    return np.asarray(np.degrees(np.arctan2(sine, np.abs((a * b).sum(axis=-1)))))


@dataclass(frozen=True, kw_only=True)
class PoseErrors:
    """Of each pair; NaN where there is no estimate."""

    rotation_deg: Array  # [n]
    translation_deg: Array  # [n] between directions, signs do not count
    translation_m: Array  # [n] between the vectors
    scale: Array  # [n] length of the predicted over that of the true translation

    @property
    def scale_either_way(self) -> Array:  # [n]
        """The scale or its inverse, whichever is larger."""
        return np.asarray(np.maximum(self.scale, 1 / self.scale))

    @property
    def pose_deg(self) -> Array:  # [n]
        """The larger of both angles."""
        return np.asarray(np.maximum(self.rotation_deg, self.translation_deg))

    def scale_accuracy(self) -> tuple[float, float, float]:
        """Shares of all pairs whose scale is right within 1.25, its square and its cube."""
        held = np.where(np.isnan(self.scale), np.inf, self.scale_either_way)
        first, second, third = (float((held < ratio).mean()) for ratio in RATIOS)
        return first, second, third


def pose_errors(
    rotation: ArrayLike,  # [n, 3, 3] predicted
    translation: ArrayLike,  # [n, 3]
    true_rotation: ArrayLike,
    true_translation: ArrayLike,
    *,
    failed: Sequence[int] = (),  # pairs without an estimate, whose prediction is not looked at
) -> PoseErrors:
    """Compare predicted with true relative poses."""
    t, true = np.asarray(translation, np.float64), np.asarray(true_translation, np.float64)
    found = (
        rotation_angle_deg(rotation, true_rotation),
        angle_between_deg(t, true),
        np.linalg.norm(t - true, axis=-1),
        np.linalg.norm(t, axis=-1) / np.linalg.norm(true, axis=-1),
    )
    lost = np.isin(np.arange(len(t)), np.asarray(failed, np.int64))
    angle, direction, metres, scale = (np.where(lost, np.nan, values) for values in found)
    return PoseErrors(
        rotation_deg=angle, translation_deg=direction, translation_m=metres, scale=scale
    )


class PairScore(NamedTuple):
    """Percent of pairs."""

    rra: dict[float, float]  # by threshold: rotation error below it
    rta: dict[float, float]  # by threshold: error of the translation's direction below it
    maa30: float


def pair_score(
    rotation_deg: ArrayLike,  # [n]
    translation_deg: ArrayLike,  # [n]
    *,
    thresholds: Sequence[float] = (5, 15, 30),
) -> PairScore:
    """Relative rotation and translation accuracy, and their mean average accuracy.

    Equal in numbers to the published evaluation (a golden test).
    """
    r, t = np.asarray(rotation_deg, np.float64), np.asarray(translation_deg, np.float64)
    return PairScore(
        rra={limit: 100 * share_below(r, limit) for limit in thresholds},
        rta={limit: 100 * share_below(t, limit) for limit in thresholds},
        maa30=100 * maa(np.maximum(r, t), 30),
    )


def share_below(errors: ArrayLike, limit: float) -> float:  # [n]
    """Share of pairs with an error below a limit; one without an estimate (NaN) has none."""
    return float((np.asarray(errors, np.float64) < limit).mean())


def maa(errors: ArrayLike, limit: int) -> float:  # [n]
    """Mean over k = 1 to `limit` of the share with an error below k, up to and with the last k."""
    e = np.asarray(errors, np.float64)
    shares = [share_below(e, k) for k in range(1, limit)]
    return float(np.mean([*shares, (e <= limit).mean()]))


def auc(errors: ArrayLike, limit: float) -> float:  # [n]
    """Area below the share of pairs as a function of their error, up to `limit`: 0 to 1.

    The i-th smallest of n errors is where the share reaches i / n, with straight lines between
    these points from (0, 0) on; from the last one below `limit` the share stays as it is. A pair
    without an estimate (NaN) is infinitely wrong.
    """
    e = np.asarray(errors, np.float64)
    e = np.sort(np.where(np.isnan(e), np.inf, e))
    below = int(np.searchsorted(e, limit))
    x = np.concatenate([[0.0], e[:below], [limit]])
    share = np.arange(below + 1) / len(e)
    y = np.append(share, share[-1])
    return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum() / limit)


def precision(errors: PoseErrors, limits: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """By name, the share of all pairs at most (degrees of rotation, metres) off."""
    return {
        name: float(((errors.rotation_deg <= deg) & (errors.translation_m <= metres)).mean())
        for name, (deg, metres) in limits.items()
    }
