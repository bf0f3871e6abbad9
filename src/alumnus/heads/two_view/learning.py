"""How a two-view head learns: what it starts from, and the sum of its two losses."""

import torch
from torch import Tensor

from alumnus.heads.two_view.head import TwoViewHead
from alumnus.heads.two_view.losses import (
    PairTruth,
    PointLoss,
    TwoViews,
    confidence_loss,
    pixel_losses,
)
from alumnus.heads.two_view.match_losses import (
    confident_match_loss,
    dot_similarity,
    info_nce,
    picked,
)
from alumnus.heads.two_view.pairs import Matches
from alumnus.heads.two_view.predictions import ViewPrediction

__all__ = ["MATCH_WEIGHT", "start_alike", "two_view_loss"]

MATCH_WEIGHT = 0.075


@torch.no_grad()
def start_alike(head: TwoViewHead) -> None:
    """Give all pixels of a patch, in both views, the same descriptors to start from.

    With weights drawn apart, the 64 pixels' layers of one view must each find all those of the
    other: nothing was learned in 1000 steps. Alike, a token matches itself from the first step.
    """
    mlp = head.downstream_head1.head_local_features
    for values in (mlp.fc2.weight, mlp.fc2.bias):
        planes = values.unflatten(0, (-1, head.spec.patch_size**2))  # [C + 1, p^2, ...]
        planes.copy_(planes[:, :1].expand_as(planes).clone())
    head.downstream_head2.head_local_features.load_state_dict(mlp.state_dict())


def two_view_loss(
    views: tuple[ViewPrediction, ViewPrediction],
    truth: PairTruth,
    matches: Matches,
    *,
    match_weight: float = MATCH_WEIGHT,
) -> Tensor:  # []
    """Points weighed by the confidence in them, plus `match_weight` times InfoNCE of the matches.

    For float32: geometry does not bear bfloat16.

    Source: MASt3R (arXiv 2406.09756), section 3.3; the weight is that of its released run.
    """
    first, second = views
    pixels = pixel_losses(TwoViews(first.points, second.points), truth, PointLoss())
    points = confidence_loss(pixels, TwoViews(first.conf, second.conf))
    described = picked(first.desc, matches.first), picked(second.desc, matches.second)
    per_match = info_nce(dot_similarity(*described))
    sure = picked(first.desc_conf, matches.first), picked(second.desc_conf, matches.second)
    return points + match_weight * confident_match_loss(per_match, sure, matches.valid)
