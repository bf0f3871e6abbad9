"""How much each rung of a ladder of projectors says in the prediction that they sum to."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RungShare", "RungShares", "rung_shares"]


@dataclass(frozen=True)
class RungShare:
    """One rung; see `rung_shares`."""

    share: float
    size: float


def rung_shares(moments: Tensor) -> list[RungShare]:  # [L, L] -> L
    """What each of L rungs adds to their sum, from the covariances of their outputs.

        s = sum_l r_l,   C_lm = sum_d Cov(r_ld, r_md) over samples
        share_l = sum_m C_lm / sum_lm C_lm,   size_l = sqrt(C_ll / sum_lm C_lm)

    `share` is the part of the sum's variance that comes through the rung: all shares add up to 1,
    and one below 0 takes away from what the others say. `size` is the rung's deviation against
    that of the sum; rungs that cancel each other are large and have small shares. The mean of a
    rung, which does not depend on the image, counts in neither.
    """
    total = moments.sum()
    if not total > 0:
        raise ValueError("the prediction is the same for all samples: its rungs have no shares")
    shares, sizes = moments.sum(dim=1) / total, (moments.diagonal() / total).clamp(min=0).sqrt()
    return [RungShare(float(a), float(b)) for a, b in zip(shares, sizes, strict=True)]


class RungShares:
    """Covariances of rungs over batches; one object for each teacher and token type."""

    def __init__(self) -> None:
        self._n = 0
        self._products: Tensor | None = None  # [L, L], sums over samples and dimensions
        self._sums: dict[int, Tensor] = {}  # block -> [D]

    def add(self, rungs: Mapping[int, Tensor]) -> None:
        """One batch: the output of each block's rung, [B, D] or [B, N, D]."""
        # on the CPU first: MPS has no float64
        rows = {b: rung.detach().flatten(0, -2).cpu().double() for b, rung in rungs.items()}
        held = list(rows.values())
        products = torch.stack([torch.stack([(a * b).sum() for b in held]) for a in held])
        self._products = products if self._products is None else self._products + products
        for block, values in rows.items():
            total = values.sum(dim=0)
            self._sums[block] = self._sums[block] + total if block in self._sums else total
        self._n += len(held[0])

    def result(self) -> dict[int, RungShare]:
        """Shares by block; ValueError where nothing was added or nothing varies."""
        if self._products is None:
            raise ValueError("shares of rungs need images")
        sums = torch.stack(list(self._sums.values()))  # [L, D]
        shares = rung_shares(self._products - sums @ sums.T / self._n)
        return dict(zip(self._sums, shares, strict=True))
