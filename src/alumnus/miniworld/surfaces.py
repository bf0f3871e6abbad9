"""What the rays of a picture of a furnished room end on: points, normals, colours and light."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alumnus.miniworld.furnish import Furnished
from alumnus.miniworld.hits import shadowed
from alumnus.miniworld.pairs import Camera
from alumnus.miniworld.patterns import paint
from alumnus.miniworld.solids import FORMS, to_piece, to_room
from alumnus.miniworld.vectors import Array, Vec, dot

__all__ = ["Surfaces", "lit_colours", "surfaces_met"]

_LIFT_M = np.float32(0.01)  # shadow rays start this far from the surface
_AMBIENT, _LAMP, _SHADOW = np.float32(0.44), np.float32(0.95), np.float32(0.08)  # brightness


class Surfaces(NamedTuple):
    """What rays end on, [N] each; sorted, so that those with one texture are a slice."""

    rank: NDArray[np.intp]  # where each ray of the picture is in the other arrays
    point: Vec
    normal: Vec
    colour: Array  # [3, N] in white light
    thing: NDArray[np.int16]  # number of the thing
    face: NDArray[np.int16]  # number of the plane, over all things


def surfaces_met(
    scene: Furnished,
    camera: Camera,
    direction: Vec,
    depth: Array,
    part: NDArray[np.int16],
    axis: NDArray[np.intp],
) -> Surfaces:
    """Points, normals and colours of what rays of a picture meet."""
    count = len(scene.solids.piece)
    side = np.stack([c > 0 for c in direction])[axis, np.arange(len(axis))]
    key = np.where(part < 0, count + 2 * axis + side, part).astype(np.int16)
    order = np.argsort(key, kind="stable")
    sizes = np.bincount(key, minlength=count + 6)
    ends = np.cumsum(sizes)
    dx, dy, dz = (c[order] for c in direction)
    t = depth[order]
    x, y, z = (np.float32(e) + t * d for e, d in zip(camera.eye, (dx, dy, dz), strict=True))
    point = (x, y, z)

    inner = int(ends[count - 1])  # rays that end on furniture come first
    normal, face, u, v = _part_surfaces(scene, point, sizes[:count], inner)
    shell_axis = np.repeat([0, 0, 1, 1, 2, 2], sizes[count:])
    shell_side = np.repeat([0, 1, 0, 1, 0, 1], sizes[count:])
    u = np.concatenate([u, np.where(shell_axis == 0, y[inner:], x[inner:])])
    v = np.concatenate([v, np.where(shell_axis == 2, y[inner:], z[inner:])])
    inwards = np.where(shell_side == 1, np.float32(-1), np.float32(1))
    shell_normal = [np.where(shell_axis == k, inwards, np.float32(0)) for k in range(3)]
    nx, ny, nz = (np.concatenate(pair) for pair in zip(normal, shell_normal, strict=True))

    colour = np.empty((3, len(t)), np.float32)
    south, east, north, west = scene.walls
    shell = [west, east, south, north, scene.floor, scene.ceiling]
    textures = [*(p.texture for piece in scene.pieces for p in piece.parts), *shell]
    start = 0
    for texture, following, end in zip(textures, [*textures[1:], None], ends, strict=True):
        if end == start or texture is following:
            continue  # nothing, or painted together with the next part
        here = slice(start, end)
        for channel, values in zip(colour, paint(texture, u[here], v[here]), strict=True):
            channel[here] = values
        start = end
    colour[:, inner:] *= _corner_shade(scene, x[inner:], y[inner:], z[inner:])

    things = np.concatenate([scene.solids.piece + 3, [1, 1, 1, 1, 0, 2]])
    faces = np.concatenate([face, np.zeros(len(t) - inner, np.int16)])
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return Surfaces(
        rank=rank,
        point=point,
        normal=(nx, ny, nz),
        colour=colour,
        thing=np.repeat(things, sizes).astype(np.int16),
        face=(np.repeat(np.arange(count + 6), sizes) * 6 + faces).astype(np.int16),
    )


def _part_surfaces(
    scene: Furnished, point: Vec, sizes: NDArray[np.intp], inner: int
) -> tuple[Vec, NDArray[np.int16], Array, Array]:
    """Normal in the world, side (0 to 5) and surface coordinates of points on furniture."""
    solids = scene.solids
    low, high = (np.repeat(a.T, sizes, axis=1) for a in (solids.low, solids.high))
    place = np.repeat(solids.place[solids.piece].T, sizes, axis=1)
    turn = np.repeat(solids.turn[solids.piece].T, sizes, axis=1).T
    away = [c[:inner] - o for c, o in zip(point, place, strict=True)]
    local = to_piece(turn, (away[0], away[1], away[2]))
    half = [(b - a) * np.float32(0.5) for a, b in zip(low, high, strict=True)]
    q = [(c - a) / h - 1 for c, a, h in zip(local, low, half, strict=True)]
    reach = [np.abs(c) for c in q]
    on_z = (reach[2] >= reach[0]) & (reach[2] >= reach[1])
    on_x = ~on_z & (reach[0] >= reach[1])
    axis = np.where(on_z, 2, np.where(on_x, 0, 1))
    normal = [np.where(axis == k, np.sign(c), np.float32(0)) for k, c in enumerate(q)]
    form = np.repeat(solids.form, sizes)
    rounded = np.flatnonzero(form != FORMS.index("box"))
    if rounded.size:
        rod = form[rounded] == FORMS.index("rod")
        steep = [c[rounded] / h[rounded] for c, h in zip(q, half, strict=True)]
        across = q[0][rounded] * q[0][rounded] + q[1][rounded] * q[1][rounded]
        end = rod & (reach[2][rounded] * reach[2][rounded] > across)
        steep[0], steep[1] = np.where(end, 0, steep[0]), np.where(end, 0, steep[1])
        steep[2] = np.where(rod & ~end, 0, steep[2])
        length = np.sqrt(steep[0] ** 2 + steep[1] ** 2 + steep[2] ** 2)
        for component, values in zip(normal, steep, strict=True):
            component[rounded] = values / np.maximum(length, np.float32(1e-6))
    u, v = np.where(on_x, local[1], local[0]), np.where(on_z, local[1], local[2])
    side = 2 * axis + (np.where(on_z, q[2], np.where(on_x, q[0], q[1])) > 0)
    nx, ny, nz = (np.asarray(c, np.float32) for c in normal)
    return to_room(turn, (nx, ny, nz)), side.astype(np.int16), u, v


def _corner_shade(scene: Furnished, x: Array, y: Array, z: Array) -> Array:
    """The shell is darker where its planes meet."""
    shade = np.ones_like(x)
    for k, c in enumerate((x, y, z)):
        near = np.minimum(c - np.float32(scene.room.low[k]), np.float32(scene.room.high[k]) - c)
        on_it = near < np.float32(1e-3)  # its own plane
        dim = np.minimum(near * np.float32(1.2), np.float32(0.3)) + np.float32(0.7)
        shade *= np.where(on_it, np.float32(1), dim)
    return shade


def lit_colours(scene: Furnished, surface: Surfaces, lamp_colour: Array) -> Array:  # [3, N]
    """Light from all sides, and of the lamp where no furniture stands before it."""
    towards = [np.float32(o) - c for o, c in zip(scene.lamp, surface.point, strict=True)]
    tx, ty, tz = towards
    square = tx * tx + ty * ty + tz * tz
    facing = dot((tx, ty, tz), surface.normal)
    strength = np.maximum(facing, 0) / np.sqrt(square) / (1 + square * np.float32(0.12))
    here = np.flatnonzero((facing > 0) & (tz > np.float32(0.05)))
    x, y, z = (
        c[here] + _LIFT_M * n[here] for c, n in zip(surface.point, surface.normal, strict=True)
    )
    dark = shadowed(scene.solids, scene.lamp, (x, y, z), (tx[here], ty[here], tz[here]))
    strength[here[dark]] *= _SHADOW
    nz = surface.normal[2]
    ambient = _AMBIENT + np.float32(0.05) * np.abs(nz) + np.float32(0.04) * surface.normal[0]
    light = ambient + _LAMP * strength * lamp_colour[:, None]
    return np.asarray(surface.colour * light, np.float32)
