"""Six materials: a pattern on the surface, its two colours, and how it takes the light."""

import colorsys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from alumnus.miniworld.vectors import Array, Vec

__all__ = ["MATERIALS", "Material", "Paint", "mix", "surface_coordinates"]

Colour = tuple[float, float, float]  # red, green, blue in [0, 1]


class Paint(NamedTuple):
    """One object's instance of a material."""

    first: Colour
    second: Colour
    cells: float  # pattern repeats per unit of the object's frame
    shift: tuple[float, float]  # of the pattern, in repeats


class Material(NamedTuple):
    """A named material; `pattern` gives 0 for the first colour and 1 for the second."""

    name: str
    pattern: Callable[[Vec, Vec, Paint], Array]  # point and normal in the object's frame
    paint: Callable[[np.random.Generator], Paint]
    gloss: float  # weight of the highlight
    mirror: float  # weight of the reflected surroundings


def mix(first: Colour, second: Colour, weight: Array) -> tuple[Array, Array, Array]:
    """Two colours blended, channel by channel."""
    red, green, blue = (
        np.float32(a) + np.float32(b - a) * weight for a, b in zip(first, second, strict=True)
    )
    return red, green, blue


def surface_coordinates(point: Vec, normal: Vec) -> tuple[Array, Array]:
    """Two coordinates on the surface: the plane that faces the normal most (a box map)."""
    (x, y, z), (nx, ny, nz) = point, (np.abs(n) for n in normal)
    facing_z = (nz >= nx) & (nz >= ny)
    facing_x = ~facing_z & (nx >= ny)
    return np.where(facing_x, y, x), np.where(facing_z, y, z)


def _soft_step(x: Array) -> Array:
    """0 below -0.5, 1 above 0.5, a ramp between."""
    return np.asarray(np.clip(x + np.float32(0.5), 0, 1), np.float32)


def _plain(point: Vec, normal: Vec, paint: Paint) -> Array:
    return np.zeros_like(point[0])


def _stripes(point: Vec, normal: Vec, paint: Paint) -> Array:
    u, v = surface_coordinates(point, normal)
    wave = np.sin(2 * np.pi * ((u + v) * np.float32(0.7071 * paint.cells) + paint.shift[0]))
    return _soft_step(4 * wave.astype(np.float32))


def _checks(point: Vec, normal: Vec, paint: Paint) -> Array:
    u, v = surface_coordinates(point, normal)
    a = np.sin(np.pi * (u * np.float32(paint.cells) + paint.shift[0]))
    b = np.sin(np.pi * (v * np.float32(paint.cells) + paint.shift[1]))
    return _soft_step((12 * a * b).astype(np.float32))


def _dots(point: Vec, normal: Vec, paint: Paint) -> Array:
    u, v = surface_coordinates(point, normal)
    a = u * np.float32(paint.cells) + np.float32(paint.shift[0])
    b = v * np.float32(paint.cells) + np.float32(paint.shift[1])
    a, b = a - np.floor(a) - np.float32(0.5), b - np.floor(b) - np.float32(0.5)
    return _soft_step(12 * (np.float32(0.3) - np.sqrt(a * a + b * b)))


def _wood(point: Vec, normal: Vec, paint: Paint) -> Array:
    x, y, z = point
    bent_x = x + np.float32(0.10) * np.sin(3 * z + np.float32(6 * paint.shift[0]))
    bent_y = y + np.float32(0.25) * z + np.float32(0.3 + paint.shift[1])
    rings = np.sqrt(bent_x * bent_x + bent_y * bent_y) * np.float32(paint.cells)
    return np.asarray(rings - np.floor(rings), np.float32)


def _vivid(rng: np.random.Generator) -> Colour:
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.7, 1.0), rng.uniform(0.65, 0.95))


def _jitter(rng: np.random.Generator, colour: Colour, amount: float) -> Colour:
    red, green, blue = (float(np.clip(c + rng.uniform(-amount, amount), 0, 1)) for c in colour)
    return red, green, blue


def _two_colours(cells: tuple[float, float]) -> Callable[[np.random.Generator], Paint]:
    """A vivid colour beside an almost white or almost black one."""

    def paint(rng: np.random.Generator) -> Paint:
        other = (0.93, 0.92, 0.88) if rng.random() < 0.7 else (0.08, 0.08, 0.10)
        return Paint(
            _vivid(rng),
            _jitter(rng, other, 0.05),
            float(rng.uniform(*cells)),
            (float(rng.random()), float(rng.random())),
        )

    return paint


def _plain_paint(rng: np.random.Generator) -> Paint:
    colour = _vivid(rng)
    return Paint(colour, colour, 1.0, (0.0, 0.0))


def _wood_paint(rng: np.random.Generator) -> Paint:
    light = _jitter(rng, (0.78, 0.55, 0.32), 0.06)
    dark = _jitter(rng, (0.42, 0.24, 0.11), 0.04)
    cells = float(rng.uniform(4.0, 6.0))
    return Paint(light, dark, cells, (float(rng.random()), float(rng.random())))


def _metal_paint(rng: np.random.Generator) -> Paint:
    grey = float(rng.uniform(0.5, 0.65))
    colour = _jitter(rng, (grey, grey, grey), 0.04)
    return Paint(colour, colour, 1.0, (0.0, 0.0))


MATERIALS: tuple[Material, ...] = (
    Material("plain", _plain, _plain_paint, gloss=0.10, mirror=0.0),
    Material("striped", _stripes, _two_colours((1.9, 2.5)), gloss=0.10, mirror=0.0),
    Material("checked", _checks, _two_colours((3.0, 4.2)), gloss=0.10, mirror=0.0),
    Material("dotted", _dots, _two_colours((2.2, 2.9)), gloss=0.10, mirror=0.0),
    Material("wooden", _wood, _wood_paint, gloss=0.05, mirror=0.0),
    Material("metal", _plain, _metal_paint, gloss=0.80, mirror=0.75),
)
