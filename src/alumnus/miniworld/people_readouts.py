"""What patches alone are made to say about a person: read-outs that help training, not shipped.

Axes: B pictures, N = grid^2 patches, J joints, V vertices.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alumnus.heads.people.losses import Bodies
from alumnus.miniworld.body import BONES, JOINTS
from alumnus.miniworld.fit import SPEC
from alumnus.miniworld.people_bodies import GRID
from alumnus.miniworld.torch_body import TorchBody

__all__ = ["Readings", "Readouts", "blurred", "gathered", "readout_loss"]

WEIGHTS = {
    "cover": 2.0,
    "bones": 2.0,
    "depth": 10.0,
    "heat": 2.0,
    "place": 3.0,
    "joint_depth": 10.0,
}
_FULL = 4  # vertices in a patch that count as a patch full of body
_SIGMA = 0.7  # patches, of the heat around a joint


class Readouts(nn.Module):
    """Linear read-outs of the patches; not shipped."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.patch = nn.Linear(dim, 2 + len(BONES))  # cover, depth, bones
        self.heat = nn.Linear(dim, len(JOINTS))
        self.place = nn.Linear(dim, 3 * len(JOINTS))

    def forward(self, patches: Tensor) -> "Readings":  # [B, N, D]
        """What the patches say."""
        row, column = torch.meshgrid(*[torch.arange(GRID) + 0.5] * 2, indexing="ij")
        centres = torch.stack([column, row, torch.zeros_like(row)], dim=-1).flatten(0, 1)
        heat = self.heat(patches).log_softmax(dim=1)  # [B, N, J]
        places = self.place(patches).unflatten(2, (-1, 3)) + centres[:, None]
        joints = (heat.exp()[..., None] * places).sum(dim=1)
        cover, depth, bones = self.patch(patches).split([1, 1, len(BONES)], dim=-1)
        return Readings(cover.squeeze(-1), depth.squeeze(-1), bones, heat, joints)


class Readings(NamedTuple):
    """Of patches, and over all patches."""

    cover: Tensor  # [B, N] logits
    depth: Tensor  # [B, N] metres from the pelvis
    bones: Tensor  # [B, N, bones] logits
    heat: Tensor  # [B, N, J] log shares of the patches
    joints: Tensor  # [B, J, 3]: x and y in patches, depth in metres from the pelvis


def readout_loss(
    readouts: Readouts, patches: Tensor, truth: Bodies, body: TorchBody, mask: Tensor
) -> Tensor:
    """How far the read-outs are from the mask [B, 1, H, W] and the true bodies.

    Of each patch: its cover, and of the vertices in it the bones that move them and the mean depth.
    Of each joint in the picture: its heat, highest around it, its place and depth.
    """
    told = readouts(patches)
    depth = truth.vertices[..., 2] - truth.pelvis[:, None, 2]
    bones, deep = gathered(truth.vertex_pixels / SPEC.patch_size, body.bone, depth)
    count = bones.sum(dim=-1)
    full = (count / _FULL).clamp(max=1)
    of_bones = -(bones / count.clamp(min=1)[..., None] * told.bones.log_softmax(dim=-1)).sum(dim=-1)
    off = (told.depth - deep / count.clamp(min=1)).abs()

    places = truth.joint_pixels / SPEC.patch_size
    inside = ((places > 0) & (places < GRID)).all(dim=-1).float()  # [B, J]
    heat = -(blurred(places) * told.heat).sum(dim=1)
    place = (told.joints[..., :2] - places).abs().sum(dim=-1)
    joint_depth = truth.joints[..., 2] - truth.pelvis[:, None, 2]
    terms = {
        "cover": F.binary_cross_entropy_with_logits(
            told.cover, F.avg_pool2d(mask, SPEC.patch_size).flatten(1)
        ),
        "bones": (full * of_bones).sum() / full.sum(),
        "depth": (full * off).sum() / full.sum(),
        "heat": (inside * heat).sum() / inside.sum(),
        "place": (inside * place).sum() / inside.sum(),
        "joint_depth": (told.joints[..., 2] - joint_depth).abs().mean(),
    }
    return torch.stack([WEIGHTS[name] * term for name, term in terms.items()]).sum()


def gathered(places: Tensor, bone: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Vertices [B, V] by patch: how many of each bone [B, N, bones], the sum of depths [B, N]."""
    inside = ((places > 0) & (places < GRID)).all(dim=-1).float()
    column, row = places.long().clamp(0, GRID - 1).unbind(dim=-1)
    count, cells = len(places), GRID * GRID
    patch = row * GRID + column
    bones = torch.zeros(count, cells * len(BONES))
    bones.scatter_add_(1, patch * len(BONES) + bone, inside)
    deep = torch.zeros(count, cells).scatter_add_(1, patch, inside * depth)
    return bones.unflatten(1, (cells, -1)), deep


def blurred(places: Tensor) -> Tensor:  # [B, J, 2] in patches -> [B, N, J], sum 1 over patches
    """Gaussians around places."""
    middle = torch.arange(GRID) + 0.5
    x, y = (-0.5 * ((places[..., None, i] - middle) / _SIGMA) ** 2 for i in (0, 1))  # [B, J, grid]
    both = (y[..., :, None] + x[..., None, :]).flatten(2)
    return both.softmax(dim=-1).transpose(1, 2)
