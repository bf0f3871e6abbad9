"""A posed body is turned and put where its primary joint was seen.

Axes: P people, V vertices, J joints. Metres in the camera's frame.
"""

from typing import NamedTuple

from torch import Tensor

__all__ = ["PlacedBodies", "place"]


class PlacedBodies(NamedTuple):
    """Bodies before the camera."""

    vertices: Tensor  # [P, V, 3]
    joints: Tensor  # [P, J, 3]


def place(
    vertices: Tensor,  # [P, V, 3], posed, but the root not turned
    joints: Tensor,  # [P, J, 3], the first is the pelvis
    *,
    root: Tensor,  # [P, 3, 3]
    translation: Tensor,  # [P, 3]
    primary: int | None,
) -> PlacedBodies:
    """Turn bodies about the pelvis and move the joint `primary` to the translation.

        x' = R (x - j_0) - R (j_primary - j_0) + t

    With `primary` None it is the body model's origin that lands there: x' = R (x - j_0) + j_0 + t.

    Source: Multi-HMR (arXiv 2402.14654), section 3.3.
    """
    pelvis = joints[:, :1]
    turn = root.transpose(1, 2)
    turned_vertices, turned_joints = ((x - pelvis) @ turn for x in (vertices, joints))
    fixed = -pelvis if primary is None else turned_joints[:, primary : primary + 1]
    move = translation[:, None] - fixed
    return PlacedBodies(turned_vertices + move, turned_joints + move)
