"""How well a two-view network knows rooms: depth, pointmaps and matches of test pairs.

Axes: B pairs, H W pixels, n queries.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from alumnus.heads.two_view import ViewPrediction
from alumnus.heads.two_view.matching import nearest
from alumnus.miniworld.room_pairs import RoomPairs, swapped, truth_of

__all__ = ["CLOSE_PX", "PATCH_PX", "Views", "depth_errors", "match_distances", "pair_scores"]

CLOSE_PX = 4.0
PATCH_PX = 8.0
FACTOR = 1.25  # of delta1
STRIDE = 2  # every other pixel asks, along both axes
BATCH = 48  # pairs

Views = Callable[[Tensor], tuple[ViewPrediction, ViewPrediction]]  # of images [B, 2, 3, H, W]


@torch.no_grad()
def pair_scores(views: Views, pairs: RoomPairs) -> dict[str, float]:
    """What a network makes of pairs, each in both orders; means over pixels.

    `abs_rel`, `delta1`: relative error of the first view's depth, and share within a factor of
    1.25. `own_points_m`, `other_points_m`: distance of the first and the second view's points from
    the true ones, in the first camera's frame, metres. `match_4px`, `match_patch`: share of the
    first view's pixels, of those that the second one shows, whose nearest descriptor there is
    less than 4 px or a patch away from the true place.
    """
    depth, points, distances = [], [], []
    for start in range(0, len(pairs), BATCH):
        batch = pairs.at(slice(start, start + BATCH))
        both = torch.ones(len(batch), dtype=torch.bool)
        for some in (batch, swapped(batch, both)):
            first, second = views(some.images)
            depth.append(depth_errors(first.points[..., 2], some.depth[:, 0]))
            apart = [
                (p.points - t).norm(dim=-1).mean(dim=(1, 2))
                for p, t in zip((first, second), truth_of(some).points, strict=True)
            ]
            points.append(torch.stack(apart, dim=1))
            distances += [
                match_distances(some, k, first.desc[k], second.desc[k]) for k in range(len(some))
            ]
    abs_rel, delta1 = torch.cat(depth).mean(dim=0).tolist()
    own_m, other_m = torch.cat(points).mean(dim=0).tolist()
    off = torch.cat(distances)
    return {
        "abs_rel": abs_rel,
        "delta1": delta1,
        "own_points_m": own_m,
        "other_points_m": other_m,
        "match_4px": (off < CLOSE_PX).float().mean().item(),
        "match_patch": (off < PATCH_PX).float().mean().item(),
    }


def depth_errors(depth: Tensor, true: Tensor) -> Tensor:  # [B, H, W] each -> [B, 2]
    """Of each picture the mean relative error, and the share within a factor of 1.25."""
    depth = depth.clamp(min=1e-3)
    near = torch.maximum(depth / true, true / depth) < FACTOR
    errors = torch.stack([(depth - true).abs() / true, near.float()], dim=-1)
    return errors.mean(dim=(1, 2))


def match_distances(pairs: RoomPairs, pair: int, first: Tensor, second: Tensor) -> Tensor:
    """How far, in pixels, the nearest descriptor in view 2 is from the true place: [n].

    `first`, `second`: descriptors [H, W, C] of unit length. Asked for every other pixel of view 1
    that view 2 shows.
    """
    there = pairs.shown(pair)
    asked = torch.from_numpy(there.visible)[::STRIDE, ::STRIDE]
    true = torch.stack([torch.from_numpy(there.x), torch.from_numpy(there.y)], dim=-1)
    found = nearest(first[::STRIDE, ::STRIDE][asked], second.flatten(0, 1))
    width = second.shape[1]
    place = torch.stack([found % width, found // width], dim=-1) + 0.5
    apart: Tensor = (place - true[::STRIDE, ::STRIDE][asked]).norm(dim=-1)
    return apart
