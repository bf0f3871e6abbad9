"""Pointmap losses of a pair of views: how far predicted points are from the true ones.

Both views' points are in the frame of camera 1. A pair is normalised as one: both views share a
factor, so what the network says about their relative size counts.

Axes: B pairs, H W pixels (the two views may differ in size), M pixels of both views.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Norm",
    "PairTruth",
    "PixelLosses",
    "PointLoss",
    "TwoViews",
    "confidence_loss",
    "normalised",
    "pixel_losses",
    "point_loss",
    "size_of",
]

Norm = Literal["avg_dis", "median_dis", "sqrt_dis", "avg_log1p", "avg_warp-log1p"]

_LEAST_FACTOR = 1e-8  # of a pair without any valid pixel
_SCALES = (1e-3, 1e3)  # a predicted scale is kept within these


class TwoViews(NamedTuple):
    """The same quantity for view 1 and view 2."""

    first: Tensor
    second: Tensor


@dataclass(frozen=True, kw_only=True)
class PairTruth:
    """What is known about a batch of pairs."""

    points: TwoViews  # [B, H, W, 3] in the frame of camera 1 (see `geometry`)
    valid: TwoViews  # [B, H, W] bool: has a true point
    sky: TwoViews | None = None  # [B, H, W] bool: infinitely far
    metric: Tensor | None = None  # [B] bool: the points are in metres; None: all are

    @property
    def is_metric(self) -> Tensor:
        """`metric`, written out."""
        if self.metric is not None:
            return self.metric
        count, device = len(self.valid.first), self.valid.first.device
        return torch.ones(count, dtype=torch.bool, device=device)


@dataclass(frozen=True, kw_only=True)
class PointLoss:
    """How points are compared; the default is that of the released MASt3R.

    A prediction is divided by its own size, the truth by its own (`norm`). `metric_scale`: metric
    pairs are not free in size: their prediction is divided by the size of the truth. `gt_scale`:
    the truth, and metric predictions, keep their size (for evaluation).
    """

    norm: Norm | None = "avg_dis"
    metric_scale: bool = True  # the "?" before a norm's name
    gt_scale: bool = False
    sky_loss: float = 2.0  # the loss of every sky pixel; 0: they do not count
    log: Literal["after", "before"] | None = None  # distances of log-warped points
    max_metric_m: float | None = None  # a pair reaching further is not metric
    farthest: float | None = None  # points of the truth beyond have no loss
    shift_free: bool = False  # subtract the median depth first
    scale_free: bool = False  # then divide by the median distance from the median point


class PixelLosses(NamedTuple):
    """A loss for every pixel, and which of them count."""

    loss: TwoViews  # [B, H, W] float32
    mask: TwoViews  # [B, H, W] bool


def size_of(points: TwoViews, valid: TwoViews, *, norm: Norm) -> Tensor:  # [B]
    """One number per pair for how far its valid points lie from the origin, over both views.

    `avg_dis`: mean distance; `median_dis`: lower median, without gradient; `sqrt_dis`: square of
    the mean root; `avg_log1p`, `avg_warp-log1p`: mean of log(1 + distance).
    """
    distance, counts = _joined(points).norm(dim=-1), _joined_mask(valid)  # [B, M]
    if norm == "median_dis":
        return _median(distance.detach(), counts).clamp(min=_LEAST_FACTOR)
    if norm == "sqrt_dis":
        # The root's slope at 0 is infinite, and invalid pixels may lie there.
        root = torch.where(counts, distance, 1.0).sqrt()
        return (_mean(root, counts) ** 2).clamp(min=_LEAST_FACTOR)
    if norm == "avg_dis":
        return _mean(distance, counts).clamp(min=_LEAST_FACTOR)
    return _mean(distance.log1p(), counts).clamp(min=_LEAST_FACTOR)


def normalised(
    points: TwoViews, valid: TwoViews, *, norm: Norm, size: Tensor | None = None
) -> TwoViews:
    """Points divided by their size, or by another one [B].

    `avg_warp-log1p` first brings each point to the distance log(1 + distance), and those that are
    not valid to the origin.
    """
    if size is None:
        size = size_of(points, valid, norm=norm)
    if norm == "avg_warp-log1p":
        points = TwoViews(
            *(
                torch.where(v[..., None], _log_warped(p), 0.0)
                for p, v in zip(points, valid, strict=True)
            )
        )
    return TwoViews(*(p / size[:, None, None, None] for p in points))


def pixel_losses(
    prediction: TwoViews,  # [B, H, W, 3] in the frame of camera 1
    truth: PairTruth,
    how: PointLoss,
) -> PixelLosses:
    """Euclidean distance of each pixel's predicted and true point, after `how`'s normalisation.

    Source: DUSt3R (arXiv 2312.14132), equations 2 and 3; MASt3R (arXiv 2406.09756), section 3.2
    for metric pairs.
    """
    true = TwoViews(*(p.float() for p in truth.points))
    predicted = TwoViews(*(p.float() for p in prediction))
    valid, metric = truth.valid, truth.is_metric
    if how.farthest is not None:
        near = [p.norm(dim=-1) <= how.farthest for p in true]
        valid = TwoViews(valid.first & near[0], valid.second & near[1])
    if how.max_metric_m is not None:
        reach = torch.where(_joined_mask(valid), _joined(true).norm(dim=-1), 0.0).amax(dim=1)
        metric = metric & (reach < how.max_metric_m)
    if how.log == "before":
        true = TwoViews(*(_log_warped(p) for p in true))

    predicted, true = _same_size(predicted, true, valid, metric, how)
    if how.shift_free:
        predicted, true = _without_depth(predicted, valid), _without_depth(true, valid)
    if how.scale_free:
        predicted, true = _same_spread(predicted, true, valid, gt_scale=how.gt_scale)
    if how.log == "after":
        predicted = TwoViews(*(_log_warped(p) for p in predicted))
        true = TwoViews(*(_log_warped(p) for p in true))

    losses = [_distance(p, t) for p, t in zip(predicted, true, strict=True)]
    masks = list(valid)
    if how.sky_loss > 0 and truth.sky is not None:
        for view, sky in enumerate(truth.sky):
            only_sky = sky & ~valid[view]
            losses[view] = torch.where(only_sky, how.sky_loss, losses[view])
            masks[view] = masks[view] | only_sky
    return PixelLosses(TwoViews(*losses), TwoViews(*masks))


def point_loss(pixels: PixelLosses) -> Tensor:
    """Mean over the counted pixels of the batch, view 1 plus view 2."""
    return sum_of_means(pixels.loss, pixels.mask)


def confidence_loss(
    pixels: PixelLosses,
    confidence: TwoViews,  # [B, H, W] above 0
    *,
    alpha: float = 0.2,
) -> Tensor:
    """Losses weighed by the confidence that the network has in them.

        mean over pixels of l * c - alpha * log c,  view 1 plus view 2

    Source: DUSt3R (arXiv 2312.14132), equation 4.
    """
    weighed = (
        torch.where(m, loss, 0.0) * c.float() - alpha * c.float().log()
        for loss, m, c in zip(pixels.loss, pixels.mask, confidence, strict=True)
    )
    return sum_of_means(TwoViews(*weighed), pixels.mask)


def sum_of_means(values: TwoViews, mask: TwoViews) -> Tensor:
    """The mean over the pixels of all pairs that count in view 1, plus that in view 2."""
    return torch.stack(
        [
            torch.where(m, v, 0.0).sum() / m.sum().clamp(min=1)
            for v, m in zip(values, mask, strict=True)
        ]
    ).sum()


def _same_size(
    predicted: TwoViews, true: TwoViews, valid: TwoViews, metric: Tensor, how: PointLoss
) -> tuple[TwoViews, TwoViews]:
    """Both normalised; see `PointLoss`."""
    if how.norm is None:
        return predicted, true
    own, of_truth = (size_of(p, valid, norm=how.norm) for p in (predicted, true))
    if how.metric_scale:
        kept = torch.ones_like(own) if how.gt_scale else of_truth
        own = torch.where(metric, kept, own)
    predicted = normalised(predicted, valid, norm=how.norm, size=own)
    if not how.gt_scale:
        true = normalised(true, valid, norm=how.norm, size=of_truth)
    return predicted, true


def _without_depth(points: TwoViews, valid: TwoViews) -> TwoViews:
    """Points minus the pair's median depth."""
    depth = _median(_joined(points)[..., 2], _joined_mask(valid))  # [B]
    shift = torch.stack([torch.zeros_like(depth), torch.zeros_like(depth), depth], dim=-1)
    return TwoViews(*(p - shift[:, None, None] for p in points))


def _same_spread(
    predicted: TwoViews, true: TwoViews, valid: TwoViews, *, gt_scale: bool
) -> tuple[TwoViews, TwoViews]:
    """Both divided by their spread, or the prediction brought to the spread of the truth."""
    own = _spread(predicted, valid).clamp(*_SCALES)
    of_truth = _spread(true, valid)
    if gt_scale:
        return _times(predicted, of_truth / own), true
    return _times(predicted, 1 / own), _times(true, 1 / of_truth)


def _spread(points: TwoViews, valid: TwoViews) -> Tensor:  # [B]
    """Median distance of the valid points from their coordinate-wise median."""
    joined, counts = _joined(points), _joined_mask(valid)
    middle = torch.stack([_median(joined[..., k], counts) for k in range(3)], dim=-1)  # [B, 3]
    spread = _median((joined - middle[:, None]).norm(dim=-1), counts)
    return spread.clamp(min=_LEAST_FACTOR)


def _times(points: TwoViews, factor: Tensor) -> TwoViews:
    return TwoViews(*(p * factor[:, None, None, None] for p in points))


def _log_warped(points: Tensor) -> Tensor:
    """Each point at the distance log(1 + distance), in its direction."""
    distance: Tensor = points.norm(dim=-1, keepdim=True)
    return points / distance.clamp(min=_LEAST_FACTOR) * distance.log1p()


def _distance(a: Tensor, b: Tensor) -> Tensor:  # [..., 3] -> [...]
    apart: Tensor = (a - b).norm(dim=-1)
    return apart


def _joined(points: TwoViews) -> Tensor:  # [B, M, 3]
    return torch.cat([p.flatten(1, 2) for p in points], dim=1)


def _joined_mask(mask: TwoViews) -> Tensor:  # [B, M]
    return torch.cat([m.flatten(1) for m in mask], dim=1)


def _mean(values: Tensor, counts: Tensor) -> Tensor:  # [B, M] -> [B]
    return torch.where(counts, values, 0.0).sum(dim=1) / (counts.sum(dim=1) + _LEAST_FACTOR)


def _median(values: Tensor, counts: Tensor) -> Tensor:  # [B, M] -> [B]
    """The lower median of the counted values; 0 where none is."""
    median = torch.where(counts, values, torch.nan).nanmedian(dim=1).values
    return torch.where(counts.any(dim=1), median, 0.0)
