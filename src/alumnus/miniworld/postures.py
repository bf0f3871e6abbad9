"""Plausible poses: feet that stand, arms by habit, backs that bend; a quarter sit.

Directions are in the body's own frame: x to its left, -y ahead, z up (see `body`). Angles are in
radians. Scalars and 3x3 products in float64, written out; the result is rounded to float32.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alumnus.miniworld.body import BONES, PARENTS
from alumnus.miniworld.vectors import Array, cos_sin

__all__ = ["Posture", "draw_posture"]

Rng = np.random.Generator
Floats = NDArray[np.float64]  # [3] or [3, 3]

_AT = {name: bone for bone, (name, _, _) in enumerate(BONES)}
_SIDES = (("left", 1.0), ("right", -1.0))
_SITTING = 0.25  # share
_ATTEMPTS = 8  # at an arm that does not run through the body
_DEGREE = np.pi / 180
_AHEAD = np.array([0.0, -1.0, 0.0])


class Posture(NamedTuple):
    """One rotation per bone, as `body.skin` takes them, before the body is turned or placed."""

    rotations: Array  # [bones, 3, 3]
    sitting: bool


class _Habit(NamedTuple):
    """What an arm often does; (out, ahead, up) directions, mirrored for the right side."""

    weight: tuple[float, float]  # how often, standing and sitting
    upper: tuple[float, float, float]  # where the elbow is from the shoulder
    spread: float
    towards: tuple[float, float, float]  # where the forearm bends to
    bend: tuple[float, float]  # degrees


class _Stance(NamedTuple):
    """Feet from the hips, in lengths of a leg: left, right."""

    ahead: tuple[float, float]
    out: tuple[float, float]
    stretch: float  # of the longer leg; sitting, height of the hips in lengths of a shin
    lifted: int | None = None  # number of a foot in the air


_HABITS: dict[str, _Habit] = {
    "hanging": _Habit((0.36, 0.14), (0.24, 0.05, -1.0), 0.10, (-0.2, 1.0, 0.1), (5, 40)),
    "bent": _Habit((0.20, 0.12), (0.30, 0.05, -1.0), 0.15, (-0.3, 1.0, 0.3), (50, 120)),
    "on the hip": _Habit((0.12, 0.04), (0.75, -0.30, -0.8), 0.08, (-1.0, 0.4, -0.2), (80, 105)),
    "ahead": _Habit((0.10, 0.12), (0.20, 1.0, -0.1), 0.30, (-0.4, 0.1, 0.9), (5, 80)),
    "aside": _Habit((0.07, 0.06), (1.0, 0.15, 0.0), 0.30, (0.0, 0.8, 0.4), (5, 80)),
    "waving": _Habit((0.08, 0.08), (0.9, 0.2, -0.3), 0.20, (0.1, 0.3, 1.0), (60, 125)),
    "up": _Habit((0.07, 0.06), (0.40, 0.15, 1.0), 0.25, (-0.5, 0.5, 0.3), (5, 70)),
    "in the lap": _Habit((0.0, 0.38), (0.20, 0.45, -0.9), 0.10, (-0.2, 1.0, -0.1), (30, 60)),
}


def draw_posture(rng: Rng, heads: Array) -> Posture:  # [bones, 3] in the reference pose
    """A random posture of a body with these bones; its pelvis is the origin and faces -y."""
    at = heads.astype(np.float64)
    sitting = bool(rng.random() < _SITTING)
    turns = np.tile(np.eye(3), (len(BONES), 1, 1))  # of each bone, from reference to body frame
    turns[0] = _euler(rng.uniform(-6, 10), rng.uniform(-5, 5), rng.uniform(-5, 5))
    _draw_back(rng, turns, sitting)
    _draw_head(rng, turns)
    _draw_legs(rng, at, turns, sitting)
    for side, sign in _SIDES:
        _draw_arm(rng, at, turns, side, sign, sitting)
    rotations = np.stack(
        [turns[0]] + [_product(turns[p].T, turns[b]) for b, p in enumerate(PARENTS) if p >= 0]
    )
    return Posture(rotations.astype(np.float32), sitting)


def _draw_legs(rng: Rng, at: Floats, turns: NDArray[np.float64], sitting: bool) -> None:
    """Soles on one level, or one of them lifted; the feet below the weight of the body."""
    hip, knee, ankle = (at[_AT[f"{part}_left"]] for part in ("thigh", "shin", "foot"))
    thigh, shin = _length(knee - hip), _length(ankle - knee)
    leg = thigh + shin
    hips = np.stack([_apply(turns[0], at[_AT[f"thigh_{side}"]] - at[0]) for side, _ in _SIDES])
    stance = _draw_stance(rng, thigh / leg, sitting)
    lifted, ends = stance.lifted, hips.copy()
    ends[:, 0] += leg * np.array(
        [sign * o for (_, sign), o in zip(_SIDES, stance.out, strict=True)]
    )
    ends[:, 1] -= leg * np.array(stance.ahead)
    if not sitting:
        support = ends[:, :2].mean(axis=0) if lifted is None else ends[1 - lifted, :2]
        ends[:, :2] += (_weight(at, turns) - support) * (1.0 if lifted is None else 0.7)
    apart = ends - hips
    level = (stance.stretch * leg) ** 2 - apart[:, 0] ** 2 - apart[:, 1] ** 2
    stands = np.sqrt(np.maximum(level, (0.35 * leg) ** 2)).min()
    drop = shin * stance.stretch if sitting else stands
    ends[:, 2] = hips[:, 2].mean() - drop
    if lifted is not None:
        ends[lifted] += leg * np.array([0, rng.uniform(-0.5, 0.35), rng.uniform(0.1, 0.45)])
    for number, (side, sign) in enumerate(_SIDES):
        _bend_leg(rng, at, turns, side, sign, hips[number], ends[number], flat=number != lifted)


def _draw_stance(rng: Rng, thigh: float, sitting: bool) -> _Stance:
    """Where the feet go; `thigh` in lengths of a leg."""
    out = (rng.uniform(-0.03, 0.16), rng.uniform(-0.03, 0.16))
    if sitting:
        ahead = (thigh * rng.uniform(0.8, 1.15), thigh * rng.uniform(0.8, 1.15))
        return _Stance(ahead, out, rng.uniform(0.9, 1.1))
    kind = rng.random()
    step = rng.uniform(-0.28, 0.28) * rng.random()
    if kind < 0.68:  # upright
        return _Stance((step, -step), out, rng.uniform(0.96, 0.998))
    if kind < 0.78:  # a leg in the air
        return _Stance((0.0, 0.0), out, rng.uniform(0.95, 0.998), int(rng.integers(2)))
    if kind < 0.90:  # a wide or long step, knees bent
        step = float(rng.choice([-1, 1])) * rng.uniform(0.2, 0.42)
        return _Stance((step, -step), out, rng.uniform(0.82, 0.95))
    return _Stance((0.3 * step, -0.3 * step), out, rng.uniform(0.48, 0.75))  # squatting


def _weight(at: Floats, turns: NDArray[np.float64]) -> Floats:
    """Where the weight presses on the floor, from the pelvis, before the arms move; [2]."""
    place = _places(at, turns)
    parts = {"pelvis": 0.3, "spine": 0.2, "chest": 0.25, "head": 0.13,
             "hand_left": 0.06, "hand_right": 0.06}  # fmt: skip
    shares = [share * place[_AT[name], :2] for name, share in parts.items()]
    return np.asarray(sum(shares[1:], shares[0]))


def _places(at: Floats, turns: NDArray[np.float64]) -> Floats:
    """Bone heads [bones, 3] from the pelvis."""
    place = np.zeros_like(at)
    for bone, parent in enumerate(PARENTS):
        if parent >= 0:
            place[bone] = place[parent] + _apply(turns[parent], at[bone] - at[parent])
    return place


def _bend_leg(
    rng: Rng,
    at: Floats,
    turns: NDArray[np.float64],
    side: str,
    sign: float,
    start: Floats,
    end: Floats,
    *,
    flat: bool,  # the sole on the floor
) -> None:
    thigh, shin, foot = (_AT[f"{part}_{side}"] for part in ("thigh", "shin", "foot"))
    upper, lower = at[shin] - at[thigh], at[foot] - at[shin]
    a, b = _length(upper), _length(lower)
    apart = min(max(_length(end - start), abs(a - b) + 0.15 * b), 0.998 * (a + b))
    ahead = _unit(end - start)
    cosine = (a * a + apart * apart - b * b) / (2 * a * apart)
    outward = np.array([sign * rng.uniform(-0.05, 0.45), -1.0, 0.0])
    knee_to = _across(outward, ahead)
    upper_to = cosine * ahead + np.sqrt(max(1 - cosine * cosine, 0)) * knee_to
    lower_to = _unit(apart * ahead - a * upper_to)
    hinge, hinge_to = _cross(_unit(upper), _AHEAD), _cross(ahead, knee_to)
    turns[thigh] = _carry(upper, hinge, upper_to, hinge_to)
    turns[shin] = _carry(lower, hinge, lower_to, hinge_to)
    yaw = sign * rng.uniform(-5, 30)
    if flat:
        turns[foot] = _euler(0, 0, yaw)
    else:
        turns[foot] = _product(turns[shin], _euler(rng.uniform(-10, 30), 0, 0))


def _draw_back(rng: Rng, turns: NDArray[np.float64], sitting: bool) -> None:
    """One bend of the back, in thirds; deep in some standing bodies."""
    bow = rng.uniform(-10, 25)
    if not sitting and rng.random() < 0.1:
        bow = rng.uniform(30, 75)
    third = _euler(bow / 3, rng.uniform(-18, 18) / 3, rng.uniform(-30, 30) / 3)
    for bone in ("spine_low", "spine", "chest"):
        turns[_AT[bone]] = _product(turns[PARENTS[_AT[bone]]], third)


def _draw_head(rng: Rng, turns: NDArray[np.float64]) -> None:
    for bone in ("neck", "head"):
        own = _euler(rng.uniform(-12, 12), rng.uniform(-7, 7), rng.uniform(-25, 25))
        turns[_AT[bone]] = _product(turns[_AT["chest" if bone == "neck" else "neck"]], own)


def _draw_arm(
    rng: Rng, at: Floats, turns: NDArray[np.float64], side: str, sign: float, sitting: bool
) -> None:
    """One of the habits, again where it would run through the body; at last, an arm held aside."""
    habits = list(_HABITS.values())
    often = np.cumsum([habit.weight[int(sitting)] for habit in habits])
    collar = _AT[f"collar_{side}"]
    for _ in range(_ATTEMPTS):
        habit = habits[int(np.searchsorted(often, rng.random() * often[-1]))]
        raised = _euler(0, -sign * 18 * max(habit.upper[2], 0), 0)
        turns[collar] = _product(turns[_AT["chest"]], raised)
        _bend_arm(rng, at, turns, side, sign, habit)
        if not _runs_through(at, turns, side):
            return
    _bend_arm(rng, at, turns, side, sign, _HABITS["aside"])


def _bend_arm(
    rng: Rng, at: Floats, turns: NDArray[np.float64], side: str, sign: float, habit: _Habit
) -> None:
    arm, forearm, hand = (_AT[f"{part}_{side}"] for part in ("arm", "forearm", "hand"))
    upper, lower = at[forearm] - at[arm], at[hand] - at[forearm]
    mirror = np.array([sign, -1.0, 1.0])  # (out, ahead, up) to (x, y, z)
    chest = turns[_AT["chest"]]
    wanted = np.array(habit.upper) + rng.normal(0, habit.spread, 3)
    upper_to = _apply(chest, _unit(wanted * mirror))
    bend_to = _across(_apply(chest, np.array(habit.towards) * mirror), upper_to)
    angle = rng.uniform(*habit.bend) * _DEGREE
    cosine, sine = cos_sin(angle)
    lower_to = cosine * upper_to + sine * bend_to
    hinge, hinge_to = _cross(upper, lower), _cross(upper_to, bend_to)
    turns[arm] = _carry(upper, hinge, upper_to, hinge_to)
    turns[forearm] = _carry(lower, hinge, lower_to, hinge_to)
    bent = _euler(rng.uniform(-20, 20), rng.uniform(-20, 20), rng.uniform(-15, 15))
    turns[hand] = _product(turns[forearm], bent)


def _runs_through(at: Floats, turns: NDArray[np.float64], side: str) -> bool:
    """Whether forearm or hand come too close to trunk, head or thighs: capsules, scaled by arms."""
    place = _places(at, turns)
    elbow, wrist = place[_AT[f"forearm_{side}"]], place[_AT[f"hand_{side}"]]
    unit = _length(wrist - elbow) / 0.25  # 1 for an adult
    fingers = wrist + 0.6 * (wrist - elbow)
    points = [elbow + s * (fingers - elbow) for s in (0.3, 0.5, 0.7, 0.85, 1.0)]
    solids = [
        (place[_AT["pelvis"]], place[_AT["neck"]], 0.175),
        (place[_AT["neck"]], place[_AT["head"]] + [0.0, 0.0, 0.1 * unit], 0.13),
    ]
    for leg, _ in _SIDES:
        solids.append((place[_AT[f"thigh_{leg}"]], place[_AT[f"shin_{leg}"]], 0.095))
    return any(
        _distance(point, low, high) < radius * unit
        for point in points
        for low, high, radius in solids
    )


def _distance(point: Floats, low: Floats, high: Floats) -> float:
    """From a point to a segment."""
    way, gap = high - low, point - low
    share = min(max(_dot(way, gap) / _dot(way, way), 0.0), 1.0)
    return _length(gap - share * way)


def _carry(first: Floats, second: Floats, first_to: Floats, second_to: Floats) -> Floats:
    """The rotation that takes one direction to another, and a second as far as it then can."""
    source, target = _frame(first, second), _frame(first_to, second_to)
    return _product(target.T, source)


def _frame(first: Floats, second: Floats) -> Floats:
    """Rows: along `first`; across it towards `second`; across both."""
    x = _unit(first)
    y = _across(second, x)
    return np.stack([x, y, _cross(x, y)])


def _across(a: Floats, axis: Floats) -> Floats:
    """The part of `a` across a unit axis, as a unit vector."""
    return _unit(a - _dot(a, axis) * axis)


def _euler(bow: float, lean: float, turn: float) -> Floats:
    """About x (forwards), then y (towards the right), then z (towards the left); degrees."""
    (cx, sx), (cy, sy), (cz, sz) = (cos_sin(d * _DEGREE) for d in (bow, lean, turn))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return _product(about_z, _product(about_y, about_x))


def _product(a: Floats, b: Floats) -> Floats:
    return np.asarray(a[:, :1] * b[0] + a[:, 1:2] * b[1] + a[:, 2:] * b[2])


def _apply(a: Floats, x: Floats) -> Floats:
    return np.asarray(a[:, 0] * x[0] + a[:, 1] * x[1] + a[:, 2] * x[2])


def _dot(a: Floats, b: Floats) -> float:
    return float(a[0] * b[0] + a[1] * b[1] + a[2] * b[2])


def _length(a: Floats) -> float:
    return float(np.sqrt(_dot(a, a)))


def _unit(a: Floats) -> Floats:
    return a / _length(a)


def _cross(a: Floats, b: Floats) -> Floats:
    return np.array(
        [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
    )
