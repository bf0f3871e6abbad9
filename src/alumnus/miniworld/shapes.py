"""The solids of the miniworld: signed distance functions, sphere-traced for all rays at once.

A solid lives in its own frame, inside a ball of `radius`, z up. Its distance may be a lower bound
(never an overestimate), which is all that sphere tracing needs (Hart 1996).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from alumnus.miniworld.vectors import Array, Vec, dot

__all__ = ["SHAPES", "Shape", "normal_at", "trace"]

Distance = Callable[[Array, Array, Array], Array]

_STEPS = 48
_NEAR = np.float32(1.5e-3)  # a ray this close has arrived; in the frame of the solid


class Shape(NamedTuple):
    """A named solid."""

    name: str
    distance: Distance  # negative inside
    radius: float  # of the ball around the origin that holds it
    rests: tuple[tuple[str, float], ...]  # (axis that points up, height of the origin above floor)


def _box(x: Array, y: Array, z: Array, hx: float, hy: float, hz: float) -> Array:
    dx, dy, dz = np.abs(x) - hx, np.abs(y) - hy, np.abs(z) - hz
    outside = np.maximum(dx, 0) ** 2 + np.maximum(dy, 0) ** 2 + np.maximum(dz, 0) ** 2
    inside = np.minimum(np.maximum(np.maximum(dx, dy), dz), 0)
    return np.asarray(np.sqrt(outside) + inside, np.float32)


def _rod(across: Array, along: Array, radius: float, half: float) -> Array:
    """A cylinder from its distance to the axis and its position along it."""
    dr, dz = across - radius, np.abs(along) - half
    outside = np.sqrt(np.maximum(dr, 0) ** 2 + np.maximum(dz, 0) ** 2)
    return np.asarray(outside + np.minimum(np.maximum(dr, dz), 0), np.float32)


def ball(x: Array, y: Array, z: Array) -> Array:
    """A sphere."""
    return np.asarray(np.sqrt(x * x + y * y + z * z) - np.float32(0.78), np.float32)


def box(x: Array, y: Array, z: Array) -> Array:
    """A cube with slightly rounded edges."""
    return _box(x, y, z, 0.56, 0.56, 0.56) - np.float32(0.04)


def cylinder(x: Array, y: Array, z: Array) -> Array:
    """An upright can."""
    return _rod(np.sqrt(x * x + y * y), z, 0.46, 0.74) - np.float32(0.03)


def cone(x: Array, y: Array, z: Array) -> Array:
    """A cone, point up; exact outside its side and base, a bound near the rim."""
    across = np.sqrt(x * x + y * y)
    side = across * np.float32(0.9) + (z - np.float32(0.88)) * np.float32(0.43588989)
    return np.asarray(np.maximum(side, -np.float32(0.65) - z), np.float32)


def ring(x: Array, y: Array, z: Array) -> Array:
    """A torus around z."""
    across = np.sqrt(x * x + y * y) - np.float32(0.66)
    return np.asarray(np.sqrt(across * across + z * z) - np.float32(0.25), np.float32)


def jack(x: Array, y: Array, z: Array) -> Array:
    """Three crossed bars."""
    bar, reach = 0.2, 0.84
    along_x = _box(x, y, z, reach, bar, bar)
    along_y = _box(x, y, z, bar, reach, bar)
    along_z = _box(x, y, z, bar, bar, reach)
    return np.minimum(np.minimum(along_x, along_y), along_z) - np.float32(0.02)


def hourglass(x: Array, y: Array, z: Array) -> Array:
    """Two cones, tip to tip, with a waist."""
    across = np.sqrt(x * x + y * y)
    side = (across - np.float32(0.1) - np.abs(z) * np.float32(0.75)) * np.float32(0.8)
    return np.asarray(np.maximum(side, np.abs(z) - np.float32(0.74)), np.float32)


def stool(x: Array, y: Array, z: Array) -> Array:
    """A square seat on four legs."""
    seat = _box(x, y, z - np.float32(0.5), 0.6, 0.6, 0.13)
    legs = _box(np.abs(x) - np.float32(0.46), np.abs(y) - np.float32(0.46), z, 0.13, 0.13, 0.6)
    return np.minimum(seat, legs) - np.float32(0.02)


SHAPES: tuple[Shape, ...] = (
    Shape("ball", ball, 0.80, (("z", 0.78),)),
    Shape("box", box, 1.05, (("z", 0.60),)),
    Shape("cylinder", cylinder, 0.93, (("z", 0.77), ("x", 0.49))),
    Shape("cone", cone, 1.00, (("z", 0.65),)),
    Shape("ring", ring, 0.93, (("z", 0.25), ("x", 0.91))),
    Shape("jack", jack, 0.93, (("z", 0.86),)),
    Shape("hourglass", hourglass, 1.00, (("z", 0.74),)),
    Shape("stool", stool, 1.10, (("z", 0.62),)),
)


def trace(
    shape: Shape,
    origin: Vec,  # of each ray, in the frame of the solid; [N] or [] each
    direction: Vec,  # unit length
    *,
    longest: Array | None = None,  # how far to look, per ray
) -> Array:  # [N], inf where the ray misses
    """Distance along each ray to the solid, by sphere tracing within its bounding ball."""
    ox, oy, oz, dx, dy, dz = np.broadcast_arrays(*origin, *direction)
    middle = -dot((ox, oy, oz), (dx, dy, dz))
    reach = middle * middle - dot((ox, oy, oz), (ox, oy, oz)) + np.float32(shape.radius**2)
    half = np.sqrt(np.maximum(reach, 0))
    rays = np.flatnonzero((reach > 0) & (middle + half > 0))
    ox, oy, oz, dx, dy, dz = (c[rays] for c in (ox, oy, oz, dx, dy, dz))
    t, end = np.maximum((middle - half)[rays], 0), (middle + half)[rays]
    if longest is not None:
        end = np.minimum(end, longest[rays])
    hits = np.full(middle.shape, np.inf, np.float32)
    for _ in range(_STEPS):
        gap = shape.distance(ox + t * dx, oy + t * dy, oz + t * dz)
        arrived = gap < _NEAR
        hits[rays[arrived]] = t[arrived]
        t = t + gap
        going = ~arrived & (t < end)
        if not going.all():
            rays, t, end = rays[going], t[going], end[going]
            ox, oy, oz, dx, dy, dz = (c[going] for c in (ox, oy, oz, dx, dy, dz))
        if not rays.size:
            break
    return hits


def normal_at(shape: Shape, point: Vec) -> Vec:
    """The outward normal: the gradient of the distance, by four samples on a tetrahedron."""
    (x, y, z), h = point, np.float32(4e-3)
    a = shape.distance(x + h, y - h, z - h)
    b = shape.distance(x - h, y - h, z + h)
    c = shape.distance(x - h, y + h, z - h)
    d = shape.distance(x + h, y + h, z + h)
    gradient = (a - b - c + d, -a - b + c + d, -a + b - c + d)
    length = np.sqrt(np.maximum(dot(gradient, gradient), np.float32(1e-12)))
    nx, ny, nz = (np.asarray(g / length, np.float32) for g in gradient)
    return nx, ny, nz
