"""The domain `objects`: one large object in a calm room, class = material x shape.

`render_object` is a pure function of (seed, index). The label is the largest object's; the others
are small, plain and dull. Camera: x right, y down, z forward; depth along z, in metres.
"""

import colorsys
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from alumnus.miniworld.materials import MATERIALS, Material, Paint, mix
from alumnus.miniworld.room import Room, draw_room, meet_room, paint_room
from alumnus.miniworld.shapes import SHAPES, Shape, normal_at, trace
from alumnus.miniworld.vectors import Array, Point, Rotation, Vec, dot, look_at, to_frame

__all__ = ["CLASSES", "GENERATOR_VERSION", "MASK_NAMES", "Scene", "class_of", "render_object"]

S = TypeVar("S", bound=np.generic)

GENERATOR_VERSION = 1  # part of the cache's name: raise it when any picture changes
CLASSES: tuple[str, ...] = tuple(f"{m.name} {s.name}" for s in SHAPES for m in MATERIALS)
MASK_NAMES: tuple[str, ...] = ("background", "target", "other")

_SAMPLES = 2  # per pixel and axis
_FOCAL = 1.7  # in half image heights: 61 degrees
_AMBIENT, _LAMP = 0.50, 0.58  # brightness
_LIFT_M = np.float32(0.02)  # shadow rays start this far from the surface


class Scene(NamedTuple):
    """A picture and what is known about it."""

    image: NDArray[np.uint8]  # [H, W, 3]
    cls: int  # into CLASSES
    mask: NDArray[np.uint8]  # [H, W], into MASK_NAMES
    depth: NDArray[np.float32]  # [H, W], metres along the optical axis
    shape: int  # into SHAPES
    material: int  # into MATERIALS


class _Thing(NamedTuple):
    """A solid placed in the room."""

    shape: Shape
    material: Material
    paint: Paint
    centre: Point
    scale: float  # metres per unit of the solid's frame
    pose: Rotation  # world to the solid's frame


class _World(NamedTuple):
    room: Room
    things: list[_Thing]  # the target first
    eye: Point
    camera: Rotation
    light: Point  # unit vector towards the lamp, which is far away


def class_of(seed: int, index: int) -> int:
    """The class of a scene; each block of len(CLASSES) scenes has every class once."""
    block, place = divmod(index, len(CLASSES))
    order = np.random.default_rng([seed, 1, block]).permutation(len(CLASSES))
    return int(order[place])


def render_object(seed: int, index: int, size_px: int = 64) -> Scene:
    """The scene `index` of the series `seed`, as a square picture of `size_px`.

    Mask: the thing that most of a pixel's samples show; depth: the mean over those samples.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, but are {seed} and {index}")
    if size_px < 8:
        raise ValueError(f"size_px is {size_px}, but must be at least 8")
    cls = class_of(seed, index)
    shape, material = divmod(cls, len(MATERIALS))
    world = _draw_world(np.random.default_rng([seed, 0, index]), SHAPES[shape], MATERIALS[material])
    colour, owner, depth = _shoot(world, size_px * _SAMPLES)
    image = np.clip(_pool(colour).mean(axis=-1) * 255 + 0.5, 0, 255).astype(np.uint8)
    mask, depth = _resolve(_pool(owner), _pool(depth))
    return Scene(image.transpose(1, 2, 0), cls, mask, depth, shape, material)


def _draw_world(rng: np.random.Generator, shape: Shape, material: Material) -> _World:
    scale = float(rng.uniform(0.35, 0.6))
    target = _draw_thing(rng, shape, material, (0.0, 0.0), scale)
    azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.75)
    share = rng.uniform(0.62, 0.98)  # of the half picture that the bounding ball reaches
    away = _FOCAL * scale * shape.radius / share + 0.3 * scale
    level = np.cos(elevation) * away
    eye = (
        float(np.cos(azimuth) * level),
        float(np.sin(azimuth) * level),
        float(target.centre[2] + np.sin(elevation) * away),
    )
    aim = [float(c + rng.uniform(-0.18, 0.18) * scale) for c in target.centre]
    lamp_azimuth, lamp_height = rng.uniform(0, 2 * np.pi), rng.uniform(0.75, 1.25)
    light = (
        float(np.cos(lamp_azimuth) * np.cos(lamp_height)),
        float(np.sin(lamp_azimuth) * np.cos(lamp_height)),
        float(np.sin(lamp_height)),
    )
    things = [target]
    for _ in range(int(rng.integers(0, 4))):
        things.append(_draw_distractor(rng, target, azimuth))
    return _World(draw_room(rng), things, eye, look_at(eye, (aim[0], aim[1], aim[2])), light)


def _draw_thing(
    rng: np.random.Generator,
    shape: Shape,
    material: Material,
    place: tuple[float, float],  # on the floor, metres
    scale: float,
) -> _Thing:
    up, height = shape.rests[int(rng.integers(len(shape.rests)))]
    yaw = rng.uniform(0, 2 * np.pi)
    c, s = float(np.cos(yaw)), float(np.sin(yaw))
    turned = ((c, s, 0.0), (-s, c, 0.0), (0.0, 0.0, 1.0))
    # lying: the frame's x points up, its z lies in the floor
    pose = Rotation(*turned) if up == "z" else Rotation(turned[2], turned[0], turned[1])
    return _Thing(shape, material, material.paint(rng), (*place, height * scale), scale, pose)


def _draw_distractor(rng: np.random.Generator, target: _Thing, azimuth: float) -> _Thing:
    """A small dull solid beside or behind the target, never before it."""
    shape = SHAPES[int(rng.integers(len(SHAPES)))]
    scale = float(rng.uniform(0.24, 0.38)) * target.scale
    around = azimuth + np.pi + rng.uniform(-1.9, 1.9)
    away = (target.shape.radius + rng.uniform(0.4, 1.1)) * target.scale
    place = (float(np.cos(around) * away), float(np.sin(around) * away))
    muted = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.0, 0.4), rng.uniform(0.3, 0.75))
    thing = _draw_thing(rng, shape, MATERIALS[0], place, scale)
    return thing._replace(paint=Paint(muted, muted, 1.0, (0.0, 0.0)))


def _shoot(world: _World, size: int) -> tuple[Array, NDArray[np.intp], Array]:
    """Colour [3, size, size], owner (0 room, 1 target, 2 others) and depth of each sample."""
    steps = ((np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0).astype(np.float32)
    u, v = (c.ravel() for c in np.meshgrid(steps, steps))
    ahead = np.asarray(1 / np.sqrt(u * u + v * v + np.float32(_FOCAL**2)), np.float32)
    rays = (u * ahead, v * ahead, np.float32(_FOCAL) * ahead)
    direction = world.camera.to_world(rays)

    nearest, axis = meet_room(world.room, world.eye, direction)
    owner = np.zeros(nearest.shape, np.intp)
    for number, thing in enumerate(world.things, start=1):
        t = _trace_thing(thing, _vec(world.eye), direction, nearest)
        owner[t < nearest] = number
        nearest = np.minimum(t, nearest)

    point = _along(world.eye, direction, nearest)
    normal, colour, gloss, mirror = _surfaces(world, point, direction, axis, owner)
    lit = _lit(world, point, normal)
    shaded = _shade(world, direction, normal, colour, gloss, mirror, lit)
    depth = np.asarray(nearest * rays[2], np.float32)
    kind = np.minimum(owner, 2)
    return shaded.reshape(3, size, size), kind.reshape(size, size), depth.reshape(size, size)


def _along(start: Point, direction: Vec, t: Array) -> Vec:
    """`start + t * direction`."""
    x, y, z = (np.float32(s) + t * d for s, d in zip(start, direction, strict=True))
    return x, y, z


def _trace_thing(
    thing: _Thing, origin: Vec, direction: Vec, longest: Array | None = None
) -> Array:  # [N] metres, inf where missed
    local = thing.pose.to_local(to_frame(origin, centre=thing.centre, scale=thing.scale))
    limit = None if longest is None else longest * np.float32(1 / thing.scale)
    hits = trace(thing.shape, local, thing.pose.to_local(direction), longest=limit)
    return hits * np.float32(thing.scale)


def _surfaces(
    world: _World, point: Vec, direction: Vec, axis: NDArray[np.intp], owner: NDArray[np.intp]
) -> tuple[Vec, Vec, Array, Array]:
    """Normal, unlit colour, gloss and mirror weight of every sample."""
    colour = paint_room(world.room, point, axis)
    zero = np.float32(0)
    nx, ny, nz = (np.where(axis == k, -np.sign(d), zero) for k, d in enumerate(direction))
    normal = (nx, ny, nz)
    gloss, mirror = np.zeros_like(nx), np.zeros_like(nx)
    for number, thing in enumerate(world.things, start=1):
        here = np.flatnonzero(owner == number)
        x, y, z = (c[here] for c in point)
        local = thing.pose.to_local(to_frame((x, y, z), centre=thing.centre, scale=thing.scale))
        local_normal = normal_at(thing.shape, local)
        weight = thing.material.pattern(local, local_normal, thing.paint)
        painted = mix(thing.paint.first, thing.paint.second, weight)
        for channel, values in zip(colour, painted, strict=True):
            channel[here] = values
        for component, values in zip(normal, thing.pose.to_world(local_normal), strict=True):
            component[here] = values
        gloss[here], mirror[here] = thing.material.gloss, thing.material.mirror
    return normal, colour, gloss, mirror


def _lit(world: _World, point: Vec, normal: Vec) -> Array:
    """1 where the lamp reaches a sample, 0 in a shadow."""
    lit = np.ones(normal[0].shape, np.float32)
    here = np.flatnonzero(dot(world.light, normal) > 0)
    x, y, z = (c[here] + _LIFT_M * n[here] for c, n in zip(point, normal, strict=True))
    lamp = _vec(world.light)
    for thing in world.things:
        lit[here[np.isfinite(_trace_thing(thing, (x, y, z), lamp))]] = 0
    return lit


def _vec(point: Point) -> Vec:
    x, y, z = (np.asarray(c, np.float32) for c in point)
    return x, y, z


def _shade(
    world: _World, direction: Vec, normal: Vec, colour: Vec, gloss: Array, mirror: Array, lit: Array
) -> Array:  # [3, N]
    """Ambient light, the lamp, its highlight, and the surroundings in a mirror."""
    lamp = np.maximum(dot(world.light, normal), 0) * lit
    light = np.float32(_AMBIENT) + np.float32(0.12) * normal[2] + np.float32(_LAMP) * lamp
    twice = 2 * dot(normal, direction)
    x, y, z = (d - twice * n for d, n in zip(direction, normal, strict=True))  # reflected ray
    glint = np.maximum(dot(world.light, (x, y, z)), 0) ** 2
    glint = glint * glint  # written out: powers differ between libraries
    highlight = gloss * lit * (glint * glint) * glint
    # a bright ceiling above a dark horizon
    surroundings = np.where(z > 0, np.float32(0.30) + z * np.float32(0.75),
                            np.float32(0.62) + z * np.float32(0.35))  # fmt: skip
    return np.stack([c * (light + mirror * (surroundings - light)) + highlight for c in colour])


def _pool(samples: NDArray[S]) -> NDArray[S]:
    """[..., size, size] to [..., H, W, samples]: the samples of each pixel."""
    *rest, size, _ = samples.shape
    cells = samples.reshape(*rest, size // _SAMPLES, _SAMPLES, size // _SAMPLES, _SAMPLES)
    return np.moveaxis(cells, -3, -2).reshape(*rest, size // _SAMPLES, size // _SAMPLES, -1)


def _resolve(
    owner: NDArray[np.intp], depth: Array
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Majority owner of each pixel (ties: the target, then others) and its mean depth."""
    votes = np.stack([(owner == kind).sum(axis=-1) for kind in (1, 2, 0)])  # [3, H, W]
    winner = np.array([1, 2, 0], np.uint8)[votes.argmax(axis=0)]
    chosen = owner == winner[..., None]
    mean = (depth * chosen).sum(axis=-1) / chosen.sum(axis=-1)
    return winner, mean.astype(np.float32)
