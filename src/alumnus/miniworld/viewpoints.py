"""Where to look at a furnished room from, twice, so that a wanted share is seen by both."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alumnus.miniworld.furnish import Furnished, stands_free
from alumnus.miniworld.hits import nearest_hits
from alumnus.miniworld.pairs import Camera
from alumnus.miniworld.room import meet_room
from alumnus.miniworld.vectors import Array, Point, Rotation, Vec, look_at

__all__ = ["OVERLAP", "draw_cameras", "draw_walk", "ray_directions"]

OVERLAP = (0.2, 0.9)  # share of the first view that the second one shows, drawn evenly

_RAYS = 16  # across, of the coarse views by which cameras are chosen
_TOLERANCE = 0.04  # of the wanted overlap, on the coarse view
_HALVINGS = 6


class _Stand(NamedTuple):
    """How a camera is held."""

    eye: Point
    aim: Point
    focal: float
    roll: float  # tangent of half the angle


class _Glance(NamedTuple):
    """A coarse view."""

    depth: Array  # [_RAYS ** 2]
    point: Vec
    thing: NDArray[np.intp]  # piece; -1 to -6: a side of the shell


def ray_directions(camera: Camera, size: int) -> Vec:  # [size, size] each
    """Directions through the centres of a grid, in the world; z = 1 in the camera."""
    steps = ((np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0).astype(np.float32)
    u, v = np.meshgrid(steps / np.float32(camera.focal), steps / np.float32(camera.focal))
    return camera.turn.to_world((u, v, np.ones_like(u)))


def draw_cameras(
    rng: np.random.Generator, scene: Furnished, wanted: float
) -> tuple[Camera, Camera] | None:
    """Two cameras of which the second shows about the share `wanted` of the first one's view.

    The second is found on the way from the first to another one, by halving. None where the room
    offers no such pair, or only views that one thing fills.
    """
    for _ in range(6):
        start = _draw_stand(rng, scene)
        if start is None:
            continue
        first = _camera(start)
        seen = _glance(scene, first)
        if not _worth_seeing(seen):
            continue
        for _ in range(4):
            end = _draw_stand(rng, scene)
            stand = None if end is None else _on_the_way(scene, seen, start, end, wanted)
            if stand is not None and _worth_seeing(_glance(scene, _camera(stand))):
                return first, _camera(stand)
    return None


def draw_walk(
    rng: np.random.Generator, scene: Furnished, views: int, *, wanted: float
) -> list[Camera] | None:
    """Cameras evenly on a way through a room, of which the last shows the share `wanted` of what
    the first one does. None where the room offers no such way."""
    for _ in range(24):
        start, end = _draw_stand(rng, scene), _draw_stand(rng, scene)
        if start is None or end is None:
            continue
        last = _on_the_way(scene, _glance(scene, _camera(start)), start, end, wanted)
        if last is None:
            continue
        stands = [_between(start, last, k / (views - 1)) for k in range(views)]
        if all(
            stands_free(scene, stand.eye) and _worth_seeing(_glance(scene, _camera(stand)))
            for stand in stands
        ):
            return [_camera(stand) for stand in stands]
    return None


def _draw_stand(rng: np.random.Generator, scene: Furnished) -> _Stand | None:
    (west, south, _), (east, north, top) = scene.room.low, scene.room.high
    for _ in range(8):
        eye = (
            float(rng.uniform(west, east)),
            float(rng.uniform(south, north)),
            float(rng.uniform(0.9, min(2.0, top - 0.4))),
        )
        # past the middle of the room, seen from the eye
        aim = (
            float(-0.3 * eye[0] + rng.uniform(0.3 * west, 0.3 * east)),
            float(-0.3 * eye[1] + rng.uniform(0.3 * south, 0.3 * north)),
            float(rng.uniform(0.4, 1.3)),
        )
        across = (aim[0] - eye[0]) ** 2 + (aim[1] - eye[1]) ** 2
        if across > 1.0 and stands_free(scene, eye):
            return _Stand(eye, aim, float(rng.uniform(1.1, 1.6)), float(rng.uniform(-0.05, 0.05)))
    return None


def _camera(stand: _Stand) -> Camera:
    upright, t = look_at(stand.eye, stand.aim), stand.roll
    cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    right = tuple(cos * a + sin * b for a, b in zip(upright.x, upright.y, strict=True))
    down = tuple(cos * b - sin * a for a, b in zip(upright.x, upright.y, strict=True))
    turn = Rotation((right[0], right[1], right[2]), (down[0], down[1], down[2]), upright.z)
    return Camera(stand.eye, turn, stand.focal)


def _between(a: _Stand, b: _Stand, way: float) -> _Stand:
    eye = [p + way * (q - p) for p, q in zip(a.eye, b.eye, strict=True)]
    aim = [p + way * (q - p) for p, q in zip(a.aim, b.aim, strict=True)]
    return _Stand(
        (eye[0], eye[1], eye[2]),
        (aim[0], aim[1], aim[2]),
        a.focal + way * (b.focal - a.focal),
        a.roll + way * (b.roll - a.roll),
    )


def _on_the_way(
    scene: Furnished, seen: _Glance, start: _Stand, end: _Stand, wanted: float
) -> _Stand | None:
    """The stand that leaves the wanted overlap; None if the way has none, or no room for it."""
    near, far = 0.0, 1.0
    if _overlap(scene, seen, _camera(end)) > wanted:
        return None
    for _ in range(_HALVINGS):
        way = (near + far) / 2
        stand = _between(start, end, way)
        across = (stand.aim[0] - stand.eye[0]) ** 2 + (stand.aim[1] - stand.eye[1]) ** 2
        if across < 0.2:
            return None
        left = _overlap(scene, seen, _camera(stand))
        if abs(left - wanted) <= _TOLERANCE:
            return stand if stands_free(scene, stand.eye) else None
        near, far = (way, far) if left > wanted else (near, way)
    return None


def _glance(scene: Furnished, camera: Camera) -> _Glance:
    x, y, z = (c.ravel() for c in ray_directions(camera, _RAYS))
    shell, axis = meet_room(scene.room, camera.eye, (x, y, z))
    depth, part = nearest_hits(scene.solids, camera.eye, (x, y, z), shell)
    px, py, pz = (np.float32(e) + depth * d for e, d in zip(camera.eye, (x, y, z), strict=True))
    side = np.stack([x > 0, y > 0, z > 0])[axis, np.arange(len(axis))]
    thing = np.where(part < 0, -1 - 2 * axis - side, scene.solids.piece[part])
    return _Glance(depth, (px, py, pz), thing)


def _overlap(scene: Furnished, seen: _Glance, other: Camera) -> float:
    """Share of the points that the other camera sees."""
    x, y, z = (c - np.float32(e) for c, e in zip(seen.point, other.eye, strict=True))
    u, v, depth = other.turn.to_local((x, y, z))
    edge = depth * np.float32(1 / other.focal)
    inside = np.flatnonzero((depth > 0) & (np.abs(u) < edge) & (np.abs(v) < edge))
    if not inside.size:
        return 0.0
    almost = np.full(len(inside), 0.98, np.float32)
    ray = (x[inside], y[inside], z[inside])
    hidden = nearest_hits(scene.solids, other.eye, ray, almost)[1] >= 0
    return float(len(inside) - hidden.sum()) / len(depth)


def _worth_seeing(glance: _Glance) -> bool:
    """Whether no thing and no wall fills the view, nothing is too near, and there is enough."""
    things, counts = np.unique(glance.thing, return_counts=True)
    rays = len(glance.thing)
    furniture = things >= 0
    return bool(
        counts[furniture].max(initial=0) < 0.4 * rays
        and counts.max() < 0.6 * rays
        and (glance.depth < 0.6).sum() < 0.08 * rays
        and (counts[furniture] >= 3).sum() >= 5
    )
