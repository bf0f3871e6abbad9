"""Pairs of views of rooms in memory, seen anew in each step.

Axes: B pairs of a batch, M pixels of a picture, N patches.
"""

from dataclasses import replace

import torch
from torch import Tensor

from alumnus.evaluation.pair_scores import reciprocal, shown
from alumnus.heads.two_view.pairs import NONE, ViewPairs, mirrored, swapped
from alumnus.miniworld.augment import recolour
from alumnus.miniworld.fit import columns
from alumnus.miniworld.source import MiniworldSource

__all__ = ["augmented", "load_pairs", "patch_matches"]


def load_pairs(source: MiniworldSource) -> ViewPairs:
    """A whole source of rooms in memory (48 kB a pair at 64 px), rendering what is missing."""
    fields = columns(source, "image", "depth", "K", "pose")
    both = {name: values.unflatten(0, (-1, 2)) for name, values in fields.items()}
    pairs = ViewPairs(
        both["image"], both["depth"], both["K"], both["pose"], torch.zeros(len(both["K"]), 0)
    )
    match = torch.stack(
        [reciprocal(shown(pairs, p), shown(pairs, p, one=1, other=0)) for p in range(len(pairs))]
    )
    return replace(pairs, match=match.short())


def augmented(pairs: ViewPairs, *, generator: torch.Generator) -> ViewPairs:
    """The two views in either order, both mirrored or not, each in colours of its own.

    Nothing here changes which points match or how far they are: mirrored is the whole room.
    """
    swap = torch.rand(len(pairs), generator=generator) < 0.5
    mirror = torch.rand(len(pairs), generator=generator) < 0.5
    pairs = mirrored(swapped(pairs, swap), mirror)
    seen = recolour(pairs.images.flatten(0, 1), generator=generator).unflatten(0, (-1, 2))
    return ViewPairs(seen, pairs.depth, pairs.K, pairs.pose, pairs.match)


def patch_matches(match: Tensor, *, patch_size: int) -> Tensor:  # [B, M] -> [B, N, N]
    """Which share of the pixels of each patch of view 1 has its match in each patch of view 2."""
    side = round(match.shape[1] ** 0.5)
    across = side // patch_size
    pixel = torch.arange(match.shape[1]).expand_as(match)

    def patch(place: Tensor) -> Tensor:
        row, column = place // side // patch_size, place % side // patch_size
        number: Tensor = row * across + column
        return number

    cell = patch(pixel) * across**2 + patch(match.clamp(min=0))  # [B, M]
    shares = torch.zeros(len(match), across**4)
    shares.scatter_add_(1, cell, (match != NONE).float() / patch_size**2)
    return shares.view(-1, across**2, across**2)
