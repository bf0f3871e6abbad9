"""A z-buffer rasteriser in numpy: which triangle each sample shows, how deep, and where on it.

All triangles advance together: first into the rows they cross, then into the samples of each row.
Elementwise float32 arithmetic only, so that pictures do not depend on a BLAS or a GPU.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alumnus.miniworld.vectors import Array

__all__ = ["Fragments", "interpolate", "rasterise"]


class Fragments(NamedTuple):
    """The samples that show a triangle; F of them, each sample once, ascending."""

    sample: NDArray[np.intp]  # [F], row * width + column
    triangle: NDArray[np.intp]  # [F]
    inverse_depth: Array  # [F]
    corners: tuple[Array, Array, Array]  # [F] each: weights of the corners, sum 1, in perspective

    def where(self, kept: NDArray[np.bool_]) -> "Fragments":  # [F]
        """Some of the fragments."""
        first, second, third = (weight[kept] for weight in self.corners)
        return Fragments(
            self.sample[kept],
            self.triangle[kept],
            self.inverse_depth[kept],
            (first, second, third),
        )


def rasterise(
    x: Array,  # [V] columns; sample i covers its centre i + 0.5
    y: Array,  # [V] rows, down
    inverse_depth: Array,  # [V]; a plane in space is a plane in (x, y, inverse depth)
    triangles: NDArray[np.intp],  # [T, 3]
    *,
    width: int,
    height: int,
) -> Fragments:
    """The nearest of the triangles that face the viewer, at each sample's centre.

    A triangle faces the viewer if its corners turn counter-clockwise as seen. Triangles are not
    clipped: all must lie before the viewer. An inverse depth that is not positive
    stands for behind, and drops its triangles. For parallel rays give `1 + depth * -c` or the
    like: any value that falls linearly with depth.
    """
    a, b, c = triangles.T
    ax, ay, az = x[a], y[a], inverse_depth[a]
    bx, by = x[b] - ax, y[b] - ay
    cx, cy = x[c] - ax, y[c] - ay
    doubled_area = bx * cy - by * cx
    top = np.ceil(np.minimum(np.minimum(y[a], y[b]), y[c]) - np.float32(0.5))
    bottom = np.floor(np.maximum(np.maximum(y[a], y[b]), y[c]) - np.float32(0.5))
    top, bottom = np.maximum(top, 0), np.minimum(bottom, height - 1)
    before = (az > 0) & (inverse_depth[b] > 0) & (inverse_depth[c] > 0)
    kept = np.flatnonzero((doubled_area < 0) & (top <= bottom) & before)

    turn, row = _runs(top[kept].astype(np.intp), bottom[kept].astype(np.intp))
    owner = kept[turn]
    corners = triangles[kept]
    left, right = _span(x[corners], y[corners], turn, row.astype(np.float32) + np.float32(0.5))
    first = np.maximum(np.ceil(left - np.float32(0.5)), 0).astype(np.intp)
    last = np.minimum(np.floor(right - np.float32(0.5)), width - 1).astype(np.intp)
    line, column = _runs(first, last)
    triangle, sample = owner[line], row[line] * width + column

    inverse_area = 1 / doubled_area[triangle]
    px = column.astype(np.float32) + np.float32(0.5) - ax[triangle]
    py = row[line].astype(np.float32) + np.float32(0.5) - ay[triangle]
    v = (px * cy[triangle] - py * cx[triangle]) * inverse_area
    w = (bx[triangle] * py - by[triangle] * px) * inverse_area
    z0, z1, z2 = (inverse_depth[triangles[triangle, k]] for k in range(3))
    z = z0 + v * (z1 - z0) + w * (z2 - z0)

    nearest = np.zeros(width * height, np.float32)
    np.maximum.at(nearest, sample, z)
    won = np.flatnonzero(z == nearest[sample])  # at ties the later triangle
    winner = np.full(width * height, -1, np.intp)
    winner[sample[won]] = won
    covered = np.flatnonzero(winner >= 0)
    chosen = winner[covered]
    z, v, w = z[chosen], v[chosen], w[chosen]
    second, third = v * z1[chosen] / z, w * z2[chosen] / z
    return Fragments(covered, triangle[chosen], z, (1 - second - third, second, third))


def interpolate(
    fragments: Fragments,
    triangles: NDArray[np.intp],  # [T, 3]
    values: Array,  # [V, C]
) -> Array:  # [C, F]
    """Values of the vertices at each fragment."""
    corners = triangles[fragments.triangle].T
    blended = sum(w[:, None] * values[at] for w, at in zip(fragments.corners, corners, strict=True))
    return np.asarray(blended, np.float32).T


def _runs(first: NDArray[np.intp], last: NDArray[np.intp]) -> tuple[NDArray[np.intp], ...]:
    """All integers of the ranges first..last (some may be empty): number of the range, integer."""
    lengths = np.maximum(last - first + 1, 0)
    ends = np.cumsum(lengths)
    number = np.repeat(np.arange(len(first)), lengths)
    return number, np.arange(len(number)) - (ends - lengths - first)[number]


def _span(
    x: Array,  # [K, 3] corners of the triangles kept
    y: Array,
    turn: NDArray[np.intp],  # [R] of a row: its triangle
    centre: Array,  # [R] of a row: its y
) -> tuple[Array, Array]:  # [R] each
    """Where rows enter and leave their triangles.

    An edge gives the same crossing to both triangles that share it, so nothing shows between them.
    """
    left = np.full(len(turn), -np.inf, np.float32)
    right = np.full(len(turn), np.inf, np.float32)
    for one, other in ((0, 1), (1, 2), (2, 0)):
        x0, y0, x1, y1 = x[:, one], y[:, one], x[:, other], y[:, other]
        down = y1 > y0  # counter-clockwise: the left side
        top_x, top_y = np.where(down, x0, x1), np.where(down, y0, y1)
        rise = np.abs(y1 - y0)
        slope = np.where(down, x1 - x0, x0 - x1) / np.where(rise > 0, rise, 1)
        cross = top_x[turn] + (centre - top_y[turn]) * slope[turn]
        level, falls = (rise == 0)[turn], down[turn]
        left = np.where(falls, np.maximum(left, cross), left)
        right = np.where(falls | level, right, np.minimum(right, cross))
    return left, right
