"""Balance as a module: data sharing, dropping and weights, with what they learn or remember.

Axes: T teachers, B images of a micro-batch, S data sources.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alumnus.balance import (
    Aggregation,
    Scope,
    Weighting,
    aggregate,
    drop_teachers,
    gradnorm_loss,
    inverse_loss_weights,
    uncertainty_loss,
)

__all__ = ["Balance", "Ranks", "eligible_sums"]

ADALOSS_DECAY = 0.99  # of the average loss, a step


@dataclass(frozen=True)
class Ranks:
    """The processes that share a step, each with an equal part of every micro-batch."""

    size: int = 1
    all_reduce_sum: Callable[[Tensor], Tensor] = lambda tensor: tensor  # over all, in place
    # a context in which gradients of `network` are not exchanged yet
    no_sync: Callable[[], AbstractContextManager[None]] = nullcontext


def eligible_sums(
    loss_TB: Tensor,
    eligible_TB: Tensor,  # bool
) -> tuple[Tensor, Tensor]:  # [T], [T] in the same dtype
    """Sum of each teacher's losses over the images that it is eligible for, and their number."""
    return torch.where(eligible_TB, loss_TB, 0.0).sum(dim=1), eligible_TB.sum(dim=1).to(loss_TB)


class Balance(nn.Module):
    """Which teachers count for which images, and how much; a module for its learned weights."""

    eligible_TS: Tensor
    weights_T: Tensor
    average_T: Tensor
    first_T: Tensor

    def __init__(
        self,
        eligible_TS: Tensor,  # bool, from `balance.eligible_table`
        *,
        drop_probability: float,
        weights_T: Tensor,  # fixed weight of each teacher
        weighting: Weighting = "fixed",  # what these are multiplied by
        aggregation: Aggregation = "released",
        scope: Scope = "rank",
    ) -> None:
        super().__init__()
        self.drop_probability, self.aggregation, self.scope = drop_probability, aggregation, scope
        self.weighting = weighting
        self.register_buffer("eligible_TS", eligible_TS, persistent=False)
        self.register_buffer("weights_T", weights_T, persistent=False)
        zeros = torch.zeros(len(weights_T))
        self.log_variance_T = nn.Parameter(zeros.clone()) if weighting == "uncertainty" else None
        self.logit_T = nn.Parameter(zeros.clone()) if weighting == "gradnorm" else None
        # 0: no loss so far
        self.register_buffer("average_T", zeros.clone(), persistent=weighting == "adaloss")
        self.register_buffer("first_T", zeros.clone(), persistent=weighting == "gradnorm")

    def forward(
        self,
        loss_TB: Tensor,
        source: Tensor,
        draw_TB: Tensor,
        ranks: Ranks,
        shared: nn.Parameter | None,  # a weight that all losses depend on; for gradnorm
    ) -> Tensor:  # []; its mean over the ranks is the loss
        eligible_TB = self.eligible(source)
        coeff_TB = drop_teachers(loss_TB.detach(), eligible_TB, draw_TB, p=self.drop_probability)
        coeff_TB = coeff_TB * self.weights_T.unsqueeze(1)
        beside: Tensor | None = None  # trains the weights
        if self.log_variance_T is not None:
            loss_TB = uncertainty_loss(loss_TB, coeff_TB, self.log_variance_T)
        elif self.logit_T is not None:
            assert shared is not None, "gradnorm has one"
            factor_T = self.logit_T.softmax(dim=0) * len(self.logit_T)
            coeff_TB = coeff_TB * factor_T.detach().unsqueeze(1)
            beside = self._gradnorm(loss_TB, eligible_TB, factor_T, ranks, shared)
        elif self.weighting == "adaloss":
            coeff_TB = coeff_TB * inverse_loss_weights(self.average_T).unsqueeze(1)
        coeff_sum = None
        if self.scope == "global" and self.aggregation == "released":
            coeff_sum = ranks.all_reduce_sum(coeff_TB.sum()) / ranks.size
        loss = aggregate(loss_TB, coeff_TB, kind=self.aggregation, coeff_sum=coeff_sum)
        return loss if beside is None else loss + (beside - beside.detach())  # its gradient alone

    def eligible(self, source: Tensor) -> Tensor:  # [B] -> [T, B], bool
        """Which teachers' losses each image contributes to, before any is dropped."""
        return self.eligible_TS[:, source]

    def _gradnorm(
        self,
        loss_TB: Tensor,
        eligible_TB: Tensor,
        factor_T: Tensor,
        ranks: Ranks,
        shared: nn.Parameter,
    ) -> Tensor:  # []; 0 until every teacher has a first loss
        """One backward pass a teacher, through its projector to the shared weight."""
        sum_T, count_T = eligible_sums(loss_TB, eligible_TB)
        gradients = [
            torch.autograd.grad(loss, shared, retain_graph=True)[0].float() for loss in sum_T
        ]
        sums_2T = ranks.all_reduce_sum(torch.stack([sum_T.detach(), count_T]))
        heard_T, count_T = sums_2T[1] > 0, sums_2T[1].clamp_min(1.0)
        gradient_TD = ranks.all_reduce_sum(torch.stack(gradients)).flatten(1) / count_T.unsqueeze(1)
        started = (self.first_T > 0).all()
        progress_T = torch.where(started, sums_2T[0] / count_T / self.first_T, 1.0)
        loss = gradnorm_loss(factor_T, gradient_TD.norm(dim=1), progress_T, heard_T=heard_T)
        return torch.where(started, loss, 0.0)

    @torch.no_grad()
    def update(self, loss_T: Tensor, ok: Tensor) -> None:
        """Take the losses of a step, over all ranks, into the averages, where `ok` [T] holds.

        They are over the images that a teacher is eligible for, and of standardised targets:
        those of raw features, with which `running` begins, are in other units.
        """
        mixed = ADALOSS_DECAY * self.average_T + (1.0 - ADALOSS_DECAY) * loss_T
        average_T = torch.where(self.average_T > 0, mixed, loss_T)
        self.average_T.copy_(torch.where(ok, average_T, self.average_T))
        self.first_T.copy_(torch.where(ok & (self.first_T == 0), loss_T, self.first_T))
