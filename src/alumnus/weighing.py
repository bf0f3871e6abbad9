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

__all__ = ["Balance", "Ranks"]

ADALOSS_DECAY = 0.99  # of the average loss, a step


@dataclass(frozen=True)
class Ranks:
    """The processes that share a step, each with an equal part of every micro-batch."""

    size: int = 1
    all_reduce_sum: Callable[[Tensor], Tensor] = lambda tensor: tensor  # over all, in place
    # a context in which gradients of `network` are not exchanged yet
    no_sync: Callable[[], AbstractContextManager[None]] = nullcontext


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
        # 0: no step so far
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
        eligible_TB = self.eligible_TS[:, source]
        coeff_TB = drop_teachers(loss_TB.detach(), eligible_TB, draw_TB, p=self.drop_probability)
        coeff_TB = coeff_TB * self.weights_T.unsqueeze(1)
        beside: Tensor | None = None  # trains the weights
        if self.log_variance_T is not None:
            loss_TB = uncertainty_loss(loss_TB, coeff_TB, self.log_variance_T)
        elif self.logit_T is not None:
            assert shared is not None, "gradnorm has one"
            factor_T = self.logit_T.softmax(dim=0) * len(self.logit_T)
            coeff_TB = coeff_TB * factor_T.detach().unsqueeze(1)
            beside = self._gradnorm(loss_TB, factor_T, ranks, shared)
        elif self.weighting == "adaloss":
            coeff_TB = coeff_TB * inverse_loss_weights(self.average_T).unsqueeze(1)
        coeff_sum = None
        if self.scope == "global" and self.aggregation == "released":
            coeff_sum = ranks.all_reduce_sum(coeff_TB.sum()) / ranks.size
        loss = aggregate(loss_TB, coeff_TB, kind=self.aggregation, coeff_sum=coeff_sum)
        return loss if beside is None else loss + (beside - beside.detach())  # its gradient alone

    def _gradnorm(
        self, loss_TB: Tensor, factor_T: Tensor, ranks: Ranks, shared: nn.Parameter
    ) -> Tensor:  # []
        """One backward pass a teacher, through its projector to the shared weight."""
        gradients = [
            torch.autograd.grad(loss_B.mean(), shared, retain_graph=True)[0].float()
            for loss_B in loss_TB
        ]
        slope_T = (ranks.all_reduce_sum(torch.stack(gradients)) / ranks.size).flatten(1).norm(dim=1)
        loss_T = ranks.all_reduce_sum(loss_TB.detach().mean(dim=1)) / ranks.size
        progress_T = torch.where(self.first_T > 0, loss_T / self.first_T, 1.0)
        return gradnorm_loss(factor_T, slope_T, progress_T)

    @torch.no_grad()
    def update(self, loss_T: Tensor, ok: Tensor) -> None:
        """Take the losses of a step, over all ranks, into the averages, where `ok` holds."""
        mixed = ADALOSS_DECAY * self.average_T + (1.0 - ADALOSS_DECAY) * loss_T
        average_T = torch.where(self.average_T > 0, mixed, loss_T)
        self.average_T.copy_(torch.where(ok, average_T, self.average_T))
        self.first_T.copy_(torch.where(ok & (self.first_T == 0), loss_T, self.first_T))
