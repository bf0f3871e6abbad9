"""The miniworld's body for training: `body.skin` in torch, batched and differentiable.

Axes: P people, V vertices, J joints.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from alumnus.miniworld.body import PARENTS, load_body

__all__ = ["PosedBodies", "TorchBody", "mirrored"]


class PosedBodies(NamedTuple):
    """Bodies whose pelvis is the origin."""

    vertices: Tensor  # [P, V, 3] metres
    joints: Tensor  # [P, J, 3], as JOINTS of `body`


class TorchBody(nn.Module):
    """Shape and rotations, as in the labels of `people`, to vertices and joints.

    `every` n-th vertex only, for losses that need not see all of them. No parameters; nothing is
    kept in a state dict.
    """

    mean: Tensor  # [n, 3]
    basis: Tensor  # [16, n * 3]
    weight: Tensor  # [vertices, bones], of those vertices that are wanted or are joints
    joint_point: Tensor  # [J] into all points
    bone: Tensor  # [V] that moves a vertex most

    def __init__(self, *, every: int = 1) -> None:
        super().__init__()
        body = load_body()
        bones = len(PARENTS)
        wanted = torch.arange(0, body.vertices, every)
        joints = torch.from_numpy(body.joint_point)
        at_skin = joints < body.vertices
        skin = torch.cat([wanted, joints[at_skin]])
        dense = torch.zeros(body.vertices, bones)
        index, amount = torch.from_numpy(body.weight_index), torch.from_numpy(body.weight)
        dense.scatter_add_(1, index, amount)
        points = torch.cat([skin, torch.arange(body.vertices, body.vertices + bones)])
        order = joints - body.vertices + len(skin)  # of bone heads among `points`
        order[at_skin] = len(wanted) + torch.arange(int(at_skin.sum()))
        for name, tensor in (
            ("mean", torch.from_numpy(body.mean)[points]),
            ("basis", torch.from_numpy(body.basis)[:, points].flatten(1)),
            ("weight", dense[skin]),
            ("joint_point", order),
            ("bone", dense[wanted].argmax(dim=1)),
        ):
            self.register_buffer(name, tensor, persistent=False)
        self.vertices = len(wanted)

    def forward(self, shape: Tensor, rotations: Tensor) -> PosedBodies:
        """Bodies of shapes [P, 16] in poses [P, bones, 3, 3], in float32 under autocast too."""
        with torch.autocast(shape.device.type, enabled=False):
            points = self._posed(shape.float(), rotations.float())
        return PosedBodies(points[:, : self.vertices], points[:, self.joint_point])

    def _posed(self, shape: Tensor, rotations: Tensor) -> Tensor:
        rest = self.mean + (shape @ self.basis).unflatten(1, (-1, 3))
        skin = len(self.weight)
        heads = rest[:, skin:]
        turns, places = [rotations[:, 0]], [torch.zeros_like(heads[:, 0])]
        for bone, parent in enumerate(PARENTS[1:], start=1):
            step = heads[:, bone] - heads[:, parent]
            turns.append(turns[parent] @ rotations[:, bone])
            places.append(places[parent] + (turns[parent] * step[:, None]).sum(dim=-1))
        turn, place = torch.stack(turns, dim=1), torch.stack(places, dim=1)
        shift = place - (turn * heads[:, :, None]).sum(dim=-1)
        moves = torch.cat([turn, shift[..., None]], dim=-1).flatten(2)  # [P, bones, 12]
        blend = (self.weight @ moves).unflatten(2, (3, 4))  # [P, skin, 3, 4]
        # as sums: a small matrix product for each vertex costs several times as much
        vertices = (blend[..., :3] * rest[:, :skin, None]).sum(dim=-1) + blend[..., 3]
        return torch.cat([vertices, place], dim=1)


def mirrored(names: tuple[str, ...]) -> list[int]:
    """For each name the index of its mirror image: "left" and "right" change places."""
    other = {"left": "right", "right": "left"}
    swapped = ["_".join(other.get(part, part) for part in name.split("_")) for name in names]
    return [names.index(name) for name in swapped]
