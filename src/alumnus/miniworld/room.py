"""The shell of a room: floor, four walls and ceiling, met by rays analytically, calmly textured."""

import colorsys
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alumnus.miniworld.materials import Colour
from alumnus.miniworld.vectors import Array, Point, Vec

__all__ = ["Room", "draw_room", "meet_room", "paint_room"]

FloorKind = Literal["plain", "planks", "tiles"]
_FLOOR_KINDS: tuple[FloorKind, ...] = ("plain", "planks", "tiles")


class Room(NamedTuple):
    """A box, floor at z = 0, lengths in metres."""

    low: Point
    high: Point
    floor: Colour
    wall: Colour
    floor_kind: FloorKind
    skirting_m: float  # height of the darker board along the walls; 0 for none


def draw_room(rng: np.random.Generator) -> Room:
    """A random room of 4 to 7 metres around the origin."""
    west, south = rng.uniform(-3.5, -2.0, 2)
    east, north = rng.uniform(2.0, 3.5, 2)
    floor = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.03, 0.22), rng.uniform(0.45, 0.8))
    wall = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.02, 0.2), rng.uniform(0.6, 0.95))
    return Room(
        low=(float(west), float(south), 0.0),
        high=(float(east), float(north), 2.8),
        floor=floor,
        wall=wall,
        floor_kind=_FLOOR_KINDS[int(rng.integers(len(_FLOOR_KINDS)))],
        skirting_m=0.12 if rng.random() < 0.6 else 0.0,
    )


def meet_room(
    room: Room,
    eye: Point,  # inside the room
    direction: Vec,  # [N] each
) -> tuple[Array, NDArray[np.intp]]:
    """Distance along each ray to the shell, and the axis (0, 1, 2) of the plane met there."""
    ts = []
    for axis in range(3):
        d = direction[axis]
        d = np.where(np.abs(d) < np.float32(1e-6), np.float32(1e-6), d)
        gap = np.where(d > 0, room.high[axis] - eye[axis], room.low[axis] - eye[axis])
        ts.append(gap.astype(np.float32) / d)
    walls = np.minimum(ts[0], ts[1])
    axis_met = np.where(ts[2] < walls, 2, np.where(ts[0] < ts[1], 0, 1))
    return np.minimum(walls, ts[2]), axis_met


def _floor_shade(room: Room, x: Array, y: Array) -> Array:
    """Brightness of the floor's own pattern, about 1."""
    if room.floor_kind == "planks":
        row = np.floor(x * np.float32(4.0))
        tone = np.sin(row * np.float32(12.9898)) * np.float32(0.05)
        seam = np.abs(x * np.float32(4.0) - row - np.float32(0.5)) > np.float32(0.46)
        return np.asarray(1 + tone - np.float32(0.12) * seam, np.float32)
    if room.floor_kind == "tiles":
        u, v = x * np.float32(2.5), y * np.float32(2.5)
        u, v = np.abs(u - np.floor(u) - np.float32(0.5)), np.abs(v - np.floor(v) - np.float32(0.5))
        return np.asarray(1 - np.float32(0.10) * (np.maximum(u, v) > 0.47), np.float32)
    return np.asarray(1 + np.float32(0.02) * np.sin(7 * x + 3 * np.sin(5 * y)), np.float32)


def paint_room(room: Room, point: Vec, axis: NDArray[np.intp]) -> tuple[Array, Array, Array]:
    """Colour of the shell at each point, before lighting."""
    x, y, z = point
    on_floor = (axis == 2) & (z < np.float32(0.5))
    shade = np.where(on_floor, _floor_shade(room, x, y), np.float32(1.0))
    board = (axis != 2) & (z < np.float32(room.skirting_m))
    shade = np.where(board, np.float32(0.7), shade)
    red, green, blue = (
        np.where(on_floor, np.float32(f), np.float32(w)) * shade
        for f, w in zip(room.floor, room.wall, strict=True)
    )
    return red, green, blue
