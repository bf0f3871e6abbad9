"""How far predicted people are off: vertices, joints, and which prediction is whom.

Axes: N points, P predicted and G true people, K keypoints. Points are in metres, errors in mm.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Detections",
    "Similarity",
    "aligned",
    "fit_similarity",
    "match_people",
    "mean_error_mm",
    "mpjpe_mm",
    "pa_mpjpe_mm",
    "pa_pve_mm",
    "pve_mm",
]

MM = 1000.0  # per metre
IOU = 0.05  # of two boxes, below which they are not the same person

Array = NDArray[np.float64]


class Similarity(NamedTuple):
    """The map x -> scale * rotation x + translation."""

    rotation: Array  # [3, 3], determinant 1
    translation: Array  # [3]
    scale: float

    def of(self, points: Array) -> Array:  # [N, 3] -> [N, 3]
        """The points moved."""
        return self.scale * points @ self.rotation.T + self.translation


def fit_similarity(
    source: ArrayLike,  # [N, 3]
    target: ArrayLike,  # [N, 3]
    weights: ArrayLike | None = None,  # [N], at least 0; None: all the same
) -> Similarity:
    """The similarity that brings `source` nearest to `target`, in the weighted sum of squares.

    Proper: for a mirror image the nearest rotation is taken, never a reflection. All points of
    `source` in one place are moved without rotation and scale.

    Source: Umeyama, "Least-squares estimation of transformation parameters between two point
    patterns", 1991.
    """
    a, b = _pair(source, target)
    w = np.ones((len(a), 1)) if weights is None else np.asarray(weights, np.float64)[:, None]
    mean_a, mean_b = ((w * points).sum(axis=0) / w.sum() for points in (a, b))
    spread = (w * (a - mean_a) ** 2).sum()
    if spread == 0:
        return Similarity(np.eye(3), mean_b - mean_a, 1.0)
    u, values, vt = np.linalg.svd((w * (b - mean_b)).T @ (a - mean_a))
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0])
    rotation = (u * signs) @ vt
    scale = float((values * signs).sum() / spread)
    return Similarity(rotation, mean_b - scale * rotation @ mean_a, scale)


def aligned(prediction: ArrayLike, truth: ArrayLike) -> Array:  # [N, 3], [N, 3] -> [N, 3]
    """The prediction after the similarity that brings it nearest to the truth (Procrustes)."""
    return fit_similarity(prediction, truth).of(np.asarray(prediction, np.float64))


def mean_error_mm(prediction: ArrayLike, truth: ArrayLike) -> float:  # [..., N, 3], the same
    """Mean distance between points, as they are."""
    p, t = _pair(prediction, truth)
    return float(MM * np.linalg.norm(p - t, axis=-1).mean())


def pve_mm(
    prediction: ArrayLike,  # [N, 3] vertices
    truth: ArrayLike,  # [N, 3]
    *,
    pelvis: ArrayLike,  # [3] of the prediction
    true_pelvis: ArrayLike,  # [3]
) -> float:
    """Mean distance of vertices, each body centred on its own pelvis (PVE)."""
    return mean_error_mm(_centred(prediction, pelvis), _centred(truth, true_pelvis))


def pa_pve_mm(prediction: ArrayLike, truth: ArrayLike) -> float:  # [N, 3], [N, 3]
    """Mean distance of vertices after the similarity that brings the prediction nearest.

    Where the bodies are centred beforehand makes no difference.
    """
    return mean_error_mm(aligned(prediction, truth), truth)


def mpjpe_mm(
    prediction: ArrayLike,  # [N, 3] joints
    truth: ArrayLike,  # [N, 3]
    *,
    root: int = 0,
    scored: ArrayLike | None = None,  # numbers of the joints that count; None: all
) -> float:
    """Mean distance of joints, each body centred on its own joint `root` (MPJPE)."""
    p, t = _pair(prediction, truth)
    chosen = slice(None) if scored is None else np.asarray(scored)
    return mean_error_mm((p - p[root])[chosen], (t - t[root])[chosen])


def pa_mpjpe_mm(
    prediction: ArrayLike,  # [N, 3] joints
    truth: ArrayLike,  # [N, 3]
    *,
    scored: ArrayLike | None = None,  # numbers of the joints that are fitted and count; None: all
) -> float:
    """Mean distance of joints after the similarity that brings these joints nearest."""
    p, t = _pair(prediction, truth)
    chosen = slice(None) if scored is None else np.asarray(scored)
    return pa_pve_mm(p[chosen], t[chosen])


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Which predicted person is which true one."""

    matches: tuple[tuple[int, int], ...]  # (prediction, truth), nearest first
    false_positives: tuple[int, ...]  # predictions that are nobody
    misses: tuple[int, ...]  # people who were not found

    @property
    def precision(self) -> float:
        """Percent of the predictions that are somebody, rounded to a whole number; 0 of none."""
        return _percent(len(self.matches), len(self.matches) + len(self.false_positives))

    @property
    def recall(self) -> float:
        """Percent of the people who were found, rounded to a whole number; 0 of nobody."""
        return _percent(len(self.matches), len(self.matches) + len(self.misses))

    @property
    def f1(self) -> float:
        """Percent, the harmonic mean of both, rounded to a whole number."""
        wrong = len(self.false_positives) + len(self.misses)
        return _percent(2 * len(self.matches), 2 * len(self.matches) + wrong)


def match_people(
    predicted: ArrayLike,  # [P, K, 2] pixels
    truth: ArrayLike,  # [G, K, 2]
    *,
    iou: float = IOU,
) -> Detections:
    """Match the people of one image, the nearest two first.

    The distance of two people is the largest singular value of the difference of their keypoints
    [K, 2]. Two whose boxes (around all keypoints) overlap by less than `iou` are refused; there
    are as many matches and refusals as predictions, and what is left then is not matched.

    Equal in numbers to Multi-HMR's evaluation (a golden test).
    """
    p, t = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    matches: list[tuple[int, int]] = []
    if len(p) and len(t):
        distance = np.linalg.norm(p[:, None] - t[None], ord=2, axis=(2, 3))  # [P, G]
        overlap = _box_iou(_boxes(p), _boxes(t))
        for _ in range(len(p)):
            if not np.isfinite(distance).any():
                break
            one, other = divmod(int(distance.argmin()), len(t))
            if overlap[one, other] >= iou:
                matches.append((one, other))
                distance[one], distance[:, other] = np.inf, np.inf
            else:
                distance[one, other] = np.inf
    return Detections(
        matches=tuple(matches),
        false_positives=tuple(i for i in range(len(p)) if i not in {a for a, _ in matches}),
        misses=tuple(i for i in range(len(t)) if i not in {b for _, b in matches}),
    )


def _pair(prediction: ArrayLike, truth: ArrayLike) -> tuple[Array, Array]:
    p, t = np.asarray(prediction, np.float64), np.asarray(truth, np.float64)
    if p.shape != t.shape or p.ndim < 2 or p.shape[-1] != 3:
        raise ValueError(
            f"predicted points have the shape {p.shape} and true ones {t.shape}: both should be "
            "[points, 3]"
        )
    return p, t


def _centred(points: ArrayLike, on: ArrayLike) -> Array:  # [N, 3], [3] or [1, 3]
    return np.asarray(points, np.float64) - np.asarray(on, np.float64).reshape(1, 3)


def _boxes(keypoints: Array) -> Array:  # [n, K, 2] -> [n, 4]: left, top, right, bottom
    return np.concatenate([keypoints.min(axis=1), keypoints.max(axis=1)], axis=1)


def _box_iou(a: Array, b: Array) -> Array:  # [P, 4], [G, 4] -> [P, G]
    """Intersection over union; a side from x to y has the length y - x + 1."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.clip(high - low + 1, 0, None).prod(axis=2)
    one, other = ((box[:, 2:] - box[:, :2] + 1).prod(axis=1) for box in (a, b))
    return np.asarray(both / (one[:, None] + other[None] - both), np.float64)


def _percent(part: int, whole: int) -> float:
    return 100 * round(part / whole, 2) if whole else 0.0
