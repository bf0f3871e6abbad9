"""Logistic regression on frozen features, its regularisation tuned on part of the training set."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import optuna
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from alumnus.evaluation.linear import LinearClassifier, best_trial, stratified_split

__all__ = ["C_RANGE", "MAX_ITER", "LogisticFit", "fit_at", "fit_logistic", "objective", "tune_c"]

C_RANGE = (1e-5, 1e6)  # of the inverse regularisation strength, searched log-uniformly
MAX_ITER = 2000
# Samples x dimensions x classes below which BLAS threads cost more than they give: ten times
# slower on two cores at 640 x 128 x 48, still 1.4 times at 30000 x 768 x 100.
_THREADS_PAY = 2**32

_Features = npt.NDArray[np.float32]  # [n, D]
_Labels = npt.NDArray[np.int64]  # [n]


@dataclass(frozen=True, kw_only=True)
class LogisticFit:
    """A tuned classifier and how it was chosen."""

    classifier: LinearClassifier
    val_top1: float  # percent, at the chosen C, on the validation part of the training set
    c: float  # the chosen inverse regularisation strength
    tried: Mapping[float, float]  # C -> validation accuracy in percent, in the order of the trials


class _Space(NamedTuple):
    """Where a problem is solved: features less their mean, in a basis of what their rows span.

    The bias is not penalised, so the shift leaves the minimum where it is; with an L2 penalty the
    weights lie in the span of the rows, so for fewer samples than dimensions the problem is the
    same and smaller. L-BFGS comes to that minimum in a fraction of the iterations.
    """

    mean: Tensor  # [D]
    basis: Tensor | None  # [D, n]; None: all dimensions

    @classmethod
    def of(cls, features: Tensor) -> "_Space":  # [n, D]
        mean = features.mean(0)
        if len(features) >= features.shape[1]:
            return cls(mean, None)
        return cls(mean, torch.linalg.qr((features - mean).double().T).Q.to(features.dtype))

    def inside(self, features: Tensor) -> Tensor:  # [m, D] -> [m, D] or [m, n]
        centred = features - self.mean
        return centred if self.basis is None else centred @ self.basis

    def classifier(self, fitted: LogisticRegression) -> LinearClassifier:
        """What was fitted inside, for features outside."""
        weight, bias = torch.from_numpy(fitted.coef_), torch.from_numpy(fitted.intercept_)
        if len(weight) == 1:  # two classes have one score: that of the second
            weight, bias = (torch.cat([torch.zeros_like(v), v]) for v in (weight, bias))
        return LinearClassifier(
            weight=weight if self.basis is None else weight @ self.basis.T.to(weight.dtype),
            bias=bias,
            centre=self.mean,
            classes=torch.from_numpy(fitted.classes_),
        )


def _classifier(c: float) -> LogisticRegression:
    return LogisticRegression(C=c, solver="lbfgs", max_iter=MAX_ITER, warm_start=True)


def _fit(classifier: LogisticRegression, features: _Features, labels: _Labels) -> None:
    is_small = features.size * len(np.unique(labels)) < _THREADS_PAY
    with warnings.catch_warnings(), threadpool_limits(1 if is_small else None, user_api="blas"):
        # A weakly regularised fit may end at max_iter: that is the protocol.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(features, labels)


def fit_at(
    train: Tensor,  # [n, D]
    labels: Tensor,  # [n], int64
    c: float,
) -> LinearClassifier:
    """The minimum of `objective` at one C, found by L-BFGS."""
    train = train.float()
    space, classifier = _Space.of(train), _classifier(c)
    _fit(classifier, space.inside(train).numpy(), labels.numpy())
    return space.classifier(classifier)


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
    loss = torch.nn.functional.cross_entropy(logits, place)
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
    x, y = space.inside(train[fit_rows]).numpy(), labels[fit_rows].numpy()
    x_val, y_val = space.inside(train[val_rows]).numpy(), labels[val_rows].numpy()
    fitted: dict[float, tuple[_Features, _Features]] = {}  # C -> weights, bias
    tried: dict[float, float] = {}

    def accuracy(trial: optuna.Trial) -> float:
        c = trial.suggest_float("C", *C_RANGE, log=True)
        classifier = _classifier(c)
        if fitted:  # the minimum is unique, so the start matters for time only
            nearest = min(fitted, key=lambda other: abs(np.log(other / c)))
            classifier.coef_, classifier.intercept_ = (part.copy() for part in fitted[nearest])
        _fit(classifier, x, y)
        fitted[c] = (classifier.coef_, classifier.intercept_)
        tried[c] = 100 * float((classifier.predict(x_val) == y_val).mean())
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
) -> LogisticFit:
    """Multinomial logistic regression on frozen features, tuned on the training set alone.

    L-BFGS, at most 2000 iterations; C tuned with Optuna's TPE sampler, log-uniform in 1e-5 to
    1e6, on `val_ratio` of every class of the training set (among equals the one tried first);
    refit on all of it. Features are used
    as they are, in float32: no L2 normalisation and no scaling (the sources at hand name neither
    for this protocol).

    Source: the protocol of t-ReX (arXiv 2206.15369) that UNIC (arXiv 2408.05088) follows.
    Differs from it: features are centred, fewer samples than dimensions are solved in the
    samples' span, and each trial starts from the nearest C tried before; none of it moves the
    minimum.
    """
    if len(train_labels.unique()) < 2:
        raise ValueError("logistic regression needs training images of two or more classes")
    train = train.float()
    tried = tune_c(train, train_labels, trials=trials, val_ratio=val_ratio, seed=seed)
    c = max(tried, key=tried.__getitem__)
    classifier = fit_at(train, train_labels, c)
    return LogisticFit(classifier=classifier, val_top1=tried[c], c=c, tried=tried)
