"""Feature-matching losses: how far predictions are from the teachers' tokens.

Pure functions, one value per teacher and image: `balance` needs the images apart.
"""

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from alumnus.tokens import Tokens, resize_grid

__all__ = ["distill_losses", "feature_loss", "side_of", "teacher_loss"]


def side_of(teacher: str) -> str:
    """The key, among predictions, of what a teacher's side head gives; no teacher has that name."""
    return f"side/{teacher}"


def feature_loss(
    prediction: Tensor,  # [B, D] or [B, N, D]
    target: Tensor,  # same shape, or ValueError; no gradient
    *,
    cosine_weight: float = 0.5,
    smooth_l1_weight: float = 0.5,
) -> Tensor:  # [B], float32
    """Cosine distance plus smooth L1 (beta 1), averaged over patches.

        l = cosine_weight * (1 - cos(s, y)) + smooth_l1_weight * mean_d smooth_l1(s_d, y_d)

    Float32 under autocast too: just below cos = 1 bfloat16 has steps of 0.004.

    Source: UNIC (arXiv 2408.05088), DUNE (arXiv 2503.14405).
    Differs from theirs: no logging inside.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)}, target {tuple(target.shape)}; "
            "the projector must end in the teacher's width and grid"
        )
    with torch.autocast(prediction.device.type, enabled=False):
        s, y = _at_least_float32(prediction), _at_least_float32(target)
        cosine = 1.0 - F.cosine_similarity(s, y, dim=-1)  # [B] or [B, N]; norms floored at 1e-8
        smooth_l1 = F.smooth_l1_loss(s, y, reduction="none").mean(dim=-1)
        loss = cosine_weight * cosine + smooth_l1_weight * smooth_l1
        return loss.reshape(len(loss), -1).mean(dim=1)


def teacher_loss(
    prediction: Tokens,
    target: Tokens,
    *,
    cosine_weight: float = 0.5,
    smooth_l1_weight: float = 0.5,
    patch_share: float = 0.5,
) -> Tensor:  # [B], float32
    """Mean over the token types the teacher has; others of the prediction are ignored.

    Where it has both, patches have `patch_share` of it and [CLS] the rest; 0.5 as published.
    Where the teacher's grid is another one (policy `pool`), the prediction is resampled to it.
    """
    if target.grid is not None:
        prediction = resize_grid(prediction, target.grid)
    terms = {
        token_type: feature_loss(
            prediction.of(token_type),
            target.of(token_type),
            cosine_weight=cosine_weight,
            smooth_l1_weight=smooth_l1_weight,
        )
        for token_type in target.types
    }
    if len(terms) == 1:
        return next(iter(terms.values()))
    return (1.0 - patch_share) * terms["cls"] + patch_share * terms["patch"]


def distill_losses(
    predictions: Mapping[str, Tokens],
    targets: Mapping[str, Tokens],
    *,
    cosine_weight: float = 0.5,
    smooth_l1_weight: float = 0.5,
    patch_share: float = 0.5,
    side_weight: float = 0.0,
) -> Tensor:  # [T, B], float32
    """One row per teacher, in the order of `targets`: the loss of its projector.

    Where it has a side head too, plus `side_weight` times the loss of that.
    """
    loss = partial(
        teacher_loss,
        cosine_weight=cosine_weight,
        smooth_l1_weight=smooth_l1_weight,
        patch_share=patch_share,
    )
    rows = []
    for name, target in targets.items():
        row = loss(predictions[name], target)
        side = predictions.get(side_of(name))
        rows.append(row if side is None else row + side_weight * loss(side, target))
    return torch.stack(rows)


def _at_least_float32(features: Tensor) -> Tensor:
    return features if features.dtype == torch.float64 else features.float()
