"""Boxes on the floor: what a person sits on, and what stands about."""

import colorsys
from functools import cache
from typing import NamedTuple

import numpy as np

from alumnus.miniworld.body import FIELDS, Body
from alumnus.miniworld.materials import Colour
from alumnus.miniworld.vectors import Array, cos_sin

__all__ = ["Box", "box_corners", "draw_clutter", "draw_seat"]

Rng = np.random.Generator
_ARM, _LEG, _TORSO = (FIELDS.index(name) for name in ("arm", "leg", "torso"))


class Box(NamedTuple):
    """An upright box, turned about the vertical; metres."""

    centre: tuple[float, float]
    half: tuple[float, float]  # half its sides along its own x and y
    low: float
    high: float
    yaw: float  # radians
    colour: Colour


def draw_seat(rng: Rng, body: Body, points: Array, yaw: float) -> list[Box]:
    """A box below the seat of a posed body that faces -y turned by `yaw`, half of them with a back.

    It ends before the calves.
    """
    arm, leg, torso = (body.fields[:, field] for field in (_ARM, _LEG, _TORSO))
    points = points[: body.vertices]
    cosine, sine = cos_sin(yaw)
    ahead = (sine, -cosine)
    forwards = points[:, 0] * np.float32(ahead[0]) + points[:, 1] * np.float32(ahead[1])
    under = (torso < 0.15) & (leg < 0.2) & (arm < 0)
    calves = (leg > 0.6) & (leg < 0.9)
    x, y = (float(c) for c in points[under, :2].mean(axis=0))
    middle = x * ahead[0] + y * ahead[1]
    front = min(float(forwards[calves].min()) - 0.02, middle + rng.uniform(0.12, 0.25))
    rear = float(forwards[under].min()) - rng.uniform(0.0, 0.08)
    back = (torso > 0.1) & (torso < 0.8) & (arm < 0)
    if leans := rng.random() < 0.5:
        rear = min(rear, float(forwards[back].min()) - 0.01)
    top = float(points[under, 2].min()) + 0.015  # flesh gives way
    colour, wide = _dull(rng), float(rng.uniform(0.16, 0.24))

    def box(start: float, end: float, high: float) -> Box:
        shift = (start + end) / 2 - middle
        centre = (x + shift * ahead[0], y + shift * ahead[1])
        return Box(centre, (wide, (end - start) / 2), 0, high, yaw, colour)

    seat = box(rear, max(front, rear + 0.15), top)
    high = top + float(rng.uniform(0.25, 0.5))
    return [seat, box(rear - 0.05, rear, high)] if leans else [seat]


def draw_clutter(rng: Rng, points: Array, facing: tuple[float, float]) -> list[Box]:
    """Up to two boxes beside or behind a body that is seen from the direction `facing`."""
    radius = float(np.sqrt((points[:, 0] ** 2 + points[:, 1] ** 2).max()))
    boxes = []
    for _ in range(int(rng.integers(0, 3))):
        (c, s), away = cos_sin(rng.uniform(-1.5, 1.5)), radius + rng.uniform(0.35, 0.9)
        x, y = -facing[0] * away, -facing[1] * away
        centre = (c * x - s * y, s * x + c * y)
        half = (float(rng.uniform(0.12, 0.32)), float(rng.uniform(0.12, 0.32)))
        yaw, high = float(rng.uniform(0, np.pi)), float(rng.uniform(0.2, 0.9))
        boxes.append(Box(centre, half, 0, high, yaw, _dull(rng)))
    return boxes


def box_corners(boxes: list[Box]) -> tuple[Array, Array]:  # [24 B, 3] each
    """Corners of the six sides of each box, four to a side, and their normals.

    Those of a side follow each other against the clock, seen from outside.
    """
    unit, across = _unit_box()
    corners, around = [np.zeros((0, 3), np.float32)], [np.zeros((0, 3), np.float32)]
    for box in boxes:
        c, s = (np.float32(part) for part in cos_sin(box.yaw))
        x, y = unit[:, 0] * np.float32(box.half[0]), unit[:, 1] * np.float32(box.half[1])
        z = np.where(unit[:, 2] > 0, np.float32(box.high), np.float32(box.low))
        x, y = c * x - s * y + np.float32(box.centre[0]), s * x + c * y + np.float32(box.centre[1])
        corners.append(np.stack([x, y, z], axis=1))
        nx, ny, nz = across.T
        around.append(np.stack([c * nx - s * ny, s * nx + c * ny, nz], axis=1))
    return np.concatenate(corners), np.concatenate(around)


@cache
def _unit_box() -> tuple[Array, Array]:
    """Corners [24, 3] of the box from -1 to 1, and normals."""
    corners, around = [], []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        for sign in (1, -1):
            for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
                corner, normal = [0, 0, 0], [0, 0, 0]
                corner[axis], corner[u], corner[v] = sign, a * sign, b
                normal[axis] = sign
                corners.append(corner)
                around.append(normal)
    return np.array(corners, np.float32), np.array(around, np.float32)


def _dull(rng: Rng) -> Colour:
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.05, 0.55), rng.uniform(0.25, 0.75))
