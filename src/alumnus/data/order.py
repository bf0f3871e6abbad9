"""The order of samples as a pure function of (seed, position): nothing to store, nothing to skip.

Whoever asks, on any rank, in any worker, after any restart, finds the same sample at a position.
"""

from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import torch

__all__ = ["Draw", "Stream", "permutation"]

KEPT_EPOCHS = 2  # a batch spans at most a few epochs; 13 million samples take 50 MB each


class Draw(NamedTuple):
    """What a stream gives at a position."""

    index: int  # type: ignore[assignment]  # hides tuple.index
    epoch: int  # how many times the stream was passed before


def permutation(n: int, *, seed: int, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """The order of epoch `epoch` over n samples: `randperm` of a generator seeded seed + epoch.

    Source: the samplers of UNIC (arXiv 2408.05088) and DUNE (arXiv 2503.14405).
    Differs from theirs: no padding and no striding by rank; ranks take parts of one order.
    """
    assert 0 < n < 2**31, n
    generator = torch.Generator().manual_seed(seed + epoch)
    return torch.randperm(n, generator=generator).numpy().astype(np.int32)


class Stream:
    """An endless order over n samples, each exactly once an epoch."""

    def __init__(self, n: int, *, seed: int) -> None:
        self.n, self.seed = n, seed
        self._kept: OrderedDict[int, np.ndarray[tuple[int], np.dtype[np.int32]]] = OrderedDict()

    def __call__(self, position: int) -> Draw:
        epoch, offset = divmod(position, self.n)
        return Draw(int(self._order(epoch)[offset]), epoch)

    def _order(self, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        if epoch not in self._kept:
            self._kept[epoch] = permutation(self.n, seed=self.seed, epoch=epoch)
            while len(self._kept) > KEPT_EPOCHS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(epoch)
        return self._kept[epoch]
