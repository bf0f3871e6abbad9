"""Boxes, ellipsoids and upright cylinders, of which furniture is made.

A *piece* is a set of *parts* in one frame, turned about the vertical.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alumnus.miniworld.patterns import Texture
from alumnus.miniworld.vectors import Array, Point, Vec

__all__ = [
    "FORMS",
    "Part",
    "Piece",
    "Solids",
    "Turn",
    "collect",
    "corners",
    "to_piece",
    "to_room",
]

Form = Literal["box", "ball", "rod"]
FORMS: tuple[Form, ...] = ("box", "ball", "rod")  # rod: an upright cylinder


class Part(NamedTuple):
    """A solid that fills the box between two corners, in the frame of its piece."""

    low: Point
    high: Point
    texture: Texture
    form: Form = "box"


class Turn(NamedTuple):
    """A turn about the vertical."""

    cos: float
    sin: float


class Piece(NamedTuple):
    """A piece of furniture: its frame has x along its width, y out of its back, z up."""

    kind: str  # into KINDS of `joinery`
    parts: tuple[Part, ...]
    place: Point = (0.0, 0.0, 0.0)
    turn: Turn = Turn(1.0, 0.0)
    casts: bool = True  # a shadow


class Solids(NamedTuple):
    """The parts of a scene in columns, those of a piece next to each other."""

    low: Array  # [P, 3]
    high: Array  # [P, 3]
    form: NDArray[np.int8]  # [P], into FORMS
    piece: NDArray[np.intp]  # [P]
    starts: NDArray[np.intp]  # [Q + 1], first part of each piece
    place: Array  # [Q, 3]
    turn: Array  # [Q, 2], cosine and sine
    casts: NDArray[np.bool_]  # [Q]


def collect(pieces: list[Piece]) -> Solids:
    """Pieces as columns of numbers."""
    parts = [part for piece in pieces for part in piece.parts]
    counts = [len(piece.parts) for piece in pieces]
    return Solids(
        low=np.array([part.low for part in parts], np.float32),
        high=np.array([part.high for part in parts], np.float32),
        form=np.array([FORMS.index(part.form) for part in parts], np.int8),
        piece=np.repeat(np.arange(len(pieces)), counts),
        starts=np.concatenate([[0], np.cumsum(counts)]),
        place=np.array([piece.place for piece in pieces], np.float32),
        turn=np.array([piece.turn for piece in pieces], np.float32),
        casts=np.array([piece.casts for piece in pieces]),
    )


def to_piece(turn: Array, a: Vec) -> Vec:
    """World directions in the frame of a piece; `turn` is [..., 2] of `Solids.turn`."""
    cos, sin = turn[..., 0], turn[..., 1]
    return cos * a[0] + sin * a[1], cos * a[1] - sin * a[0], a[2]


def to_room(turn: Array, a: Vec) -> Vec:
    """Directions in the frame of a piece, in the world."""
    cos, sin = turn[..., 0], turn[..., 1]
    return cos * a[0] - sin * a[1], sin * a[0] + cos * a[1], a[2]


def corners(solids: Solids) -> Vec:
    """The eight corners of each part in the world, [P, 8] each."""
    ends = np.stack([solids.low, solids.high], axis=2)  # [P, 3, 2]
    i, j, k = (bit.ravel() for bit in np.meshgrid([0, 1], [0, 1], [0, 1]))
    local = (ends[:, 0, i], ends[:, 1, j], ends[:, 2, k])
    turned = to_room(solids.turn[solids.piece][:, None], local)
    place = solids.place[solids.piece]
    x, y, z = (c + place[:, axis, None] for axis, c in enumerate(turned))
    return x, y, z
