"""Logistic regression on frozen features, its regularisation tuned on part of the training set."""

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import optuna
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

__all__ = ["C_RANGE", "LogisticScore", "logistic_regression", "stratified_split", "tune_c"]

C_RANGE = (1e-5, 1e6)  # of the inverse regularisation strength, searched log-uniformly
MAX_ITER = 2000
# Samples x dimensions x classes below which BLAS threads cost more than they give: ten times
# slower on two cores at 640 x 128 x 48, still 1.4 times at 30000 x 768 x 100.
_THREADS_PAY = 2**32

_Features = npt.NDArray[np.float32]  # [n, D]
_Labels = npt.NDArray[np.int64]  # [n]


@dataclass(frozen=True, kw_only=True)
class LogisticScore:
    """The result on the test set; accuracies in percent."""

    top1: float
    val_top1: float  # at the chosen C, on the validation part of the training set
    c: float  # the chosen inverse regularisation strength
    prediction: Tensor  # [n_test], int64


def stratified_split(
    labels: Tensor,  # [n], int64
    *,
    val_ratio: float = 0.2,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:  # sorted indices: fitting part, validation part
    """Hold out a share of every class: at least one sample, none of a class with a single one."""
    generator = torch.Generator().manual_seed(seed)
    is_val = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():  # sorted
        members = (labels == label).nonzero().flatten()
        shuffled = members[torch.randperm(len(members), generator=generator)]
        count = 0 if len(members) == 1 else max(1, round(val_ratio * len(members)))
        is_val[shuffled[:count]] = True
    return (~is_val).nonzero().flatten(), is_val.nonzero().flatten()


def _centred(fit: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """All features less the mean of `fit`, in a basis of the space that its rows span.

    The bias is not penalised, so the shift leaves the minimum where it is; with an L2 penalty the
    weights lie in the span of the rows, so for fewer samples than dimensions the problem is the
    same and smaller. L-BFGS comes to that minimum in a fraction of the iterations.
    """
    parts = tuple(part - fit.mean(0) for part in (fit, *others))
    if len(fit) >= fit.shape[1]:
        return parts
    basis = torch.linalg.qr(parts[0].double().T).Q.to(fit.dtype)  # [D, n]
    return tuple(part @ basis for part in parts)


def _classifier(c: float) -> LogisticRegression:
    return LogisticRegression(C=c, solver="lbfgs", max_iter=MAX_ITER, warm_start=True)


def _fit(classifier: LogisticRegression, features: _Features, labels: _Labels) -> None:
    is_small = features.size * len(np.unique(labels)) < _THREADS_PAY
    with warnings.catch_warnings(), threadpool_limits(1 if is_small else None, user_api="blas"):
        # A weakly regularised fit may end at max_iter: that is the protocol.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(features, labels)


def tune_c(
    train: Tensor,  # [n, D]
    labels: Tensor,  # [n], int64
    *,
    trials: int = 40,
    val_ratio: float = 0.2,
    seed: int = 0,
) -> tuple[float, float]:  # the inverse regularisation strength, its validation accuracy in percent
    """The C of `C_RANGE` with the best validation accuracy; among equals the one tried first."""
    fit_rows, val_rows = stratified_split(labels, val_ratio=val_ratio, seed=seed)
    if len(val_rows) == 0:
        raise ValueError(
            "logistic regression tunes C on a validation part of the training set, "
            "which needs a class with two or more training images"
        )
    fit, val = _centred(train[fit_rows], train[val_rows])
    x, y = fit.numpy(), labels[fit_rows].numpy()
    x_val, y_val = val.numpy(), labels[val_rows].numpy()
    fitted: dict[float, tuple[_Features, _Features]] = {}  # C -> weights, bias

    def accuracy(trial: optuna.Trial) -> float:
        c = trial.suggest_float("C", *C_RANGE, log=True)
        classifier = _classifier(c)
        if fitted:  # the minimum is unique, so the start matters for time only
            nearest = min(fitted, key=lambda other: abs(np.log(other / c)))
            classifier.coef_, classifier.intercept_ = (part.copy() for part in fitted[nearest])
        _fit(classifier, x, y)
        fitted[c] = (classifier.coef_, classifier.intercept_)
        return 100 * float((classifier.predict(x_val) == y_val).mean())

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed)
        )
        study.optimize(accuracy, n_trials=trials)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return float(study.best_params["C"]), study.best_value


def logistic_regression(
    train: Tensor,  # [n, D]
    train_labels: Tensor,  # [n], int64
    test: Tensor,  # [n_test, D]
    test_labels: Tensor,  # [n_test]
    *,
    trials: int = 40,
    val_ratio: float = 0.2,
    seed: int = 0,
) -> LogisticScore:
    """Test accuracy of multinomial logistic regression trained on frozen features.

    L-BFGS, at most 2000 iterations; C tuned with Optuna's TPE sampler, log-uniform in 1e-5 to
    1e6, on `val_ratio` of every class of the training set; refit on all of it. The test set takes
    no part in any choice. Features are used as they are, in float32: no L2 normalisation and no
    scaling (the sources at hand name neither for this protocol).

    Source: the protocol of t-ReX (arXiv 2206.15369) that UNIC (arXiv 2408.05088) follows.
    Differs from it: features are centred, fewer samples than dimensions are solved in the
    samples' span, and each trial starts from the nearest C tried before; none of it moves the
    minimum.
    """
    if len(train_labels.unique()) < 2:
        raise ValueError("logistic regression needs training images of two or more classes")
    train, test = train.float(), test.float()
    c, val_top1 = tune_c(train, train_labels, trials=trials, val_ratio=val_ratio, seed=seed)
    fit, rotated_test = _centred(train, test)
    classifier = _classifier(c)
    _fit(classifier, fit.numpy(), train_labels.numpy())
    prediction = torch.from_numpy(classifier.predict(rotated_test.numpy()))
    top1 = 100 * (prediction == test_labels).double().mean().item()
    return LogisticScore(top1=top1, val_top1=val_top1, c=c, prediction=prediction)
