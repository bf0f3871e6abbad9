"""Which solid a ray meets, exactly.

Rays have any length: a distance `t` counts lengths of its direction, so a direction with z = 1 in
the camera gives depth.
"""

import numpy as np
from numpy.typing import NDArray

from alumnus.miniworld.solids import FORMS, Solids, corners, to_piece
from alumnus.miniworld.vectors import Array, Point, Rotation, Vec

__all__ = ["first_hits", "nearest_hits", "shadowed"]

_TINY = np.float32(1e-6)


def _meet_box(low: Vec, high: Vec, origin: Vec, inverse: Vec) -> tuple[Array, Array]:
    """Distances at which rays enter and leave a box; entered later than left: missed."""
    first = [(a - o) * i for a, o, i in zip(low, origin, inverse, strict=True)]
    second = [(b - o) * i for b, o, i in zip(high, origin, inverse, strict=True)]
    enter = [np.minimum(a, b) for a, b in zip(first, second, strict=True)]
    leave = [np.maximum(a, b) for a, b in zip(first, second, strict=True)]
    return (
        np.maximum(np.maximum(enter[0], enter[1]), enter[2]),
        np.minimum(np.minimum(leave[0], leave[1]), leave[2]),
    )


def _meet_round(
    low: Vec, high: Vec, origin: Vec, direction: Vec, *, upright: bool
) -> tuple[Array, Array]:
    """The same for the ellipsoid, or the upright elliptic cylinder, that fills a box."""
    half = [(b - a) * np.float32(0.5) for a, b in zip(low, high, strict=True)]
    o = [(p - a) / h - 1 for p, a, h in zip(origin, low, half, strict=True)]
    d = [c / h for c, h in zip(direction, half, strict=True)]
    axes = (0, 1) if upright else (0, 1, 2)
    a = np.maximum(sum(d[k] * d[k] for k in axes), _TINY)
    b = sum(o[k] * d[k] for k in axes)
    c = sum(o[k] * o[k] for k in axes) - np.float32(1)
    inside = b * b - a * c
    root = np.sqrt(np.maximum(inside, 0))
    enter = np.where(inside > 0, (-b - root) / a, np.float32(np.inf))
    leave = np.where(inside > 0, (root - b) / a, np.float32(-np.inf))
    if upright:
        ends = [(s - o[2]) / _away_from_zero(d[2]) for s in (-1, 1)]
        enter = np.maximum(enter, np.minimum(*ends))
        leave = np.minimum(leave, np.maximum(*ends))
    return enter, leave


def _away_from_zero(a: Array) -> Array:
    """`a`, or a tiny number in place of zero."""
    return np.where(a == 0, _TINY, a)


def _meet(
    form: int, low: Vec, high: Vec, origin: Vec, direction: Vec, inverse: Vec
) -> tuple[Array, Array]:
    """The same for any form; `inverse` is that of the direction."""
    if FORMS[form] == "box":
        return _meet_box(low, high, origin, inverse)
    return _meet_round(low, high, origin, direction, upright=FORMS[form] == "rod")


def _inverse(direction: Vec) -> Vec:
    """One over each component."""
    x, y, z = (np.asarray(1 / _away_from_zero(c), np.float32) for c in direction)
    return x, y, z


# ---- all rays of a picture


def first_hits(
    solids: Solids,
    eye: Point,
    camera: Rotation,
    focal: float,  # in half picture heights
    direction: Vec,  # [S, S] each, in the world, z = 1 in the camera
    nearest: Array,  # [S, S] depth of the room's shell; nearer hits are written into it
) -> NDArray[np.int16]:  # [S, S], the part that is seen, -1 for the shell
    """What each ray of a picture meets first; a part is tried only on rays that can hit it."""
    size = len(nearest)
    owner = np.full(nearest.shape, -1, np.int16)
    rows, columns = _windows(solids, eye, camera, focal, size)
    for q, (start, stop) in enumerate(zip(solids.starts[:-1], solids.starts[1:], strict=True)):
        seen = [p for p in range(start, stop) if columns[p, 0] < columns[p, 1]]
        if not seen:
            continue
        top, bottom = rows[seen, 0].min(), rows[seen, 1].max()
        left, right = columns[seen, 0].min(), columns[seen, 1].max()
        dx, dy, dz = (c[top:bottom, left:right] for c in direction)
        local = to_piece(solids.turn[q], (dx, dy, dz))
        inverse = _inverse(local)
        ex, ey, ez = (
            np.asarray(e - p, np.float32) for e, p in zip(eye, solids.place[q], strict=True)
        )
        origin = to_piece(solids.turn[q], (ex, ey, ez))
        for p in seen:
            window = np.s_[
                rows[p, 0] - top : rows[p, 1] - top, columns[p, 0] - left : columns[p, 1] - left
            ]
            enter, leave = _meet(
                solids.form[p],
                solids.low[p],
                solids.high[p],
                origin,
                _cut(local, window),
                _cut(inverse, window),
            )
            place = np.s_[rows[p, 0] : rows[p, 1], columns[p, 0] : columns[p, 1]]
            hit = (enter < leave) & (enter > 0) & (enter < nearest[place])
            np.copyto(nearest[place], enter, where=hit)
            owner[place][hit] = p
    return owner


def _cut(a: Vec, window: tuple[slice, slice]) -> Vec:
    x, y, z = (c[window] for c in a)
    return x, y, z


def _windows(
    solids: Solids, eye: Point, camera: Rotation, focal: float, size: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First and last + 1 row and column of the rays that can hit each part, [P, 2] each."""
    x, y, z = corners(solids)
    u, v, depth = camera.to_local((x - eye[0], y - eye[1], z - eye[2]))
    near = np.float32(0.05)
    behind, crossing = (depth < near).all(axis=1), (depth < near).any(axis=1)
    scale = np.float32(focal) / np.maximum(depth, near)
    spans = []
    for c in (v * scale, u * scale):
        low, high = c.min(axis=1), c.max(axis=1)
        low, high = np.where(crossing, -1, low), np.where(crossing, 1, high)
        first = np.floor((low + 1) * (size / 2) - 0.5).clip(0, size).astype(np.intp)
        last = np.ceil((high + 1) * (size / 2) + 0.5).clip(0, size).astype(np.intp)
        spans.append((first, last))
    (top, bottom), (left, right) = spans
    empty = behind | (top >= bottom) | (left >= right)
    rows = np.stack([top, np.where(empty, top, bottom)], axis=1)
    columns = np.stack([left, np.where(empty, left, right)], axis=1)
    return rows, columns


# ---- few rays, all parts at once


def nearest_hits(
    solids: Solids, eye: Point, direction: Vec, longest: Array
) -> tuple[Array, NDArray[np.intp]]:
    """Distance [N] to the nearest part before `longest` [N], and its number, -1 for none."""
    piece = solids.piece
    x, y, z = (c[None] for c in direction)
    local = to_piece(solids.turn[piece][:, None], (x, y, np.broadcast_to(z, (1, len(longest)))))
    away = [np.float32(e) - solids.place[piece, k, None] for k, e in enumerate(eye)]
    origin = to_piece(solids.turn[piece][:, None], (away[0], away[1], away[2]))
    hits = np.full((len(piece), len(longest)), np.inf, np.float32)
    for form in range(len(FORMS)):
        some = np.flatnonzero(solids.form == form)
        ox, oy, oz = (c[some] for c in origin)
        dx, dy = local[0][some], local[1][some]
        low, high = solids.low[some].T[..., None], solids.high[some].T[..., None]
        rays = (dx, dy, local[2])
        enter, leave = _meet(form, tuple(low), tuple(high), (ox, oy, oz), rays, _inverse(rays))
        hits[some] = np.where((enter < leave) & (enter > 0), enter, np.inf)
    part = hits.argmin(axis=0)
    nearest = hits[part, np.arange(len(longest))]
    found = nearest < longest
    return np.where(found, nearest, longest), np.where(found, part, -1)


# ---- shadows of a lamp


def shadowed(solids: Solids, lamp: Point, point: Vec, towards: Vec) -> NDArray[np.bool_]:  # [N]
    """Whether a part stands between points [N] below the lamp and the lamp.

    `towards` is lamp - point. Seen from the lamp, downwards, each part covers a rectangle: only
    points within it are tried.
    """
    dark = np.zeros(point[0].shape, bool)
    scale = 1 / np.maximum(towards[2], np.float32(0.02))
    a, b = towards[0] * scale, towards[1] * scale
    x, y, z = corners(solids)
    below = np.maximum(np.float32(lamp[2]) - z, np.float32(0.02))
    corner_a, corner_b = (np.float32(lamp[0]) - x) / below, (np.float32(lamp[1]) - y) / below
    low_a, high_a = corner_a.min(axis=1), corner_a.max(axis=1)
    low_b, high_b = corner_b.min(axis=1), corner_b.max(axis=1)
    for q, (start, stop) in enumerate(zip(solids.starts[:-1], solids.starts[1:], strict=True)):
        if not solids.casts[q]:
            continue
        some = slice(start, stop)
        within = (a >= low_a[some].min()) & (a <= high_a[some].max())
        within &= (b >= low_b[some].min()) & (b <= high_b[some].max())
        near = np.flatnonzero(within)
        if not near.size:
            continue
        place, turn = solids.place[q], solids.turn[q]
        px, py, pz = (c[near] - o for c, o in zip(point, place, strict=True))
        origin = to_piece(turn, (px, py, pz))
        direction = to_piece(turn, (towards[0][near], towards[1][near], towards[2][near]))
        inverse = _inverse(direction)
        hidden = np.zeros(near.shape, bool)
        for p in range(start, stop):
            enter, leave = _meet(
                solids.form[p], solids.low[p], solids.high[p], origin, direction, inverse
            )
            hidden |= (enter < leave) & (leave > 0) & (enter < 1)
        dark[near[hidden]] = True
    return dark
