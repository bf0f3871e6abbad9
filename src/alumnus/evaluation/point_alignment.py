"""The similarity between two sets of points, whatever outliers say.

Axes: k points.
"""

import numpy as np
from numpy.typing import ArrayLike

from alumnus.evaluation.human_metrics import Similarity, fit_similarity

__all__ = ["both_ways_similarity", "robust_similarity"]

REWEIGHTINGS = 10
NEAREST = 1e-6  # of the median distance, in place of smaller ones


def robust_similarity(
    source: ArrayLike,  # [k, 3]
    target: ArrayLike,  # [k, 3]
    weights: ArrayLike | None = None,  # [k], at least 0
) -> Similarity:
    """The similarity with the smallest weighted sum of distances, not of their squares.

    From weighted least squares by ten rounds of weights w / max(distance, 1e-6 of the median):
    some points in quite other places change little.
    """
    a, b = np.asarray(source, np.float64), np.asarray(target, np.float64)
    w = np.ones(len(a)) if weights is None else np.asarray(weights, np.float64)
    found = fit_similarity(a, b, w)
    for _ in range(REWEIGHTINGS):
        distance = np.linalg.norm(found.of(a) - b, axis=1)
        least = NEAREST * float(np.median(np.linalg.norm(b - np.median(b, axis=0), axis=1)))
        found = fit_similarity(a, b, w / np.maximum(distance, max(least, np.finfo(float).tiny)))
    return found


def both_ways_similarity(
    there: tuple[ArrayLike, ArrayLike],  # points [..., 3] of both views in the frame of camera 1
    back: tuple[ArrayLike, ArrayLike],  # the same pixels' points in the frame of camera 2
    weights: tuple[ArrayLike, ArrayLike] | None = None,  # [...] of both views' pixels
) -> Similarity:
    """What brings the frame of camera 1 into that of camera 2: Procrustes over a pair seen twice.

    A network is asked twice, with either view first; pixel by pixel both answers show the same
    points. The scale between them is 1 where they agree on the size of things.
    """
    source, target = (
        np.concatenate([np.asarray(points).reshape(-1, 3) for points in views])
        for views in (there, back)
    )
    if weights is None:
        return robust_similarity(source, target)
    joined = np.concatenate([np.asarray(view).reshape(-1) for view in weights])
    return robust_similarity(source, target, joined)
