"""Logistic regression on frozen features, its regularisation tuned on part of the training set."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import optuna
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

from alumnus.evaluation.linear import LinearClassifier, best_trial, stratified_split

__all__ = ["C_RANGE", "MAX_ITER", "LogisticFit", "fit_at", "fit_logistic", "objective", "tune_c"]

C_RANGE = (1e-5, 1e6)  # of the inverse regularisation strength, searched log-uniformly
MAX_ITER = 2000
MEMORY = 20  # pairs of steps and gradients from which L-BFGS builds its curvature
STEP_GAIN = 1e-7  # a step that lowers the objective by less is the last one
BLOCK = 4096  # rows taken to float64 at once
RANK = 1e-12  # directions of less variance, against the largest, hold no features


@dataclass(frozen=True, kw_only=True)
class LogisticFit:
    """A tuned classifier and how it was chosen."""

    classifier: LinearClassifier
    val_top1: float  # percent, at the chosen C, on the validation part of the training set
    c: float  # the chosen inverse regularisation strength
    tried: Mapping[float, float]  # C -> validation accuracy in percent, in the order of the trials


class _Space(NamedTuple):
    """The principal axes of centred features.

    The bias is not penalised, so the shift leaves the minimum where it is; with an L2 penalty the
    weights lie in the span of the samples, so directions without variance can be left out.
    """

    mean: Tensor  # [D]
    axes: Tensor  # [D, r], orthonormal
    variance: Tensor  # [r], of the features along each axis

    @classmethod
    def of(cls, features: Tensor) -> "_Space":  # [n, D]
        mean = features.mean(0)
        wide = len(features) < features.shape[1]
        rows = (features - mean).T if wide else features - mean
        gram = rows.new_zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
        for part in rows.split(BLOCK):
            gram += part.double().T @ part.double()
        values, vectors = torch.linalg.eigh(gram)
        kept = values > RANK * values[-1].clamp(min=torch.finfo(values.dtype).tiny)
        values, vectors = values[kept], vectors[:, kept]
        axes = rows.double() @ vectors / values.sqrt() if wide else vectors
        return cls(mean, axes.to(features.dtype), (values / len(features)).to(features.dtype))

    def inside(self, features: Tensor) -> Tensor:  # [m, D] -> [m, r]
        return (features - self.mean) @ self.axes

    def classifier(self, found: "_Weights", classes: Tensor) -> LinearClassifier:
        """What was found inside, for features outside."""
        weight, bias = found.weight, found.bias
        if len(weight) < len(classes):  # two classes have one score: that of the second
            weight, bias = (torch.cat([torch.zeros_like(v), v]) for v in (weight, bias))
        return LinearClassifier(
            weight=(weight @ self.axes.T).cpu(),
            bias=bias.cpu(),
            centre=self.mean.cpu(),
            classes=classes.cpu(),
        )


class _Weights(NamedTuple):
    """A linear map from the principal axes to the scores of classes."""

    weight: Tensor  # [K, r]; K is 1 for two classes
    bias: Tensor  # [K]

    def logits(self, x: Tensor) -> Tensor:  # [n, r] -> [n, C]
        return _with_first(x @ self.weight.T + self.bias)


def _with_first(scores: Tensor) -> Tensor:  # [n, K] -> [n, C]
    """Of two classes the first has score 0, as in scikit-learn."""
    return F.pad(scores, (1, 0)) if scores.shape[1] == 1 else scores


def _minimise(
    x: Tensor,  # [n, r], along principal axes
    place: Tensor,  # [n], int64, which class
    c: float,
    *,
    variance: Tensor,  # [r]
    start: _Weights,
) -> _Weights:
    """The minimum of `objective`, by L-BFGS in variables in which it is nearly round.

        w_j = v_j / sqrt(h variance_j + 1 / (C n)),   h = mean of p (1 - p) over samples and classes

    is Newton's metric for equal classes at the start; the minimum is the same. In the plain
    variables L-BFGS needs ten times the iterations, and scikit-learn's default tolerance ends
    far from the minimum: at C = 2.4 on the features of benchmarks/logistic.py with a loss of
    0.0186 and 63% of the validation part, where the minimum, 0.0158, has 71%.
    """
    n, rank = x.shape
    decay = 1 / (c * n)
    p = start.logits(x).softmax(dim=1)
    h = (p * (1 - p)).mean().clamp(min=1e-4)
    scale, bias_scale = (h * variance + decay).rsqrt(), h.rsqrt()  # [r], []
    z, truth = x * scale, place[:, None]

    def value_and_gradient(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        v = torch.from_numpy(flat).to(x).view(-1, rank + 1)
        w = v[:, :rank] * scale
        log_p = _with_first(z @ v[:, :rank].T + v[:, rank] * bias_scale).log_softmax(dim=1)
        value = -log_p.gather(1, truth).double().mean() + decay / 2 * w.double().square().sum()
        pull = log_p.exp_().scatter_add_(1, truth, -torch.ones_like(truth, dtype=x.dtype)) / n
        pull = pull[:, -len(v) :]  # [n, K]
        slope = torch.cat(
            [pull.T @ z + decay * w * scale, (pull.sum(dim=0) * bias_scale)[:, None]], dim=1
        )
        return float(value), slope.flatten().cpu().numpy().astype(np.float64)

    first = torch.cat([start.weight / scale, (start.bias / bias_scale)[:, None]], dim=1)
    found: Any = minimize(
        value_and_gradient,
        first.flatten().cpu().numpy().astype(np.float64),
        jac=True,
        method="L-BFGS-B",
        options={
            "maxiter": MAX_ITER, "maxfun": 2 * MAX_ITER, "maxcor": MEMORY,
            "ftol": STEP_GAIN, "gtol": 0.0,
        },
    )  # fmt: skip
    v = torch.from_numpy(found.x).to(x).view(-1, rank + 1)
    return _Weights(v[:, :rank] * scale, v[:, rank] * bias_scale)


def _zeros(x: Tensor, classes: Tensor) -> _Weights:
    rows = 1 if len(classes) == 2 else len(classes)
    return _Weights(x.new_zeros(rows, x.shape[1]), x.new_zeros(rows))


def fit_at(
    train: Tensor,  # [n, D]
    labels: Tensor,  # [n], int64
    c: float,
) -> LinearClassifier:
    """The minimum of `objective` at one C."""
    train = train.float()
    classes, place = labels.to(train.device).unique(return_inverse=True)
    space = _Space.of(train)
    x = space.inside(train)
    found = _minimise(x, place, c, variance=space.variance, start=_zeros(x, classes))
    return space.classifier(found, classes)


def objective(
    classifier: LinearClassifier,
    features: Tensor,  # [n, D]
    labels: Tensor,  # [n], int64
    c: float,
) -> float:
    """What logistic regression minimises, by sample and in float64.

        mean_i of -log p(y_i | x_i) + |W|^2 / (2 C n)

    For two classes W is that of the second against the first, as in scikit-learn.
    """
    place = torch.searchsorted(classifier.classes, labels)
    logits = classifier.logits(features.double())
    loss = F.cross_entropy(logits, place)
    return float(loss + classifier.weight.double().square().sum() / (2 * c * len(features)))


def tune_c(
    train: Tensor,  # [n, D]
    labels: Tensor,  # [n], int64
    *,
    trials: int = 40,
    val_ratio: float = 0.2,
    seed: int = 0,
) -> dict[float, float]:  # C -> validation accuracy in percent
    """Values of C in `C_RANGE`, each chosen in view of the accuracies of those before it."""
    fit_rows, val_rows = stratified_split(labels, val_ratio=val_ratio, seed=seed)
    if len(val_rows) == 0:
        raise ValueError(
            "logistic regression tunes C on a validation part of the training set, "
            "which needs a class with two or more training images"
        )
    space = _Space.of(train[fit_rows])
    x, x_val = space.inside(train[fit_rows]), space.inside(train[val_rows])
    classes, place = labels[fit_rows].to(train.device).unique(return_inverse=True)
    y_val = labels[val_rows].to(train.device)
    found: dict[float, _Weights] = {}  # by C
    tried: dict[float, float] = {}

    def accuracy(trial: optuna.Trial) -> float:
        c = trial.suggest_float("C", *C_RANGE, log=True)
        # the minimum is unique, so the start matters for time only
        nearest = min(found, key=lambda other: abs(math.log(other / c)), default=None)
        start = _zeros(x, classes) if nearest is None else found[nearest]
        found[c] = _minimise(x, place, c, variance=space.variance, start=start)
        hits = classes[found[c].logits(x_val).argmax(dim=1)] == y_val
        tried[c] = 100 * hits.double().mean().item()
        return tried[c]

    best_trial(accuracy, trials=trials, seed=seed)
    return tried


def fit_logistic(
    train: Tensor,  # [n, D]
    train_labels: Tensor,  # [n], int64
    *,
    trials: int = 40,
    val_ratio: float = 0.2,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> LogisticFit:
    """Multinomial logistic regression on frozen features, tuned on the training set alone.

    L-BFGS, at most 2000 iterations; C tuned with Optuna's TPE sampler, log-uniform in 1e-5 to
    1e6, on `val_ratio` of every class of the training set (among equals the one tried first);
    refit on all of it. Features are used as they are, in float32: no L2 normalisation and no
    scaling (the sources at hand name neither for this protocol).

    Source: the protocol of t-ReX (arXiv 2206.15369) that UNIC (arXiv 2408.05088) follows.
    Differs from it: solved along the principal axes of the centred features, in Newton's metric,
    each trial from the nearest C tried before; none of it moves the minimum, but it is reached,
    where scikit-learn's default tolerance stops early for weak regularisation.
    """
    if len(train_labels.unique()) < 2:
        raise ValueError("logistic regression needs training images of two or more classes")
    train = train.to(device).float()
    tried = tune_c(train, train_labels, trials=trials, val_ratio=val_ratio, seed=seed)
    c = max(tried, key=tried.__getitem__)
    classifier = fit_at(train, train_labels, c)
    return LogisticFit(classifier=classifier, val_top1=tried[c], c=c, tried=tried)
