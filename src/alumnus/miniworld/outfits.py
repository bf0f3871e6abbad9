"""What a person wears: clothes that end anywhere along arms, legs and trunk, hair and a skirt.

Clothes are colours by the skin coordinates of the body, a few millimetres thick; a skirt is a
tube of its own that follows the thighs.
"""

import colorsys
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alumnus.miniworld.body import BONES, FIELDS, WEIGHTS_PER_VERTEX, Body, load_body
from alumnus.miniworld.materials import Colour
from alumnus.miniworld.vectors import Array, cos_sin

__all__ = ["Outfit", "draw_outfit", "dress", "normals", "paint_outfit"]

Rng = np.random.Generator
Faces = NDArray[np.intp]  # [T, 3]

_ARM, _LEG, _TORSO, _UP, _BACK, _EYE = range(len(FIELDS))
_RINGS, _ROUND = 7, 24  # vertices of a skirt
_WAIST = 0.16  # along the trunk, where trousers and skirts begin
_SKINS: tuple[Colour, ...] = (
    (0.96, 0.80, 0.69), (0.90, 0.70, 0.56), (0.80, 0.60, 0.45),
    (0.66, 0.46, 0.33), (0.50, 0.33, 0.23), (0.35, 0.23, 0.17),
)  # fmt: skip
_HAIRS: tuple[Colour, ...] = (
    (0.06, 0.05, 0.05), (0.16, 0.10, 0.07), (0.30, 0.19, 0.11),
    (0.62, 0.45, 0.22), (0.50, 0.22, 0.10), (0.62, 0.61, 0.60),
)  # fmt: skip


class Outfit(NamedTuple):
    """Colours, and where the pieces end in skin coordinates."""

    skin: Colour
    hair: Colour
    top: Colour
    stripe: Colour  # equal to `top` for a plain one
    bottom: Colour
    shoes: Colour
    sleeve: float  # `arm` up to which the top reaches
    legs: float  # `leg` up to which trousers reach
    hem: float | None  # `leg` at which a skirt ends; None: trousers
    waist: float  # `torso` above which the top begins
    collar: float  # `torso` at which it ends
    hairline: float  # `head_up` above which hair grows at the side
    stripes: float  # per metre
    loose_m: float  # thickness of the clothes


def draw_outfit(rng: Rng) -> Outfit:
    """Random clothes."""
    skin = _vary(rng, _SKINS[int(rng.integers(len(_SKINS)))], 0.04)
    top = _cloth(rng, skin)
    striped = rng.random() < 0.35
    stripe = ((0.95, 0.94, 0.9) if sum(top) < 1.6 else (0.1, 0.1, 0.14)) if striped else top
    hem = float(rng.uniform(0.2, 0.55)) if rng.random() < 0.25 else None
    dress = hem is not None and rng.random() < 0.4
    kind = rng.random()
    sleeve = rng.uniform(0.86, 0.98) if kind < 0.45 else rng.uniform(0.18, 0.42)
    legs = rng.uniform(0.9, 1.0) if rng.random() < 0.65 else rng.uniform(0.24, 0.52)
    return Outfit(
        skin=skin,
        hair=_vary(rng, _HAIRS[int(rng.integers(len(_HAIRS)))], 0.03),
        top=top,
        stripe=stripe,
        bottom=top if dress else _cloth(rng, skin),
        shoes=_cloth(rng, skin) if rng.random() < 0.4 else _vary(rng, (0.13, 0.11, 0.10), 0.06),
        sleeve=float(-0.05 if kind > 0.88 else sleeve),
        legs=float(legs) if hem is None else hem - 0.04,  # what shows through has its colour
        hem=hem,
        waist=float(rng.uniform(0.0, 0.12)) if rng.random() < 0.6 else _WAIST,
        collar=float(rng.uniform(0.94, 1.02)),
        hairline=float(rng.uniform(-0.3, 0.15) if rng.random() < 0.4 else rng.uniform(0.3, 0.6)),
        stripes=float(rng.uniform(9, 16)),
        loose_m=float(rng.uniform(0.004, 0.018)),
    )


def dress(outfit: Outfit, body: Body, rest: Array) -> tuple[Body, Array]:
    """The body with thick clothes, hair and perhaps a skirt, and its points at rest."""
    fields, count = body.fields, body.vertices
    arm, leg, torso, up, back = fields.T[:5]
    hair = np.clip((_scalp(up, back, outfit) + np.float32(0.05)) * np.float32(6), 0, 1)
    covered = (torso < outfit.collar) & (arm < outfit.sleeve) & (up < 0)
    covered &= (leg < (outfit.legs if outfit.hem is None else 0)) | (leg > 1)
    thick = np.where(covered, np.float32(outfit.loose_m), 0) + np.float32(0.018) * hair
    scale = np.float32((rest[:, 2].max() - rest[:, 2].min()) / 1.7)
    points = rest.copy()
    points[:count] += (thick * scale)[:, None] * _rest_normals()
    if outfit.hem is None:
        return body, points
    skirt = _skirt()
    ring = _skirt_points(outfit.hem, body, rest, outfit.loose_m)
    dressed = body._replace(
        faces=np.concatenate([body.faces, skirt.faces + count]),
        weight_index=np.concatenate([body.weight_index, skirt.weight_index]),
        weight=np.concatenate([body.weight, skirt.weight(outfit.hem)]),
        fields=np.concatenate([fields, skirt.fields]),
    )
    return dressed, np.concatenate([points[:count], ring, points[count:]])


def paint_outfit(
    outfit: Outfit,
    fields: Array,  # [len(FIELDS), F]
    height: Array,  # [F] metres above the pelvis, at rest
) -> Array:  # [3, F]
    """Colours of fragments, before light."""
    arm, leg, torso, up, back, eye = fields
    wave = height * np.float32(outfit.stripes)
    striped = wave - np.floor(wave) < np.float32(0.4)
    below = (torso < outfit.waist) & (arm < 0)
    worn = (torso < outfit.collar) & (up < 0) & (arm < outfit.sleeve)
    layers = (  # later ones cover earlier ones
        (eye > 0.4, (0.12, 0.10, 0.10)),
        (_scalp(up, back, outfit) > 0, outfit.hair),
        (worn & ~below & (leg < 0), outfit.top),
        (worn & ~below & (leg < 0) & striped, outfit.stripe),
        (below & (leg < outfit.legs), outfit.bottom),
        ((leg >= 0) & (leg < outfit.legs), outfit.bottom),
        (leg > 1.0, outfit.shoes),
    )
    colour = np.empty((3, len(arm)), np.float32)
    colour[:] = np.array(outfit.skin, np.float32)[:, None]
    for where, painted in layers:
        colour[:, where] = np.array(painted, np.float32)[:, None]
    return colour


def normals(points: Array, faces: Faces) -> Array:
    """Unit normals of the vertices [V, 3]: those of the faces around them, by area."""
    a, b, c = (points[corner] for corner in faces.T)
    (ux, uy, uz), (vx, vy, vz) = (b - a).T, (c - a).T
    across = (uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx)
    around = faces.T.ravel()
    summed = np.stack(
        [np.bincount(around, np.tile(part, 3), minlength=len(points)) for part in across], axis=1
    )
    x, y, z = summed.T
    length = np.sqrt(x * x + y * y + z * z)
    return np.asarray(summed / np.maximum(length, 1e-12)[:, None], np.float32)


def _scalp(up: Array, back: Array, outfit: Outfit) -> Array:
    """Positive where hair grows: above the forehead, lower at the side, lowest at the back."""
    line = np.where(
        back < -0.35,
        np.float32(0.80),
        np.where(back > 0.25, np.float32(outfit.hairline - 0.25), np.float32(outfit.hairline)),
    )
    return np.where(up > -0.4, up - line, np.float32(-1))


def _cloth(rng: Rng, skin: Colour) -> Colour:
    """A colour that is not taken for skin."""
    while True:
        kind = rng.random()
        if kind < 0.25:  # black, grey, white
            grey = rng.uniform(0.08, 0.92)
            colour = _vary(rng, (grey, grey, grey), 0.03)
        elif kind < 0.45:  # denim
            hue, light = rng.uniform(0.57, 0.63), rng.uniform(0.25, 0.6)
            colour = colorsys.hsv_to_rgb(hue, rng.uniform(0.4, 0.7), light)
        else:
            strength = rng.uniform(0.35, 0.9)
            colour = colorsys.hsv_to_rgb(rng.random(), strength, rng.uniform(0.3, 0.9))
        if max(abs(a - b) for a, b in zip(colour, skin, strict=True)) > 0.25:
            return colour


def _vary(rng: Rng, colour: Colour, amount: float) -> Colour:
    red, green, blue = (float(np.clip(c + rng.uniform(-amount, amount), 0, 1)) for c in colour)
    return red, green, blue


@cache
def _rest_normals() -> Array:
    body = load_body()
    return normals(body.mean[: body.vertices], body.faces)


class _Skirt(NamedTuple):
    """A tube of rings around the hips, and once more its inside."""

    faces: Faces
    weight_index: NDArray[np.intp]
    fields: Array

    def weight(self, hem: float) -> Array:
        """[2 * rings * round, WEIGHTS_PER_VERTEX]: pelvis above, the nearer thigh below."""
        share, cosine, _ = _grid()
        down = np.clip((share * np.float32(hem) - np.float32(0.02)) * np.float32(5), 0, 0.92)
        left = np.clip(0.5 + 0.9 * cosine, 0, 1)
        weight = np.zeros((len(share), WEIGHTS_PER_VERTEX), np.float32)
        weight[:, 0], weight[:, 1], weight[:, 2] = 1 - down, down * left, down * (1 - left)
        return weight


@cache
def _grid() -> tuple[Array, Array, Array]:  # [2 * rings * round] each
    """How far down the skirt, 0 to 1; cosine and sine around it, from its left; both sides."""
    turns = np.array([cos_sin(place * 2 * np.pi / _ROUND) for place in range(_ROUND)], np.float32)
    share = np.repeat(np.linspace(0, 1, _RINGS, dtype=np.float32), _ROUND)
    cosine, sine = np.tile(turns, (2 * _RINGS, 1)).T
    return np.tile(share, 2), cosine, sine


@cache
def _skirt() -> _Skirt:
    names = [name for name, _, _ in BONES]
    ring, place = np.meshgrid(np.arange(_RINGS - 1), np.arange(_ROUND), indexing="ij")
    a, b = ring * _ROUND + place, ring * _ROUND + (place + 1) % _ROUND
    c, d = a + _ROUND, b + _ROUND
    outer = np.concatenate(
        [np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)]
    )
    count = 2 * _RINGS * _ROUND
    index = np.zeros((count, WEIGHTS_PER_VERTEX), np.intp)
    index[:, 1], index[:, 2] = names.index("thigh_left"), names.index("thigh_right")
    fields = np.zeros((count, len(FIELDS)), np.float32)
    fields[:, [_ARM, _LEG, _TORSO, _UP]] = (-0.1, 0.0, -0.3, -0.5)
    return _Skirt(np.concatenate([outer, outer[:, ::-1] + _RINGS * _ROUND]), index, fields)


def _skirt_points(hem: float, body: Body, rest: Array, loose_m: float) -> Array:
    """Ellipses around waist, hips and thighs, wider towards the hem."""
    vertices, (arm, leg, torso) = rest[: body.vertices], body.fields.T[:3]
    trunk = (torso > _WAIST - 0.06) & (torso < _WAIST + 0.06) & (arm < 0)
    thigh = (leg > max(hem - 0.06, 0.1)) & (leg < hem + 0.06)
    share, cosine, sine = _grid()
    rings = []
    for part in (trunk, thigh):
        low, high = vertices[part].min(axis=0), vertices[part].max(axis=0)
        rings.append(((low + high) / 2, (high - low) / 2 + np.float32(0.005 + loose_m)))
    (middle, radius), (middle_low, radius_low) = rings
    bell = np.sqrt(share) * np.float32(0.35) + share * np.float32(0.65)  # out over the hips first
    centre = middle + share[:, None] * (middle_low - middle)
    reach = radius + bell[:, None] * (radius_low * np.array([1.05, 1.15, 1], np.float32) - radius)
    x = centre[:, 0] + cosine * reach[:, 0]
    y = centre[:, 1] + sine * reach[:, 1]
    return np.stack([x, y, centre[:, 2]], axis=1).astype(np.float32)
