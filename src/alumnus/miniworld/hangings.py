"""What hangs on walls, and what stands on tables."""

import numpy as np

from alumnus.miniworld.canvases import draw_canvas, draw_sky
from alumnus.miniworld.joinery import DARK, WHITE, Made, Top, ball, box, fitted, rod
from alumnus.miniworld.solids import Part
from alumnus.miniworld.textures import draw_fabric, draw_lacquer, draw_paint, draw_wood, plain

__all__ = ["draw_door", "draw_ornament", "draw_picture", "draw_window"]

Rng = np.random.Generator


def draw_picture(rng: Rng) -> Made:
    """A framed picture; z = 0 is its lower edge."""
    width, height = float(rng.uniform(0.35, 1.1)), float(rng.uniform(0.35, 0.85))
    frame = draw_wood(rng) if rng.random() < 0.5 else plain(DARK if rng.random() < 0.5 else WHITE)
    inner_w, inner_h = width - 0.08, height - 0.08
    canvas = draw_canvas(rng, inner_w, inner_h)._replace(shift=(0.0, -height / 2 / inner_h))
    parts = (
        box((-width / 2, width / 2), (0.0, 0.03), (0.0, height), frame),
        box((-inner_w / 2, inner_w / 2), (0.0, 0.036), (0.04, height - 0.04), canvas),
    )
    return Made(parts, width, 0.04, height)


def draw_window(rng: Rng) -> Made:
    """Panes of sky behind a frame, perhaps with curtains; z = 0 is its sill."""
    width, height = float(rng.uniform(0.9, 1.7)), float(rng.uniform(0.9, 1.3))
    half, white = width / 2, plain(WHITE)
    sky = draw_sky(rng, width, height)._replace(shift=(0.0, -0.5))
    parts = [
        box((-half, half), (0.0, 0.02), (0.0, height), sky),
        box((-half - 0.06, half + 0.06), (0.0, 0.16), (-0.06, 0.0), white),
    ]
    for x in (-half, 0.0, half):
        parts.append(box((x - 0.03, x + 0.03), (0.0, 0.05), (0.0, height), white))
    for z in (height / 2, height):
        parts.append(box((-half, half), (0.0, 0.05), (z - 0.03, z + 0.03), white))
    if rng.random() < 0.7:
        cloth = draw_fabric(rng)
        for side in (-1, 1):
            x = side * (half + 0.12)
            parts.append(box((x - 0.2, x + 0.2), (0.05, 0.12), (-0.7, height + 0.15), cloth))
    return Made(tuple(parts), width + 0.6, 0.16, height)


def draw_door(rng: Rng) -> Made:
    """A door of two panels in its frame."""
    leaf = fitted(draw_lacquer(rng, width=0.84, height=0.99), left=-0.42, bottom=0.0)
    frame = plain(WHITE) if rng.random() < 0.6 else draw_wood(rng)
    parts = (
        box((-0.5, 0.5), (0.0, 0.03), (0.0, 2.08), frame),
        box((-0.42, 0.42), (0.0, 0.04), (0.0, 1.98), leaf),
    )
    return Made(parts, 1.0, 0.5, 2.08)


def draw_ornament(rng: Rng, top: Top) -> tuple[Part, ...]:
    """A vase, books, a small lamp, a bowl of fruit or a box, somewhere on a top."""
    x, y, z = float(rng.uniform(*top.x)), float(rng.uniform(*top.y)), top.z
    kind, texture = int(rng.integers(5)), draw_fabric(rng)
    small = texture._replace(cell=(texture.cell[0] / 2, texture.cell[1] / 2))
    if kind == 0:  # vase with a flower
        r, h = float(rng.uniform(0.05, 0.09)), float(rng.uniform(0.15, 0.3))
        bloom = draw_fabric(rng)
        return (
            rod(r, (z, z + h), small, x=x, y=y),
            ball((x - 0.1, x + 0.1), (y - 0.1, y + 0.1), (z + h, z + h + 0.18), bloom),
        )
    if kind == 1:  # books, lying
        heights = np.cumsum(rng.uniform(0.03, 0.05, int(rng.integers(2, 5))))
        parts, below = [], z
        for n, h in enumerate(heights):
            w = 0.14 - 0.015 * n
            cover = draw_paint(rng)
            parts.append(box((x - w, x + w), (y - 0.1, y + 0.1), (below, z + float(h)), cover))
            below = z + float(h)
        return tuple(parts)
    if kind == 2:  # lamp
        return (
            rod(0.06, (z, z + 0.02), plain(DARK), x=x, y=y),
            rod(0.015, (z, z + 0.25), plain(DARK), x=x, y=y),
            rod(0.12, (z + 0.22, z + 0.42), small, x=x, y=y),
        )
    if kind == 3:  # a bowl of fruit
        fruit = [
            ball((a - 0.05, a + 0.05), (b - 0.05, b + 0.05), (z + 0.04, z + 0.14), ripe)
            for a, b, ripe in (
                (x + dx, y + dy, draw_paint(rng, value=(0.6, 0.95)))
                for dx, dy in ((-0.05, 0.0), (0.05, 0.02), (0.0, -0.06))
            )
        ]
        return (rod(0.13, (z, z + 0.06), small, x=x, y=y), *fruit)
    w, h = float(rng.uniform(0.08, 0.15)), float(rng.uniform(0.1, 0.25))
    return (box((x - w, x + w), (y - 0.1, y + 0.1), (z, z + h), texture),)
