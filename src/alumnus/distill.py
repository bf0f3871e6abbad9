"""The way of one training batch: targets, predictions, losses, balance, one loss, one step.

Axes: T teachers, B images of a micro-batch. One direction, no way back; each arrow of the
picture in the documentation is one call of `Distillation.step`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from alumnus.losses import distill_losses
from alumnus.randomness import draw_uniform
from alumnus.standardize import Moments, Standardizers
from alumnus.tokens import Tokens, TokenType
from alumnus.weighing import Balance, Ranks, eligible_sums

__all__ = ["DistillBatch", "Distillation", "Targets"]


class DistillBatch(Protocol):
    """What a step needs of a batch."""

    @property
    def images(self) -> Tensor: ...  # [B, C, H, W], for the student
    @property
    def teacher_images(self) -> Tensor: ...  # [B, 3, Ht, Wt]
    @property
    def position(self) -> Tensor: ...  # [B], int64, in the run
    @property
    def source(self) -> Tensor: ...  # [B], int64
    @property
    def index(self) -> Tensor: ...  # [B], int64, within the source
    @property
    def view(self) -> Tensor: ...  # [B], int64, pass over the source


class Targets(Protocol):
    """Gives the teachers' tokens of a batch: live teachers or a feature cache."""

    def targets(self, batch: DistillBatch) -> Mapping[str, Tokens]: ...


@dataclass
class Distillation:
    """Everything one training step needs; a `Trainable` of the training engine."""

    student: nn.Module  # images -> {teacher: Tokens}
    standardizers: Standardizers
    balance: Balance
    optimizer: torch.optim.Optimizer  # over the parameters of student and balance
    rate: Callable[[int], float]  # learning rate at a step
    momentum: Callable[[int], float]  # of the running statistics, at a step
    clip: Callable[[list[nn.Parameter]], Tensor]  # clips gradients; their norm before
    global_batch: int
    seed: int = 0
    bf16: bool = False
    cosine_weight: float = 0.5
    smooth_l1_weight: float = 0.5
    patch_share: float = 0.5  # of the loss of a teacher that has both token types
    side_weight: float = 0.0  # of the losses of side heads
    teachers: Targets | None = None  # live or cached; set before the first step
    network: nn.Module | None = None  # what is called for the student: DDP around it; None: itself
    ranks: Ranks = field(default_factory=Ranks)
    ema: nn.Module | None = None  # a copy of the student, to hold the average of its weights
    ema_decay: float = 0.0
    module: nn.Module = field(init=False)  # all that a checkpoint holds besides the optimiser
    first_bad: Tensor = field(init=False)  # [], int64; -1 while every step was finite
    bad_T: Tensor = field(init=False)  # bool; teachers whose loss was not finite in that step

    def __post_init__(self) -> None:
        self.module = nn.ModuleDict(
            {
                "student": self.student,
                "balance": self.balance,
                "standardizers": self.standardizers,
            }
        )
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        if self.ema is not None:
            self.module.add_module("ema", self.ema)
        self.device = self.parameters[0].device
        self.first_bad = torch.tensor(-1, device=self.device)
        self.bad_T = torch.zeros(len(self.teacher_names), dtype=torch.bool, device=self.device)
        self.buffers = list(self.student.buffers())  # such as BatchNorm's
        self.shared = None
        if self.balance.weighting == "gradnorm":
            encoder = self.student.get_submodule("encoder")
            # the last one that is trained: frozen are those that no prediction depends on
            self.shared = [p for p in encoder.parameters() if p.requires_grad and p.ndim > 1][-1]

    def start_average(self) -> None:
        """Begin the average, where there is one, at the student's present weights."""
        if self.ema is not None:
            self.ema.load_state_dict(self.student.state_dict())

    @property
    def result(self) -> nn.Module:
        """The student to keep: the average of its weights, where there is one."""
        return self.student if self.ema is None else self.ema

    @property
    def teacher_names(self) -> list[str]:
        """The teachers, in the order of T."""
        return list(dict.fromkeys(teacher for teacher, _ in self.standardizers.keys))

    def step(self, micro_batches: Sequence[DistillBatch], step: int) -> dict[str, Tensor]:
        """One optimiser step over the micro-batches; returns device tensors, read when logged.

        A step whose loss or gradient is not finite changes nothing, and neither does any
        after it, so the state on hand can replay it.
        """
        rate, momentum = self.rate(step), self.momentum(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.student.train()
        before = [buffer.clone() for buffer in self.buffers]
        seen: list[dict[tuple[str, TokenType], Moments]] = []
        losses, tables, eligible = [], [], []
        for number, batch in enumerate(micro_batches, start=1):
            with nullcontext() if number == len(micro_batches) else self.ranks.no_sync():
                loss, loss_TB, moments = self.forward(batch, step, momentum)
                (loss / len(micro_batches)).backward()
            seen.append(moments)
            losses.append(loss.detach())
            tables.append(loss_TB.detach())
            source = batch.source.to(self.device, non_blocking=True)
            eligible.append(self.balance.eligible(source))
        for parameter in self.balance.parameters():  # the student's are averaged in `backward`
            if parameter.grad is not None:
                self.ranks.all_reduce_sum(parameter.grad.div_(self.ranks.size))
        grad_norm = self.clip(self.parameters)

        loss_TB = torch.cat(tables, dim=1)
        sum_T, count_T = eligible_sums(loss_TB, torch.cat(eligible, dim=1))
        parts = [torch.stack(losses).mean()[None], loss_TB.mean(dim=1), sum_T, count_T]
        means = self.ranks.all_reduce_sum(torch.cat(parts)) / self.ranks.size
        loss, (loss_T, sum_T, count_T) = means[0], means[1:].unflatten(0, (3, -1))
        first = ~torch.isfinite(loss + grad_norm) & (self.first_bad < 0)
        self.first_bad = torch.where(first, step, self.first_bad)
        self.bad_T = torch.where(first, ~torch.isfinite(loss_T), self.bad_T)
        ok = self.first_bad < 0
        self.optimizer.found_inf = (~ok).float()  # type: ignore[attr-defined]  # fused: no step then
        self.optimizer.step()
        self.optimizer.zero_grad()
        for buffer, old in zip(self.buffers, before, strict=True):
            buffer.copy_(torch.where(ok, buffer, old))
        self.balance.update(sum_T / count_T, ok & self.standardizers.ready & (count_T > 0))
        for moments in seen:
            self.standardizers.update(moments, momentum=momentum, ok=ok)
        self._average(ok)
        return {
            "loss": loss,
            "loss_T": loss_T,
            "grad_norm": grad_norm,
            "first_bad": self.first_bad,
        }

    def examine(
        self, micro_batches: Sequence[DistillBatch], step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses [T, images] and gradient norms [] by parameter of a step that is not taken."""
        self.student.train()
        tables = []
        for batch in micro_batches:
            loss, loss_TB, _ = self.forward(batch, step, self.momentum(step))
            (loss / len(micro_batches)).backward()
            tables.append(loss_TB.detach())
        norms = {
            name: parameter.grad.norm()
            for name, parameter in self.module.named_parameters()
            if parameter.grad is not None
        }
        self.optimizer.zero_grad()
        return torch.cat(tables, dim=1), norms

    def blame(self) -> str:
        """What was not finite in the first bad step; reads the device."""
        named = [
            name for name, bad in zip(self.teacher_names, self.bad_T.tolist(), strict=True) if bad
        ]
        return f"the loss of {', '.join(named)}" if named else "a gradient"

    def cure(self, step: int) -> str:
        """What to do where a step was not finite."""
        return (
            "A lower learning rate (optim.lr) or clipping (optim.clip_norm) is the usual cure; "
            f"look closer with: alumnus replay RUN {step}"
        )

    def forward(
        self, batch: DistillBatch, step: int, momentum: float
    ) -> tuple[Tensor, Tensor, dict[tuple[str, TokenType], Moments]]:
        """Loss [], losses [T, B] and the moments of the targets of one micro-batch."""
        assert self.teachers is not None, "targets are set before the first step"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            raw = self.teachers.targets(batch)
            predictions = (self.network or self.student)(batch.images)
        reduce = self.ranks.all_reduce_sum if self.ranks.size > 1 else None
        moments = self.standardizers.moments(raw, reduce)
        # momentum 0 asks for the stored statistics, unchanged (both systems)
        targets = self.standardizers.apply(raw, moments if momentum > 0 else None)
        loss_TB = distill_losses(
            predictions,
            targets,
            cosine_weight=self.cosine_weight,
            smooth_l1_weight=self.smooth_l1_weight,
            patch_share=self.patch_share,
            side_weight=self.side_weight,
        )
        draw_TB = draw_uniform(
            self.seed, step, "teacher dropping", (len(loss_TB), self.global_batch)
        )[:, batch.position.cpu() % self.global_batch].to(loss_TB.device, non_blocking=True)
        source = batch.source.to(loss_TB.device, non_blocking=True)
        return self.balance(loss_TB, source, draw_TB, self.ranks, self.shared), loss_TB, moments

    @torch.no_grad()
    def _average(self, ok: Tensor) -> None:
        """ema = decay * ema + (1 - decay) * weights, where `ok` holds; buffers are copied."""
        if self.ema is None:
            return
        share = torch.where(ok, 1.0 - self.ema_decay, 0.0)
        for kept, new in zip(self.ema.parameters(), self.student.parameters(), strict=True):
            ours, theirs = _shard(kept), _shard(new)
            ours.lerp_(theirs, share.to(ours.dtype))
        for old_buffer, new_buffer in zip(self.ema.buffers(), self.buffers, strict=True):
            old_buffer.copy_(new_buffer)


def _shard(tensor: Tensor) -> Tensor:
    """What this process holds of a parameter; all of it where none is sharded."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part
