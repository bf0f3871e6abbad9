"""Patch tokens as colours: their first three principal components, in a basis that can be shared.

Axes: n tokens, D width.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Basis", "Palette", "turn_towards"]

COMPONENTS = 3  # red, green, blue
CLIPPED = 0.02  # share of the tokens at each end that saturate a colour


@dataclass(frozen=True)
class Basis:
    """Three directions of a feature space; the tokens it was fitted to have variance 1 along each.

    Tokens of another model in the same space (a student's prediction of a teacher's) are seen in
    the same basis: equal colours are then equal features.
    """

    mean: Tensor  # [D] float64
    weights: Tensor  # [D, 3] float64

    @classmethod
    def fit(cls, tokens: Tensor) -> "Basis":  # [n, D]
        """The first three principal components of tokens.

        The sign of each is fixed by its largest loading; components that do not exist are 0.
        """
        mean = tokens.double().mean(dim=0)
        _, scale, basis = torch.linalg.svd(tokens.double() - mean, full_matrices=False)
        basis = basis[:COMPONENTS]  # [3 or fewer, D]
        largest = basis.gather(1, basis.abs().argmax(dim=1, keepdim=True))
        std = scale[:COMPONENTS] / max(1, len(tokens) - 1) ** 0.5
        exists = scale[:COMPONENTS] > 1e-6 * scale[:1].clamp(min=1e-12)
        unit = torch.where(exists, 1 / std.clamp(min=1e-12), 0.0)
        weights = (basis * largest.sign()).T * unit
        return cls(mean, F.pad(weights, (0, COMPONENTS - weights.shape[1])))

    def components(self, tokens: Tensor) -> Tensor:  # [..., D] -> [..., 3]
        """Tokens in this basis."""
        return ((tokens.double() - self.mean) @ self.weights).float()

    def turned(self, turn: Tensor) -> "Basis":  # [3, 3]
        """The same directions, mixed into other colours."""
        return replace(self, weights=self.weights @ turn.double())


def turn_towards(components: Tensor, reference: Tensor) -> Tensor:  # [n, 3] each -> [3, 3]
    """The rotation or reflection of colours that makes components most like a reference.

    The principal components of two models come in unrelated orders and signs. A turn of three
    colours makes like structure look alike; it cannot make any (orthogonal Procrustes problem).
    """
    u, _, vh = torch.linalg.svd(components.T @ reference)
    turn: Tensor = u @ vh
    return turn


@dataclass(frozen=True)
class Palette:
    """Colours of components: the middle of the range of each becomes grey, a few ends saturate."""

    low: Tensor  # [3]
    high: Tensor  # [3]

    @classmethod
    def fit(cls, components: Tensor) -> "Palette":  # [n, 3]
        """The range of these, without 2% of them at each end."""
        low, high = components.quantile(torch.tensor([CLIPPED, 1 - CLIPPED]), dim=0)
        return cls(low, high)

    def colours(self, components: Tensor) -> Tensor:  # [..., 3] -> [..., 3] in [0, 1]
        """Red, green and blue of each."""
        span = (self.high - self.low).clamp(min=1e-6)
        return ((components - self.low) / span).clamp(0, 1)
