"""Patterns of furnished rooms, as functions of two coordinates on a surface.

Written without sines or powers: sums, products, floors and table look-ups give the same bits on
every machine.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alumnus.miniworld.materials import Colour
from alumnus.miniworld.vectors import Array, Vec

__all__ = [
    "CANVAS",
    "Texture",
    "blocks",
    "blotches",
    "checks",
    "diamonds",
    "dots",
    "even",
    "grain",
    "noise",
    "paint",
    "panels",
    "picture",
    "spines",
    "stripes",
    "tartan",
]

_LATTICE: Array = np.random.default_rng(0).random((64, 64), np.float32)  # one for all scenes
CANVAS = 24  # texels along each side of a picture


class Texture(NamedTuple):
    """A pattern and its colours."""

    pattern: Callable[[Array, Array, "Texture"], Vec]
    colours: tuple[Colour, ...]
    cell: tuple[float, float] = (1.0, 1.0)  # size of the repeat, metres
    shift: tuple[float, float] = (0.0, 0.0)  # in repeats
    canvas: Array | None = None  # [CANVAS, CANVAS, 3], of `picture`


def paint(texture: Texture, u: Array, v: Array) -> Vec:
    """Colour at surface coordinates in metres."""
    (width, height), (right, up) = texture.cell, texture.shift
    across = u * np.float32(1 / width) + np.float32(right)
    along = v * np.float32(1 / height) + np.float32(up)
    return texture.pattern(across, along, texture)


# ---- patterns: coordinates in repeats


def _whole(a: Array) -> tuple[Array, NDArray[np.int32]]:
    """Part within the repeat, in [0, 1), and the number of the repeat."""
    floor = np.floor(a)
    return a - floor, floor.astype(np.int32)


def _chance(i: NDArray[np.int32], j: NDArray[np.int32]) -> Array:
    """A random number in [0, 1) for each cell of a grid."""
    return np.asarray(_LATTICE[j & 63, i & 63])


def noise(u: Array, v: Array) -> Array:
    """Smooth random numbers in [0, 1): the lattice between its corners."""
    (x, i), (y, j) = _whole(u), _whole(v)
    x, y = x * x * (3 - 2 * x), y * y * (3 - 2 * y)
    top = _chance(i, j) * (1 - x) + _chance(i + 1, j) * x
    bottom = _chance(i, j + 1) * (1 - x) + _chance(i + 1, j + 1) * x
    return np.asarray(top * (1 - y) + bottom * y, np.float32)


def _ramp(a: Array, steepness: float) -> Array:
    """0 below, 1 above zero, a ramp between."""
    return np.asarray(np.clip(a * np.float32(steepness) + np.float32(0.5), 0, 1), np.float32)


def _blend(texture: Texture, weight: Array, tone: Array | float = 1.0) -> Vec:
    """The first two colours of a texture blended; `tone` is the brightness."""
    red, green, blue = (
        np.asarray((np.float32(a) + np.float32(b - a) * weight) * tone, np.float32)
        for a, b in zip(texture.colours[0], texture.colours[1], strict=True)
    )
    return red, green, blue


def even(u: Array, v: Array, texture: Texture) -> Vec:
    """One colour all over."""
    red, green, blue = (np.full(u.shape, c, np.float32) for c in texture.colours[0])
    return red, green, blue


def blotches(u: Array, v: Array, texture: Texture) -> Vec:
    """Plaster, marble, carpet: noise of two scales between two colours."""
    weight = np.float32(0.5) * noise(u, v) + np.float32(0.5) * noise(4 * u + 7, 4 * v)
    return _blend(texture, _ramp(weight - np.float32(0.5), 2.5))


def stripes(u: Array, v: Array, texture: Texture) -> Vec:
    """Upright, of slightly different tones."""
    x, i = _whole(u)
    weight = _ramp(np.abs(x - np.float32(0.5)) - np.float32(0.25), 16)
    return _blend(texture, weight, 1 - np.float32(0.1) * _chance(i, i * 0 + 5))


def checks(u: Array, v: Array, texture: Texture) -> Vec:
    """A chessboard of slightly different tones."""
    (x, i), (y, j) = _whole(u), _whole(v)
    weight = ((x > np.float32(0.5)) ^ (y > np.float32(0.5))).astype(np.float32)
    return _blend(texture, weight, 1 - np.float32(0.15) * _chance(i, j))


def tartan(u: Array, v: Array, texture: Texture) -> Vec:
    """Crossing bands with a dark line between."""
    (x, _), (y, _) = _whole(u), _whole(v)
    half, zero = np.float32(0.5), np.float32(0)
    bands = np.where(x < np.float32(0.35), half, zero) + np.where(y < np.float32(0.35), half, zero)
    lines = (np.abs(x - np.float32(0.7)) < 0.05) | (np.abs(y - np.float32(0.7)) < 0.05)
    weight = np.asarray(np.where(lines, np.float32(-0.3), bands), np.float32)
    return _blend(texture, weight)


def dots(u: Array, v: Array, texture: Texture) -> Vec:
    """Discs of different colours and places on a plain ground."""
    (x, i), (y, j) = _whole(u), _whole(v)
    size, hue = _chance(i, j), _chance(i + 17, j + 3)
    x = x - np.float32(0.38) - np.float32(0.24) * _chance(i + 9, j)
    y = y - np.float32(0.38) - np.float32(0.24) * _chance(i, j + 29)
    radius = np.float32(0.2) + np.float32(0.15) * size
    inside = _ramp(radius * radius - x * x - y * y, 25)
    spot = _palette(hue, texture.colours[1:])
    red, green, blue = (
        np.float32(a) * (1 - inside) + b * inside
        for a, b in zip(texture.colours[0], spot, strict=True)
    )
    return red, green, blue


def diamonds(u: Array, v: Array, texture: Texture) -> Vec:
    """Lozenges, each with a heart."""
    (x, i), (y, j) = _whole(u), _whole(v)
    away = np.abs(x - np.float32(0.5)) + np.abs(y - np.float32(0.5))
    weight = _ramp(away - np.float32(0.42), 16)
    heart = _ramp(np.float32(0.14) - away, 16)
    return _blend(texture, weight + heart * (1 - weight), 1 - np.float32(0.125) * _chance(i, j))


def blocks(u: Array, v: Array, texture: Texture) -> Vec:
    """Planks, bricks, tiles: shifted rows of cells, each of its own tone."""
    y, j = _whole(v)
    x, i = _whole(u + _chance(j * 0 + 11, j))
    (width, height), joint = texture.cell, np.float32(0.012)
    near_x = np.minimum(x, 1 - x) * np.float32(width)
    near_y = np.minimum(y, 1 - y) * np.float32(height)
    weight = (np.minimum(near_x, near_y) < joint / 2).astype(np.float32)
    grain = np.float32(0.12) * noise(u * 2, v * 9)
    return _blend(texture, weight, np.float32(0.74) + np.float32(0.3) * _chance(i, j) + grain)


def grain(u: Array, v: Array, texture: Texture) -> Vec:
    """Wood of one piece: stretched noise."""
    weight = noise(u, v) + np.float32(0.4) * noise(u * 5 + 3, v * 6)
    return _blend(texture, _ramp(weight - np.float32(0.7), 1.5))


def panels(u: Array, v: Array, texture: Texture) -> Vec:
    """Doors and drawers: a dark line around each cell, a knob within."""
    (x, _), (y, _) = _whole(u), _whole(v)
    (width, height) = texture.cell
    near_x = np.minimum(x, 1 - x) * np.float32(width)
    near_y = np.minimum(y, 1 - y) * np.float32(height)
    line = np.minimum(near_x, near_y) < np.float32(0.012)
    rim = np.abs(np.minimum(near_x, near_y) - np.float32(0.06)) < np.float32(0.008)
    across = (x - np.float32(0.5)) * np.float32(width)
    up = (y - np.float32(0.72)) * np.float32(height)
    knob = across * across + up * up < np.float32(0.03**2)
    weight = np.where(line | knob, np.float32(1), np.float32(0.35) * rim)
    return _blend(texture, weight)


def spines(u: Array, v: Array, texture: Texture) -> Vec:
    """Books: upright bands of different colours, with a label each."""
    x, i = _whole(u + np.float32(0.25) * noise(u * 2, v * 0))
    spine = _palette(_chance(i, i * 0 + 40), texture.colours)
    dark = np.float32(1) - np.float32(0.6) * (np.minimum(x, 1 - x) < np.float32(0.1))
    label = np.abs(v - np.float32(0.3) - np.float32(0.4) * _chance(i, i * 0 + 50)) < 0.08
    red, green, blue = (np.where(label, np.float32(0.85), c) * dark for c in spine)
    return red, green, blue


def picture(u: Array, v: Array, texture: Texture) -> Vec:
    """A canvas, between its texels; (0, 0) is its middle, one repeat its size."""
    assert texture.canvas is not None
    x = np.clip((u + np.float32(0.5)) * CANVAS - np.float32(0.5), 0, CANVAS - 1.001)
    y = np.clip((np.float32(0.5) - v) * CANVAS - np.float32(0.5), 0, CANVAS - 1.001)
    (x, i), (y, j) = _whole(x.astype(np.float32)), _whole(y.astype(np.float32))
    red, green, blue = (
        (plane[j, i] * (1 - x) + plane[j, i + 1] * x) * (1 - y)
        + (plane[j + 1, i] * (1 - x) + plane[j + 1, i + 1] * x) * y
        for plane in texture.canvas.transpose(2, 0, 1)
    )
    return red, green, blue


def _palette(chance: Array, colours: tuple[Colour, ...]) -> Vec:
    table = np.array(colours, np.float32)
    red, green, blue = table[(chance * np.float32(len(table) - 0.01)).astype(np.int32)].T
    return red, green, blue
