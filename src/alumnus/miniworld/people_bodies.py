"""Labelled people in memory, as bodies in space, and predicted ones likewise.

Axes: L people, B of them in a batch, J joints.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from alumnus.heads.people.camera import nearness_from_distance, project
from alumnus.heads.people.head import People
from alumnus.heads.people.losses import Bodies, cell_targets
from alumnus.heads.people.placement import place
from alumnus.heads.people.regressor import Cells
from alumnus.miniworld.body import JOINTS
from alumnus.miniworld.fit import SPEC, columns
from alumnus.miniworld.people_views import View
from alumnus.miniworld.source import MiniworldSource
from alumnus.miniworld.torch_body import TorchBody

__all__ = [
    "GRID",
    "HEAD",
    "PeopleData",
    "labelled",
    "placed",
    "read_people",
    "together",
    "true_bodies",
]

GRID = SPEC.image_size // 8  # patches along a side
HEAD = [name for name, _ in JOINTS].index("head")  # the primary joint


@dataclass(frozen=True)
class PeopleData:
    """Labelled people in memory."""

    images: Tensor  # [L, 3, H, W] uint8
    mask: Tensor  # [L, 1, H, W] uint8, 1 on the person
    K: Tensor  # [L, 3, 3]
    shape: Tensor  # [L, 16]
    rotations: Tensor  # [L, bones, 3, 3]
    translation: Tensor  # [L, 3]
    head: Tensor  # [L, 3]
    visible: Tensor  # [L, J] bool

    def __len__(self) -> int:
        return len(self.images)

    def view(self, these: Tensor | slice) -> View:
        """Some of them, pictures and masks as floats."""
        taken = {f.name: getattr(self, f.name)[these] for f in fields(self)}
        del taken["visible"]
        images, mask = taken.pop("images").float() / 255, taken.pop("mask").float()
        return View(images=images, mask=mask, **taken)


def read_people(source: MiniworldSource) -> PeopleData:
    """Read a whole source into memory (17 kB a person at 64 px), rendering what is missing."""
    names = ("image", "mask", "K", "shape", "rotations", "translation", "joints", "visible")
    found = columns(source, *names)
    joints = found.pop("joints")
    mask = (found.pop("mask") == 1).to(torch.uint8)[:, None]
    return PeopleData(images=found.pop("image"), mask=mask, head=joints[:, HEAD].clone(), **found)


def labelled(
    view: View, body: TorchBody, *, patch_size: int = SPEC.patch_size or 0
) -> tuple[Cells, Bodies]:
    """What is to be predicted, and at which cells."""
    count, side, device = len(view.images), view.images.shape[-1], view.images.device
    grid = side // patch_size
    posed = body(view.shape, view.rotations)
    joints, vertices = (p + view.translation[:, None] for p in (posed.joints, posed.vertices))
    head = joints[:, HEAD]
    location = project(head[:, None], view.K)[:, 0]
    row, column, offset = cell_targets(location, grid=grid, patch_size=patch_size)
    cells = Cells(torch.arange(count, device=device), row, column)
    scores = torch.zeros(count, grid, grid, device=device)
    scores[cells] = 1.0
    truth = Bodies(
        scores=scores,
        offset=offset,
        rotations=view.rotations,
        shape=view.shape,
        nearness=nearness_from_distance(head[:, 2], view.K, side_px=side),
        translation=head,
        pelvis=joints[:, 0],
        joints=joints,
        vertices=vertices,
        joint_pixels=project(joints, view.K),
        vertex_pixels=project(vertices, view.K),
    )
    return cells, truth


def placed(people: People, K: Tensor, body: TorchBody) -> Bodies:
    """Predicted people as bodies in space, their head joint where the head says."""
    root, others = people.rotations[:, :1], people.rotations[:, 1:]
    upright = torch.eye(3).to(root).expand_as(root)
    vertices, joints = place(
        *body(people.shape, torch.cat([upright, others], dim=1)),
        root=root[:, 0],
        translation=people.translation,
        primary=HEAD,
    )
    return Bodies(
        scores=people.scores,
        offset=people.offset,
        rotations=people.rotations,
        shape=people.shape,
        nearness=people.nearness,
        translation=people.translation,
        pelvis=joints[:, 0],
        joints=joints,
        vertices=vertices,
        joint_pixels=project(_before(joints), K),
        vertex_pixels=project(_before(vertices), K),
    )


def _before(points: Tensor) -> Tensor:
    """Points at least 20 cm before the camera, where projecting has sense."""
    return torch.cat([points[..., :2], points[..., 2:].clamp(min=0.2)], dim=-1)


def true_bodies(people: PeopleData, body: TorchBody) -> Bodies:
    """All of them as labelled."""
    starts = range(0, len(people), 96)
    return together([labelled(people.view(slice(s, s + 96)), body)[1] for s in starts])


def together(parts: Sequence[Bodies]) -> Bodies:
    """The people of several batches."""
    return Bodies(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
