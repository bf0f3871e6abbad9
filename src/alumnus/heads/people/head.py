"""The people head: which patches hold a person, and the body of each, from one pass.

Axes: B images, N = h w patches, P people of all images together, D width of the patches.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alumnus.heads.people.camera import camera_embedding, distance_from_nearness, unproject
from alumnus.heads.people.regressor import BodyRegressor, Cells
from alumnus.heads.people.spec import PeopleSpec

__all__ = ["THRESHOLD", "People", "PeopleHead", "detect", "surest"]

THRESHOLD = 0.3
_LEAST = 1e-4  # scores stay this far from 0 and 1


class People(NamedTuple):
    """The people of a batch, in the order of their cells."""

    scores: Tensor  # [B, h, w]
    cells: Cells  # [P] each
    offset: Tensor  # [P, 2] x and y, in patches from the cell's centre
    location: Tensor  # [P, 2] of the primary joint, pixels
    rotations: Tensor  # [P, R, 3, 3], the root's first
    shape: Tensor  # [P, betas]
    expression: Tensor  # [P, expressions]
    nearness: Tensor  # [P]
    distance: Tensor  # [P] of the primary joint, metres along the optical axis
    translation: Tensor  # [P, 3] of the primary joint, metres in the camera's frame


class PeopleHead(nn.Module):
    """Multi-HMR's head: a score and an offset for each patch, a body for each detection.

    The primary joint (the head) of a person lies in, or next to, the cell that detects it.

    Source: Multi-HMR (arXiv 2402.14654), section 3; parameters are named as in its files.
    """

    def __init__(self, spec: PeopleSpec) -> None:
        super().__init__()
        self.spec = spec
        self.mlp_classif = _mlp(spec.dim, 1)
        self.mlp_offset = _mlp(spec.dim, 2)
        self.x_attention_head = BodyRegressor(spec)

    def scores(self, patches: Tensor) -> Tensor:  # [B, N, D] -> [B, h, w]
        """How sure it is that a person's primary joint lies in each cell."""
        logits: Tensor = self.mlp_classif(patches)
        scores = logits.float().sigmoid().clamp(_LEAST, 1 - _LEAST)
        return scores.reshape(-1, self.spec.grid, self.spec.grid)

    def forward(
        self,
        patches: Tensor,  # [B, N, D], normalised tokens
        K: Tensor,  # [B, 3, 3]
        cells: Cells | Callable[[Tensor], Cells] | None = None,
        *,
        threshold: float = THRESHOLD,
    ) -> People:
        """The people at `cells`, in training those of the labels, else at the detected ones.

        `cells` may also be a function that takes them from the scores [B, h, w], as `surest`.
        """
        spec, side = self.spec, self.spec.grid
        if patches.shape[1:] != (side * side, spec.dim):
            raise ValueError(
                f"patches have shape {tuple(patches.shape)}, but the people head takes "
                f"[B, {side * side}, {spec.dim}]: {spec.side_px} px squares"
            )
        scores = self.scores(patches)
        if cells is None:
            cells = detect(scores, threshold=threshold)
        elif not isinstance(cells, Cells):
            cells = cells(scores)
        image, row, column = cells
        features = patches.transpose(1, 2).unflatten(2, (side, side))  # [B, D, h, w]
        offset = self.mlp_offset(features[image, :, row, column]).float()
        location = (torch.stack([column, row], dim=-1) + 0.5 + offset) * spec.patch_size
        camera = camera_embedding(
            K,
            grid=(side, side),
            patch_size=spec.patch_size,
            bands=spec.camera_bands,
            max_resolution=spec.camera_max_resolution,
        )
        body = self.x_attention_head(torch.cat([features, camera.to(features)], dim=1), cells)
        nearness = body.camera[:, 0]
        distance = distance_from_nearness(nearness, K[image], side_px=spec.side_px)
        translation = unproject(location[:, None], distance[:, None, None], K[image])[:, 0]
        return People(
            scores,
            cells,
            offset,
            location,
            body.rotations,
            body.shape,
            body.expression,
            nearness,
            distance,
            translation,
        )


def detect(scores: Tensor, *, threshold: float = THRESHOLD, window: int = 3) -> Cells:
    """Cells of scores [B, h, w] that reach the threshold and are the highest of their window."""
    highest = F.max_pool2d(scores[:, None], window, stride=1, padding=window // 2)[:, 0]
    return Cells(*((scores == highest) & (scores >= threshold)).nonzero(as_tuple=True))


def surest(scores: Tensor) -> Cells:
    """The cell of the highest score of each image, of scores [B, h, w]."""
    best, width = scores.flatten(1).argmax(dim=1), scores.shape[2]
    image = torch.arange(len(scores), device=scores.device)
    return Cells(image, best // width, best % width)


def _mlp(dim: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, outputs))
