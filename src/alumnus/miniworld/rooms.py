"""The domain `rooms`: two views of a furnished room, with depth, cameras, things and overlap.

`render_room` is a pure function of (seed, index, size). It uses sums, products, quotients, roots
and table look-ups only, all of which give the same bits on every machine.
"""

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from alumnus.miniworld.furnish import Furnished, draw_furnished
from alumnus.miniworld.hits import first_hits
from alumnus.miniworld.joinery import KINDS
from alumnus.miniworld.pairs import Camera, Correspondences, correspondences, intrinsics, pose
from alumnus.miniworld.room import meet_room
from alumnus.miniworld.surfaces import Surfaces, lit_colours, surfaces_met
from alumnus.miniworld.vectors import Array, Vec, dot
from alumnus.miniworld.viewpoints import OVERLAP, draw_cameras, draw_walk, ray_directions

__all__ = [
    "KINDS",
    "MOST_THINGS",
    "ROOMS_VERSION",
    "RoomPair",
    "RoomView",
    "render_room",
    "render_walk",
]

S = TypeVar("S", bound=np.generic)

ROOMS_VERSION = 1  # part of the cache's name: raise it when any picture changes
MOST_THINGS = 64  # numbers of things, with floor, ceiling and wall

_SAMPLES = 2  # per pixel and axis


class RoomView(NamedTuple):
    """One picture and what is known about it."""

    image: NDArray[np.uint8]  # [H, W, 3]
    depth: Array  # [H, W] metres along the optical axis, at the centres of the pixels
    ids: NDArray[np.uint8]  # [H, W] number of the thing, the same in both views
    K: Array  # [3, 3] pixels; the centre of the first pixel is at (0.5, 0.5)
    pose: Array  # [4, 4] camera to world; x right, y down, z forward; metres
    overlap: float  # share of this view's pixels that the other view shows


class RoomPair(NamedTuple):
    """Two views of a scene."""

    views: tuple[RoomView, RoomView]
    kinds: NDArray[np.uint8]  # [MOST_THINGS] into KINDS, by number of the thing

    def correspondences(self) -> Correspondences:
        """Where each pixel of the first view is in the second one."""
        return _correspondences(*self.views)


def render_room(seed: int, index: int, size_px: int = 64) -> RoomPair:
    """The scene `index` of the series `seed`, as two square pictures of `size_px`.

    The wanted overlap is drawn from 0.2 to 0.9, then a second camera is sought that leaves it;
    rooms without such cameras are drawn anew.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, but are {seed} and {index}")
    if size_px < 8:
        raise ValueError(f"size_px is {size_px}, but must be at least 8")
    rng = np.random.default_rng([seed, 2, index])
    wanted = float(rng.uniform(*OVERLAP))
    cameras = None
    while cameras is None:
        scene = draw_furnished(rng)
        cameras = draw_cameras(rng, scene, wanted)
    lamp_colour = rng.uniform((0.95, 0.85, 0.7), (1.1, 1.0, 0.95)).astype(np.float32)
    views = []
    for camera in cameras:
        exposure = rng.uniform(0.75, 1.3) * rng.uniform(0.92, 1.08, 3)
        views.append(_render(scene, camera, size_px, lamp_colour, exposure.astype(np.float32)))
    first, second = (
        one._replace(overlap=_correspondences(one, other).share)
        for one, other in (views, views[::-1])
    )
    kinds = np.zeros(MOST_THINGS, np.uint8)
    names = ["floor", "wall", "ceiling", *(piece.kind for piece in scene.pieces)]
    kinds[: len(names)] = [KINDS.index(name) for name in names]
    return RoomPair((first, second), kinds)


def render_walk(
    seed: int, index: int, views: int, size_px: int = 64, *, overlap: float = 0.4
) -> list[RoomView]:
    """As many views, at least 2, from a way through one room; none of a `RoomPair`'s rooms.

    The last shows about the share `overlap` of what the first one does, to which each view's own
    `overlap` refers too.
    """
    rng = np.random.default_rng([seed, 3, index])
    cameras = None
    while cameras is None:
        scene = draw_furnished(rng)
        cameras = draw_walk(rng, scene, views, wanted=overlap)
    lamp = rng.uniform((0.95, 0.85, 0.7), (1.1, 1.0, 0.95)).astype(np.float32)
    found = [_render(scene, camera, size_px, lamp, np.ones(3, np.float32)) for camera in cameras]
    return [view._replace(overlap=_correspondences(found[0], view).share) for view in found]


def _correspondences(one: RoomView, other: RoomView) -> Correspondences:
    return correspondences(
        one.depth, other.depth, K1=one.K, K2=other.K, pose1=one.pose, pose2=other.pose
    )


def _render(
    scene: Furnished, camera: Camera, size_px: int, lamp_colour: Array, exposure: Array
) -> RoomView:
    size = size_px * _SAMPLES
    direction = ray_directions(camera, size)
    flat = [c.ravel() for c in direction]
    depth, axis = meet_room(scene.room, camera.eye, (flat[0], flat[1], flat[2]))
    depth = depth.reshape(size, size)
    part = first_hits(scene.solids, camera.eye, camera.turn, camera.focal, direction, depth)
    surfaces = surfaces_met(
        scene, camera, (flat[0], flat[1], flat[2]), depth.ravel(), part.ravel(), axis
    )
    colour = lit_colours(scene, surfaces, lamp_colour)[:, surfaces.rank]
    colour = _pool(colour.reshape(3, size, size))
    mean = (colour[..., 0] + colour[..., 1] + (colour[..., 2] + colour[..., 3])) * np.float32(0.25)
    image = np.clip(mean * exposure[:, None, None] * 255 + np.float32(0.5), 0, 255).astype(np.uint8)
    ids, exact = _resolve(camera, direction, depth, surfaces)
    return RoomView(
        image.transpose(1, 2, 0), exact, ids, intrinsics(camera, size_px), pose(camera), 0.0
    )


def _pool(samples: NDArray[S]) -> NDArray[S]:
    """[..., size, size] to [..., H, W, samples]: the samples of each pixel."""
    *rest, size, _ = samples.shape
    cells = samples.reshape(*rest, size // _SAMPLES, _SAMPLES, size // _SAMPLES, _SAMPLES)
    return np.moveaxis(cells, -3, -2).reshape(*rest, size // _SAMPLES, size // _SAMPLES, -1)


def _resolve(
    camera: Camera, direction: Vec, depth: Array, surfaces: Surfaces
) -> tuple[NDArray[np.uint8], Array]:
    """Thing and depth of each pixel: of the plane that most of its samples show, met by the ray
    through the pixel's centre."""
    size = len(depth)
    face = _pool(surfaces.face[surfaces.rank].reshape(size, size))
    votes = np.zeros(face.shape, np.int8)
    for k in range(face.shape[-1]):
        votes += face == face[..., k, None]
    ray = _pool(np.arange(size * size).reshape(size, size))
    chosen = np.take_along_axis(ray, votes.argmax(axis=-1)[..., None], axis=-1)[..., 0]  # [H, W]
    there = surfaces.rank[chosen]
    nx, ny, nz = (c[there] for c in surfaces.normal)
    sx, sy, sz = (c.ravel()[chosen] for c in direction)
    slope_seen = dot((nx, ny, nz), (sx, sy, sz))
    slope = dot((nx, ny, nz), ray_directions(camera, size // _SAMPLES))
    ratio = slope_seen / np.where(slope == 0, np.float32(1e-6), slope)
    ratio = np.where((ratio > 0.8) & (ratio < 1.25), ratio, np.float32(1))  # grazing: as sampled
    return surfaces.thing[there].astype(np.uint8), np.asarray(
        depth.ravel()[chosen] * ratio, np.float32
    )
