"""Photographs two by two: what a network says of every pair, in both orders.

Axes: H W pixels of a photograph as the network sees it, C channels of a descriptor.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alumnus.heads.two_view import (
    ConfidenceRange,
    Photo,
    PixelMatches,
    TwoViewNetwork,
    ViewPrediction,
    matches_both_ways,
    within_border,
)
from alumnus.heads.two_view.matching import least_confidence
from alumnus.tokens import Tokens

__all__ = ["Pointmaps", "Seen", "both_orders", "matched", "predict_pairs", "sureness"]

STARTS = 64  # of matches, along the long side
BORDER = 3 / 512  # of the long side: matches nearer to an edge are left out
NEAR = 0.1  # of its distance, two points for the same match agree
LEAST_AGREE = 32  # matches whose points agree; of two rooms that are not the same up to 26 did


class Pointmaps(NamedTuple):
    """Points of two photographs in the frame of the first, and how sure they are."""

    first: int  # numbers of the photographs
    second: int
    own: Tensor  # [H, W, 3]
    other: Tensor  # [H', W', 3]
    own_sure: Tensor  # [H, W], from 0
    other_sure: Tensor  # [H', W']

    def swapped_names(self) -> tuple[int, int]:
        """The pair, the second photograph first."""
        return self.second, self.first


class Seen(NamedTuple):
    """A pair in both orders, and its matches."""

    there: Pointmaps
    back: Pointmaps
    agree: int  # matches whose points agree, in the first order
    first: Tensor  # [k, 2] pixels (x, y) of the first photograph as the network sees it
    second: Tensor  # [k, 2] of the second one
    match_sure: Tensor  # [k], from 0


def sureness(conf: Tensor, within: ConfidenceRange) -> Tensor:
    """A weight from 0 of a confidence: ln(1 + conf - low), small where a network knows nothing."""
    return (conf - within.low).clamp(min=0).log1p()


def matched(first: ViewPrediction, second: ViewPrediction, pair: int = 0) -> PixelMatches:
    """Matches of one pair of a batch, from a grid of starts in either picture."""
    one, other = first.desc[pair], second.desc[pair]
    side = max(*one.shape[:2], *other.shape[:2])
    found = matches_both_ways(one, other, every=max(1, side // STARTS))
    return within_border(found, one, other, border_px=max(1, round(BORDER * side)))


@torch.no_grad()
def both_orders(
    network: TwoViewNetwork, i: int, j: int, tokens: tuple[Tokens, Tokens], *, step: int = 1
) -> Seen:
    """What the head says of photographs i and j, of every `step`-th pixel; on the CPU."""
    first, second = tokens
    there, back = network.head(first, second), network.head(second, first)
    found = matched(*there)
    (x1, y1), (x2, y2) = found.first.T, found.second.T
    points, same = there[0].points[0, y1, x1], there[1].points[0, y2, x2]
    near = (points - same).norm(dim=-1) < NEAR * points.norm(dim=-1)
    low = network.head.spec.conf
    one, other = (
        Pointmaps(
            *ends,
            *(points.cpu() for points, _ in known),
            *(sure.cpu() for _, sure in known),
        )
        for ends, known in (
            (ends, [_known(view, low, step) for view in views])
            for ends, views in (((i, j), there), ((j, i), back))
        )
    )
    conf = least_confidence(found, there[0].desc_conf[0], there[1].desc_conf[0])
    return Seen(
        one,
        other,
        agree=int(near.sum()),
        first=found.first.cpu(),
        second=found.second.cpu(),
        match_sure=sureness(conf, network.head.spec.desc_conf).nan_to_num(0, 0, 0).cpu(),
    )


def _known(
    view: ViewPrediction, conf: ConfidenceRange, step: int
) -> tuple[Tensor, Tensor]:  # [H, W, 3], [H, W]
    """Points and how sure they are; what is not finite is at 0, and not sure at all."""
    points, sure = view.points[0, ::step, ::step], sureness(view.conf[0, ::step, ::step], conf)
    finite = points.isfinite().all(dim=-1) & sure.isfinite()
    return points.where(finite[..., None], 0), sure.where(finite, 0)


@torch.no_grad()
def predict_pairs(
    network: TwoViewNetwork,
    photos: list[Photo],
    pairs: Sequence[tuple[int, int]],
    *,
    step: int = 1,
    on_pair: Callable[[Seen], object] = lambda seen: None,
) -> list[Seen]:
    """The pairs that overlap: those with at least 32 matches whose points agree.

    Each photograph is encoded once; its tokens stay on the network's device.
    """
    device = next(network.parameters()).device
    tokens = [network.tokens(photo.images.to(device)) for photo in photos]
    found = []
    for i, j in pairs:
        seen = both_orders(network, i, j, (tokens[i], tokens[j]), step=step)
        on_pair(seen)
        if seen.agree >= LEAST_AGREE:
            found.append(seen)
    return found
