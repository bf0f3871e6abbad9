"""Matching losses: descriptors of pixels that show the same point are to be alike.

Row i of a similarity is a pixel of view 1, column i the pixel of view 2 that it matches; all other
columns are negatives, also those of rows that are no match themselves.

Axes: B pairs, n listed pixels, m >= n columns, D width of a descriptor, H W pixels.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from alumnus.spelling import unknown

__all__ = [
    "Combine",
    "InfoNCEMode",
    "average_precision",
    "confident_match_loss",
    "dot_similarity",
    "in_blocks",
    "info_nce",
    "match_loss",
    "picked",
    "point_similarity",
    "unlisted",
]

InfoNCEMode = Literal["proper", "dual", "all"]
Combine = Literal["mean", "product"]

_LEAST_LOG_SHARE = -18.420680743952367  # log 1e-8: below, a share has no gradient


def picked(maps: Tensor, xy: Tensor) -> Tensor:  # [B, H, W, ...], [B, n, 2] -> [B, n, ...]
    """What a map says at the pixels (x, y)."""
    place = xy[..., 1] * maps.shape[2] + xy[..., 0]  # [B, n]
    flat = maps.flatten(1, 2)
    if flat.ndim == 2:
        return flat.gather(1, place)
    return flat.gather(1, place[..., None].expand(-1, -1, flat.shape[-1]))


def unlisted(maps: Tensor, xy: Tensor, count: int) -> Tensor:  # [B, H, W, D] -> [B, count, D]
    """A map's values at its first pixels, row by row, that are not among `xy` [B, n, 2]."""
    height, width = maps.shape[1:3]
    if count > height * width - xy.shape[1]:
        raise ValueError(
            f"{count} more pixels are wanted, but of {width}x{height} px {xy.shape[1]} are listed"
        )
    listed = torch.zeros(len(maps), height * width, device=maps.device)
    listed.scatter_(1, xy[..., 1] * width + xy[..., 0], 1.0)
    place = listed.argsort(dim=1, stable=True)[:, :count]
    return maps.flatten(1, 2).gather(1, place[..., None].expand(-1, -1, maps.shape[-1]))


def dot_similarity(first: Tensor, second: Tensor) -> Tensor:  # [B, n, D], [B, m, D] -> [B, n, m]
    """Products of descriptors, float32 under autocast too."""
    with torch.autocast(first.device.type, enabled=False):
        products: Tensor = first.float() @ second.float().transpose(1, 2)
        return products


def point_similarity(first: Tensor, second: Tensor) -> Tensor:  # [B, n, 3], [B, m, 3]
    """1 / (1 + distance): points themselves as descriptors."""
    apart: Tensor = (first.float()[:, :, None] - second.float()[:, None]).norm(dim=-1)
    alike: Tensor = 1 / (1 + apart)
    return alike


def in_blocks(values: Tensor, order: Tensor, size: int) -> Tensor:  # [B, n, ...]
    """Listed pixels in a new order [B, n], cut into blocks: [B * n / size, size, ...].

    Matching inside blocks bounds the memory that a similarity takes.
    """
    if values.shape[1] % size:
        raise ValueError(f"{values.shape[1]} pixels cannot be cut into blocks of {size}")
    index = order if values.ndim == 2 else order[..., None].expand(-1, -1, values.shape[-1])
    blocks: Tensor = values.gather(1, index).unflatten(1, (-1, size))
    return blocks.flatten(0, 1)


def info_nce(
    similarity: Tensor,  # [B, n, m]; m > n in the mode "all" only
    *,
    temperature: float = 0.05,
    mode: InfoNCEMode = "proper",
) -> Tensor:  # [B, n] float32
    """How surprising each listed match is among all pixels listed.

    With s_ij = exp(similarity_ij / T): `proper` -log(s_ii / sum_j s_ij) - log(s_ii / sum_j s_ji),
    each share at least 1e-8; `dual`: the product of both shares at least 1e-8; `all`: minus the
    log of s_ii's share in the sum over all i and j.

    Source: MASt3R (arXiv 2406.09756), equation 10, for `proper`.
    """
    if mode not in get_args(InfoNCEMode):
        raise unknown("mode of InfoNCE", mode, get_args(InfoNCEMode))
    logits = similarity / temperature
    own = logits.diagonal(dim1=1, dim2=2)  # [B, n]
    if mode == "all":
        return logits.flatten(1).logsumexp(dim=1, keepdim=True) - own
    if logits.shape[1] != logits.shape[2]:
        raise ValueError(
            f"mode {mode!r} asks both ways, so it needs as many rows as columns, not "
            f"{logits.shape[1]} and {logits.shape[2]}; more negatives go with 'all'"
        )
    rows, columns = own - logits.logsumexp(dim=2), own - logits.logsumexp(dim=1)
    if mode == "dual":
        return -(rows + columns).clamp(min=_LEAST_LOG_SHARE)
    return -(rows.clamp(min=_LEAST_LOG_SHARE) + columns.clamp(min=_LEAST_LOG_SHARE))


def average_precision(similarity: Tensor) -> Tensor:  # [B, n, m] -> [B, n]
    """1 / rank of the true column in its row: average precision with one relevant item.

    Of equal columns the earlier ranks higher. No gradient: a score, not a loss.
    """
    own = similarity.diagonal(dim1=1, dim2=2)[..., None]
    row, column = (torch.arange(n, device=own.device) for n in similarity.shape[1:])
    earlier = column < row[:, None]
    ahead = (similarity > own) | ((similarity == own) & earlier)
    return 1 / (1 + ahead.sum(dim=2).to(similarity.dtype))


def match_loss(per_match: Tensor, valid: Tensor) -> Tensor:  # [B, n] each
    """Mean over the valid matches of the batch."""
    return torch.where(valid, per_match, 0.0).sum() / valid.sum().clamp(min=1)


def confident_match_loss(
    per_match: Tensor,  # [B, n]
    confidence: tuple[Tensor, Tensor],  # [B, n] above 0: of the two pixels
    valid: Tensor,  # [B, n] bool
    *,
    alpha: float = 10.0,
    combine: Combine = "mean",
    doubt_quantile: float | None = None,
) -> Tensor:
    """Losses weighed by the confidence of their two pixels.

        mean over the valid matches of l * c - alpha * log c

    `doubt_quantile` adds the same mean over the listed pixels of both views that are no match,
    with that quantile of the valid matches' losses for l: a lone pixel learns to be unsure.

    Source: DUSt3R's confidence (arXiv 2312.14132, equation 4), applied to matches.
    """
    first, second = (c.float() for c in confidence)
    both = first * second if combine == "product" else (first + second) / 2
    loss = match_loss(per_match * both - alpha * both.log(), valid)
    if doubt_quantile is None:
        return loss
    known = torch.where(valid, per_match.detach(), torch.nan)
    doubt = known.nanquantile(doubt_quantile).nan_to_num()
    alone = torch.stack([doubt * c - alpha * c.log() for c in (first, second)])
    return loss + match_loss(alone, ~valid.expand_as(alone))
