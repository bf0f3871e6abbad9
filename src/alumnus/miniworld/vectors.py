"""Points as three separate arrays: 3x3 products written out, so that no BLAS kernel is involved.

Small BLAS products differ between CPU generations and flip texture edges; sums written out do not.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Point", "Rotation", "Vec", "cos_sin", "dot", "look_at", "to_frame"]

Array = NDArray[np.float32]
Vec = tuple[Array, Array, Array]  # many points or directions, [N] each
Point = tuple[float, float, float]  # one


def dot(a: Vec | Point, b: Vec) -> Array:
    """`a . b`, element by element."""
    return np.asarray(a[0] * b[0] + a[1] * b[1] + a[2] * b[2], np.float32)


class Rotation(NamedTuple):
    """A rotation from the world to a frame, by its rows."""

    x: Point
    y: Point
    z: Point

    def to_local(self, a: Vec) -> Vec:
        """`R a`: world to frame."""
        return dot(self.x, a), dot(self.y, a), dot(self.z, a)

    def to_world(self, a: Vec) -> Vec:
        """`R^T a`: frame to world."""
        columns = zip(self.x, self.y, self.z, strict=True)
        x, y, z = (dot(column, a) for column in columns)
        return x, y, z


def look_at(eye: Point, aim: Point) -> Rotation:
    """The camera at `eye` looking at `aim`, z up in the world: x right, y down, z forward."""
    forward = _unit((aim[0] - eye[0], aim[1] - eye[1], aim[2] - eye[2]))
    right = _unit((forward[1], -forward[0], 0.0))  # forward x up
    return Rotation(right, _cross(forward, right), forward)


def cos_sin(angle: float) -> tuple[float, float]:
    """Cosine and sine by their series, 1e-12 off at most: the same bits everywhere.

    For up to two turns; those of numpy and of C libraries differ in the last bit.
    """
    x = float(angle) / 64
    square = x * x
    versed = square * (1 / 2 - square * (1 / 24 - square * (1 / 720 - square / 40320)))  # 1 - cos
    sine = x * (1 - square * (1 / 6 - square * (1 / 120 - square * (1 / 5040 - square / 362880))))
    for _ in range(6):  # back to the whole angle, doubling
        versed, sine = 2 * sine * sine, 2 * sine * (1 - versed)
    return 1 - versed, sine


def to_frame(a: Vec, *, centre: Point, scale: float) -> Vec:
    """`(a - centre) / scale`."""
    shrink = np.float32(1 / scale)
    x, y, z = ((c - np.float32(o)) * shrink for c, o in zip(a, centre, strict=True))
    return x, y, z


def _unit(a: Point) -> Point:
    length = float(np.sqrt(a[0] * a[0] + a[1] * a[1] + a[2] * a[2]))
    return a[0] / length, a[1] / length, a[2] / length


def _cross(a: Point, b: Point) -> Point:
    return (
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    )
