"""Matches of two images from their descriptors: pixels that are each other's nearest neighbour.

Axes: H W pixels, D width of a descriptor, n queries, m keys, s starts, k matches. Pixels are
(x, y); a place is x + W y.
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from alumnus.spelling import unknown

__all__ = [
    "Closeness",
    "PixelMatches",
    "fast_reciprocal_matches",
    "grid_starts",
    "least_confidence",
    "matches_both_ways",
    "mutual_matches",
    "nearest",
    "next_starts",
    "within_border",
]

Closeness = Literal["dot", "l2"]

ROUNDS = 10
BLOCK = 8192  # queries and keys compared at once: 256 MiB in float32


class PixelMatches(NamedTuple):
    """Pixel `first[i]` of image 1 shows what `second[i]` of image 2 shows."""

    first: Tensor  # [k, 2] int64 (x, y)
    second: Tensor  # [k, 2]


def nearest(
    queries: Tensor,  # [n, D]
    keys: Tensor,  # [m, D]
    *,
    closeness: Closeness = "dot",
    block: int = BLOCK,
) -> Tensor:  # [n] int64
    """The place of each query's nearest key: largest product, or smallest Euclidean distance.

    In float32, under autocast too: in bfloat16 another key is often the nearest.
    """
    if closeness not in get_args(Closeness):
        raise unknown("closeness", closeness, get_args(Closeness))
    found = []
    for part in queries.float().split(block):
        best = torch.full((len(part),), -torch.inf, device=part.device)
        place = torch.zeros(len(part), dtype=torch.int64, device=part.device)
        for start in range(0, len(keys), block):
            some = keys[start : start + block].float()
            with torch.autocast(part.device.type, enabled=False):
                near = part @ some.T if closeness == "dot" else -torch.cdist(part, some)
            value, at = near.max(dim=1)
            place = torch.where(value > best, at + start, place)
            best = torch.maximum(best, value)
        found.append(place)
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)


def mutual_matches(
    first: Tensor,  # [H, W, D]
    second: Tensor,  # [H2, W2, D]
    *,
    closeness: Closeness = "dot",
) -> PixelMatches:
    """All pixels that are each other's nearest neighbour, by place in image 1: H W products of
    H2 W2, which `fast_reciprocal_matches` avoids."""
    one, other = first.flatten(0, 1), second.flatten(0, 1)
    there, back = (
        nearest(one, other, closeness=closeness),
        nearest(other, one, closeness=closeness),
    )
    places = torch.arange(len(one), device=one.device)
    kept = back[there] == places
    return PixelMatches(_xy(places[kept], first), _xy(there[kept], second))


def grid_starts(maps: Tensor, *, every: int) -> Tensor:  # [H, W, D] -> [s, 2]
    """Pixels of a grid, the first half a step from the corner."""
    height, width = maps.shape[:2]
    y, x = torch.meshgrid(
        torch.arange(every // 2, height, every),
        torch.arange(every // 2, width, every),
        indexing="ij",
    )
    return torch.stack([x, y], dim=-1).flatten(0, 1).to(maps.device)


def fast_reciprocal_matches(
    first: Tensor,  # [H, W, D]
    second: Tensor,  # [H2, W2, D]
    starts: Tensor,  # [s, 2] pixels of image 1, as `grid_starts` gives them
    *,
    tolerance_px: float = 0.0,
    closeness: Closeness = "dot",
    rounds: int = ROUNDS,
) -> PixelMatches:
    """Mutual matches found from few starts: each goes to its neighbour in image 2 and back.

    A start that comes back to itself is a match; one that does not goes on from where it came
    back to, at most `rounds` times, and is dropped if it never settles. Matches are unique, by
    place in image 1, then in image 2; they need not lie on the starts.

    `tolerance_px` > 0: one round only, and a start that comes back nearer than that is itself
    reported with its neighbour.

    Source: MASt3R (arXiv 2406.09756), section 3.3, fast reciprocal matching.
    """
    one, other = first.flatten(0, 1), second.flatten(0, 1)
    place = _place(starts, first)
    if tolerance_px > 0:
        there = nearest(one[place], other, closeness=closeness)
        back = nearest(other[there], one, closeness=closeness)
        off = (_xy(back, first) - starts).double().norm(dim=-1)
        kept = off < tolerance_px
        return _unique(place[kept], there[kept], first, second)

    there = torch.full_like(place, -1)
    active = torch.arange(len(place), device=place.device)
    settled = torch.zeros(len(place), dtype=torch.bool, device=place.device)
    for _ in range(rounds):
        found = nearest(one[place[active]], other, closeness=closeness)
        same = found == there[active]
        settled[active[same]] = True
        there[active] = found
        active = active[~same]
        back = nearest(other[there[active]], one, closeness=closeness)
        same = back == place[active]
        settled[active[same]] = True
        place[active] = back
        active = active[~same]
        if not len(active):
            break
    return _unique(place[settled], there[settled], first, second)


def next_starts(
    first: Tensor,  # [H, W, D]
    second: Tensor,  # [H2, W2, D]
    starts: Tensor,  # [s, 2]
    *,
    closeness: Closeness = "dot",
    rounds: int = ROUNDS,
) -> Tensor:  # [H W] int64
    """Where each start, and each pixel on its way, comes back to after one round; -1 elsewhere.

    Pixels that lead to the same match form its basin: MASt3R (arXiv 2406.09756), appendix B.
    """
    one, other = first.flatten(0, 1), second.flatten(0, 1)
    leads = torch.full((len(one),), -1, dtype=torch.int64, device=one.device)
    active = _place(starts, first)
    for _ in range(rounds):
        there = nearest(one[active], other, closeness=closeness)
        back = nearest(other[there], one, closeness=closeness)
        leads[active] = back
        active = back[back != active]
        if not len(active):
            break
    return leads


def matches_both_ways(
    first: Tensor, second: Tensor, *, every: int = 8, tolerance_px: float = 0.0
) -> PixelMatches:
    """`fast_reciprocal_matches` from a grid in either image, merged."""
    there = fast_reciprocal_matches(
        first, second, grid_starts(first, every=every), tolerance_px=tolerance_px
    )
    back = fast_reciprocal_matches(
        second, first, grid_starts(second, every=every), tolerance_px=tolerance_px
    )
    places = [
        torch.cat([_place(a, maps), _place(b, maps)])
        for a, b, maps in ((there.first, back.second, first), (there.second, back.first, second))
    ]
    return _unique(places[0], places[1], first, second)


def least_confidence(matches: PixelMatches, first: Tensor, second: Tensor) -> Tensor:  # [k]
    """The smaller of the confidences [H, W], [H2, W2] at the two pixels of each match."""
    x1, y1 = matches.first.unbind(dim=1)
    x2, y2 = matches.second.unbind(dim=1)
    return torch.minimum(first[y1, x1], second[y2, x2])


def within_border(
    matches: PixelMatches, first: Tensor, second: Tensor, *, border_px: int = 3
) -> PixelMatches:
    """Without matches nearer than that to an edge of their image, where a view says little."""
    kept = torch.ones(len(matches.first), dtype=torch.bool, device=first.device)
    for xy, maps in ((matches.first, first), (matches.second, second)):
        size = torch.tensor([maps.shape[1], maps.shape[0]], device=xy.device)
        kept &= ((xy >= border_px) & (xy < size - border_px)).all(dim=-1)
    return PixelMatches(matches.first[kept], matches.second[kept])


def _place(xy: Tensor, maps: Tensor) -> Tensor:
    return xy[:, 0] + maps.shape[1] * xy[:, 1]


def _xy(place: Tensor, maps: Tensor) -> Tensor:
    return torch.stack([place % maps.shape[1], place // maps.shape[1]], dim=-1)


def _unique(places: Tensor, there: Tensor, first: Tensor, second: Tensor) -> PixelMatches:
    """Each pair of places once, by the first, then the second."""
    pairs = torch.stack([places, there], dim=-1).unique(dim=0)
    return PixelMatches(_xy(pairs[:, 0], first), _xy(pairs[:, 1], second))
