"""The length of a translation of unit length, from matches and two depth maps.

Axes: n matches.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Lengths", "Voted", "mean_length", "translation_lengths", "voted_length"]

WITHIN_M = 0.1  # of each other, two lengths agree

Array = NDArray[np.float64]


class Lengths(NamedTuple):
    """What the matches say, of those with two depths."""

    votes: Array  # [k] metres: the length that each match asks for
    chosen: NDArray[np.bool_]  # [n] the matches with two depths


class Voted(NamedTuple):
    """A length in metres, and how many matches agree with it."""

    metres: float
    agree: int


def translation_lengths(
    first: ArrayLike,  # [n, 2] pixels (x, y) of picture 0
    second: ArrayLike,  # [n, 2] of picture 1
    depth0: ArrayLike,  # [H, W] metres, 0 where there is none
    depth1: ArrayLike,
    *,
    K0: ArrayLike,  # [3, 3]
    K1: ArrayLike,
    rotation: ArrayLike,  # [3, 3] from camera 0 to camera 1
    direction: ArrayLike,  # [3] of the translation, of length 1
) -> Lengths:
    """What each match says of the length: s = (X1 - R X0) . t, of its points X in both cameras.

    The depth of a match is that of the pixel it lies in: of its coordinates without their
    fractions, which are also what is unprojected.
    """
    x0, z0 = _points(first, depth0, K0)
    x1, z1 = _points(second, depth1, K1)
    chosen = (z0 > 0) & (z1 > 0)
    turned = x0[chosen] @ np.asarray(rotation, np.float64).T
    return Lengths((x1[chosen] - turned) @ np.asarray(direction, np.float64), chosen)


def mean_length(votes: ArrayLike) -> float:  # [k]
    """The mean; ValueError of none."""
    v = _some(votes)
    return float(v.mean())


def voted_length(votes: ArrayLike, *, within_m: float = WITHIN_M) -> Voted:  # [k]
    """The vote with most others less than `within_m` from it, the first of equals."""
    v = _some(votes)
    agree = (np.abs(v[:, None] - v[None]) < within_m).sum(axis=1)
    best = int(agree.argmax())
    return Voted(float(v[best]), int(agree[best]))


def _some(votes: ArrayLike) -> Array:
    v = np.asarray(votes, np.float64)
    if not len(v):
        raise ValueError("no match has a depth in both pictures")
    return v


def _points(pixels: ArrayLike, depth: ArrayLike, K: ArrayLike) -> tuple[Array, Array]:
    """Points [n, 3] in the camera's frame and their depths [n]."""
    at = np.asarray(pixels, np.float64).astype(np.int64)
    z = np.asarray(depth, np.float64)[at[:, 1], at[:, 0]]
    rays = (
        np.concatenate([at, np.ones((len(at), 1))], axis=1)
        @ np.linalg.inv(np.asarray(K, np.float64)).T
    )
    return z[:, None] * rays, z
