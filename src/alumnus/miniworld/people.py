"""The domain `people`: one person in a room, standing on the floor or sitting, all joints known.

`render_person` is a pure function of (seed, index, size). The body is `load_body()`'s. Camera: x
right, y down, z forward, in metres; pixels from the picture's corner, the first pixel's centre at
(0.5, 0.5).
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alumnus.miniworld.body import Body, load_body, product, skin
from alumnus.miniworld.boxes import draw_clutter, draw_seat
from alumnus.miniworld.outfits import draw_outfit, dress
from alumnus.miniworld.pairs import Camera, intrinsics, pose
from alumnus.miniworld.postures import draw_posture
from alumnus.miniworld.room import Room, draw_room
from alumnus.miniworld.studio import columns, make_mesh, shoot
from alumnus.miniworld.vectors import Array, Point, cos_sin, look_at

__all__ = [
    "PEOPLE_VERSION",
    "PERSON_MASK_NAMES",
    "Person",
    "body_points",
    "project",
    "render_person",
]

Rng = np.random.Generator

PEOPLE_VERSION = 1  # part of the cache's name: raise it when any picture changes
PERSON_MASK_NAMES: tuple[str, ...] = ("background", "person", "other")

_STREAM = 3  # of random numbers; other domains have others


class Person(NamedTuple):
    """A picture and what is known about it."""

    image: NDArray[np.uint8]  # [H, W, 3]
    mask: NDArray[np.uint8]  # [H, W], into PERSON_MASK_NAMES
    depth: Array  # [H, W] metres along the optical axis
    K: Array  # [3, 3] pixels
    pose: Array  # [4, 4] camera to world: z up, floor at 0
    joints: Array  # [len(JOINTS), 3] metres in the camera's frame
    pixels: Array  # [len(JOINTS), 2] x and y
    visible: NDArray[np.bool_]  # [len(JOINTS)] in the picture and not behind anything
    shape: Array  # [16] standard deviations
    rotations: Array  # [bones, 3, 3] relative to the parent; the pelvis's to the camera
    translation: Array  # [3] of the pelvis, metres in the camera's frame


def render_person(seed: int, index: int, size_px: int = 64) -> Person:
    """The person `index` of the series `seed`, in a square picture of `size_px`."""
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, but are {seed} and {index}")
    if size_px < 8:
        raise ValueError(f"size_px is {size_px}, but must be at least 8")
    rng = np.random.default_rng([seed, _STREAM, index])
    body = load_body()
    shape = _draw_shape(rng, body)
    rest = body.rest(shape)
    posture = draw_posture(rng, rest[body.vertices :])
    yaw = float(rng.uniform(0, 2 * np.pi))
    rotations = posture.rotations.copy()
    rotations[0] = product(_about_z(yaw), rotations[0])
    outfit = draw_outfit(rng)
    dressed, worn = dress(outfit, body, rest)
    pelvis = np.zeros(3, np.float32)
    points = skin(dressed, worn, rotations, pelvis).points[: dressed.vertices]
    pelvis[2] = -points[:, 2].min()  # the lowest vertex touches the floor
    points = points + pelvis

    camera = _draw_camera(rng, points)
    boxes = draw_seat(rng, body, points, yaw) if posture.sitting else []
    boxes += draw_clutter(rng, points, (camera.turn.x[1], -camera.turn.x[0]))
    mesh = make_mesh(dressed, points, worn[: dressed.vertices, 2], boxes)
    room = _draw_room(rng, camera)
    image, mask, depth = shoot(mesh, outfit, room, camera, _draw_light(rng), size_px)

    rotations[0] = product(np.array(camera.turn, np.float32), rotations[0])
    from_eye = pelvis - np.array(camera.eye, np.float32)
    translation = np.concatenate(camera.turn.to_local(columns(from_eye[None])))
    joints = body_points(shape, rotations, translation, only_joints=True)
    K = intrinsics(camera, size_px)
    pixels = project(joints, K)
    visible = _visible(joints, pixels, mask, depth, body.joint_flesh)
    return Person(
        image, mask, depth, K, pose(camera), joints, pixels, visible, shape, rotations, translation
    )


def body_points(
    shape: Array,  # [16]
    rotations: Array,  # [bones, 3, 3]
    translation: Array,  # [3]
    *,
    only_joints: bool = False,
) -> Array:
    """Vertices [V, 3] of the naked body of `Person`'s labels, or its JOINTS, in the camera's frame.

    Clothes and hair are up to 2 cm thick, a skirt hangs loose: the mask may be wider.
    """
    body = load_body()
    if not only_joints:
        return skin(body, body.rest(shape), rotations, translation).points[: body.vertices]
    small, order = _joint_body()
    posed = skin(small, small.rest(shape), rotations, translation)
    return posed.points[order]


def project(points: Array, K: Array) -> Array:  # [N, 3], [3, 3] -> [N, 2]
    """Where points before the camera are on the picture."""
    return points[:, :2] / points[:, 2:] * K[[0, 1], [0, 1]] + K[:2, 2]


@cache
def _joint_body() -> tuple[Body, NDArray[np.intp]]:
    """The body with the vertices that are joints only, and where the joints are in its points."""
    body = load_body()
    skin_joints = body.joint_point < body.vertices
    chosen = body.joint_point[skin_joints]
    points = np.concatenate([chosen, np.arange(body.vertices, len(body.mean))])
    order = np.where(
        skin_joints,
        np.cumsum(skin_joints) - 1,
        body.joint_point - body.vertices + len(chosen),
    )
    small = body._replace(
        mean=body.mean[points],
        basis=body.basis[:, points],
        weight=body.weight[chosen],
        weight_index=body.weight_index[chosen],
        fields=body.fields[chosen],
    )
    return small, order


def _draw_shape(rng: Rng, body: Body) -> Array:
    """One of the baked bodies, some way towards another one."""
    one, other = rng.integers(len(body.coefficients), size=2)
    share = np.float32(rng.uniform(0, 0.35))
    mixed = (1 - share) * body.coefficients[one] + share * body.coefficients[other]
    return np.asarray(mixed, np.float32)


def _draw_camera(rng: Rng, points: Array) -> Camera:
    """Any side, about level with the body, as near as the body fits."""
    azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(-0.05, 0.40)
    focal = float(rng.uniform(1.5, 2.3))
    closer = rng.uniform(1.1, 1.6) if rng.random() < 0.8 else 1.0  # cuts feet or hands off
    share = rng.uniform(0.93, 1.03) * closer  # of the half picture that the body reaches
    back = _direction(azimuth, elevation)
    turn = look_at(back, (0.0, 0.0, 0.0))
    x, y, z = turn.to_local(columns(points))
    # so near that every vertex is within the share of the picture, on either side of the middle
    middle_x, middle_y = (float(c.min() + c.max()) / 2 for c in (x, y))
    extent = np.maximum(np.abs(x - middle_x), np.abs(y - middle_y))
    away = float((extent * np.float32(focal / share) - z).max())
    half = away / focal
    across = middle_x + half * rng.uniform(-0.03, 0.03)
    down = middle_y + half * rng.uniform(-0.03, 0.03)
    highest = float((y + np.float32(0.97 / focal) * (z + np.float32(away))).min())
    down = min(down, highest)  # what does not fit is cut off below
    eye = [across * r + down * d + away * b for r, d, b in zip(turn.x, turn.y, back, strict=True)]
    return Camera((eye[0], eye[1], max(eye[2], 0.12)), turn, focal)


def _draw_room(rng: Rng, camera: Camera) -> Room:
    """A room around both the person and the camera."""
    room = draw_room(rng)
    share = float(rng.uniform(0.35, 0.5))
    x, y = camera.eye[0] * share, camera.eye[1] * share
    low = (room.low[0] + x, room.low[1] + y, 0.0)
    high = (room.high[0] + x, room.high[1] + y, max(room.high[2], camera.eye[2] + 0.3))
    return room._replace(low=low, high=high)


def _draw_light(rng: Rng) -> Point:
    """The unit vector towards a lamp far away."""
    return _direction(rng.uniform(0, 2 * np.pi), rng.uniform(0.75, 1.25))


def _direction(azimuth: float, elevation: float) -> Point:
    """The unit vector of two angles in radians."""
    (cosine, sine), (level, height) = cos_sin(azimuth), cos_sin(elevation)
    return cosine * level, sine * level, height


def _visible(
    joints: Array, pixels: Array, mask: NDArray[np.uint8], depth: Array, flesh: Array
) -> NDArray[np.bool_]:
    """Whether a joint is in the picture with nothing before it but the flesh around it."""
    size = len(depth)
    column, row = np.floor(pixels).astype(np.intp).T
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size) & (joints[:, 2] > 0)
    column, row = np.clip(column, 0, size - 1), np.clip(row, 0, size - 1)
    before = joints[:, 2] - depth[row, column]
    # bodies differ by a half; clothes and the slant within a pixel take up to 4 cm
    flesh = np.where(mask[row, column] == 2, 0, np.float32(1.5) * flesh + np.float32(0.04))
    return np.asarray(inside & (before <= flesh))


def _about_z(angle: float) -> Array:
    c, s = cos_sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32)
