"""Drawn surfaces of furnished rooms: wallpaper, floors, wood, fronts, cloth."""

import colorsys

import numpy as np

from alumnus.miniworld.materials import Colour
from alumnus.miniworld.patterns import (
    Texture,
    blocks,
    blotches,
    checks,
    diamonds,
    dots,
    even,
    grain,
    panels,
    spines,
    stripes,
    tartan,
)

__all__ = [
    "draw_colour",
    "draw_fabric",
    "draw_floor",
    "draw_lacquer",
    "draw_leaves",
    "draw_paint",
    "draw_spines",
    "draw_wallpaper",
    "draw_wood",
    "plain",
]


def plain(colour: Colour) -> Texture:
    """One colour all over."""
    return Texture(even, (colour,))


def draw_colour(
    rng: np.random.Generator,
    saturation: tuple[float, float],
    value: tuple[float, float],
    hue: float | None = None,
) -> Colour:
    """A colour of drawn saturation and brightness, and of any hue if none is given."""
    hue = rng.random() if hue is None else hue
    return colorsys.hsv_to_rgb(hue, rng.uniform(*saturation), rng.uniform(*value))


def _shift(rng: np.random.Generator) -> tuple[float, float]:
    return float(rng.uniform(0, 64)), float(rng.uniform(0, 64))


def _scaled(colour: Colour, by: float) -> Colour:
    red, green, blue = (min(1.0, c * by) for c in colour)
    return red, green, blue


def draw_wallpaper(rng: np.random.Generator) -> Texture:
    """Plaster, stripes, dots, diamonds, bricks or tiles in quiet colours."""
    ground = draw_colour(rng, (0.03, 0.32), (0.65, 0.95))
    other = _scaled(ground, rng.uniform(0.6, 0.85))
    accent = draw_colour(rng, (0.2, 0.7), (0.4, 0.9))
    size = float(rng.uniform(0.16, 0.4))
    brick = draw_colour(rng, (0.3, 0.6), (0.5, 0.8), 0.05)
    choices = (
        Texture(blotches, (ground, _scaled(ground, 0.8)), (0.4, 0.4)),
        Texture(stripes, (ground, other), (size, size)),
        Texture(dots, (ground, other, accent, (0.95, 0.95, 0.92)), (size, size)),
        Texture(diamonds, (ground, other), (size, 1.6 * size)),
        Texture(blocks, (brick, (0.8, 0.78, 0.74)), (0.3, 0.12)),
        Texture(blocks, (ground, _scaled(ground, 0.55)), (size, size)),
    )
    return choices[int(rng.integers(len(choices)))]._replace(shift=_shift(rng))


def draw_floor(rng: np.random.Generator) -> Texture:
    """Planks, tiles, a chessboard or carpet."""
    wood = draw_colour(rng, (0.3, 0.65), (0.45, 0.9), float(rng.uniform(0.05, 0.1)))
    stone = draw_colour(rng, (0.02, 0.25), (0.5, 0.95))
    size = float(rng.uniform(0.25, 0.5))
    choices = (
        Texture(blocks, (wood, _scaled(wood, 0.4)), (float(rng.uniform(0.9, 1.6)), 0.16)),
        Texture(blocks, (wood, _scaled(wood, 0.4)), (0.5, 0.11)),
        Texture(blocks, (stone, _scaled(stone, 0.6)), (size, size)),
        Texture(checks, (stone, _scaled(stone, 0.5)), (2 * size, 2 * size)),
        Texture(blotches, (stone, _scaled(stone, 0.65)), (0.22, 0.22)),
    )
    return choices[int(rng.integers(len(choices)))]._replace(shift=_shift(rng))


def draw_wood(rng: np.random.Generator) -> Texture:
    """Grain from pale birch to dark walnut."""
    light = draw_colour(rng, (0.25, 0.65), (0.4, 0.95), float(rng.uniform(0.05, 0.11)))
    dark = _scaled(light, float(rng.uniform(0.6, 0.8)))
    return Texture(grain, (light, dark), (0.7, 0.09), _shift(rng))


def draw_lacquer(rng: np.random.Generator, *, width: float, height: float) -> Texture:
    """A painted or wooden front, divided into doors or drawers of a given size."""
    front = draw_colour(rng, (0.0, 0.6), (0.45, 0.98))
    if rng.random() < 0.5:
        front = draw_colour(rng, (0.3, 0.65), (0.4, 0.9), float(rng.uniform(0.05, 0.1)))
    return Texture(panels, (front, _scaled(front, 0.35)), (width, height))


def draw_fabric(rng: np.random.Generator) -> Texture:
    """Cloth: plain with a weave, striped, checked, tartan or dotted."""
    ground = draw_colour(rng, (0.2, 0.85), (0.35, 0.9))
    other = draw_colour(rng, (0.1, 0.8), (0.3, 0.95))
    size = float(rng.uniform(0.12, 0.3))
    pattern = (blotches, stripes, checks, tartan, dots, diamonds)[int(rng.integers(6))]
    colours = (ground, other, draw_colour(rng, (0.3, 0.9), (0.5, 0.95)))
    if pattern is blotches:
        colours = (ground, _scaled(ground, 0.7), ground)
    return Texture(pattern, colours, (size, size), _shift(rng))


def draw_spines(rng: np.random.Generator, height: float) -> Texture:
    """A row of books of a height."""
    colours = tuple(draw_colour(rng, (0.2, 0.9), (0.25, 0.9)) for _ in range(6))
    return Texture(spines, colours, (float(rng.uniform(0.04, 0.07)), height))


def draw_paint(rng: np.random.Generator, *, value: tuple[float, float] = (0.15, 0.95)) -> Texture:
    """One colour, any."""
    return plain(draw_colour(rng, (0.2, 0.9), value))


def draw_leaves(rng: np.random.Generator) -> Texture:
    """Greens."""
    green = draw_colour(rng, (0.5, 0.9), (0.35, 0.65), float(rng.uniform(0.25, 0.4)))
    return Texture(blotches, (green, _scaled(green, 0.4)), (0.09, 0.09), _shift(rng))
