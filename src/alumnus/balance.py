"""Balance: how much each teacher's loss on each image counts.

Axes: T teachers, B images, S data sources. Composed in one direction, all pure:
eligible (data sharing) -> teacher dropping -> weights -> one reduction.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = [
    "Aggregation",
    "Scope",
    "Sharing",
    "Weighting",
    "aggregate",
    "default_drop_probability",
    "drop_teachers",
    "eligible_table",
    "gradnorm_loss",
    "inverse_loss_weights",
    "uncertainty_loss",
]

Sharing = Literal["own", "own+generic", "full"]
Aggregation = Literal["released", "sum"]
Scope = Literal["rank", "global"]
Weighting = Literal["fixed", "uncertainty", "adaloss", "gradnorm"]


def eligible_table(
    sharing: Sharing,
    *,
    teacher_domains: Sequence[str],  # T
    source_domains: Sequence[str],  # S
    source_generic: Sequence[bool],  # S
) -> Tensor:  # [T, S], bool
    """Which teachers' losses the images of a source contribute to.

    `own`: the teachers of the source's domain; `own+generic`: those, and all teachers for
    generic sources; `full`: all teachers for all images. ValueError names a source that
    would teach nothing.

    Source: DUNE (arXiv 2503.14405), data-sharing strategies.
    """
    if sharing not in get_args(Sharing):
        raise ValueError(
            f"sharing is {sharing!r}, but must be one of {', '.join(get_args(Sharing))}"
        )
    rows = [
        [
            sharing == "full" or domain == own or (generic and sharing == "own+generic")
            for domain, generic in zip(source_domains, source_generic, strict=True)
        ]
        for own in teacher_domains
    ]
    table_TS = torch.tensor(rows, dtype=torch.bool).reshape(len(teacher_domains), -1)
    for column, domain in enumerate(source_domains):
        if not table_TS[:, column].any():
            raise ValueError(
                f"with sharing {sharing!r} no teacher learns from domain {domain!r}; the teachers' "
                f"domains are {', '.join(sorted(set(teacher_domains)))}: give the source one of "
                "these domains, or use sharing=full"
            )
    return table_TS


def default_drop_probability(teachers: int) -> float:
    """The published p: 0.5 for three or more teachers, 0.25 for two, none for one."""
    return {1: 0.0, 2: 0.25}.get(teachers, 0.5)


def drop_teachers(
    loss_TB: Tensor,  # per teacher and image; no gradient
    eligible_TB: Tensor,  # bool
    draw_TB: Tensor,  # uniform in [0, 1)
    *,
    p: float,
) -> Tensor:  # [T, B], 0 or 1 in loss_TB's dtype
    """Teacher dropping: per image the worst eligible teacher stays, others go where draw < p.

    An image that no teacher is eligible for keeps none.

    Source: UNIC (arXiv 2408.05088), section 3.3; `lowest_loss` in DUNE's options.
    """
    worst_1B = loss_TB.masked_fill(~eligible_TB, -torch.inf).argmax(dim=0, keepdim=True)
    keep_TB = (draw_TB >= p).scatter(0, worst_1B, True) & eligible_TB
    return keep_TB.to(loss_TB.dtype)


def aggregate(
    loss_TB: Tensor,
    coeff_TB: Tensor,
    *,
    kind: Aggregation = "released",
    coeff_sum: Tensor | None = None,  # []; of the whole table where this is a part; None: it is all
) -> Tensor:  # []
    """One loss from the table of losses and their coefficients.

    `released`: sum(c L) / sum(c) over the whole table, as the released code of both systems
    does; an image that keeps fewer teachers weighs less, although UNIC's text says that each
    image weighs the same. `sum`: per image the sum over its teachers, then the mean over
    images, so that another teacher rescales nothing.
    """
    if kind == "released":
        total = coeff_TB.sum() if coeff_sum is None else coeff_sum
        return (coeff_TB * loss_TB).sum() / total.clamp_min(torch.finfo(loss_TB.dtype).tiny)
    return (coeff_TB * loss_TB).sum(dim=0).mean()


def uncertainty_loss(
    loss_TB: Tensor,
    coeff_TB: Tensor,
    log_variance_T: Tensor,  # learned, one per teacher; starts at 0
) -> Tensor:  # [T, B]
    """Kendall's uncertainty weighting of each teacher's row: `exp(-v) L + v`, v = log variance.

    The learned weights belong to the caller (an `nn.Parameter` saved with the run), so
    nothing here has state. Rows keep their coefficients: a dropped entry stays without effect.

    Source: Kendall et al. 2018 (arXiv 1705.07115), eq. 7, up to the factor 1/2 of both terms;
    one of the rivals that UNIC compares teacher dropping with.
    """
    v_T1 = log_variance_T.to(loss_TB.dtype).unsqueeze(1)
    return torch.where(coeff_TB > 0, torch.exp(-v_T1) * loss_TB + v_T1, loss_TB.detach())


def inverse_loss_weights(average_T: Tensor) -> Tensor:  # [T], mean 1
    """AdaLoss: each teacher weighs as the inverse of its average loss so far.

        w_t = T (1 / a_t) / sum_s (1 / a_s)

    Minimising the weighted sum goes the way of the sum of log losses. A teacher without a loss
    so far (0) and those beside it weigh 1.

    Source: Hu et al. 2019 (arXiv 1708.06832), section 3.2; a rival that UNIC cites.
    Differs from it: scaled to mean 1, so that the learning rate keeps its meaning.
    """
    inverse_T = 1.0 / average_T
    weights_T = inverse_T * (len(average_T) / inverse_T.sum())
    return torch.where((average_T > 0).all(), weights_T, torch.ones_like(average_T))


def gradnorm_loss(
    weights_T: Tensor,  # learned
    slope_T: Tensor,  # norm of each teacher's unweighted gradient at a shared weight; no gradient
    progress_T: Tensor,  # loss over its first value; no gradient
    *,
    alpha: float = 1.5,
    heard_T: Tensor | None = None,  # bool; teachers that some image is for; None: all
) -> Tensor:  # []
    """GradNorm: how far the weighted gradients are from equal norms, slow teachers first.

        G_t = w_t g_t;   r_t = p_t / mean_s p_s;   sum_t | G_t - mean_s G_s * r_t^alpha |

    The second term is a constant. Its gradient moves the weights alone. Sum and means are over
    the teachers that are heard.

    Source: Chen et al. 2018 (arXiv 1711.02257), eq. 1 and 2; a rival that UNIC cites.
    """
    norm_T = weights_T * slope_T
    share_T = torch.ones_like(slope_T) if heard_T is None else heard_T.to(slope_T)
    share_T = share_T / share_T.sum()
    pace_T = progress_T / (share_T * progress_T).sum()
    wanted_T = (share_T * norm_T.detach()).sum() * pace_T**alpha
    return torch.where(share_T > 0, (norm_T - wanted_T).abs(), 0.0).sum()
