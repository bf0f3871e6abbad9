"""Feature-matching losses: how far predictions are from the teachers' tokens.

Pure functions, one value per teacher and image: `balance` needs the images apart.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from alumnus.tokens import Tokens, resize_grid

__all__ = ["distill_losses", "feature_loss", "teacher_loss"]


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
    prediction: Tokens, target: Tokens, *, cosine_weight: float = 0.5, smooth_l1_weight: float = 0.5
) -> Tensor:  # [B], float32
    """Mean over the token types the teacher has; others of the prediction are ignored.

    Where the teacher's grid is another one (policy `pool`), the prediction is resampled to it.
    """
    if target.grid is not None:
        prediction = resize_grid(prediction, target.grid)
    terms = [
        feature_loss(
            prediction.of(token_type),
            target.of(token_type),
            cosine_weight=cosine_weight,
            smooth_l1_weight=smooth_l1_weight,
        )
        for token_type in target.types
    ]
    return torch.stack(terms).mean(dim=0)


def distill_losses(
    predictions: Mapping[str, Tokens],
    targets: Mapping[str, Tokens],
    *,
    cosine_weight: float = 0.5,
    smooth_l1_weight: float = 0.5,
) -> Tensor:  # [T, B], float32
    """One row per teacher, in the order of `targets`."""
    rows = [
        teacher_loss(
            predictions[name],
            target,
            cosine_weight=cosine_weight,
            smooth_l1_weight=smooth_l1_weight,
        )
        for name, target in targets.items()
    ]
    return torch.stack(rows)


def _at_least_float32(features: Tensor) -> Tensor:
    return features if features.dtype == torch.float64 else features.float()
