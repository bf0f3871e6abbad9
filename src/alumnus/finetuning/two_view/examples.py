"""Training pairs by number: each a pure function of the seed and its number.

Axes: S side of a picture, M = S * S, n listed pixels.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from alumnus.data.order import Stream
from alumnus.evaluation.pair_scores import reciprocal, shown
from alumnus.finetuning.examples import numbered_batches
from alumnus.finetuning.two_view.frames import (
    MOST_ZOOM,
    Frame,
    Frames,
    ahead,
    drawn_gaze,
    following,
    look,
)
from alumnus.finetuning.two_view.pairing import Pair
from alumnus.heads.two_view.pairs import Matches, ViewPairs, mirrored, sampled
from alumnus.miniworld.augment import recolour
from alumnus.randomness import derive_seed

__all__ = ["Example", "PairExamples", "batches_from", "plain_pairs"]


class Example(NamedTuple):
    """A pair as it is learned from, or with one more axis in front a batch of them."""

    images: Tensor  # [2, 3, S, S] float in [0, 1]
    depth: Tensor  # [2, S, S] metres, 0 where unknown
    K: Tensor  # [2, 3, 3]
    pose: Tensor  # [2, 4, 4] camera to world
    match: Tensor  # [M] pixel of view 2 of each of view 1, or -1
    first: Tensor  # [n, 2] listed pixels (x, y) of view 1
    second: Tensor  # [n, 2] of view 2
    valid: Tensor  # [n] bool: the two match

    @property
    def pairs(self) -> ViewPairs:
        """The views of a batch."""
        return ViewPairs(self.images, self.depth, self.K, self.pose, self.match)

    @property
    def matches(self) -> Matches:
        """The pixels to compare of a batch."""
        return Matches(self.first, self.second, self.valid)


class PairExamples(Dataset[Example]):
    """Pairs in either order, each view a look of its own, in colours of its own; half mirrored.

    The first view looks anywhere inside its picture, up to 1.15 times nearer; the second one at
    what the first shows. Every pair comes once an epoch.
    """

    def __init__(
        self, frames: Frames, pairs: Sequence[Pair], *, size_px: int, matches: int, seed: int
    ) -> None:
        self.frames, self.pairs, self.size_px = frames, pairs, size_px
        self.matches, self.seed = matches, seed
        self.order = Stream(len(pairs), seed=derive_seed(seed, "order of pairs"))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, number: int) -> Example:
        place, _ = self.order(number)
        draw = torch.Generator().manual_seed(derive_seed(self.seed, number, "looks"))
        swap, mirror, nearer = torch.rand(3, generator=draw).tolist()
        first, second = (self.frames[index] for index in self.pairs[place])
        if swap < 0.5:
            first, second = second, first
        gaze = drawn_gaze(first.view, draw)
        zoom = 1 + (MOST_ZOOM - 1) * nearer
        looks = [gaze, following(first, gaze, second, zoom=zoom)]
        seen = [
            look(frame, gaze, size_px=self.size_px)
            for frame, gaze in zip((first, second), looks, strict=True)
        ]
        pair = _stacked([seen], matched=True).at(slice(None))
        pair = mirrored(pair, torch.tensor([mirror < 0.5]))
        true = self.matches // 2
        listed = sampled(
            pair.match, width=self.size_px, true=true, others=self.matches - true, generator=draw
        )
        colours = recolour(pair.images[0], generator=draw)
        whole = (pair.depth, pair.K, pair.pose, pair.match, *listed)
        return Example(colours, *(values[0] for values in whole))


def plain_pairs(frames: Frames, pairs: Sequence[Pair], *, size_px: int) -> ViewPairs:
    """Pairs as they are scored: looks straight ahead. Their matches are not looked for."""
    seen = [[look(frames[i], ahead(), size_px=size_px) for i in pair] for pair in pairs]
    return _stacked(seen, matched=False)


def batches_from(
    examples: PairExamples,
    position: int,
    *,
    batch_size: int,
    num_workers: int,
    device: torch.device,
) -> Iterator[Example]:
    """Endless batches of examples from number `position` on, on the device."""
    for batch in numbered_batches(examples, position, batch_size, num_workers, device):
        yield Example(*(values.to(device, non_blocking=True) for values in batch))


def _stacked(seen: Sequence[Sequence[Frame]], *, matched: bool) -> ViewPairs:
    """Looks of pairs as tensors, with the matches of their pixels or without."""
    pairs = ViewPairs(
        images=torch.stack([torch.stack([f.picture for f in pair]) for pair in seen]),
        depth=torch.stack([torch.stack([f.view.depth for f in pair]) for pair in seen]),
        K=torch.stack([torch.stack([f.view.K.float() for f in pair]) for pair in seen]),
        pose=torch.stack([torch.stack([f.view.pose.float() for f in pair]) for pair in seen]),
        match=torch.zeros(len(seen), 0, dtype=torch.int64),
    )
    if not matched:
        return pairs
    match = [
        reciprocal(shown(pairs, k), shown(pairs, k, one=1, other=0)) for k in range(len(pairs))
    ]
    return ViewPairs(pairs.images, pairs.depth, pairs.K, pairs.pose, torch.stack(match))
