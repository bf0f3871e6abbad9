"""The same tokens of the same images for several models, of which CKA and ridge make a matrix."""

from collections.abc import Mapping

import torch
from torch import Tensor

from alumnus.evaluation.features import Features
from alumnus.tokens import Tokens, resize_grid

__all__ = ["image_tokens", "patch_tokens"]


def image_tokens(features: Mapping[str, Features]) -> dict[str, Tensor]:  # [n, D] each
    """[CLS], or the mean over patches of a model without one."""
    found = {name: f.patch_mean if f.cls is None else f.cls for name, f in features.items()}
    return {name: values for name, values in found.items() if values is not None}


def patch_tokens(
    features: Mapping[str, Features], *, per_image: int, seed: int = 0
) -> dict[str, Tensor]:  # [n * per_image, D] each
    """Some patches of each image on the coarsest of the grids, at the same places for all."""
    held = {
        name: Tokens(f.patches, f.grid)
        for name, f in features.items()
        if f.patches is not None and f.grid is not None
    }
    if not held:
        return {}
    grids = [tokens.grid for tokens in held.values() if tokens.grid is not None]
    grid = min(g[0] for g in grids), min(g[1] for g in grids)
    count = len(next(iter(held.values())).of("patch"))
    draws = torch.rand(count, grid[0] * grid[1], generator=torch.Generator().manual_seed(seed))
    places = draws.argsort(dim=1)[:, :per_image]  # [n, per_image]
    chosen: dict[str, Tensor] = {}
    for name, tokens in held.items():
        patches = resize_grid(tokens, grid).of("patch")  # [n, N, D]
        index = places[..., None].expand(-1, -1, patches.shape[2])
        chosen[name] = patches.gather(1, index).flatten(0, 1)
    return chosen
