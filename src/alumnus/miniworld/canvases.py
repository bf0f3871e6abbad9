"""What is painted on the pictures of furnished rooms, and what is seen through their windows."""

import colorsys

import numpy as np

from alumnus.miniworld.patterns import CANVAS, Texture, noise, picture
from alumnus.miniworld.textures import draw_colour
from alumnus.miniworld.vectors import Array

__all__ = ["draw_canvas", "draw_sky"]


def draw_canvas(rng: np.random.Generator, width: float, height: float) -> Texture:
    """A picture to hang on the wall: a landscape, rectangles, discs or clouds of colour."""
    palette = np.array([draw_colour(rng, (0.3, 1.0), (0.25, 1.0)) for _ in range(5)], np.float32)
    draw = (_landscape, _rectangles, _discs, _clouds)[int(rng.integers(4))]
    return Texture(picture, (), (width, height), canvas=draw(rng, palette))


def draw_sky(rng: np.random.Generator, width: float, height: float) -> Texture:
    """What is seen through a window: bright sky above hills."""
    sky = colorsys.hsv_to_rgb(float(rng.uniform(0.52, 0.62)), float(rng.uniform(0.1, 0.6)), 1.0)
    hues = [float(rng.uniform(0.18, 0.45)) for _ in range(3)]
    greens = [draw_colour(rng, (0.2, 0.7), (0.3, 0.8), hue) for hue in hues]
    canvas = _landscape(rng, np.array([sky, *greens], np.float32))
    return Texture(picture, (), (width, height), canvas=canvas * np.float32(1.5))


# ---- canvases, [CANVAS, CANVAS, 3], in the colours of a palette [k, 3]


def _easel() -> tuple[Array, Array]:
    """Coordinates of the texels in [0, 1), from the top left corner."""
    y, x = np.mgrid[:CANVAS, :CANVAS].astype(np.float32) / np.float32(CANVAS)
    return x, y


def _landscape(rng: np.random.Generator, palette: Array) -> Array:
    x, y = _easel()
    canvas = palette[0] * (1 - y[..., None] / 2) + np.float32(0.3) * y[..., None]
    sun = (x - rng.uniform(0.2, 0.8)) ** 2 + (y - rng.uniform(0.1, 0.4)) ** 2
    canvas[sun < rng.uniform(0.008, 0.03)] = (1.0, 0.9, 0.5)
    for ridge in range(1, 4):
        slope, peak = rng.uniform(0.3, 1.2), rng.uniform(0.1, 0.9)
        canvas[y > 0.3 + 0.15 * ridge + slope * np.abs(x - peak) * 0.5] = palette[ridge]
    return np.asarray(canvas, np.float32)


def _rectangles(rng: np.random.Generator, palette: Array) -> Array:
    canvas = np.full((CANVAS, CANVAS, 3), 0.92, np.float32)
    for colour in palette[rng.integers(0, 5, 9)]:
        (top, left), (tall, wide) = rng.integers(0, CANVAS - 4, 2), rng.integers(3, 12, 2)
        canvas[top : top + tall, left : left + wide] = colour
    return canvas


def _discs(rng: np.random.Generator, palette: Array) -> Array:
    x, y = _easel()
    canvas = np.tile(palette[0], (CANVAS, CANVAS, 1))
    for colour in palette[rng.integers(1, 5, 7)]:
        away = (x - rng.random()) ** 2 + (y - rng.random()) ** 2
        canvas[away < rng.uniform(0.005, 0.06)] = colour
    return canvas


def _clouds(rng: np.random.Generator, palette: Array) -> Array:
    x, y = _easel()
    right, up = rng.integers(0, 64, 2)
    field = noise(x * 5 + np.float32(right), y * 5 + np.float32(up))
    return np.asarray(palette[(field * np.float32(4.99)).astype(np.int32)])
