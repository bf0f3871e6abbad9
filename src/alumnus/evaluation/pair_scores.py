"""How well a two-view network knows pairs of views: depth, pointmaps and matches.

Axes: B pairs, H W pixels, M = H * W, n queries.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from alumnus.evaluation.matching import View, shared_pixels
from alumnus.heads.two_view import ViewPrediction
from alumnus.heads.two_view.matching import nearest
from alumnus.heads.two_view.pairs import NONE, ViewPairs, swapped, truth_of
from alumnus.miniworld.pairs import Correspondences

__all__ = [
    "CLOSE_PX",
    "PATCH_PX",
    "Views",
    "both_orders",
    "depth_errors",
    "in_batches",
    "match_distances",
    "pair_scores",
    "reciprocal",
    "same_place",
    "shown",
]

CLOSE_PX = 4.0
PATCH_PX = 8.0
FACTOR = 1.25  # of delta1
STRIDE = 2  # every other pixel asks, along both axes
BATCH = 48  # pairs, the most at once
BATCH_PIXELS = BATCH * 128**2  # of one view of each: of larger pictures fewer pairs

Views = Callable[[Tensor], tuple[ViewPrediction, ViewPrediction]]  # of images [B, 2, 3, H, W]


@torch.no_grad()
def pair_scores(views: Views, pairs: ViewPairs) -> dict[str, float]:
    """What a network makes of pairs, each in both orders; means over pictures of their pixels.

    `abs_rel`, `delta1`: relative error of the first view's depth, and share within a factor of
    1.25. `own_points_m`, `other_points_m`: distance of the first and the second view's points from
    the true ones, in the first camera's frame, metres. `match_4px`, `match_patch`: share of the
    first view's pixels, of those that the second one shows, whose nearest descriptor there is
    less than 4 px or a patch of 8 px away from the true place. Only pixels of known depth count.
    """
    depth, points, distances = [], [], []
    for some in both_orders(pairs):
        first, second = views(some.images)
        truth = truth_of(some)
        depth.append(depth_errors(first.points[..., 2], some.depth[:, 0]))
        apart = [
            _mean_where((p.points - t).norm(dim=-1), known)
            for p, t, known in zip((first, second), truth.points, truth.valid, strict=True)
        ]
        points.append(torch.stack(apart, dim=1))
        distances += [
            match_distances(some, k, first.desc[k], second.desc[k]) for k in range(len(some))
        ]
    abs_rel, delta1 = torch.cat(depth).nanmean(dim=0).tolist()
    own_m, other_m = torch.cat(points).nanmean(dim=0).tolist()
    off = torch.cat(distances)
    return {
        "abs_rel": abs_rel,
        "delta1": delta1,
        "own_points_m": own_m,
        "other_points_m": other_m,
        "match_4px": (off < CLOSE_PX).float().mean().item(),
        "match_patch": (off < PATCH_PX).float().mean().item(),
    }


def both_orders(pairs: ViewPairs) -> Iterator[ViewPairs]:
    """Batches of all pairs, each as it is and then swapped."""
    for batch in in_batches(pairs):
        yield batch
        yield swapped(batch, torch.ones(len(batch), dtype=torch.bool))


def in_batches(pairs: ViewPairs) -> Iterator[ViewPairs]:
    """All pairs in their order, as many at a time as fit into memory at their size."""
    height, width = pairs.images.shape[-2:]
    count = max(1, min(BATCH, BATCH_PIXELS // (height * width)))
    for start in range(0, len(pairs), count):
        yield pairs.at(slice(start, start + count))


def depth_errors(depth: Tensor, true: Tensor) -> Tensor:  # [B, H, W] each -> [B, 2]
    """Of each picture the mean relative error, and the share within a factor of 1.25.

    Over its pixels with a true depth; NaN without any.
    """
    known = true > 0
    depth, true = depth.clamp(min=1e-3), torch.where(known, true, 1.0)
    near = torch.maximum(depth / true, true / depth) < FACTOR
    errors = [_mean_where(e, known) for e in ((depth - true).abs() / true, near.float())]
    return torch.stack(errors, dim=-1)


def match_distances(pairs: ViewPairs, pair: int, first: Tensor, second: Tensor) -> Tensor:
    """How far, in pixels, the nearest descriptor in view 2 is from the true place: [n].

    `first`, `second`: descriptors [H, W, C] of unit length. Asked for every other pixel of view 1
    that view 2 shows.
    """
    there = shown(pairs, pair)
    asked = torch.from_numpy(there.visible)[::STRIDE, ::STRIDE]
    true = torch.stack([torch.from_numpy(there.x), torch.from_numpy(there.y)], dim=-1)
    found = nearest(first[::STRIDE, ::STRIDE][asked], second.flatten(0, 1))
    width = second.shape[1]
    place = torch.stack([found % width, found // width], dim=-1) + 0.5
    apart: Tensor = (place - true[::STRIDE, ::STRIDE][asked]).norm(dim=-1)
    return apart


def shown(pairs: ViewPairs, pair: int, *, one: int = 0, other: int = 1) -> Correspondences:
    """Where the pixels of one view of a pair are in the other one.

    A pixel without depth is shown nowhere, and hides what may lie behind it.
    """
    views = [
        View(pairs.depth[pair, k].float(), pairs.K[pair, k], pairs.pose[pair, k])
        for k in (one, other)
    ]
    there = shared_pixels(*views)
    return there._replace(visible=there.visible & (views[0].depth > 0).numpy())


def reciprocal(there: Correspondences, back: Correspondences) -> Tensor:  # [M] int64
    """The pixel of view 2 for each of view 1, where the way back from it leads to the same pixel.

    Both ways are rounded to the pixel that they fall into; -1 elsewhere.
    """
    to, fro = _pixel(there), _pixel(back)
    kept = (to != NONE) & (fro[to] == np.arange(len(to)))
    return torch.from_numpy(np.where(kept, to, NONE))


def same_place(pairs: ViewPairs) -> Views:
    """For any picture the mean pointmaps of some pairs, and as match the same pixel."""
    sums = [torch.zeros(1), torch.zeros(1)]
    counts = [torch.zeros(1), torch.zeros(1)]
    for batch in in_batches(pairs):
        truth = truth_of(batch)
        known = [v[..., None].float() for v in truth.valid]
        sums = [s + (p * v).sum(0) for s, p, v in zip(sums, truth.points, known, strict=True)]
        counts = [c + v.sum(0) for c, v in zip(counts, known, strict=True)]
    mean = [s / c.clamp(min=1) for s, c in zip(sums, counts, strict=True)]  # [H, W, 3]
    height, width = mean[0].shape[:2]
    y, x = (
        torch.arange(n) * (math.pi / 2 / n) for n in (height, width)
    )  # the nearer two angles, the larger the product of their points on the circle
    across = torch.stack([x.cos(), x.sin()], dim=-1).expand(height, -1, -1)
    down = torch.stack([y.cos(), y.sin()], dim=-1)[:, None].expand(-1, width, -1)
    place = torch.cat([across, down], dim=-1) / math.sqrt(2)
    sure = torch.ones(1, height, width)

    def views(images: Tensor) -> tuple[ViewPrediction, ViewPrediction]:
        count = len(images)
        first, second = (
            ViewPrediction(
                points=points.expand(count, -1, -1, -1),
                conf=sure.expand(count, -1, -1),
                desc=place.expand(count, -1, -1, -1),
                desc_conf=sure.expand(count, -1, -1),
            )
            for points in mean
        )
        return first, second

    return views


def _mean_where(values: Tensor, counts: Tensor) -> Tensor:  # [B, H, W] -> [B], NaN without any
    return torch.where(counts, values, 0.0).sum(dim=(1, 2)) / counts.sum(dim=(1, 2))


def _pixel(there: Correspondences) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:  # [M]
    height, width = there.x.shape
    # In float32 a place a hair from the edge may have become the edge.
    x = np.minimum(there.x.astype(np.int64), width - 1)
    place = np.minimum(there.y.astype(np.int64), height - 1) * width + x
    return np.where(there.visible, place, NONE).ravel()
