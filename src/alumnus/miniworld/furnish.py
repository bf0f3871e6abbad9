"""A furnished room: what stands where, what hangs on the walls, and the lamp."""

from typing import NamedTuple

import numpy as np

from alumnus.miniworld.furniture import FURNITURE, RUG
from alumnus.miniworld.hangings import draw_door, draw_ornament, draw_picture, draw_window
from alumnus.miniworld.patterns import Texture
from alumnus.miniworld.placement import Cover, Plan, hang, seat, stand_at_wall, stand_free
from alumnus.miniworld.room import Room
from alumnus.miniworld.solids import Part, Piece, Solids, collect
from alumnus.miniworld.textures import draw_floor, draw_wallpaper, plain
from alumnus.miniworld.vectors import Point

__all__ = ["Furnished", "draw_furnished", "stands_free"]

Rng = np.random.Generator

_FEWEST, _MOST = 9, 15  # pieces of furniture
_MOST_ORNAMENTS = 16
_FREE_M = 0.3  # between a camera and furniture


class Furnished(NamedTuple):
    """All that a picture of a room depends on, but for the camera."""

    room: Room
    floor: Texture
    ceiling: Texture
    walls: tuple[Texture, ...]  # south, east, north, west
    pieces: list[Piece]
    solids: Solids  # of the pieces
    covers: list[Cover]  # of the floor, where no camera may be
    lamp: Point


def draw_furnished(rng: Rng) -> Furnished:
    """A room of 3.2 to 5.2 metres with 9 to 15 pieces of furniture, pictures and ornaments."""
    (width, depth), height = rng.uniform(3.2, 5.2, 2), float(rng.uniform(2.4, 2.8))
    grey = (0.0, 0.0, 0.0)  # the shell is painted by textures
    low, high = (-width / 2, -depth / 2, 0.0), (width / 2, depth / 2, height)
    room = Room(low, high, grey, grey, "plain", 0.0)
    paper, accent = draw_wallpaper(rng), draw_wallpaper(rng)
    feature = int(rng.integers(8))  # the wall that differs, if it is one
    plan = Plan(room, [], [], [], [])
    if rng.random() < 0.7:
        stand_free(rng, plan, RUG.kind, RUG.draw(rng))
    if rng.random() < 0.8:
        hang(rng, plan, "window", draw_window(rng), 0.95)
    if rng.random() < 0.8:
        hang(rng, plan, "door", draw_door(rng), 0.0)
    _furnish(rng, plan, int(rng.integers(_FEWEST, _MOST + 1)))
    for _ in range(int(rng.integers(5, 11))):
        hang(rng, plan, "picture", draw_picture(rng), float(rng.uniform(1.1, 1.5)))
    tops = [held for held in plan.tops for _ in range(int(rng.integers(0, 3)))]
    for top, host in tops[:_MOST_ORNAMENTS]:
        plan.pieces.append(host._replace(kind="ornament", parts=draw_ornament(rng, top)))
    x, y = float(rng.uniform(-0.2, 0.2) * width), float(rng.uniform(-0.2, 0.2) * depth)
    lamp = (x, y, height - 0.3)
    plan.pieces.append(_ceiling_lamp(lamp, height))
    return Furnished(
        room=room,
        floor=draw_floor(rng),
        ceiling=plain((0.92, 0.91, 0.88)),
        walls=tuple(accent if wall == feature else paper for wall in range(4)),
        pieces=plan.pieces,
        solids=collect(plan.pieces),
        covers=plan.covers,
        lamp=lamp,
    )


def _furnish(rng: Rng, plan: Plan, wanted: int) -> None:
    """Draw and place furniture until there are `wanted` pieces, or hardly any room is left."""
    shares = np.cumsum([f.weight for f in FURNITURE]) / sum(f.weight for f in FURNITURE)
    before = len(plan.pieces)
    for _ in range(6 * wanted):
        left = wanted - (len(plan.pieces) - before)
        if left == 0:
            return
        chosen = FURNITURE[int(np.searchsorted(shares[:-1], rng.random(), side="right"))]
        made = chosen.draw(rng)
        if chosen.at_wall:
            stand_at_wall(rng, plan, chosen.kind, made)
            continue
        stand_free(rng, plan, chosen.kind, made)
        if chosen.seats and wanted - (len(plan.pieces) - before) < left:
            seat(rng, plan, plan.pieces[-1], made, most=left - 1)


def stands_free(scene: Furnished, eye: Point) -> bool:
    """Whether a camera has room around it, from walls and furniture."""
    low, high = scene.room.low, scene.room.high
    if any(not low[k] + _FREE_M < eye[k] < high[k] - _FREE_M for k in range(3)):
        return False
    return not any(
        cover.x[0] - _FREE_M < eye[0] < cover.x[1] + _FREE_M
        and cover.y[0] - _FREE_M < eye[1] < cover.y[1] + _FREE_M
        and eye[2] < cover.height + _FREE_M
        for cover in scene.covers
    )


def _ceiling_lamp(lamp: Point, height: float) -> Piece:
    bright, dark = plain((1.9, 1.8, 1.6)), plain((0.3, 0.3, 0.3))
    parts = (
        Part((-0.2, -0.2, lamp[2]), (0.2, 0.2, lamp[2] + 0.16), bright, "ball"),
        Part((-0.012, -0.012, lamp[2] + 0.16), (0.012, 0.012, height), dark, "rod"),
    )
    return Piece("lamp", parts, (lamp[0], lamp[1], 0.0), casts=False)
