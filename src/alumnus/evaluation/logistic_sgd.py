"""Logistic regression by SGD: for sets too large for L-BFGS, such as ImageNet-1K."""

import math
from dataclasses import dataclass
from typing import Any

import optuna
import torch
import torch.nn.functional as F
from torch import Tensor

from alumnus.evaluation.linear import LinearClassifier, best_trial, stratified_split

__all__ = [
    "BATCH_SIZE",
    "EPOCHS",
    "LR_RANGE",
    "MOMENTUM",
    "WEIGHT_DECAY_RANGE",
    "SgdFit",
    "fit_sgd",
    "train_sgd",
]

EPOCHS = 100
BATCH_SIZE = 1024
MOMENTUM = 0.9
LR_RANGE = (1e-1, 1e2)  # both searched log-uniformly
WEIGHT_DECAY_RANGE = (1e-12, 1e-4)


@dataclass(frozen=True, kw_only=True)
class SgdFit:
    """A tuned classifier and how it was chosen."""

    classifier: LinearClassifier
    val_top1: float  # percent, on the validation part of the training set
    lr: float
    weight_decay: float


def train_sgd(
    features: Tensor,  # [n, D], on the device to train on
    labels: Tensor,  # [n], int64, on the same device
    *,
    lr: float,
    weight_decay: float,
    epochs: int = EPOCHS,
    seed: int = 0,
) -> LinearClassifier:
    """Minimise the cross-entropy of a linear layer on features of length 1, from zero weights.

    SGD with momentum 0.9 in batches of 1024 (the last one of an epoch is smaller);
    the learning rate falls along a half cosine to 0; the bias is not decayed.
    """
    classes, place = labels.unique(return_inverse=True)
    x = F.normalize(features.float(), dim=1)
    weight = torch.zeros(len(classes), x.shape[1], device=x.device, requires_grad=True)
    bias = torch.zeros(len(classes), device=x.device, requires_grad=True)
    groups: list[dict[str, Any]] = [
        {"params": [weight], "weight_decay": weight_decay},
        {"params": [bias], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM)
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * math.ceil(len(x) / BATCH_SIZE)
    step = 0
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).to(x.device).split(BATCH_SIZE):
            for group in optimizer.param_groups:
                group["lr"] = 0.5 * lr * (1 + math.cos(math.pi * step / steps))
            optimizer.zero_grad()
            F.cross_entropy(F.linear(x[rows], weight, bias), place[rows]).backward()
            optimizer.step()
            step += 1
    return LinearClassifier(
        weight=weight.detach().cpu(),
        bias=bias.detach().cpu(),
        centre=torch.zeros(x.shape[1]),
        classes=classes.cpu(),
        l2=True,
    )


def fit_sgd(
    train: Tensor,  # [n, D]
    labels: Tensor,  # [n], int64
    *,
    trials: int = 40,
    epochs: int = EPOCHS,
    val_ratio: float = 0.2,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> SgdFit:
    """A linear classifier on L2-normalised features, tuned on the training set alone.

    100 epochs of SGD; learning rate (0.1 to 100) and weight decay (1e-12 to 1e-4) tuned with
    Optuna's TPE sampler on `val_ratio` of every class; trained again on all of it.

    Source: the protocol for large sets of t-ReX (arXiv 2206.15369) that UNIC (arXiv 2408.05088)
    follows. The schedule of the learning rate and whether the bias is decayed are ours: the
    sources at hand say neither.
    """
    fit_rows, val_rows = stratified_split(labels, val_ratio=val_ratio, seed=seed)
    if len(labels.unique()) < 2 or len(val_rows) == 0:
        raise ValueError(
            "logistic regression needs training images of two or more classes, and two or more "
            "of some class for its validation part"
        )
    x, y = train.to(device), labels.to(device)
    x_fit, y_fit, x_val = x[fit_rows.to(device)], y[fit_rows.to(device)], x[val_rows.to(device)]

    def accuracy(trial: optuna.Trial) -> float:
        classifier = train_sgd(
            x_fit,
            y_fit,
            lr=trial.suggest_float("lr", *LR_RANGE, log=True),
            weight_decay=trial.suggest_float("weight_decay", *WEIGHT_DECAY_RANGE, log=True),
            epochs=epochs,
            seed=seed,
        )
        return 100 * float((classifier.predict(x_val) == labels[val_rows]).double().mean())

    best = best_trial(accuracy, trials=trials, seed=seed)
    lr, weight_decay = float(best.params["lr"]), float(best.params["weight_decay"])
    return SgdFit(
        classifier=train_sgd(x, y, lr=lr, weight_decay=weight_decay, epochs=epochs, seed=seed),
        val_top1=float(best.value or 0),
        lr=lr,
        weight_decay=weight_decay,
    )
