"""How the shipped `people` teacher is trained: `python -m alumnus.miniworld.train_people`.

A ViT of 1.3 M parameters and a small head in the manner of Multi-HMR learn from rendered people
with labels: the cell that the head joint is in, and from that cell's query the rotations of all
bones, the shape and the depth, under the published losses. Three read-outs of the patches, which
are not shipped, make it learn sooner: how much of a patch the person covers, and the joints, as
means over the patches, on the picture and in depth. `weights/people/card.md` states what it
reaches. For the loop see `fit`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alumnus.encoders import Encoder, build_encoder
from alumnus.heads.people.camera import nearness_from_distance, project
from alumnus.heads.people.files import save_people
from alumnus.heads.people.head import People, PeopleHead
from alumnus.heads.people.losses import (
    Bodies,
    LossWeights,
    cell_targets,
    people_losses,
    total_loss,
)
from alumnus.heads.people.placement import place
from alumnus.heads.people.regressor import Cells
from alumnus.heads.people.rotations import six_from_matrix
from alumnus.heads.people.spec import PeopleSpec
from alumnus.miniworld.body import BONES, JOINTS, SHAPE_COMPONENTS
from alumnus.miniworld.fit import (
    SPEC,
    FitSettings,
    chosen,
    columns,
    evaluating,
    fit,
    from_command_line,
    generator,
    keep_scores,
    normalised,
)
from alumnus.miniworld.people_errors import people_errors
from alumnus.miniworld.people_views import View, seen_anew
from alumnus.miniworld.source import MiniworldSource
from alumnus.miniworld.torch_body import TorchBody
from alumnus.runs import save_encoder

__all__ = [
    "HEAD_SPEC",
    "PeopleData",
    "Readouts",
    "evaluate",
    "mean_rotations",
    "predict",
    "read_people",
    "train",
    "true_bodies",
]

_GRID = SPEC.image_size // 8
_HEAD = [name for name, _ in JOINTS].index("head")
HEAD_SPEC = PeopleSpec(
    dim=128,
    patch_size=SPEC.patch_size,
    grid=_GRID,
    camera_bands=2,
    camera_max_resolution=8,
    rotations=len(BONES),
    betas=SHAPE_COMPONENTS,
    kid_betas=0,
    expressions=0,
    width=96,
    depth=2,
    heads=6,
    head_dim=8,
    mlp_dim=64,
)
WEIGHTS = LossWeights(
    detection=1.0,
    offset=0.5,
    rotations=0.1,
    shape=0.1,
    nearness=2.0,
    translation=1.0,
    joints=20.0,
    vertices=10.0,
    joint_pixels=0.2,
    vertex_pixels=0.0,
)
READOUT_WEIGHTS = {
    "cover": 2.0,
    "bones": 2.0,
    "depth": 10.0,
    "heat": 2.0,
    "place": 3.0,
    "joint_depth": 10.0,
}


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


class Readouts(nn.Module):
    """Linear read-outs of the patches; not shipped."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.patch = nn.Linear(dim, 2 + len(BONES))  # cover, depth, bones
        self.heat = nn.Linear(dim, len(JOINTS))
        self.place = nn.Linear(dim, 3 * len(JOINTS))

    def forward(self, patches: Tensor) -> "Readings":  # [B, N, D]
        """What the patches say."""
        row, column = torch.meshgrid(*[torch.arange(_GRID) + 0.5] * 2, indexing="ij")
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


def read_people(source: MiniworldSource) -> PeopleData:
    """Read a whole source into memory (17 kB a person at 64 px), rendering what is missing."""
    names = ("image", "mask", "K", "shape", "rotations", "translation", "joints", "visible")
    found = columns(source, *names)
    joints = found.pop("joints")
    mask = (found.pop("mask") == 1).to(torch.uint8)[:, None]
    return PeopleData(images=found.pop("image"), mask=mask, head=joints[:, _HEAD].clone(), **found)


def start_at_the_mean(head: PeopleHead, people: PeopleData) -> None:
    """Make the head begin at the mean rotations, shape and nearness of these people."""
    regressor = head.x_attention_head
    six = six_from_matrix(mean_rotations(people.rotations))
    regressor.init_body_pose.copy_(six.flatten()[None])
    regressor.init_betas.copy_(people.shape.mean(dim=0)[None])
    nearness = nearness_from_distance(people.head[:, 2], people.K, side_px=SPEC.image_size)
    regressor.init_cam[0, 0] = nearness.mean()


def mean_rotations(rotations: Tensor) -> Tensor:  # [P, R, 3, 3] -> [R, 3, 3]
    """The rotations nearest to the mean matrices."""
    u, _, v = torch.linalg.svd(rotations.mean(dim=0))
    sign = torch.ones(len(u), 3)
    sign[:, 2] = torch.det(u @ v)
    nearest: Tensor = u @ torch.diag_embed(sign) @ v
    return nearest


def labelled(view: View, body: TorchBody) -> tuple[Cells, Bodies]:
    """What is to be predicted, and at which cells."""
    count, side = len(view.images), SPEC.image_size
    posed = body(view.shape, view.rotations)
    joints, vertices = (p + view.translation[:, None] for p in (posed.joints, posed.vertices))
    head = joints[:, _HEAD]
    location = project(head[:, None], view.K)[:, 0]
    row, column, offset = cell_targets(location, grid=_GRID, patch_size=SPEC.patch_size)
    cells = Cells(torch.arange(count), row, column)
    scores = torch.zeros(count, _GRID, _GRID)
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
    upright = torch.eye(3).expand_as(root)
    vertices, joints = place(
        *body(people.shape, torch.cat([upright, others], dim=1)),
        root=root[:, 0],
        translation=people.translation,
        primary=_HEAD,
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


def objective(
    encoder: Encoder, head: PeopleHead, readouts: Readouts, body: TorchBody, view: View
) -> Tensor:
    """The losses of the head at the true cells, and of the read-outs; geometry in float32."""
    patches = encoder(normalised(view.images)).final.of("patch")
    with torch.autocast("cpu", enabled=False):
        patches = patches.float()
        cells, truth = labelled(view, body)
        found = placed(head(patches, view.K, cells), view.K, body)
        terms = people_losses(found, truth, side_px=SPEC.image_size)
        return total_loss(terms, WEIGHTS) + readout_loss(readouts, patches, truth, body, view.mask)


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
    full = (count / 4).clamp(max=1)  # four vertices and more count as a patch full of body
    of_bones = -(bones / count.clamp(min=1)[..., None] * told.bones.log_softmax(dim=-1)).sum(dim=-1)
    off = (told.depth - deep / count.clamp(min=1)).abs()

    places = truth.joint_pixels / SPEC.patch_size
    inside = ((places > 0) & (places < _GRID)).all(dim=-1).float()  # [B, J]
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
    return torch.stack([READOUT_WEIGHTS[name] * term for name, term in terms.items()]).sum()


def gathered(places: Tensor, bone: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Vertices [B, V] by patch: how many of each bone [B, N, bones], the sum of depths [B, N]."""
    inside = ((places > 0) & (places < _GRID)).all(dim=-1).float()
    column, row = places.long().clamp(0, _GRID - 1).unbind(dim=-1)
    count, cells = len(places), _GRID * _GRID
    patch = row * _GRID + column
    bones = torch.zeros(count, cells * len(BONES))
    bones.scatter_add_(1, patch * len(BONES) + bone, inside)
    deep = torch.zeros(count, cells).scatter_add_(1, patch, inside * depth)
    return bones.unflatten(1, (cells, -1)), deep


def blurred(places: Tensor) -> Tensor:  # [B, J, 2] in patches -> [B, N, J], sum 1 over patches
    """Gaussians around places, of 0.7 patches."""
    middle = torch.arange(_GRID) + 0.5
    x, y = (-0.5 * ((places[..., None, i] - middle) / 0.7) ** 2 for i in (0, 1))  # [B, J, grid]
    both = (y[..., :, None] + x[..., None, :]).flatten(2)
    return both.softmax(dim=-1).transpose(1, 2)


def train(out: Path, settings: FitSettings, *, save_every: int = 500) -> dict[str, float]:
    """Train into a folder, or go on with what lies there; returns the scores on the test split."""
    torch.manual_seed(settings.seed)
    encoder, head, body = build_encoder(SPEC), PeopleHead(HEAD_SPEC), TorchBody(every=8)
    readouts = Readouts(encoder.dim)
    people = read_people(MiniworldSource("people", "train", length=settings.train_images))
    test = read_people(MiniworldSource("people", "test", length=settings.test_images))
    start_at_the_mean(head, people)

    def loss(step: int) -> Tensor:
        view = people.view(chosen(len(people), step, settings))
        view = seen_anew(view, generator=generator(step, settings))
        return objective(encoder, head, readouts, body, view)

    both = nn.ModuleDict({"encoder": encoder, "head": head, "readouts": readouts})
    score = partial(evaluate, encoder, head, test)
    fit(out, both, settings, loss=loss, score=score, save_every=save_every)
    save_encoder(out, encoder.half(), SPEC, {"settings": asdict(settings)})
    save_people(out, head.half(), {"settings": asdict(settings)})
    encoder.float(), head.float()  # of the rounded weights
    scores = score()
    keep_scores(out, scores)
    return scores


@torch.no_grad()
def predict(encoder: Encoder, head: PeopleHead, body: TorchBody, view: View) -> Bodies:
    """One person of each picture: at the cell of the highest score."""
    patches = encoder(normalised(view.images)).final.of("patch")
    best = head.scores(patches).flatten(1).argmax(dim=1)
    cells = Cells(torch.arange(len(best)), best // _GRID, best % _GRID)
    return placed(head(patches, view.K, cells), view.K, body)


def evaluate(
    encoder: Encoder, head: PeopleHead, people: PeopleData, *, every: int = 8
) -> dict[str, float]:
    """`people_errors` of the person found in each picture, by each `every`-th vertex; share of
    pictures whose head joint is found within one patch."""
    body, found = TorchBody(every=every), []
    with evaluating(encoder), evaluating(head):
        for start in range(0, len(people), 96):
            found.append(predict(encoder, head, body, people.view(slice(start, start + 96))))
    prediction, truth = _together(found), true_bodies(people, body)
    errors = people_errors(prediction, truth, people.visible, side_px=SPEC.image_size)
    off = (prediction.joint_pixels - truth.joint_pixels)[:, _HEAD].norm(dim=-1)
    return {**errors, "head_found": (off < SPEC.patch_size).float().mean().item()}


def true_bodies(people: PeopleData, body: TorchBody) -> Bodies:
    """All of them as labelled."""
    starts = range(0, len(people), 96)
    return _together([labelled(people.view(slice(s, s + 96)), body)[1] for s in starts])


def _together(parts: Sequence[Bodies]) -> Bodies:
    """The people of several batches."""
    return Bodies(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def main() -> None:
    """The command line."""
    train(*from_command_line("train_people", FitSettings(steps=7500, train_images=38400)))


if __name__ == "__main__":
    main()
