"""Standardisation of teacher features: each dimension to mean 0 and deviation 1.

Teachers differ in scale by orders of magnitude; without this the largest one is all the
student hears. One `Standardizers` serves all teachers and token types of a run; a key is
(teacher, token type), D the teacher's width.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from alumnus.tokens import TOKEN_TYPES, Tokens, TokenType

__all__ = ["Kind", "Moments", "Standardizers", "batch_moments", "even_rotation", "merge_moments"]

Kind = Literal["running", "batch", "frozen", "phi-s", "none"]
CALIBRATED: tuple[Kind, ...] = ("frozen", "phi-s")
RUNNING_EPS = 1e-6  # UNIC: added to the batch's deviation, and again to the divisor
BATCH_FLOOR = 1e-3  # DUNE: the divisor's lower bound


class Moments(NamedTuple):
    """Count, mean and centred second moment of samples (rows) of D dimensions."""

    n: Tensor  # [], float64
    mean: Tensor  # [D]
    m2: Tensor  # [D] sums of squared deviations, or [D, D] of their products

    @property
    def std(self) -> Tensor:  # [D], unbiased; NaN for a single sample
        variance = self.m2 if self.m2.ndim == 1 else self.m2.diagonal()
        return (variance / (self.n - 1)).sqrt().to(self.mean.dtype)


def batch_moments(features: Tensor, *, full: bool = False) -> Moments:
    """Moments of [B, D] or [B, N, D] over all but the last axis; float32, centred.

    `full` gives the D x D matrix of products instead of its diagonal. Variance is never
    E[x^2] - E[x]^2: 1000 float32 samples at mean 1000 turn a true 0.96 into 0.83.
    """
    rows = features.flatten(0, -2)
    rows = rows if rows.dtype == torch.float64 else rows.float()
    n = torch.full((), len(rows), dtype=torch.float64, device=rows.device)  # copies nothing there
    variance, mean = torch.var_mean(rows, dim=0, correction=0)
    if not full:
        return Moments(n, mean, variance * len(rows))
    centred = rows - mean
    return Moments(n, mean, centred.T @ centred)


def merge_moments(a: Moments, b: Moments) -> Moments:
    """Moments of both sets of samples together (Chan et al. 1979)."""
    n = a.n + b.n
    delta = (b.mean - a.mean).double()
    products = delta * delta if a.m2.ndim == 1 else torch.outer(delta, delta)
    mean = (a.mean + delta * (b.n / n)).to(a.mean.dtype)
    return Moments(n, mean, (a.m2 + b.m2 + products * (a.n * b.n / n)).to(a.m2.dtype))


class Standardizers(nn.Module):
    """Standardises the targets of all teachers; statistics are buffers, in float32.

    The order in a step is `moments`, (reduction inside), `apply`, backward, `update`.

    - `running` (UNIC): divides by the running statistics as they were *before* this step;
      they start at mean 0, deviation 1, so the first step sees raw features.
    - `batch` (DUNE): in training the current batch's statistics over all ranks, divisor at
      least 1e-3; the running ones at evaluation.
    - `frozen`: statistics of the `calibrate` batches, then fixed.
    - `phi-s`: of the same batches, a rotation after which all dimensions have one variance,
      and one scale for all (arXiv 2410.01680): relative variances between directions stay.
    - `none`: features as they are.

    Differs from the released UNIC: a batch of a single sample has no deviation (theirs
    becomes NaN for good); here such an update is skipped.
    """

    def __init__(
        self,
        kind: Kind,
        shapes: Mapping[str, Mapping[TokenType, int]],  # {teacher: {type: D}}
    ) -> None:
        super().__init__()
        if kind not in get_args(Kind):
            raise ValueError(
                f"standardize.kind is {kind!r}, not one of {', '.join(get_args(Kind))}"
            )
        self.kind = kind
        self.keys = [(teacher, t) for teacher, types in shapes.items() for t in types]
        for teacher, token_type in self.keys:
            dim, name = shapes[teacher][token_type], f"{teacher}/{token_type}"
            self.register_buffer(f"{name}/mean", torch.zeros(dim))
            self.register_buffer(f"{name}/std", torch.ones(dim))
            if kind == "phi-s":
                self.register_buffer(f"{name}/rotation", torch.eye(dim))
        self.register_buffer("calibrated", torch.tensor(kind not in CALIBRATED))
        self._calibration: dict[tuple[str, TokenType], Moments] = {}

    @staticmethod
    def shapes_of(buffers: Mapping[str, Tensor]) -> dict[str, dict[TokenType, int]]:
        """The shapes that a state dict was saved with."""
        shapes: dict[str, dict[TokenType, int]] = {}
        for token_type in TOKEN_TYPES:
            for name, buffer in buffers.items():
                teacher = name.removesuffix(f"/{token_type}/mean")
                if teacher != name:
                    shapes.setdefault(teacher, {})[token_type] = len(buffer)
        return shapes

    @classmethod
    def with_statistics(
        cls, kind: Kind, statistics: Mapping[str, Mapping[TokenType, tuple[Tensor, Tensor]]]
    ) -> "Standardizers":
        """With these means and deviations [D], by teacher and token type."""
        shapes = {
            teacher: {t: mean.shape[-1] for t, (mean, _) in types.items()}
            for teacher, types in statistics.items()
        }
        standardizers = cls(kind, shapes)
        for teacher, token_type in standardizers.keys:
            for ours, given in zip(
                standardizers.statistics(teacher, token_type),
                statistics[teacher][token_type],
                strict=True,
            ):
                ours.copy_(given)
        return standardizers

    def all_statistics(self) -> dict[str, dict[TokenType, tuple[Tensor, Tensor]]]:
        """The inverse of `with_statistics`."""
        found: dict[str, dict[TokenType, tuple[Tensor, Tensor]]] = {}
        for teacher, token_type in self.keys:
            found.setdefault(teacher, {})[token_type] = self.statistics(teacher, token_type)
        return found

    @property
    def ready(self) -> Tensor:  # [], bool
        """Whether `apply` standardises every key: not so before the first update of `running`."""
        if self.kind != "running":
            return torch.ones_like(self.get_buffer("calibrated"))
        pairs = [self.statistics(*key) for key in self.keys]
        return torch.stack([((mean != 0) | (std != 1)).any() for mean, std in pairs]).all()

    def statistics(self, teacher: str, token_type: TokenType) -> tuple[Tensor, Tensor]:
        """Mean and deviation, each [D]: the buffers themselves."""
        name = f"{teacher}/{token_type}"
        return self.get_buffer(f"{name}/mean"), self.get_buffer(f"{name}/std")

    def moments(
        self,
        targets: Mapping[str, Tokens],
        all_reduce_sum: Callable[[Tensor], Tensor] | None = None,
    ) -> dict[tuple[str, TokenType], Moments]:
        """The batch's moments of every key, over all ranks.

        `all_reduce_sum` is called once, with one packed float64 vector of
        (n, n * mean, M2 + n * mean^2) of all keys: traffic does not depend on the batch.
        """
        if self.kind in ("none", *CALIBRATED):
            return {}
        local = {(t, k): batch_moments(targets[t].of(k)) for t, k in self.keys}
        return local if all_reduce_sum is None else _reduce(local, all_reduce_sum)

    def apply(  # type: ignore[override]  # nn.Module.apply(fn) is of no use here
        self,
        targets: Mapping[str, Tokens],
        moments: Mapping[tuple[str, TokenType], Moments] | None = None,
    ) -> dict[str, Tokens]:
        """The targets, standardised; without `moments` as at evaluation."""
        return self._map(targets, lambda x, t, k: self._forward(x, t, k, moments))

    def inverse(self, predictions: Mapping[str, Tokens]) -> dict[str, Tokens]:
        """Predictions back in the teachers' own spaces (running statistics)."""
        return self._map(predictions, self._backward)

    @torch.no_grad()
    def update(
        self,
        moments: Mapping[tuple[str, TokenType], Moments],
        *,
        momentum: float,
        ok: Tensor | bool = True,
    ) -> None:
        """running = (1 - momentum) * running + momentum * batch, where `ok` holds."""
        eps = RUNNING_EPS if self.kind == "running" else 0.0
        for key, batch in moments.items():
            enough = (batch.n > 1) & torch.as_tensor(ok, device=batch.n.device)
            for running, new in zip(
                self.statistics(*key), (batch.mean, batch.std + eps), strict=True
            ):
                mixed = (1.0 - momentum) * running + momentum * new
                running.copy_(torch.where(enough, mixed, running))

    @torch.no_grad()
    def calibrate(self, targets: Mapping[str, Tokens]) -> None:
        """Take one batch into the statistics of `frozen` and `phi-s`."""
        for teacher, token_type in self.keys:
            new = batch_moments(targets[teacher].of(token_type), full=self.kind == "phi-s")
            old = self._calibration.get((teacher, token_type))
            self._calibration[teacher, token_type] = merge_moments(old, new) if old else new

    @torch.no_grad()
    def end_calibration(self, all_reduce_sum: Callable[[Tensor], Tensor] | None = None) -> None:
        """Fix the statistics collected by `calibrate`."""
        collected = self._calibration
        if all_reduce_sum is not None:
            collected = _reduce(collected, all_reduce_sum)
        for (teacher, token_type), batch in collected.items():
            mean, std = self.statistics(teacher, token_type)
            mean.copy_(batch.mean)
            if self.kind == "phi-s":
                covariance = batch.m2.double() / (batch.n - 1)
                std.fill_(float(covariance.diagonal().mean().sqrt()))
                rotation = self.get_buffer(f"{teacher}/{token_type}/rotation")
                rotation.copy_(even_rotation(covariance))
            else:
                std.copy_(batch.std)
        self.get_buffer("calibrated").fill_(True)
        self._calibration = {}

    def _forward(
        self,
        x: Tensor,
        teacher: str,
        token_type: TokenType,
        moments: Mapping[tuple[str, TokenType], Moments] | None,
    ) -> Tensor:
        mean, std = self.statistics(teacher, token_type)
        if self.kind == "batch" and moments is not None:
            batch = moments[teacher, token_type]
            # a single sample has no deviation: leave its scale to the running one
            mean, std = batch.mean, torch.where(batch.n > 1, batch.std, std)
        x = (x - mean) / self._divisor(std)
        if self.kind == "phi-s":
            x = x @ self.get_buffer(f"{teacher}/{token_type}/rotation").T
        return x

    def _backward(self, x: Tensor, teacher: str, token_type: TokenType) -> Tensor:
        mean, std = self.statistics(teacher, token_type)
        if self.kind == "phi-s":
            x = x @ self.get_buffer(f"{teacher}/{token_type}/rotation")
        return x * self._divisor(std) + mean

    def _divisor(self, std: Tensor) -> Tensor:
        if self.kind == "running":
            return std + RUNNING_EPS
        return std.clamp_min(BATCH_FLOOR)

    def _map(
        self,
        features: Mapping[str, Tokens],
        change: Callable[[Tensor, str, TokenType], Tensor],
    ) -> dict[str, Tokens]:
        if self.kind == "none":
            return dict(features)
        result = dict(features)
        for teacher, token_type in self.keys:
            if teacher not in features:
                continue
            with torch.autocast(next(self.buffers()).device.type, enabled=False):
                x = features[teacher].of(token_type)
                x = x if x.dtype == torch.float64 else x.float()
                changed = change(x, teacher, token_type)
            held = result[teacher]
            result[teacher] = (
                held._replace(cls=changed)
                if token_type == "cls"
                else held._replace(patches=changed)
            )
        return result


def even_rotation(covariance: Tensor) -> Tensor:  # [D, D] -> [D, D], orthogonal, float32
    """A rotation R for which R C R^T has the same variance in every dimension.

    Starts from the eigenvectors and, with at most D - 1 plane rotations, brings one variance
    after the other to the mean (Schur-Horn theorem).

    Source: the aim is PHI-S's (arXiv 2410.01680, section 3.4). Differs from it: theirs are
    Hadamard matrices, which exist only for some widths; this works for any.
    """
    values, vectors = torch.linalg.eigh(covariance.double().cpu())
    rotation, variance = vectors.T.contiguous(), values.tolist()
    mean = sum(variance) / len(variance)
    matrix = torch.diag(values)
    pending = list(range(len(variance)))
    while len(pending) > 1:
        pending.sort(key=lambda i: float(matrix[i, i]))
        low, high = pending[0], pending[-1]
        a, b, c = float(matrix[low, low]), float(matrix[high, high]), float(matrix[low, high])
        if b - a < 1e-12 * max(abs(mean), 1e-30):
            break
        # cos^2 a + 2 sin cos c + sin^2 b = mean, solved for t = tan
        qa, qb, qc = b - mean, 2 * c, a - mean
        t = (-qb + (qb * qb - 4 * qa * qc) ** 0.5) / (2 * qa) if qa > 0 else 0.0
        cos = 1 / (1 + t * t) ** 0.5
        sin = t * cos
        plane = torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64)
        rotation[[low, high]] = plane @ rotation[[low, high]]
        matrix[[low, high]] = plane @ matrix[[low, high]]
        matrix[:, [low, high]] = matrix[:, [low, high]] @ plane.T
        pending.remove(low)
    result: Tensor = rotation.float().to(covariance.device)
    return result


def _reduce(
    local: Mapping[tuple[str, TokenType], Moments], all_reduce_sum: Callable[[Tensor], Tensor]
) -> dict[tuple[str, TokenType], Moments]:
    """Merge the moments of all ranks with one packed all-reduce of sums, which add up."""
    parts: list[Tensor] = []
    for m in local.values():
        mean = m.mean.double()
        square = mean * mean if m.m2.ndim == 1 else torch.outer(mean, mean)
        parts += [m.n.reshape(1), m.n * mean, (m.m2.double() + m.n * square).flatten()]
    packed = all_reduce_sum(torch.cat(parts))
    merged: dict[tuple[str, TokenType], Moments] = {}
    pieces = iter(packed.split([len(part) for part in parts]))
    for key, m in local.items():
        n, total, square_total = next(pieces)[0], next(pieces), next(pieces)
        mean = total / n
        square = mean * mean if m.m2.ndim == 1 else torch.outer(mean, mean)
        m2 = square_total.reshape(m.m2.shape) - n * square
        merged[key] = Moments(n, mean.to(m.mean.dtype), m2.to(m.m2.dtype))
    return merged
