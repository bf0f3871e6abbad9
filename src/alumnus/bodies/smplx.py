"""SMPL-X from a user's licensed file: blend shapes, then linear blend skinning, in torch.

Axes: P people, V vertices, J = 55 joints, K = 54 of them that are not the root, S and E shape and
expression numbers.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alumnus.bodies.smplx_files import FACE_FROM, read_smplx

__all__ = ["ROTATIONS", "SmplX", "load_smplx"]

BODY = (
    *("pelvis", "hip_left", "hip_right", "spine_low", "knee_left", "knee_right", "spine"),
    *("ankle_left", "ankle_right", "chest", "foot_left", "foot_right", "neck", "collar_left"),
    *("collar_right", "head", "shoulder_left", "shoulder_right", "elbow_left", "elbow_right"),
    *("wrist_left", "wrist_right", "jaw", "eye_left", "eye_right"),
)
FINGERS = ("index", "middle", "little", "ring", "thumb")
JOINTS = BODY + tuple(
    f"{finger}_{number}_{side}"
    for side in ("left", "right")
    for finger in FINGERS
    for number in (1, 2, 3)
)
HEAD = JOINTS.index("head")
# joints in the order of a people head's rotations; the eyes look ahead
TURNED = (*range(22), *range(25, 55), JOINTS.index("jaw"))
ROTATIONS = len(TURNED)


def load_smplx(path: Path, *, betas: int, expressions: int) -> "SmplX":
    """The model of a file, with so many of its numbers; see `read_smplx`.

    ValueError, one sentence, for a head that asks for more than the file has.
    """
    arrays = read_smplx(path)
    total = int(arrays["shapedirs"].shape[-1])
    face: int = FACE_FROM.get(total, total)
    if betas > min(face, 10) or expressions > total - face:
        raise ValueError(
            f"the network predicts {betas} shape and {expressions} expression numbers, but "
            f"{path} serves at most {min(face, 10)} and {total - face}"
        )
    directions = arrays["shapedirs"]
    return SmplX(
        template=_float(arrays["v_template"]),
        shape_directions=_float(directions[..., :betas]),
        expression_directions=_float(directions[..., face : face + expressions]),
        pose_directions=_float(arrays["posedirs"]),
        regressor=_float(arrays["J_regressor"]),
        weights=_float(arrays["weights"]),
        parents=[int(parent) for parent in arrays["kintree_table"][0].astype(np.int64)],
        faces=arrays["f"].astype(np.intp),
    )


class SmplX(nn.Module):
    """The body x(beta, psi, R): 55 joints with flat hands, no parameters that learn.

        t = template + B_shape beta + B_face psi,   q = regressor t
        x = skin(t + B_pose (R_k - 1), q, R),   k over the joints but the root

    Source: SMPL-X (arXiv 1904.05866), section 3.1; skinning as in `miniworld.body.skin`.
    """

    name = "smplx"
    joints = JOINTS
    primary = HEAD

    template: Tensor  # [V, 3]
    shape_directions: Tensor  # [V, 3, S]
    expression_directions: Tensor  # [V, 3, E]
    pose_directions: Tensor  # [V, 3, 9 K]
    regressor: Tensor  # [J, V]
    weights: Tensor  # [V, J]

    def __init__(self, *, parents: list[int], faces: NDArray[np.intp], **arrays: Tensor) -> None:
        super().__init__()
        for name, array in arrays.items():
            self.register_buffer(name, array, persistent=False)
        self._parents, self._faces = parents, faces

    @property
    def faces(self) -> NDArray[np.intp]:
        """[T, 3]."""
        return self._faces

    @property
    def links(self) -> tuple[tuple[int, int], ...]:
        """Each joint and its parent."""
        return tuple((parent, joint) for joint, parent in enumerate(self._parents) if joint)

    def posed(
        self,
        shape: Tensor,  # [P, S]
        rotations: Tensor,  # [P, 53, 3, 3]: root, 21 of the body, left hand, right hand, jaw
        expression: Tensor,  # [P, E]
    ) -> tuple[Tensor, Tensor]:
        """Vertices [P, V, 3] and joints [P, 55, 3], metres, in float32."""
        turns = torch.eye(3).to(rotations).repeat(len(rotations), len(JOINTS), 1, 1)
        turns[:, TURNED] = rotations
        rest = self.template + torch.einsum("pb,vcb->pvc", shape, self.shape_directions)
        rest = rest + torch.einsum("pe,vce->pvc", expression, self.expression_directions)
        heads = self.regressor @ rest  # [P, J, 3]
        bent = (turns[:, 1:] - torch.eye(3).to(turns)).flatten(1)  # [P, 9 K]
        rest = rest + torch.einsum("pk,vck->pvc", bent, self.pose_directions)
        world, places = self._chain(turns, heads)
        shift = places - (world @ heads[..., None])[..., 0]
        moves = torch.cat([world, shift[..., None]], dim=-1).flatten(2)  # [P, J, 12]
        blend = (self.weights @ moves).unflatten(2, (3, 4))  # [P, V, 3, 4]
        vertices = (blend[..., :3] * rest[:, :, None]).sum(dim=-1) + blend[..., 3]
        return vertices, places

    def _chain(self, turns: Tensor, heads: Tensor) -> tuple[Tensor, Tensor]:
        """Rotations [P, J, 3, 3] to the world, and where the joints are then [P, J, 3]."""
        world, places = [turns[:, 0]], [heads[:, 0]]
        for joint, parent in enumerate(self._parents[1:], start=1):
            step = heads[:, joint] - heads[:, parent]
            world.append(world[parent] @ turns[:, joint])
            places.append(places[parent] + (world[parent] @ step[..., None])[..., 0])
        return torch.stack(world, dim=1), torch.stack(places, dim=1)


def _float(array: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
