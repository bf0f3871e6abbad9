"""Pairs of views of rooms as tensors: what a two-view network is trained and scored on.

Axes: P pairs, B pairs of a batch, H W pixels, M = H * W, N patches, n sampled matches.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alumnus.heads.two_view.geometry import into_camera, unprojected
from alumnus.heads.two_view.losses import PairTruth, TwoViews
from alumnus.miniworld.augment import recolour
from alumnus.miniworld.fit import columns
from alumnus.miniworld.pairs import Correspondences, correspondences
from alumnus.miniworld.source import MiniworldSource

__all__ = [
    "Matches",
    "RoomPairs",
    "augmented",
    "load_pairs",
    "patch_matches",
    "reciprocal",
    "sampled",
    "swapped",
    "truth_of",
]

NONE = -1  # the match of a pixel that has none


@dataclass(frozen=True)
class RoomPairs:
    """Pairs in memory, or those of a batch."""

    images: Tensor  # [P, 2, 3, H, W] uint8; float in [0, 1] once augmented
    depth: Tensor  # [P, 2, H, W] metres along the optical axis; float16 in memory
    K: Tensor  # [P, 2, 3, 3] pixels
    pose: Tensor  # [P, 2, 4, 4] camera to world
    match: Tensor  # [P, M] pixel of view 2 that shows what each pixel of view 1 shows, or -1

    def __len__(self) -> int:
        return len(self.images)

    def at(self, chosen: Tensor | slice) -> "RoomPairs":
        """Some of the pairs, in float32 and int64; pictures in [0, 1]."""
        return RoomPairs(
            self.images[chosen].float() / 255,
            self.depth[chosen].float(),
            self.K[chosen],
            self.pose[chosen],
            self.match[chosen].long(),
        )

    def shown(self, pair: int, *, one: int = 0, other: int = 1) -> Correspondences:
        """Where the pixels of one view of a pair are in the other one."""
        depth, K, pose = (v[pair].float().numpy() for v in (self.depth, self.K, self.pose))
        return correspondences(
            depth[one],
            depth[other],
            K1=K[one],
            K2=K[other],
            pose1=pose[one],
            pose2=pose[other],
        )


class Matches(NamedTuple):
    """Pixels to compare: matches, and others that serve as negatives only."""

    first: Tensor  # [B, n, 2] (x, y) in view 1
    second: Tensor  # [B, n, 2] in view 2
    valid: Tensor  # [B, n] bool: a match


def load_pairs(source: MiniworldSource) -> RoomPairs:
    """A whole source of rooms in memory (48 kB a pair at 64 px), rendering what is missing."""
    fields = columns(source, "image", "depth", "K", "pose")
    both = {name: values.unflatten(0, (-1, 2)) for name, values in fields.items()}
    pairs = RoomPairs(
        both["image"], both["depth"], both["K"], both["pose"], torch.zeros(len(both["K"]), 0)
    )
    match = torch.stack(
        [reciprocal(pairs.shown(p), pairs.shown(p, one=1, other=0)) for p in range(len(pairs))]
    )
    return replace(pairs, match=match)


def reciprocal(there: Correspondences, back: Correspondences) -> Tensor:  # [M] int16
    """The pixel of view 2 for each of view 1, where the way back from it leads to the same pixel.

    Both ways are rounded to the pixel that they fall into; -1 elsewhere.
    """
    to, fro = _pixel(there), _pixel(back)
    kept = (to != NONE) & (fro[to] == np.arange(len(to)))
    return torch.from_numpy(np.where(kept, to, NONE).astype(np.int16))


def truth_of(pairs: RoomPairs) -> PairTruth:
    """Both views' points in metres, in the frame of camera 1; every pixel has one."""
    worlds = [
        unprojected(pairs.depth[:, view], pairs.K[:, view], pairs.pose[:, view], centre=0.5)
        for view in (0, 1)
    ]
    points = TwoViews(*(into_camera(world, pairs.pose[:, 0]) for world in worlds))
    return PairTruth(points=points, valid=TwoViews(*(p[..., 2].isfinite() for p in points)))


def augmented(pairs: RoomPairs, *, generator: torch.Generator) -> RoomPairs:
    """The two views in either order, both mirrored or not, each in colours of its own.

    Nothing here changes which points match or how far they are: mirrored is the whole room.
    """
    swap = torch.rand(len(pairs), generator=generator) < 0.5
    mirror = torch.rand(len(pairs), generator=generator) < 0.5
    pairs = _mirrored(swapped(pairs, swap), mirror)
    seen = recolour(pairs.images.flatten(0, 1), generator=generator).unflatten(0, (-1, 2))
    return RoomPairs(seen, pairs.depth, pairs.K, pairs.pose, pairs.match)


def swapped(pairs: RoomPairs, swap: Tensor) -> RoomPairs:  # swap: [P] bool
    """The chosen pairs with view 2 first."""
    order = torch.stack([swap.long(), 1 - swap.long()], dim=1)  # [B, 2]
    row = torch.arange(len(pairs))[:, None]
    images, depth, K, pose = (
        values[row, order] for values in (pairs.images, pairs.depth, pairs.K, pairs.pose)
    )
    match = torch.where(swap[:, None], _inverse(pairs.match), pairs.match)
    return RoomPairs(images, depth, K, pose, match)


def sampled(match: Tensor, *, true: int, others: int, generator: torch.Generator) -> Matches:
    """`true` random matches of each pair, and `others` random pixels of each view without one."""
    draw = torch.rand(2, *match.shape, generator=generator)
    has, back = match != NONE, _inverse(match)
    matched = torch.where(has, draw[0], -1.0).topk(true, dim=1).indices
    alone_1 = torch.where(has, -1.0, draw[0]).topk(others, dim=1).indices
    alone_2 = torch.where(back != NONE, -1.0, draw[1]).topk(others, dim=1).indices
    partner = match.gather(1, matched)
    side = round(match.shape[1] ** 0.5)
    first, second = torch.cat([matched, alone_1], 1), torch.cat([partner.clamp(min=0), alone_2], 1)
    valid = torch.cat([partner != NONE, torch.zeros_like(alone_1, dtype=torch.bool)], dim=1)
    return Matches(_xy(first, side), _xy(second, side), valid)


def patch_matches(match: Tensor, *, patch_size: int) -> Tensor:  # [B, M] -> [B, N, N]
    """Which share of the pixels of each patch of view 1 has its match in each patch of view 2."""
    side = round(match.shape[1] ** 0.5)
    across = side // patch_size
    pixel = torch.arange(match.shape[1]).expand_as(match)

    def patch(place: Tensor) -> Tensor:
        row, column = place // side // patch_size, place % side // patch_size
        number: Tensor = row * across + column
        return number

    cell = patch(pixel) * across**2 + patch(match.clamp(min=0))  # [B, M]
    shares = torch.zeros(len(match), across**4)
    shares.scatter_add_(1, cell, (match != NONE).float() / patch_size**2)
    return shares.view(-1, across**2, across**2)


def _pixel(there: Correspondences) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:  # [M]
    height, width = there.x.shape
    # In float32 a place a hair from the edge may have become the edge.
    x = np.minimum(there.x.astype(np.int64), width - 1)
    place = np.minimum(there.y.astype(np.int64), height - 1) * width + x
    return np.where(there.visible, place, NONE).ravel()


def _xy(place: Tensor, width: int) -> Tensor:
    return torch.stack([place % width, place // width], dim=-1)


def _inverse(match: Tensor) -> Tensor:  # [B, M]
    """The same matches, listed by the pixels of view 2."""
    pixels = match.shape[1]
    spare = torch.full((len(match), pixels + 1), NONE, dtype=match.dtype)
    place = torch.where(match == NONE, pixels, match)
    return spare.scatter_(1, place, torch.arange(pixels).expand_as(match))[:, :pixels]


def _mirrored(pairs: RoomPairs, mirror: Tensor) -> RoomPairs:
    """Left and right exchanged, in the world too: x of every camera points the other way."""
    height, width = pairs.images.shape[-2:]

    def flipped(values: Tensor) -> Tensor:
        chosen = mirror.view(-1, *[1] * (values.ndim - 1))
        return torch.where(chosen, values.flip(-1), values)

    K = pairs.K.clone()
    K[..., 0, 2] = torch.where(mirror[:, None], width - K[..., 0, 2], K[..., 0, 2])
    sign = torch.ones(4)
    sign[0] = -1
    pose = torch.where(mirror[:, None, None, None], sign[:, None] * pairs.pose * sign, pairs.pose)
    there = pairs.match - 2 * (pairs.match % width) + width - 1
    match = torch.where(mirror[:, None] & (pairs.match != NONE), there, pairs.match)
    match = flipped(match.view(-1, height, width)).flatten(1)
    return RoomPairs(flipped(pairs.images), flipped(pairs.depth), K, pose, match)
