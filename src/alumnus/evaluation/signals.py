"""Signals of a run that need no label: what held-out images say about a student.

Per teacher and token type explained variance and cosine; of the bare encoder the effective rank.
Sums are kept, not features, so memory does not grow with the number of images.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alumnus.encoders import Encoder
from alumnus.standardize import Moments, Standardizers, batch_moments, merge_moments
from alumnus.tokens import EncoderOutput, Tokens, TokenType, resize_grid

__all__ = ["BareEncoder", "Fit", "effective_rank", "measure_signals"]


class Fit:
    """How well predictions fit targets, over all images added; patches count as rows of their own.

        explained variance = 1 - sum (y - s)^2 / sum (y - mean(y))^2

    Both sums go over rows (images, or images and patches) and dimensions; the mean is that of each
    dimension over the rows. 1 is perfect, 0 what the constant mean reaches, below 0 is worse than
    that; 0 where the targets do not vary. This is the coefficient of determination with dimensions
    weighted by their variance. `cosine` is the mean over rows, as in the loss.

    Source: R^2 as in scikit-learn's `r2_score(multioutput="variance_weighted")`.
    """

    def __init__(self) -> None:
        self._residual, self._cosine = 0.0, 0.0
        self._targets: Moments | None = None

    def add(self, prediction: Tensor, target: Tensor) -> None:
        """One batch, [B, D] or [B, N, D] each; reads the device."""
        s, y = prediction.detach().flatten(0, -2).float(), target.flatten(0, -2).float()
        if s.shape != y.shape:
            raise ValueError(f"prediction has shape {tuple(s.shape)}, target {tuple(y.shape)}")
        self._residual += (s - y).square().sum(dim=1).sum().item()
        self._cosine += F.cosine_similarity(s, y, dim=1).sum().item()
        new = batch_moments(y)
        self._targets = merge_moments(self._targets, new) if self._targets else new

    @property
    def explained_variance(self) -> float:
        """At most 1."""
        assert self._targets is not None, "a batch was added"
        total = self._targets.m2.double().sum().item()
        return 1 - self._residual / total if total > 0 else 0.0

    @property
    def cosine(self) -> float:
        """Between -1 and 1."""
        assert self._targets is not None, "a batch was added"
        return self._cosine / self._targets.n.item()


def effective_rank(features: Tensor) -> float:  # [n, D]
    """How many directions the centred features fill: between 1 and min(n - 1, D).

        exp(-sum_i p_i log p_i),  p_i = s_i / sum_j s_j,  s the singular values

    0 where all features are equal, NaN where one is not finite.

    Source: Roy and Vetterli, "The effective rank" (EUSIPCO 2007), section 2.
    Differs from it: the features are centred, or their mean would count as a direction.
    """
    features = features.detach().cpu().double()
    if not features.isfinite().all():  # the decomposition would raise
        return math.nan
    values = torch.linalg.svdvals(features - features.mean(dim=0))
    if values.sum() <= 1e-12 * features.abs().max().clamp_min(1e-300):
        return 0.0
    p = values / values.sum()
    return math.exp(torch.special.entr(p).sum().item())


@torch.no_grad()
def measure_signals(
    student: nn.Module,  # images -> {teacher: Tokens}, with a submodule "encoder"
    standardizers: Standardizers,
    batches: Iterable[tuple[Tensor, Mapping[str, Tokens]]],  # images [B, C, H, W], raw targets
    *,
    bf16: bool = False,
) -> dict[str, float]:
    """All signals of a student, by name; leaves it in evaluation mode.

    `explained_variance/TEACHER/TYPE` and `cosine/TEACHER/TYPE` of the standardised targets;
    `explained_variance/TEACHER` is the mean over token types, `explained_variance` that over
    teachers, and so for the cosine. `effective_rank` is that of the bare encoder's [CLS], or mean
    over patches where it has none. Where a teacher's grid is another one, the prediction is
    brought to it, as in the loss. No random number is drawn.
    """
    student.eval()
    fits: dict[tuple[str, TokenType], Fit] = {key: Fit() for key in standardizers.keys}
    bare: list[Tensor] = []
    for images, raw in batches:
        with (
            _captured(student.get_submodule("encoder")) as outputs,
            torch.autocast(images.device.type, torch.bfloat16, enabled=bf16),
        ):
            predictions = student(images)
        bare += [output.final.pooled().float() for output in outputs]
        for name, target in standardizers.apply(raw).items():
            made = predictions[name]
            if target.grid is not None:
                made = resize_grid(made, target.grid)
            for token_type in target.types:
                fits[name, token_type].add(made.of(token_type), target.of(token_type))
    if not bare:
        raise ValueError("none of the held-out images can be read")
    signals: dict[str, float] = {}
    for what in ("explained_variance", "cosine"):
        values = {key: float(getattr(fit, what)) for key, fit in fits.items()}
        signals |= _means(what, values)
    return signals | {"effective_rank": effective_rank(torch.cat(bare))}


def _means(what: str, values: Mapping[tuple[str, TokenType], float]) -> dict[str, float]:
    """`what`, `what/TEACHER` and `what/TEACHER/TYPE`."""
    of_teacher: dict[str, list[float]] = {}
    for (teacher, _), value in values.items():
        of_teacher.setdefault(teacher, []).append(value)
    means = {teacher: sum(held) / len(held) for teacher, held in of_teacher.items()}
    return {
        what: sum(means.values()) / len(means),
        **{f"{what}/{teacher}": mean for teacher, mean in means.items()},
        **{f"{what}/{teacher}/{kind}": value for (teacher, kind), value in values.items()},
    }


class BareEncoder(Encoder):
    """The encoder inside a student, as an `Encoder` of its own.

    Called through the student, whose weights may be sharded over processes (FSDP2).
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student
        encoder: Any = student.get_submodule("encoder")
        self.dim, self.block_dims = encoder.dim, encoder.block_dims
        self.patch_size, self.num_heads = encoder.patch_size, encoder.num_heads
        self.in_channels, self.image_size = encoder.in_channels, encoder.image_size

    def forward(self, images: Tensor, *, blocks: Sequence[int] = ()) -> EncoderOutput:
        assert not blocks, "the student has its own"
        with _captured(self.student.get_submodule("encoder")) as outputs:
            self.student(images)
        return outputs[0]


@contextmanager
def _captured(encoder: nn.Module) -> Iterator[list[EncoderOutput]]:
    """What the encoder gives inside the student's forward pass, so that it runs once."""
    outputs: list[EncoderOutput] = []

    def keep(_module: nn.Module, _inputs: object, output: EncoderOutput) -> None:
        outputs.append(output)

    handle = encoder.register_forward_hook(keep)
    try:
        yield outputs
    finally:
        handle.remove()
