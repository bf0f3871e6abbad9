"""What is learned of miniworld people, by the shipped teacher and by any head: losses and scores.

Axes: B pictures, P people, N patches, D width, J joints.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from alumnus.encoders import Encoder
from alumnus.heads.people.camera import nearness_from_distance
from alumnus.heads.people.head import PeopleHead, surest
from alumnus.heads.people.losses import Bodies, LossWeights, people_losses, total_loss
from alumnus.heads.people.rotations import six_from_matrix
from alumnus.heads.people.spec import PeopleSpec
from alumnus.images import normalised
from alumnus.miniworld.body import BONES, SHAPE_COMPONENTS
from alumnus.miniworld.fit import SPEC, evaluating
from alumnus.miniworld.people_bodies import GRID, HEAD, PeopleData, labelled, placed, together
from alumnus.miniworld.people_errors import (
    count_detections,
    people_errors,
    precision_and_recall,
)
from alumnus.miniworld.people_views import View
from alumnus.miniworld.torch_body import TorchBody

__all__ = [
    "HEAD_SPEC",
    "evaluate",
    "fitted",
    "head_loss",
    "mean_rotations",
    "predict",
    "start_at_the_mean",
]

EVALUATED = 96  # pictures at a time

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
    side = people.images.shape[-1]
    nearness = nearness_from_distance(people.head[:, 2], people.K, side_px=side)
    regressor.init_cam[0, 0] = nearness.mean()


def mean_rotations(rotations: Tensor) -> Tensor:  # [P, R, 3, 3] -> [R, 3, 3]
    """The rotations nearest to the mean matrices."""
    u, _, v = torch.linalg.svd(rotations.mean(dim=0))
    sign = torch.ones(len(u), 3)
    sign[:, 2] = torch.det(u @ v)
    nearest: Tensor = u @ torch.diag_embed(sign) @ v
    return nearest


def head_loss(
    head: PeopleHead,
    patches: Tensor,  # [B, N, D] float32
    view: View,
    body: TorchBody,
) -> tuple[Tensor, Bodies]:
    """The losses of the head at the true cells, and what is true; to be called in float32."""
    side = head.spec.side_px
    cells, truth = labelled(view, body, patch_size=head.spec.patch_size)
    found = placed(head(patches, view.K, cells), view.K, body)
    terms = people_losses(found, truth, side_px=side)
    pixels = WEIGHTS.joint_pixels * SPEC.image_size / side  # of pictures of 64 px
    return total_loss(terms, replace(WEIGHTS, joint_pixels=pixels)), truth


def fitted(view: View, side_px: int) -> View:
    """The view in pictures of another side."""
    before = view.images.shape[-1]
    if before == side_px:
        return view
    size = (side_px, side_px)
    images = F.interpolate(view.images, size, mode="bicubic", antialias=True).clamp(0, 1)
    K = view.K.clone()
    K[:, :2] *= side_px / before
    return view._replace(images=images, mask=F.interpolate(view.mask, size), K=K)


@torch.no_grad()
def predict(encoder: Encoder, head: PeopleHead, body: TorchBody, view: View) -> Bodies:
    """One person of each picture: at the cell of the highest score."""
    patches = encoder(normalised(view.images)).final.of("patch")
    return placed(head(patches, view.K, surest(head.scores(patches))), view.K, body)


@torch.no_grad()
def evaluate(
    encoder: Encoder, head: PeopleHead, people: PeopleData, *, every: int = 8
) -> dict[str, float]:
    """`people_errors` of the surest person of each picture, by each `every`-th vertex.

    Also the share of pictures whose head joint is found within one patch, and precision and recall,
    in percent, of everyone whose score reaches the threshold, matched by `match_people`.
    """
    device = next(head.parameters()).device
    body = TorchBody(every=every).to(device)
    found, truth, counts = [], [], torch.zeros(3)
    with evaluating(encoder), evaluating(head):
        for start in range(0, len(people), EVALUATED):
            view = fitted(people.view(slice(start, start + EVALUATED)), head.spec.side_px)
            view = View(*(values.to(device) for values in view))
            patches = encoder(normalised(view.images)).final.of("patch").float()
            found.append(placed(head(patches, view.K, surest(head.scores(patches))), view.K, body))
            truth.append(labelled(view, body, patch_size=head.spec.patch_size)[1])
            counts += _counted(head, patches, view, body, truth[-1])
    prediction, true = (
        Bodies(*(values.cpu() for values in together(parts))) for parts in (found, truth)
    )
    errors = people_errors(prediction, true, people.visible, side_px=head.spec.side_px)
    off = (prediction.joint_pixels - true.joint_pixels)[:, HEAD].norm(dim=-1)
    head_found = (off < head.spec.patch_size).float().mean().item()
    return {**errors, "head_found": head_found, **precision_and_recall(counts)}


def _counted(
    head: PeopleHead, patches: Tensor, view: View, body: TorchBody, truth: Bodies
) -> Tensor:  # [3]
    """Of everyone whose score reaches the threshold; see `count_detections`."""
    people = head(patches, view.K)
    image = people.cells.image
    pixels = placed(people, view.K[image], body).joint_pixels
    return count_detections(pixels.cpu(), image.cpu(), truth.joint_pixels.cpu())
