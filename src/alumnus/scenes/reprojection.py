"""Cameras by matches: what one photograph shows at a depth is seen by others where it matches.

Axes: n photographs, k matches of a pair, m of all pairs in both directions, h w pixels that have
a depth. Poses are camera to world; pixels (x, y) are those that the network sees.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from alumnus.scenes.alignment import minimised, turned_and_moved
from alumnus.scenes.pointmaps import Seen

__all__ = ["Refined", "refined_by_matches"]

MOST = 512  # matches of a pair, spread over all
SMOOTH_PX = 1.0  # below it errors count by their squares
FLAT = 1e-6  # in place of depths that are not ahead, which are never sure


class Refined(NamedTuple):
    """Cameras in the world, which is the frame of the first one."""

    poses: Tensor  # [n, 4, 4] float64
    sizes: Tensor  # [n] what to multiply each photograph's depths by; their geometric mean is 1
    error_px: float  # mean distance of a match from where the cameras put it


class Rows(NamedTuple):
    """Matches of all pairs, from either photograph."""

    view: Tensor  # [m] number of the photograph that knows a depth
    other: Tensor  # [m]
    points: Tensor  # [m, 3] in its camera's frame
    rays: Tensor  # [m, 3] of the matches in `other`, of length 1
    sure: Tensor  # [m], of the match and of the depth


def refined_by_matches(
    pairs: Sequence[Seen],
    poses: Tensor,  # [n, 4, 4] to start from
    depths: Sequence[Tensor],  # [h, w] each, of every `step`-th pixel
    sures: Sequence[Tensor],  # [h, w] each, of the depths
    cameras: Sequence[ArrayLike],  # [3, 3] each, K of a photograph as the network sees it
    *,
    step: int = 1,
) -> Refined:
    """Poses, and a scale of each photograph's depths, so that matches meet.

    Minimised is, over all matches of all pairs, from either photograph,

        sum of w rho(f_j |u(T_j^-1 T_i s_i depth_i(p) K_i^-1 p) - u(K_j^-1 q)|)

    for a pixel p of photograph i and its match q in j, with u(x) = x / |x|: in pixels of the
    picture's middle, and bounded, behind a camera too. First rho(d) = sqrt(d^2 + c^2), by which
    wrong matches pull no harder than right ones, then ln(d^2 + c^2), by which they hardly pull;
    c is 1 px. Depths keep their shape, and cameras their focal lengths, which matches at depths
    of unsure shape tell badly (tried: they ran away).
    """
    K = torch.from_numpy(np.stack([np.asarray(camera, np.float64) for camera in cameras]))
    rows = _rows(pairs, depths, sures, torch.linalg.inv(K), step)
    weight, focal = rows.sure / rows.sure.sum(), K[rows.other, 0, 0]
    turn = torch.zeros(len(poses), 3, dtype=torch.float64, requires_grad=True)
    shift = torch.zeros_like(turn, requires_grad=True)
    size = torch.zeros(len(poses), dtype=torch.float64, requires_grad=True)

    def squares() -> Tensor:  # [m]
        rotation, eye = turned_and_moved(poses, turn, shift)
        points = (size - size.mean()).exp()[rows.view][:, None] * rows.points
        world = (rotation[rows.view] @ points[..., None])[..., 0] + eye[rows.view]
        from_eye = (world - eye[rows.other])[..., None]
        local = (rotation[rows.other].transpose(1, 2) @ from_eye)[..., 0]
        off = F.normalize(local, dim=-1) - rows.rays
        return focal.square() * off.square().sum(dim=-1)

    def smooth() -> Tensor:
        return (weight * (squares() + SMOOTH_PX**2).sqrt()).sum()

    def redescending() -> Tensor:
        return (weight * (squares() + SMOOTH_PX**2).log()).sum()

    for loss in (smooth, redescending):
        minimised(loss, [turn, shift, size])
    with torch.no_grad():
        found = torch.eye(4, dtype=torch.float64).repeat(len(poses), 1, 1)
        found[:, :3, :3], found[:, :3, 3] = turned_and_moved(poses, turn, shift)
        error = float((weight * squares().sqrt()).sum())
        return Refined(torch.linalg.inv(found[0]) @ found, (size - size.mean()).exp(), error)


def _rows(
    pairs: Sequence[Seen],
    depths: Sequence[Tensor],
    sures: Sequence[Tensor],
    inverse: Tensor,  # [n, 3, 3] of the cameras' K
    step: int,
) -> Rows:
    parts: list[Rows] = []
    for pair in pairs:
        some = torch.linspace(0, len(pair.first) - 1, min(MOST, len(pair.first))).long()
        ends = (pair.there.first, pair.first[some]), (pair.there.second, pair.second[some])
        for (view, here), (other, there) in (ends, ends[::-1]):
            at = here.double() / step
            depth = 1 / _between(1 / depths[view].double().clamp(min=FLAT), at)
            sure = pair.match_sure[some] * _between(sures[view].double(), at)
            number = torch.full((len(some),), view), torch.full((len(some),), other)
            parts.append(
                Rows(
                    *number,
                    depth[:, None] * _rays(here, inverse[view]),
                    F.normalize(_rays(there, inverse[other]), dim=-1),
                    sure,
                )
            )
    return Rows(*(torch.cat(field) for field in zip(*parts, strict=True)))


def _rays(pixels: Tensor, inverse: Tensor) -> Tensor:  # [k, 2], [3, 3] -> [k, 3]
    """Directions in the camera's frame, 1 ahead."""
    return torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1).double() @ inverse.T


def _between(values: Tensor, at: Tensor) -> Tensor:  # [h, w], [k, 2] (x, y) -> [k]
    """The values at places between pixels; of a plane, inverse depths are exact there."""
    size = torch.tensor([values.shape[1], values.shape[0]], dtype=torch.float64)
    unit = 2 * at / (size - 1).clamp(min=1) - 1
    sampled = F.grid_sample(
        values[None, None], unit[None, None], align_corners=True, padding_mode="border"
    )
    return sampled[0, 0, 0]
