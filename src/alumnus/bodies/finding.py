"""Everyone in a photograph: place, pose, shape, and the body where there is a model of it.

Axes: P people, R rotations, V vertices, J joints.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from alumnus.bodies.model import BodyModel
from alumnus.heads.people import PeopleNetwork, surest
from alumnus.heads.people.camera import project
from alumnus.heads.people.head import THRESHOLD
from alumnus.heads.people.photos import FIELD_OF_VIEW_DEG, prepare_square
from alumnus.heads.people.placement import PlacedBodies, place

__all__ = ["FoundPeople", "find_people"]


@dataclass(frozen=True)
class FoundPeople:
    """The people of one photograph, the surest first; on the CPU."""

    name: str  # of the photograph
    size: tuple[int, int]  # px of the photograph, width and height
    K: Tensor  # [3, 3] of the photograph
    scores: Tensor  # [P]
    location: Tensor  # [P, 2] of the head joint, pixels of the photograph
    translation: Tensor  # [P, 3] of the head joint: metres, x right, y down, z ahead
    rotations: Tensor  # [P, R, 3, 3], the root's first, relative to the camera
    shape: Tensor  # [P, betas]
    expression: Tensor  # [P, expressions]
    body: BodyModel | None
    points: PlacedBodies | None  # vertices and joints before the camera; None without a body

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def joint_pixels(self) -> Tensor | None:  # [P, J, 2]
        """Joints in pixels of the photograph, which may lie outside; None without a body."""
        if self.points is None:
            return None
        before = self.points.joints.clone()
        before[..., 2].clamp_(min=0.05)  # what is not before the camera is nowhere in the picture
        return project(before, self.K)

    @property
    def table(self) -> str:
        """A line for the photograph and one for each person, as text."""
        lines = [f"{self.name}  {people_in_words(len(self))}"]
        for score, (x, y), (_, _, away) in zip(
            self.scores.tolist(), self.location.tolist(), self.translation.tolist(), strict=True
        ):
            lines.append(f"  score {score:.2f}  head at {x:.0f},{y:.0f} px  {away:.2f} m away")
        return "\n".join(lines)


def people_in_words(count: int) -> str:
    """`nobody`, `1 person`, `3 people`."""
    return {0: "nobody", 1: "1 person"}.get(count, f"{count} people")


@torch.no_grad()
def find_people(
    network: PeopleNetwork,
    photo: str | Path | Image.Image,
    *,
    name: str | None = None,  # None: the path, if there is one
    body: BodyModel | None = None,
    threshold: float = THRESHOLD,
    fov_deg: float = FIELD_OF_VIEW_DEG,
    K: Tensor | None = None,  # [3, 3] of the photograph, px
    only_surest: bool = False,
) -> FoundPeople:
    """Those whose score reaches the threshold; `network` is used on the device where it is.

    `only_surest`: the one of the highest score, whatever it is.
    """
    square = prepare_square(photo, side_px=network.head.spec.side_px, fov_deg=fov_deg, K=K)
    device = next(network.parameters()).device
    images, intrinsics = square.images.to(device), square.K.to(device)
    people = network(images, intrinsics, surest if only_surest else None, threshold=threshold)
    scores, order = people.scores[people.cells].sort(descending=True, stable=True)

    def ordered(values: Tensor) -> Tensor:
        return values[order].float().cpu()

    rotations, shape, expression, translation = (
        ordered(getattr(people, name))
        for name in ("rotations", "shape", "expression", "translation")
    )
    if name is None:
        name = "photograph" if isinstance(photo, Image.Image) else str(photo)
    return FoundPeople(
        name=name,
        size=square.picture.size,
        K=square.original_K,
        scores=scores.cpu(),
        location=square.in_original(ordered(people.location)),
        translation=translation,
        rotations=rotations,
        shape=shape,
        expression=expression,
        body=body,
        points=None if body is None else _before(body, shape, rotations, expression, translation),
    )


def _before(
    body: BodyModel, shape: Tensor, rotations: Tensor, expression: Tensor, translation: Tensor
) -> PlacedBodies:
    """Bodies with their head joint at the translation."""
    upright = torch.eye(3).expand(len(rotations), 1, 3, 3)
    vertices, joints = body.posed(shape, torch.cat([upright, rotations[:, 1:]], dim=1), expression)
    return place(
        vertices, joints, root=rotations[:, 0], translation=translation, primary=body.primary
    )
