"""Several sources as one endless, reproducible stream of samples."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from alumnus.data.batch import Source
from alumnus.data.order import Stream
from alumnus.randomness import derive_seed
from alumnus.spelling import unknown

__all__ = ["Location", "Mixture", "Sampling"]

Sampling = Literal["proportional", "balanced", "temperature"]
TEMPERATURE = 2.0  # shares by the square root of size


class Location(NamedTuple):
    """Which image of which source, and for which time."""

    source: int  # index of the source in the mixture
    index: int  # type: ignore[assignment]  # of the image within its source; hides tuple.index
    view: int  # pass over the source, modulo `views` where given


class Mixture:
    """`locate(position)`: a pure function of the seed, the sources' sizes and the position.

    - `proportional`: one permutation an epoch over all samples of all sources.
    - `balanced`: positions come in groups of `batch`, each with fixed shares: ceil(batch / T)
      samples of each of T domains, in the order in which domains first occur, cut to `batch`.
      Each domain has its own stream and its own epochs; within it sources share by size.
      Set `batch` to what one rank sees at a time, then each rank's part is balanced.
    - `temperature`: as proportional, but source i has the share m_i^(1/T) / sum_j m_j^(1/T), m_i
      its size times its weight. T = 1 is proportional, 2 (the default) goes by the square root,
      infinity gives all sources alike; an epoch stays sum_i m_i positions long.

    `weights` (by source name, default 1) makes a source count as weight times its size; a source
    of another weight than 1 is passed at its own pace, each image once a pass. `views` = K repeats
    the augmentations after K passes, as a feature cache of K views needs.

    Source: balanced batches as in DUNE (arXiv 2503.14405); temperature sampling as in multilingual
    translation (Arivazhagan et al., arXiv 1907.05019).
    Differs from it: passes of each domain are permutations; nothing is redrawn at random.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        sampling: Sampling = "proportional",
        weights: Mapping[str, float] | None = None,
        temperature: float | None = None,
        seed: int = 0,
        batch: int = 1,
        views: int | None = None,
    ) -> None:
        self.sources = tuple(sources)
        self.sampling, self.seed, self.batch, self.views = sampling, seed, batch, views
        names = [source.name for source in self.sources]
        _check(self.sources, names, sampling, weights or {}, views)
        self.domains = tuple(dict.fromkeys(source.domain for source in self.sources))
        self._weights = [float((weights or {}).get(name, 1.0)) for name in names]
        if sampling == "temperature":
            sizes = [len(source) for source in self.sources]
            self._weights = tempered_weights(
                sizes, self._weights, TEMPERATURE if temperature is None else temperature
            )

        if sampling != "balanced":
            everything = tuple(range(len(self.sources)))
            self._pools: tuple[_Pool, ...] = (self._pool(everything, seed=seed),)
            self.shares: tuple[int, ...] = (batch,)
        else:
            self._pools = tuple(
                self._pool(
                    tuple(i for i, s in enumerate(self.sources) if s.domain == domain),
                    seed=derive_seed(seed, "domain", domain),
                )
                for domain in self.domains
            )
            self.shares = balanced_shares(batch, self.domains)
        self._ends = np.cumsum(self.shares).tolist()

    def __len__(self) -> int:
        """Positions until each pool (all sources, or each domain) has been passed once."""
        if self.sampling != "balanced":
            return len(self._pools[0])
        groups = (
            math.ceil(len(pool) / share)
            for pool, share in zip(self._pools, self.shares, strict=True)
        )
        return max(groups) * self.batch

    def locate(self, position: int) -> Location:
        """The sample at a position of the run, position >= 0."""
        if self.sampling != "balanced":
            found = self._pools[0](position)
        else:
            group, slot = divmod(position, self.batch)
            d = next(i for i, end in enumerate(self._ends) if slot < end)
            place = slot - (self._ends[d] - self.shares[d])
            found = self._pools[d](group * self.shares[d] + place)
        if self.views is None:
            return found
        return found._replace(view=found.view % self.views)

    def _pool(self, members: tuple[int, ...], *, seed: int) -> "_Pool":
        sizes = [len(self.sources[i]) for i in members]
        return _Pool(members, sizes, [self._weights[i] for i in members], seed=seed)


class _Pool:
    """Sources that share one stream, each by its size times its weight."""

    def __init__(
        self, members: Sequence[int], sizes: Sequence[int], weights: Sequence[float], *, seed: int
    ) -> None:
        self.members = members
        self.slots = [max(1, round(n * w)) for n, w in zip(sizes, weights, strict=True)]
        self.starts = np.concatenate([[0], np.cumsum(self.slots)])
        self.stream = Stream(int(self.starts[-1]), seed=seed)
        self.own = [  # the pace of its own for a source that has not one slot for each image
            None if slots == n else Stream(n, seed=derive_seed(seed, "source", i))
            for i, slots, n in zip(members, self.slots, sizes, strict=True)
        ]

    def __len__(self) -> int:
        return self.stream.n

    def __call__(self, position: int) -> Location:
        slot, epoch = self.stream(position)
        member = int(np.searchsorted(self.starts, slot, side="right")) - 1
        index = slot - int(self.starts[member])
        own = self.own[member]
        if own is not None:
            index, epoch = own(epoch * self.slots[member] + index)
        return Location(self.members[member], index, epoch)


def tempered_weights(
    sizes: Sequence[int], weights: Sequence[float], temperature: float
) -> list[float]:
    """Weights for which proportional sampling has the shares of `temperature`."""
    if not temperature > 0:
        raise ValueError(f"the temperature of sampling is {temperature}, but must be above 0")
    counts = np.array(sizes) * np.array(weights)  # m_i
    tempered = (counts / counts.max()) ** (1 / temperature)
    return list((counts.sum() * tempered / tempered.sum() / np.array(sizes)).tolist())


def balanced_shares(batch: int, domains: Sequence[str]) -> tuple[int, ...]:
    """Samples of each domain in a batch: ceil(batch / T) each, the last ones cut.

    ValueError where the cut would leave a domain without any.
    """
    share = math.ceil(batch / len(domains))
    shares = tuple(max(0, min(share, batch - share * i)) for i in range(len(domains)))
    if min(shares) == 0:
        empty = domains[shares.index(0)]
        raise ValueError(
            f"balanced sampling leaves no image of domain {empty!r} in a batch of {batch}: with "
            f"{len(domains)} domains take a multiple of {len(domains)}"
        )
    return shares


def _check(
    sources: Sequence[Source],
    names: Sequence[str],
    sampling: str,
    weights: Mapping[str, float],
    views: int | None,
) -> None:
    if not sources:
        raise ValueError("a mixture needs at least one source")
    if sampling not in get_args(Sampling):
        raise unknown("sampling", sampling, get_args(Sampling))
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two sources are named {name!r}; give each a name of its own")
    for name, weight in weights.items():
        if name not in names:
            raise unknown("source in the weights", name, names)
        if not (weight > 0 and math.isfinite(weight)):
            raise ValueError(f"the weight of {name!r} is {weight}, but must be above 0")
    for source in sources:
        if len(source) == 0:
            raise ValueError(f"source {source.name!r} has no samples")
    if views is not None and views < 1:
        raise ValueError(f"views is {views}, but must be at least 1")
