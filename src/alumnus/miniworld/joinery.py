"""What furniture is made of: parts by their extent along the axes of the piece's frame.

x runs along the width, from -w/2 to w/2; y out of the back, from 0 to the depth; z up. Metres.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from alumnus.miniworld.materials import Colour
from alumnus.miniworld.patterns import Texture
from alumnus.miniworld.solids import Part

__all__ = ["DARK", "KINDS", "WHITE", "Furniture", "Made", "Top", "ball", "box", "fitted", "rod"]

KINDS: tuple[str, ...] = (
    "floor", "wall", "ceiling", "window", "door", "picture", "table", "chair", "sofa", "bed",
    "cabinet", "shelf", "lamp", "plant", "rug", "ornament",
)  # fmt: skip
DARK: Colour = (0.12, 0.11, 0.12)
WHITE: Colour = (0.93, 0.92, 0.89)

Span = tuple[float, float]  # from, to


class Top(NamedTuple):
    """A level surface on which ornaments may stand."""

    x: Span
    y: Span
    z: float


class Made(NamedTuple):
    """A piece before it is placed, and the room it takes."""

    parts: tuple[Part, ...]
    width: float
    depth: float
    height: float
    tops: tuple[Top, ...] = ()


class Furniture(NamedTuple):
    """A sort of furniture."""

    kind: str  # into KINDS
    draw: Callable[[np.random.Generator], Made]
    at_wall: bool = True  # stands with its back to a wall
    weight: float = 1.0  # how often
    seats: bool = False  # chairs stand around it


def box(x: Span, y: Span, z: Span, texture: Texture) -> Part:
    """A box."""
    return Part((x[0], y[0], z[0]), (x[1], y[1], z[1]), texture)


def ball(x: Span, y: Span, z: Span, texture: Texture) -> Part:
    """An ellipsoid."""
    return box(x, y, z, texture)._replace(form="ball")


def rod(radius: float, z: Span, texture: Texture, *, x: float = 0.0, y: float = 0.0) -> Part:
    """An upright cylinder around (x, y)."""
    return box((x - radius, x + radius), (y - radius, y + radius), z, texture)._replace(form="rod")


def fitted(texture: Texture, *, left: float, bottom: float) -> Texture:
    """A texture whose repeats begin at the left and bottom edge of a part."""
    return texture._replace(shift=(-left / texture.cell[0], -bottom / texture.cell[1]))
