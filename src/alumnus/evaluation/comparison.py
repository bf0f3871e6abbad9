"""Which models say the same of unlabelled images, and what each adds to the others.

Everything is computed from Gram matrices of standardised features, [n, n] whatever the width: a
pool of teachers is then the mean of theirs, and how well it tells what another teacher says is a
kernel ridge regression.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["STRENGTHS", "Kernels", "coverage_order", "gram", "neighbour_overlap"]

STRENGTHS = tuple(10.0**power for power in range(-5, 2))  # of ridge, to the sum of eigenvalues
FOLDS = 5
LEADING = 32  # principal components of a target
SPREAD = 1e-6  # dimensions that vary less than this share of the largest spread say nothing


def gram(features: Tensor) -> Tensor:  # [n, D] -> [n, n] float64, mean of the diagonal 1
    """Products of features whose dimensions have mean 0 and spread 1, as a student learns them."""
    values = features.double()
    values = values - values.mean(dim=0)
    spread = values.std(dim=0, correction=0)
    alive = spread > SPREAD * spread.max()
    if not alive.any():
        raise ValueError("features that are equal for all images cannot be compared")
    values = values[:, alive] / spread[alive]
    products: Tensor = values @ values.T
    return products / int(alive.sum())


def neighbour_overlap(a: Tensor, b: Tensor, *, k: int = 10) -> float:  # Gram matrices [n, n]
    """Mean share of an image's k nearest neighbours (by cosine) that two models have in common.

    k / (n - 1) by chance. Source: the mutual k-NN metric of Huh et al. 2024 (arXiv 2405.07987).
    """
    k = min(k, len(a) - 1)
    near = [torch.zeros_like(a, dtype=torch.bool) for _ in range(2)]
    for chosen, products in zip(near, (a, b), strict=True):
        norms = products.diagonal().clamp_min(1e-12).sqrt()
        cosine = products / norms[:, None] / norms
        cosine.fill_diagonal_(-torch.inf)
        chosen.scatter_(1, cosine.topk(k, dim=1).indices, True)
    return float((near[0] & near[1]).sum() / (k * len(a)))


class Kernels:
    """The Gram matrices of several models on the same n samples, which come in groups.

    `groups` [n] int64 tells samples that belong together, such as patches of one image: ridge
    regression is measured on groups that it was not fitted on.
    """

    def __init__(self, grams: Mapping[str, Tensor], groups: Tensor, *, seed: int = 0) -> None:
        self.grams = dict(grams)
        self._targets = {name: _leading(products) for name, products in grams.items()}
        self._folds = _folds(groups, seed)
        self._fits: dict[frozenset[str], list[_Fit]] = {}

    def explained(self, pool: Collection[str], target: str) -> float:
        """Share of what a model says that ridge regression from a pool's features predicts.

        That is the variance of its first `LEADING` principal components: with some hundred images
        the others cannot be predicted from anything. Over held-out folds of groups, at the best of
        `STRENGTHS` (chosen on the same folds: seven values for hundreds of images, so hardly
        optimistic). 1: the pool says all of it; 0: no more than its mean.
        """
        if not pool:
            return 0.0
        names = frozenset(pool)
        if names not in self._fits:
            mean = torch.stack([self.grams[name] for name in sorted(names)]).mean(dim=0)
            self._fits[names] = [_Fit(mean, held) for held in self._folds]
        missed, total = torch.zeros(len(STRENGTHS), dtype=torch.float64), 0.0
        for fit in self._fits[names]:
            errors, variance = fit.errors(self._targets[target])
            missed, total = missed + errors, total + variance
        return max(0.0, 1.0 - float(missed.min()) / total)


class _Fit:
    """Ridge regressions from one Gram matrix, fitted on all samples but the held ones."""

    def __init__(self, products: Tensor, held: Tensor) -> None:
        self.held, self.fit = held, ~held
        centred = _centred(products, self.fit)
        values, self.vectors = torch.linalg.eigh(centred[self.fit][:, self.fit])
        self.values = values.clamp_min(0.0)
        self.into = centred[held][:, self.fit] @ self.vectors

    def errors(self, target: Tensor) -> tuple[Tensor, float]:
        """Squared errors [strengths] of predicting the held samples, and what they vary.

        With predictions `W y`, from products alone: |y - W y|^2 = y'y - 2 W y'y + W y'y W'.
        """
        y = _centred(target, self.fit)
        own = y.diagonal()[self.held].sum()
        cross = y[self.held][:, self.fit] @ self.vectors
        inner = self.vectors.T @ y[self.fit][:, self.fit] @ self.vectors
        found = []
        for strength in STRENGTHS:
            weights = self.into / (self.values + strength * self.values.sum())
            found.append(own - 2 * (weights * cross).sum() + ((weights @ inner) * weights).sum())
        return torch.stack(found), float(own)


def _leading(products: Tensor) -> Tensor:
    """Products of the first principal components only."""
    values, vectors = torch.linalg.eigh(products)
    kept: Tensor = (vectors[:, -LEADING:] * values[-LEADING:].clamp_min(0.0)) @ vectors[
        :, -LEADING:
    ].T
    return kept


def _folds(groups: Tensor, seed: int) -> list[Tensor]:  # [n] bool each
    names = groups.unique()
    order = names[torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))]
    return [torch.isin(groups, part) for part in order.tensor_split(min(FOLDS, len(names)))]


def _centred(products: Tensor, fit: Tensor) -> Tensor:
    """Products of features from which the mean of the samples in `fit` is taken."""
    rows = products[:, fit].mean(dim=1)
    middle: Tensor = products - rows[:, None] - rows[None] + rows[fit].mean()
    return middle


def coverage_order(
    coverage: Callable[[Sequence[str]], float], names: Sequence[str]
) -> list[tuple[str, float]]:
    """Models in the order in which a growing pool covers most, with what it then covers.

    Greedy: first the model that tells most of all of them, then the one that adds most to it.
    """
    order: list[tuple[str, float]] = []
    left = list(names)
    while left:
        pool = [name for name, _ in order]
        covers = {name: coverage([*pool, name]) for name in left}
        best = max(left, key=covers.__getitem__)
        order.append((best, covers[best]))
        left.remove(best)
    return order
