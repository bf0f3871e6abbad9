"""How the shipped `people` teacher is trained: `python -m alumnus.miniworld.train_people`.

A ViT of 1.3 M parameters and a small head in the manner of Multi-HMR learn from rendered people
with labels: the cell that the head joint is in, and from that cell's query the rotations of all
bones, the shape and the depth, under the published losses. Linear read-outs of the patches
(`people_readouts`) make it learn sooner. The default of 7500 steps takes about 45 minutes of one
core; `weights/people/card.md` states what it reaches. For the loop see `fit`.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from alumnus.encoders import Encoder, build_encoder
from alumnus.heads.people.camera import nearness_from_distance
from alumnus.heads.people.files import save_people
from alumnus.heads.people.head import PeopleHead
from alumnus.heads.people.losses import (
    Bodies,
    LossWeights,
    people_losses,
    total_loss,
)
from alumnus.heads.people.regressor import Cells
from alumnus.heads.people.rotations import six_from_matrix
from alumnus.heads.people.spec import PeopleSpec
from alumnus.miniworld.body import BONES, SHAPE_COMPONENTS
from alumnus.miniworld.fit import (
    SPEC,
    FitSettings,
    chosen,
    evaluating,
    fit,
    from_command_line,
    generator,
    keep_scores,
    normalised,
)
from alumnus.miniworld.people_bodies import (
    GRID,
    HEAD,
    PeopleData,
    labelled,
    placed,
    read_people,
    together,
    true_bodies,
)
from alumnus.miniworld.people_errors import people_errors
from alumnus.miniworld.people_readouts import Readouts, readout_loss
from alumnus.miniworld.people_views import View, seen_anew
from alumnus.miniworld.source import MiniworldSource
from alumnus.miniworld.torch_body import TorchBody
from alumnus.runs import save_encoder

__all__ = ["HEAD_SPEC", "evaluate", "mean_rotations", "predict", "start_at_the_mean", "train"]

HEAD_SPEC = PeopleSpec(
    dim=128,
    patch_size=8,
    grid=GRID,
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


def train(out: Path, settings: FitSettings, *, save_every: int = 500) -> dict[str, float]:
    """Train into a folder, or go on with what lies there; returns the scores on the test split."""
    torch.manual_seed(settings.seed)
    encoder, head, body = build_encoder(SPEC), PeopleHead(HEAD_SPEC), TorchBody(every=8)
    readouts = Readouts(encoder.dim)
    people = read_people(MiniworldSource("people", "train", length=settings.train_images))
    test = read_people(MiniworldSource("people", "test", length=settings.test_images))
    start_at_the_mean(head, people)

    def batch(step: int) -> View:
        view = people.view(chosen(len(people), step, settings))
        return seen_anew(view, generator=generator(step, settings))

    def loss(view: View) -> Tensor:
        return objective(encoder, head, readouts, body, view)

    both = nn.ModuleDict({"encoder": encoder, "head": head, "readouts": readouts})
    score = partial(evaluate, encoder, head, test)
    fit(out, both, settings, batch=batch, loss=loss, score=score, save_every=save_every)
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
    cells = Cells(torch.arange(len(best)), best // GRID, best % GRID)
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
    prediction, truth = together(found), true_bodies(people, body)
    errors = people_errors(prediction, truth, people.visible, side_px=SPEC.image_size)
    off = (prediction.joint_pixels - truth.joint_pixels)[:, HEAD].norm(dim=-1)
    return {**errors, "head_found": (off < SPEC.patch_size).float().mean().item()}


def main() -> None:
    """The command line."""
    train(*from_command_line("train_people", FitSettings(steps=7500, train_images=38400)))


if __name__ == "__main__":
    main()
