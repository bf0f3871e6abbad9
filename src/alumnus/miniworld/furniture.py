"""Furniture that stands on the floor, with drawn sizes and textures."""

import numpy as np

from alumnus.miniworld.canvases import draw_canvas
from alumnus.miniworld.joinery import DARK, WHITE, Furniture, Made, Top, ball, box, fitted, rod
from alumnus.miniworld.patterns import Texture
from alumnus.miniworld.solids import Part
from alumnus.miniworld.textures import (
    draw_fabric,
    draw_lacquer,
    draw_leaves,
    draw_paint,
    draw_spines,
    draw_wood,
    plain,
)

__all__ = ["CHAIR", "FURNITURE", "RUG"]

Rng = np.random.Generator


def _legs(width: float, depth: float, height: float, texture: Texture) -> list[Part]:
    thick = 0.05
    ends_x = (-width / 2, -width / 2 + thick), (width / 2 - thick, width / 2)
    ends_y = (0.0, thick), (depth - thick, depth)
    return [box(x, y, (0.0, height), texture) for x in ends_x for y in ends_y]


def _fronts(rng: Rng, width: float, low: float, high: float, *, tall: bool) -> Texture:
    """Doors side by side, or drawers above each other, that just fill a front."""
    doors = max(1, round(width / 0.5))
    drawers = 1 if tall else int(rng.integers(1, 4))
    texture = draw_lacquer(rng, width=width / doors, height=(high - low) / drawers)
    return fitted(texture, left=-width / 2, bottom=low)


def _table(rng: Rng) -> Made:
    width, depth = float(rng.uniform(0.9, 1.8)), float(rng.uniform(0.7, 1.0))
    height, wood = float(rng.uniform(0.68, 0.78)), draw_wood(rng)
    parts = [box((-width / 2, width / 2), (0.0, depth), (height - 0.05, height), wood)]
    if rng.random() < 0.3:
        middle = depth / 2
        parts.append(rod(0.06, (0.04, height - 0.05), wood, y=middle))
        parts.append(rod(0.3, (0.0, 0.04), wood, y=middle))
    else:
        parts += _legs(width - 0.06, depth, height - 0.05, wood)
    if rng.random() < 0.35:  # a runner
        cloth = draw_fabric(rng)
        parts.append(
            box(
                (-width / 5, width / 5),
                (-0.01, depth + 0.01),
                (height - 0.1, height + 0.005),
                cloth,
            )
        )
    top = Top((-width / 2 + 0.15, width / 2 - 0.15), (0.15, depth - 0.15), height)
    return Made(tuple(parts), width, depth, height, (top,))


def _coffee_table(rng: Rng) -> Made:
    width, depth = float(rng.uniform(0.6, 1.1)), float(rng.uniform(0.5, 0.7))
    height, wood = float(rng.uniform(0.35, 0.48)), draw_wood(rng)
    plate = (-width / 2, width / 2), (0.0, depth)
    parts = [box(*plate, (height - 0.05, height), wood)]
    parts += _legs(width, depth, height - 0.05, plain(DARK) if rng.random() < 0.5 else wood)
    parts.append(box(*plate, (0.12, 0.15), wood))
    return Made(
        tuple(parts), width, depth, height, (Top((-0.2, 0.2), (0.15, depth - 0.15), height),)
    )


def _desk(rng: Rng) -> Made:
    width, depth, height = float(rng.uniform(1.0, 1.5)), float(rng.uniform(0.55, 0.7)), 0.74
    wood = draw_wood(rng)
    drawers = draw_lacquer(rng, width=0.36, height=0.22)
    parts = [box((-width / 2, width / 2), (0.0, depth), (height - 0.04, height), wood)]
    parts.append(
        box((width / 2 - 0.4, width / 2 - 0.04), (0.03, depth - 0.03), (0.04, height - 0.04),
             fitted(drawers, left=width / 2 - 0.4, bottom=0.04))
    )  # fmt: skip
    parts.append(box((-width / 2, -width / 2 + 0.04), (0.0, depth), (0.0, height - 0.04), wood))
    screen_w = float(rng.uniform(0.45, 0.65))
    canvas = draw_canvas(rng, screen_w - 0.04, 0.32)._replace(shift=(0.0, -1.06 / 0.32))
    parts.append(box((-screen_w / 2, screen_w / 2), (0.12, 0.15), (0.88, 1.24), plain(DARK)))
    parts.append(
        box((-screen_w / 2 + 0.02, screen_w / 2 - 0.02), (0.14, 0.155), (0.9, 1.22), canvas)
    )
    parts.append(box((-0.04, 0.04), (0.1, 0.18), (height, 0.9), plain(DARK)))
    top = Top((-width / 2 + 0.1, -width / 2 + 0.3), (0.15, depth - 0.15), height)
    return Made(tuple(parts), width, depth, 1.25, (top,))


def _chair(rng: Rng) -> Made:
    width, seat, height = float(rng.uniform(0.4, 0.48)), 0.45, float(rng.uniform(0.8, 1.05))
    wood, cloth = draw_wood(rng), draw_fabric(rng)
    if rng.random() < 0.4:
        wood = plain(DARK)
    parts = _legs(width, 0.45, seat - 0.04, wood)
    parts.append(box((-width / 2, width / 2), (0.0, 0.45), (seat - 0.04, seat + 0.02), cloth))
    if rng.random() < 0.5:  # slats
        for z in np.linspace(seat + 0.15, height - 0.05, 3):
            parts.append(
                box((-width / 2, width / 2), (0.0, 0.03), (float(z) - 0.04, float(z) + 0.04), wood)
            )
        for side in (-width / 2, width / 2 - 0.04):
            parts.append(box((side, side + 0.04), (0.0, 0.04), (seat, height), wood))
    else:
        parts.append(box((-width / 2, width / 2), (0.0, 0.05), (seat, height), cloth))
    return Made(tuple(parts), width, 0.45, height)


def _stool(rng: Rng) -> Made:
    radius, height, cloth = (
        float(rng.uniform(0.18, 0.3)),
        float(rng.uniform(0.38, 0.5)),
        draw_fabric(rng),
    )
    if rng.random() < 0.5:  # a pouf
        parts = [rod(radius, (0.0, height), cloth, y=radius)]
    else:
        legs = _legs(1.4 * radius, 1.4 * radius, height - 0.06, draw_wood(rng))
        parts = [*legs, rod(radius, (height - 0.06, height), cloth, y=0.7 * radius)]
    return Made(tuple(parts), 2 * radius, 2 * radius, height)


def _sofa(rng: Rng) -> Made:
    width, depth = float(rng.choice([0.85, 1.5, 1.9])), float(rng.uniform(0.8, 0.95))
    cloth, seat, back = (
        draw_fabric(rng),
        float(rng.uniform(0.36, 0.44)),
        float(rng.uniform(0.75, 0.95)),
    )
    arm = float(rng.uniform(0.12, 0.22))
    parts = [
        box((-width / 2, width / 2), (0.0, depth), (0.08, seat - 0.1), cloth),
        box((-width / 2, width / 2), (0.0, 0.22), (0.08, back), cloth),
        box((-width / 2, -width / 2 + arm), (0.0, depth), (0.08, seat + 0.2), cloth),
        box((width / 2 - arm, width / 2), (0.0, depth), (0.08, seat + 0.2), cloth),
    ]
    inner = width - 2 * arm
    seats = max(1, round(inner / 0.7))
    for n in range(seats):
        left = -inner / 2 + n * inner / seats
        parts.append(
            box(
                (left + 0.01, left + inner / seats - 0.01),
                (0.2, depth + 0.02),
                (seat - 0.1, seat),
                cloth,
            )
        )
    for n in range(int(rng.integers(0, seats + 1))):
        left = -inner / 2 + n * inner / seats + float(rng.uniform(0.0, 0.15))
        cushion = draw_fabric(rng)
        parts.append(box((left, left + 0.4), (0.22, 0.36), (seat, seat + 0.36), cushion))
    parts += _legs(width - 0.1, depth, 0.08, plain(DARK))
    return Made(tuple(parts), width, depth, back)


def _bed(rng: Rng) -> Made:
    width, depth = float(rng.choice([0.9, 1.4, 1.6])), float(rng.uniform(1.9, 2.05))
    wood, cover, sheet = draw_wood(rng), draw_fabric(rng), plain(WHITE)
    level = float(rng.uniform(0.42, 0.55))
    half = width / 2
    parts = [
        box((-half, half), (0.0, depth), (0.1, level - 0.18), wood),
        box(
            (-half - 0.03, half + 0.03),
            (0.0, 0.06),
            (0.0, level + float(rng.uniform(0.3, 0.6))),
            wood,
        ),
        box((-half + 0.02, half - 0.02), (0.06, depth - 0.02), (level - 0.18, level), sheet),
        box((-half - 0.01, half + 0.01), (0.7, depth + 0.01), (level - 0.28, level + 0.04), cover),
    ]
    pillows = 1 if width < 1 else 2
    for n in range(pillows):
        middle = (n - (pillows - 1) / 2) * width / pillows
        pillow = draw_fabric(rng) if rng.random() < 0.5 else sheet
        parts.append(box((middle - 0.3, middle + 0.3), (0.1, 0.5), (level, level + 0.12), pillow))
    return Made(tuple(parts), width + 0.06, depth, level + 0.3)


def _cabinet(rng: Rng) -> Made:
    """A chest, a sideboard or a night table."""
    width, depth = float(rng.uniform(0.45, 1.7)), float(rng.uniform(0.38, 0.5))
    height = float(rng.uniform(0.5, 1.1))
    front = _fronts(rng, width, 0.06, height - 0.03, tall=False)
    wood = draw_wood(rng)
    half = width / 2
    parts = (
        box((-half + 0.03, half - 0.03), (0.02, depth - 0.04), (0.0, 0.06), plain(DARK)),
        box((-half, half), (0.0, depth - 0.01), (0.06, height - 0.03), front),
        box((-half - 0.01, half + 0.01), (0.0, depth + 0.01), (height - 0.03, height), wood),
    )
    top = Top((-half + 0.15, half - 0.15), (0.15, depth - 0.12), height)
    return Made(parts, width, depth, height, (top,))


def _wardrobe(rng: Rng) -> Made:
    width, depth = float(rng.uniform(0.8, 1.8)), float(rng.uniform(0.5, 0.62))
    height = float(rng.uniform(1.8, 2.25))
    front = _fronts(rng, width, 0.08, height - 0.05, tall=True)
    half = width / 2
    parts = (
        box((-half, half), (0.0, depth - 0.02), (0.08, height - 0.05), front),
        box((-half - 0.02, half + 0.02), (0.0, depth), (height - 0.05, height), draw_wood(rng)),
        box((-half, half), (0.0, depth - 0.04), (0.0, 0.08), plain(DARK)),
    )
    return Made(parts, width, depth, height)


def _shelf(rng: Rng) -> Made:
    """Boards between two sides, filled with books and boxes."""
    width, depth = float(rng.uniform(0.6, 1.3)), float(rng.uniform(0.26, 0.36))
    height, levels = float(rng.uniform(1.2, 2.1)), int(rng.integers(3, 6))
    wood, half = draw_wood(rng), width / 2
    parts = [
        box((-half, -half + 0.03), (0.0, depth), (0.0, height), wood),
        box((half - 0.03, half), (0.0, depth), (0.0, height), wood),
        box((-half, half), (0.0, 0.02), (0.0, height), wood),
    ]
    gap = (height - 0.08) / levels
    for n in range(levels + 1):
        z = 0.05 + n * gap
        parts.append(box((-half, half), (0.0, depth), (z, z + 0.03), wood))
    for n in range(levels):
        z, tall = 0.08 + n * gap, float(rng.uniform(0.6, 0.85)) * gap
        start = -half + 0.04 + float(rng.uniform(0.0, 0.2)) * width
        end = half - 0.04 - float(rng.uniform(0.0, 0.5)) * width
        books = draw_spines(rng, tall)._replace(shift=(float(rng.uniform(0, 64)), -z / tall))
        parts.append(box((start, end), (0.04, depth - 0.05), (z, z + tall), books))
    return Made(tuple(parts), width, depth, height)


def _floor_lamp(rng: Rng) -> Made:
    height, metal = float(rng.uniform(1.4, 1.8)), plain(DARK)
    shade = draw_fabric(rng)
    radius = float(rng.uniform(0.16, 0.24))
    parts = (
        rod(0.15, (0.0, 0.03), metal, y=radius),
        rod(0.02, (0.03, height - 0.3), metal, y=radius),
        rod(radius, (height - 0.32, height), shade, y=radius),
    )
    return Made(parts, 2 * radius, 2 * radius, height)


def _plant(rng: Rng) -> Made:
    pot_r, pot_h = float(rng.uniform(0.14, 0.22)), float(rng.uniform(0.25, 0.4))
    leaf = draw_leaves(rng)
    parts = [rod(pot_r, (0.0, pot_h), draw_fabric(rng), y=0.3)]
    for _ in range(int(rng.integers(4, 8))):
        x, y = rng.uniform(-0.2, 0.2), 0.3 + rng.uniform(-0.2, 0.2)
        z, r = pot_h + rng.uniform(0.1, 0.7), rng.uniform(0.1, 0.2)
        tall = r * rng.uniform(0.8, 1.8)
        parts.append(ball((x - r, x + r), (y - r, y + r), (z - tall, z + tall), leaf))
    parts.append(rod(0.02, (pot_h, pot_h + 0.6), plain((0.35, 0.25, 0.15)), y=0.3))
    return Made(tuple(parts), 0.5, 0.6, 1.2)


def _rug(rng: Rng) -> Made:
    width, depth = float(rng.uniform(1.4, 2.6)), float(rng.uniform(1.0, 1.8))
    inner, outer = draw_fabric(rng), draw_paint(rng)
    half, rim = width / 2, 0.12
    parts = (
        box((-half, half), (0.0, depth), (0.0, 0.012), outer),
        box((-half + rim, half - rim), (rim, depth - rim), (0.0, 0.016),
             inner._replace(cell=(2 * inner.cell[0], 2 * inner.cell[1]))),
    )  # fmt: skip
    return Made(parts, width, depth, 0.02)


RUG = Furniture("rug", _rug, at_wall=False)
CHAIR = Furniture("chair", _chair, at_wall=False, weight=4.0)
FURNITURE: tuple[Furniture, ...] = (
    Furniture("table", _table, at_wall=False, weight=2.0, seats=True),
    Furniture("table", _coffee_table, at_wall=False, weight=1.5),
    Furniture("table", _desk, at_wall=True, weight=1.0),
    CHAIR,
    Furniture("chair", _stool, at_wall=False, weight=1.5),
    Furniture("sofa", _sofa, at_wall=True, weight=2.0),
    Furniture("bed", _bed, at_wall=True, weight=1.0),
    Furniture("cabinet", _cabinet, at_wall=True, weight=2.5),
    Furniture("cabinet", _wardrobe, at_wall=True, weight=1.2),
    Furniture("shelf", _shelf, at_wall=True, weight=2.0),
    Furniture("lamp", _floor_lamp, at_wall=True, weight=1.0),
    Furniture("plant", _plant, at_wall=True, weight=1.2),
)
