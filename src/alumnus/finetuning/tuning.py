"""Steps of the optimiser on a course: the `Trainable` of all heads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from alumnus.finetuning.course import Course
from alumnus.training.optimizer import clip_each

__all__ = ["Tuning"]

B = TypeVar("B")


@dataclass
class Tuning(Generic[B]):
    """Everything the steps need."""

    course: Course[B]
    module: nn.Module  # what is trained: the head, and an encoder that learns
    optimizer: torch.optim.Optimizer  # with the peak rate of each group as "peak"
    steps: int
    batch_size: int
    share: Callable[[int], float]  # of the peak rates, at a step
    bf16: bool = False
    first_bad: Tensor = field(init=False)  # [], int64; -1 while every step was finite

    def __post_init__(self) -> None:
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        self.buffers = list(self.module.buffers())  # BatchNorm's
        self.device = self.parameters[0].device
        self.first_bad = torch.tensor(-1, device=self.device)

    def step(self, micro_batches: Sequence[B], step: int) -> Mapping[str, Tensor]:
        """One optimiser step; a step that is not finite changes nothing, nor does any after it."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self.share(step)
        self.module.train()
        before = [buffer.clone() for buffer in self.buffers]
        losses = []
        for batch in micro_batches:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                loss = self.course.loss(batch)
            (loss / len(micro_batches)).backward()
            losses.append(loss.detach())
        loss = torch.stack(losses).mean()
        grad_norm = clip_each(self.parameters, None)
        first = ~torch.isfinite(loss + grad_norm) & (self.first_bad < 0)
        self.first_bad = torch.where(first, step, self.first_bad)
        ok = self.first_bad < 0
        self.optimizer.found_inf = (~ok).float()  # type: ignore[attr-defined]  # fused: no step then
        self.optimizer.step()
        self.optimizer.zero_grad()
        for buffer, old in zip(self.buffers, before, strict=True):
            buffer.copy_(torch.where(ok, buffer, old))
        return {"loss": loss, "grad_norm": grad_norm, "first_bad": self.first_bad}

    def blame(self) -> str:
        """What was not finite."""
        return "the loss or a gradient"

    def cure(self, step: int) -> str:
        """What to do where a step was not finite."""
        return "A lower learning rate (lr) is the usual cure."
