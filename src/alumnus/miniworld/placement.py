"""Where furniture stands and pictures hang: nothing within anything else."""

from typing import NamedTuple

import numpy as np

from alumnus.miniworld.furniture import CHAIR
from alumnus.miniworld.joinery import Made, Top
from alumnus.miniworld.room import Room
from alumnus.miniworld.solids import Piece, Turn
from alumnus.miniworld.vectors import Point

__all__ = ["Cover", "Plan", "hang", "seat", "stand_at_wall", "stand_free"]

Rng = np.random.Generator
Span = tuple[float, float]  # from, to; metres

_TRIES = 6
# by wall, from south against the clock: the turn that points a back at it
_WALLS = (Turn(1.0, 0.0), Turn(0.0, 1.0), Turn(-1.0, 0.0), Turn(0.0, -1.0))


class Cover(NamedTuple):
    """The upright box around a piece of furniture that stands on the floor."""

    x: Span
    y: Span
    height: float


class _Hung(NamedTuple):
    """What is taken of a wall."""

    wall: int
    along: Span
    z: Span


class Plan(NamedTuple):
    """A room while it is being furnished."""

    room: Room
    pieces: list[Piece]
    covers: list[Cover]
    hung: list[_Hung]
    tops: list[tuple[Top, Piece]]


def _cover(place: Point, turn: Turn, made: Made) -> Cover:
    """Where the corners of a turned footprint reach."""
    corners = [(x, y) for x in (-made.width / 2, made.width / 2) for y in (0.0, made.depth)]
    xs = [place[0] + turn.cos * x - turn.sin * y for x, y in corners]
    ys = [place[1] + turn.sin * x + turn.cos * y for x, y in corners]
    return Cover((min(xs), max(xs)), (min(ys), max(ys)), made.height)


def _apart(a: Span, b: Span, gap: float) -> bool:
    return a[1] + gap <= b[0] or b[1] + gap <= a[0]


def _fits(plan: Plan, cover: Cover, gap: float) -> bool:
    low, high = plan.room.low, plan.room.high
    inside = (
        low[0] <= cover.x[0] and cover.x[1] <= high[0]
        and low[1] <= cover.y[0] and cover.y[1] <= high[1]
    )  # fmt: skip
    return inside and all(
        _apart(cover.x, other.x, gap) or _apart(cover.y, other.y, gap) for other in plan.covers
    )


def _place(plan: Plan, kind: str, made: Made, place: Point, turn: Turn, cover: Cover) -> None:
    piece = Piece(kind, made.parts, place, turn, casts=kind != "rug")
    plan.pieces.append(piece)
    if kind != "rug":  # upon which others may stand
        plan.covers.append(cover)
    plan.tops.extend((top, piece) for top in made.tops)


def _spot(plan: Plan, wall: int, along: float) -> Point:
    """A point on the floor at a wall."""
    (west, south, _), (east, north, _) = plan.room.low, plan.room.high
    gap = 0.005  # so that a back does not flicker through its wall
    return ((along, south + gap, 0.0), (east - gap, along, 0.0),
            (along, north - gap, 0.0), (west + gap, along, 0.0))[wall]  # fmt: skip


def _along(rng: Rng, plan: Plan, wall: int, width: float) -> float | None:
    """A place along a wall for something of a width; None if it is too wide."""
    axis = wall % 2
    room = (plan.room.high[axis] - plan.room.low[axis] - width) / 2 - 0.03
    return None if room < 0 else float(rng.uniform(-room, room))


def stand_at_wall(rng: Rng, plan: Plan, kind: str, made: Made) -> None:
    """Put a piece with its back to a wall, unless there is no place for it."""
    for _ in range(_TRIES):
        wall = int(rng.integers(4))
        along = _along(rng, plan, wall, made.width)
        if along is None:
            continue
        place, turn = _spot(plan, wall, along), _WALLS[wall]
        cover = _cover(place, turn, made)
        taken = _Hung(wall, (along - made.width / 2, along + made.width / 2), (0.0, made.height))
        if _fits(plan, cover, 0.04) and _bare(plan, taken):
            _place(plan, kind, made, place, turn, cover)
            plan.hung.append(taken)
            return


def _bare(plan: Plan, wanted: _Hung) -> bool:
    """Whether nothing else takes that part of the wall."""
    return all(
        other.wall != wanted.wall
        or _apart(other.along, wanted.along, 0.04)
        or _apart(other.z, wanted.z, 0.03)
        for other in plan.hung
    )


def hang(rng: Rng, plan: Plan, kind: str, made: Made, low: float) -> None:
    """Hang something on a wall, `low` metres up, unless there is no place for it."""
    for _ in range(_TRIES):
        wall = int(rng.integers(4))
        along = _along(rng, plan, wall, made.width)
        if along is None or low + made.height > plan.room.high[2] - 0.1:
            continue
        taken = _Hung(
            wall, (along - made.width / 2, along + made.width / 2), (low, low + made.height)
        )
        if not _bare(plan, taken):
            continue
        x, y, _ = _spot(plan, wall, along)
        plan.pieces.append(Piece(kind, made.parts, (x, y, low), _WALLS[wall], casts=False))
        plan.hung.append(taken)
        if kind == "door":
            plan.covers.append(_cover((x, y, 0.0), _WALLS[wall], made))
        return


def stand_free(rng: Rng, plan: Plan, kind: str, made: Made) -> None:
    """Put a piece anywhere on the floor, unless there is no place for it."""
    (west, south, _), (east, north, _) = plan.room.low, plan.room.high
    for _ in range(_TRIES):
        turn = _drawn_turn(rng)
        place = (float(rng.uniform(west, east)), float(rng.uniform(south, north)), 0.0)
        cover = _cover(place, turn, made)
        if _fits(plan, cover, 0.12):
            _place(plan, kind, made, place, turn, cover)
            return


def _drawn_turn(rng: Rng) -> Turn:
    """A quarter turn, half the time with up to 40 degrees more; no sine, so the same everywhere."""
    quarter = _WALLS[int(rng.integers(4))]
    t = float(rng.uniform(-0.35, 0.35)) if rng.random() < 0.5 else 0.0  # tangent of half the angle
    return _turned(quarter, Turn((1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)))


def _turned(first: Turn, then: Turn) -> Turn:
    return Turn(
        first.cos * then.cos - first.sin * then.sin, first.sin * then.cos + first.cos * then.sin
    )


def seat(rng: Rng, plan: Plan, table: Piece, made: Made, *, most: int) -> None:
    """Up to four chairs of a kind along the two long sides of the table just placed."""
    before = len(plan.pieces)
    chair = CHAIR.draw(rng)
    own = plan.covers.pop()
    for side in (0, 1):
        for x in (-made.width / 4, made.width / 4) if made.width > 1.2 else (0.0,):
            if rng.random() < 0.3 or len(plan.pieces) - before >= most:
                continue
            out = float(rng.uniform(0.25, 0.5))
            y, turn = (
                (-out, table.turn)
                if side == 0
                else (made.depth + out, _turned(table.turn, Turn(-1.0, 0.0)))
            )
            place = (
                table.place[0] + table.turn.cos * x - table.turn.sin * y,
                table.place[1] + table.turn.sin * x + table.turn.cos * y,
                0.0,
            )
            cover = _cover(place, turn, chair)
            if _fits(plan, cover, 0.02):
                _place(plan, "chair", chair, place, turn, cover)
    plan.covers.append(own)
