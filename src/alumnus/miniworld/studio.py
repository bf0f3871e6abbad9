"""A dressed body and boxes in a room, under one lamp: picture, mask and depth.

The mesh is rasterised before an analytic room; a second rasterisation, from the lamp, tells what
lies in shadow.
"""

from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alumnus.miniworld.body import FIELDS, Body
from alumnus.miniworld.boxes import Box, box_corners
from alumnus.miniworld.outfits import Outfit, normals, paint_outfit
from alumnus.miniworld.pairs import Camera
from alumnus.miniworld.raster import interpolate, rasterise
from alumnus.miniworld.room import Room, meet_room, paint_room
from alumnus.miniworld.vectors import Array, Point, Vec, dot, look_at
from alumnus.miniworld.viewpoints import ray_directions

__all__ = ["Mesh", "columns", "make_mesh", "shoot"]

_SAMPLES = 2  # per pixel and axis
_AMBIENT, _LAMP = 0.50, 0.58  # brightness
_NEAR_M = np.float32(0.05)  # triangles that come nearer are not drawn
_SHADOW_TEXELS = 128
_LIFT_M = np.float32(0.02)  # shadows on the mesh are looked up this far from its surface,
_BIAS_M = np.float32(0.015)  # and fall from what is nearer to the lamp by this;
_SHELL_BIAS_M = np.float32(0.002)  # the room casts none, so on it less will do
_SIDES = np.array([0, 1, 2, 0, 2, 3])  # the two triangles of four corners


class Mesh(NamedTuple):
    """All that is rasterised, the person's triangles first."""

    points: Array  # [V, 3] world
    normals: Array  # [V, 3]
    fields: Array  # [V, len(FIELDS)] of the person; zeros for boxes
    height: Array  # [V, 1] of the person at rest, metres above the pelvis
    colours: Array  # [V, 3] of boxes; zeros for the person
    faces: NDArray[np.intp]  # [T, 3]
    person: int  # how many of the triangles are the person's


def make_mesh(dressed: Body, points: Array, height: Array, boxes: list[Box]) -> Mesh:
    """The person's vertices [V, 3] as posed, their height [V] at rest, and boxes."""
    corners, around = box_corners(boxes)
    count, start = len(corners), len(points)
    sides = (np.arange(count // 4)[:, None] * 4 + _SIDES).reshape(-1, 3)
    colours = np.array([box.colour for box in boxes], np.float32).reshape(-1, 3)

    def padded(values: Array) -> Array:
        return np.concatenate([values, np.zeros((count, values.shape[1]), np.float32)])

    return Mesh(
        points=np.concatenate([points, corners]),
        normals=np.concatenate([normals(points, dressed.faces), around]),
        fields=padded(dressed.fields),
        height=padded(height[:, None]),
        colours=np.concatenate([np.zeros_like(points), np.repeat(colours, 24, axis=0)]),
        faces=np.concatenate([dressed.faces, sides + start]),
        person=len(dressed.faces),
    )


def shoot(
    mesh: Mesh, outfit: Outfit, room: Room, camera: Camera, light: Point, size_px: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Array]:
    """Picture [H, W, 3], mask (0 room, 1 person, 2 boxes) and depth [H, W].

    `light` is the unit vector towards the lamp. Mask: what most of a
    pixel's samples show; depth: the mean over those samples.
    """
    size = size_px * _SAMPLES
    dx, dy, dz = (c.ravel() for c in ray_directions(camera, size))
    direction = (dx, dy, dz)
    depth, axis = meet_room(room, camera.eye, direction)  # the rays have z = 1 in the camera
    shown = rasterise(*_project(mesh.points, camera, size), mesh.faces, width=size, height=size)
    shown = shown.where(1 / shown.inverse_depth < depth[shown.sample])
    depth[shown.sample] = 1 / shown.inverse_depth
    owner = np.zeros(size * size, np.intp)
    owner[shown.sample] = np.where(shown.triangle < mesh.person, 1, 2)

    x, y, z = (np.float32(e) + depth * d for e, d in zip(camera.eye, direction, strict=True))
    colour = np.stack(paint_room(room, (x, y, z), axis))
    normal = np.stack([np.where(axis == k, -np.sign(d), 0) for k, d in enumerate(direction)])
    values = np.concatenate([mesh.normals, mesh.fields, mesh.height, mesh.colours], axis=1)
    values = interpolate(shown, mesh.faces, values)
    normal[:, shown.sample] = _unit(values[:3])
    clothed = paint_outfit(outfit, values[3 : 3 + len(FIELDS)], values[3 + len(FIELDS)])
    colour[:, shown.sample] = np.where(owner[shown.sample] == 1, clothed, values[-3:])

    across = (normal[0], normal[1], normal[2])
    lift = np.where(owner > 0, _LIFT_M, np.float32(0))
    start = (x + lift * across[0], y + lift * across[1], z + lift * across[2])
    lit = _lit(mesh, light, start, np.where(owner > 0, _BIAS_M, _SHELL_BIAS_M))
    lamp = np.maximum(dot(light, across), 0) * lit
    shade = np.float32(_AMBIENT) + np.float32(0.12) * normal[2] + np.float32(_LAMP) * lamp
    return _resolve(colour * shade, owner, depth, size_px)


def columns(points: Array) -> Vec:  # [N, 3]
    """The coordinates apart."""
    x, y, z = points.T
    return x, y, z


def _project(points: Array, camera: Camera, size: int) -> tuple[Array, Array, Array]:
    """Column, row (in samples) and inverse depth, -1 for what is too near or behind."""
    x, y, z = camera.turn.to_local(columns(points - np.array(camera.eye, np.float32)))
    inverse = np.where(z > _NEAR_M, 1 / np.maximum(z, _NEAR_M), np.float32(-1))
    scale, half = inverse * np.float32(camera.focal), np.float32(size / 2)
    return (x * scale + 1) * half, (y * scale + 1) * half, inverse


def _unit(normal: Array) -> Array:  # [3, N]
    x, y, z = normal
    length = np.sqrt(x * x + y * y + z * z)
    return np.asarray(normal / np.maximum(length, np.float32(1e-6)), np.float32)


def _lit(mesh: Mesh, light: Point, point: Vec, bias: Array) -> Array:
    """1 where the lamp reaches a point, 0 in a shadow: compared with what the lamp sees."""
    frame = look_at(light, (0.0, 0.0, 0.0))
    x, y, z = frame.to_local(columns(mesh.points))
    left, top, far = x.min(), y.min(), z.max() + np.float32(1)
    texels = np.float32(_SHADOW_TEXELS) / np.maximum(x.max() - left, y.max() - top)  # per metre
    seen = rasterise(
        (x - left) * texels,
        (y - top) * texels,
        far - z,  # falls with depth, as an inverse depth does, and linearly: parallel rays
        mesh.faces,
        width=_SHADOW_TEXELS,
        height=_SHADOW_TEXELS,
    )
    nearness = np.zeros(_SHADOW_TEXELS * _SHADOW_TEXELS, np.float32)
    nearness[seen.sample] = seen.inverse_depth
    px, py, pz = frame.to_local(point)
    column = np.floor((px - left) * texels).astype(np.intp)
    row = np.floor((py - top) * texels).astype(np.intp)
    inside = (column >= 0) & (column < _SHADOW_TEXELS) & (row >= 0) & (row < _SHADOW_TEXELS)
    texel = np.where(inside, row * _SHADOW_TEXELS + column, 0)
    dark = inside & (nearness[texel] > np.maximum(far - pz, 0) + bias)
    return np.asarray(~dark, np.float32)


def _resolve(
    colour: Array, owner: NDArray[np.intp], depth: Array, size_px: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Array]:
    """Samples to pixels; ties of the mask: the person, then boxes. Sums in one order everywhere."""
    size = size_px * _SAMPLES

    def of_pixels(values: NDArray[Any]) -> list[NDArray[Any]]:  # [..., size * size]
        grid = values.reshape(*values.shape[:-1], size, size)
        starts = product(range(_SAMPLES), repeat=2)
        return [grid[..., i::_SAMPLES, j::_SAMPLES] for i, j in starts]  # [..., H, W] each

    mean = _sum(of_pixels(colour)) * np.float32(1 / _SAMPLES**2)
    image = np.clip(mean * 255 + 0.5, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    owners = of_pixels(owner)
    votes = np.stack(
        [_sum([(sample == kind).astype(np.intp) for sample in owners]) for kind in (1, 2, 0)]
    )
    winner = np.array([1, 2, 0], np.uint8)[votes.argmax(axis=0)]
    chosen = [(sample == winner).astype(np.float32) for sample in owners]
    total = _sum([d * here for d, here in zip(of_pixels(depth), chosen, strict=True)])
    return image, winner, np.asarray(total / _sum(chosen), np.float32)


def _sum(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """One after the other."""
    return np.asarray(sum(parts[1:], parts[0]))
