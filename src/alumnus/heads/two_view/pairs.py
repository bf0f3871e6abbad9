"""Pairs of views as tensors: what a two-view network is trained and scored on.

Pixels are counted from the picture's corner: the centre of the first one is at (0.5, 0.5).

Axes: P pairs, B pairs of a batch, H W pixels, M = H * W, n sampled matches.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from alumnus.heads.two_view.geometry import into_camera, unprojected
from alumnus.heads.two_view.losses import PairTruth, TwoViews

__all__ = ["NONE", "Matches", "ViewPairs", "mirrored", "sampled", "swapped", "truth_of"]

NONE = -1  # the match of a pixel that has none


@dataclass(frozen=True)
class ViewPairs:
    """Pairs in memory, or those of a batch."""

    images: Tensor  # [P, 2, 3, H, W] uint8; float in [0, 1] once taken out
    depth: Tensor  # [P, 2, H, W] metres along the optical axis, 0 where unknown; may be float16
    K: Tensor  # [P, 2, 3, 3] pixels
    pose: Tensor  # [P, 2, 4, 4] camera to world
    match: Tensor  # [P, M] pixel of view 2 that shows what each pixel of view 1 shows, or -1

    def __len__(self) -> int:
        return len(self.images)

    def at(self, chosen: Tensor | slice) -> "ViewPairs":
        """Some of the pairs, in float32 and int64; pictures in [0, 1]."""
        return ViewPairs(
            self.images[chosen].float() / 255,
            self.depth[chosen].float(),
            self.K[chosen],
            self.pose[chosen],
            self.match[chosen].long(),
        )

    def to(self, device: torch.device) -> "ViewPairs":
        """The same on a device."""
        fields = (self.images, self.depth, self.K, self.pose, self.match)
        return ViewPairs(*(values.to(device, non_blocking=True) for values in fields))


class Matches(NamedTuple):
    """Pixels to compare: matches, and others that serve as negatives only."""

    first: Tensor  # [B, n, 2] (x, y) in view 1
    second: Tensor  # [B, n, 2] in view 2
    valid: Tensor  # [B, n] bool: a match


def truth_of(pairs: ViewPairs) -> PairTruth:
    """Both views' points in metres, in the frame of camera 1, where depth is known."""
    worlds = [
        unprojected(pairs.depth[:, view], pairs.K[:, view], pairs.pose[:, view], centre=0.5)
        for view in (0, 1)
    ]
    points = TwoViews(*(into_camera(world, pairs.pose[:, 0]) for world in worlds))
    return PairTruth(points=points, valid=TwoViews(*(pairs.depth > 0).unbind(dim=1)))


def swapped(pairs: ViewPairs, swap: Tensor) -> ViewPairs:  # swap: [P] bool
    """The chosen pairs with view 2 first."""
    order = torch.stack([swap.long(), 1 - swap.long()], dim=1)  # [B, 2]
    row = torch.arange(len(pairs), device=swap.device)[:, None]
    images, depth, K, pose = (
        values[row, order] for values in (pairs.images, pairs.depth, pairs.K, pairs.pose)
    )
    match = torch.where(swap[:, None], _inverse(pairs.match), pairs.match)
    return ViewPairs(images, depth, K, pose, match)


def mirrored(pairs: ViewPairs, mirror: Tensor) -> ViewPairs:  # mirror: [P] bool
    """The chosen pairs with left and right exchanged, in the world too.

    x of every camera points the other way, so points and cameras stay true.
    """
    height, width = pairs.images.shape[-2:]

    def flipped(values: Tensor) -> Tensor:
        chosen = mirror.view(-1, *[1] * (values.ndim - 1))
        return torch.where(chosen, values.flip(-1), values)

    K = pairs.K.clone()
    K[..., 0, 2] = torch.where(mirror[:, None], width - K[..., 0, 2], K[..., 0, 2])
    sign = torch.ones(4, device=K.device)
    sign[0] = -1
    pose = torch.where(mirror[:, None, None, None], sign[:, None] * pairs.pose * sign, pairs.pose)
    there = pairs.match - 2 * (pairs.match % width) + width - 1
    match = torch.where(mirror[:, None] & (pairs.match != NONE), there, pairs.match)
    match = flipped(match.view(-1, height, width)).flatten(1)
    return ViewPairs(flipped(pairs.images), flipped(pairs.depth), K, pose, match)


def sampled(
    match: Tensor,  # [B, M] as in `ViewPairs`
    *,
    width: int,  # of the pictures, pixels
    true: int,
    others: int,
    generator: torch.Generator,
) -> Matches:
    """`true` random matches of each pair, and `others` random pixels of each view without one.

    Where a pair has fewer matches, pixels without one fill up.
    """
    draw = torch.rand(2, *match.shape, generator=generator)
    has, back = match != NONE, _inverse(match)
    matched = torch.where(has, draw[0], draw[0] - 1).topk(true, dim=1).indices
    alone_1 = torch.where(has, -1.0, draw[0]).topk(others, dim=1).indices
    alone_2 = torch.where(back != NONE, -1.0, draw[1]).topk(others + true, dim=1).indices
    partner = match.gather(1, matched)
    valid = torch.cat([partner != NONE, torch.zeros_like(alone_1, dtype=torch.bool)], dim=1)
    partner = torch.where(partner == NONE, alone_2[:, others:], partner)
    first = torch.cat([matched, alone_1], dim=1)
    second = torch.cat([partner, alone_2[:, :others]], dim=1)
    return Matches(_xy(first, width), _xy(second, width), valid)


def _inverse(match: Tensor) -> Tensor:  # [B, M]
    """The match of each pixel of view 2, in view 1."""
    pixels = match.shape[1]
    spare = torch.full((len(match), pixels + 1), NONE, dtype=match.dtype, device=match.device)
    place = torch.where(match == NONE, pixels, match)
    number = torch.arange(pixels, dtype=match.dtype, device=match.device)
    return spare.scatter_(1, place, number.expand_as(match))[:, :pixels]


def _xy(place: Tensor, width: int) -> Tensor:  # [B, n] -> [B, n, 2]
    return torch.stack([place % width, place // width], dim=-1)
