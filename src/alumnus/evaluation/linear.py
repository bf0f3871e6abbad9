"""What linear classifiers on frozen features share: the classifier, its split, its search."""

from collections.abc import Callable
from dataclasses import dataclass

import optuna
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LinearClassifier", "best_trial", "stratified_split"]


@dataclass(frozen=True, kw_only=True)
class LinearClassifier:
    """Scores of classes: `(x - centre) W' + b`, with x brought to length 1 where `l2`."""

    weight: Tensor  # [C, D]
    bias: Tensor  # [C]
    centre: Tensor  # [D]; apart from the bias, since features far from 0 would cost its digits
    classes: Tensor  # [C], int64, sorted: the numbers of the classes seen in training
    l2: bool = False

    def logits(self, features: Tensor) -> Tensor:  # [m, D] -> [m, C], in the dtype of `features`
        x = F.normalize(features, dim=1) if self.l2 else features
        weight, bias, centre = (
            v.to(device=x.device, dtype=x.dtype) for v in (self.weight, self.bias, self.centre)
        )
        return (x - centre) @ weight.T + bias

    def predict(
        self,
        features: Tensor,  # [m, D]
        *,
        among: Tensor | None = None,  # numbers of the classes to choose from; None: all
    ) -> Tensor:  # [m], int64: numbers of classes
        """The class with the highest score; ValueError where none may be chosen."""
        logits = self.logits(features.float())
        if among is not None:
            allowed = torch.isin(self.classes, among)
            if not allowed.any():
                raise ValueError("none of the classes to choose from was seen in training")
            logits = logits.masked_fill(~allowed.to(logits.device), -torch.inf)
        return self.classes.to(logits.device)[logits.argmax(dim=1)].cpu()


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


def best_trial(
    score: Callable[[optuna.Trial], float], *, trials: int, seed: int
) -> optuna.trial.FrozenTrial:
    """The trial of Optuna's TPE sampler with the highest score; among equals the first."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed)
        )
        study.optimize(score, n_trials=trials)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return study.best_trial
