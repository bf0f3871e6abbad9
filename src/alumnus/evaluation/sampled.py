"""The same tokens of the same images for several models, of which CKA and ridge make a matrix."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alumnus.data import Source
from alumnus.evaluation.features import Features, extract_all
from alumnus.evaluation.tasks import EvalModel
from alumnus.tokens import Tokens, resize_grid

__all__ = ["LEAST", "PATCHES", "SampledTokens", "patch_tokens", "sample_tokens"]

log = logging.getLogger(__name__)

LEAST = 32  # images, below which CKA, ridge regression and neighbours say nothing
PATCHES = 2  # of each image, at places drawn once for all models
MAX_GRID = (14, 14)


@dataclass(frozen=True)
class SampledTokens:
    """Tokens by level and model, all of the same n images."""

    image: dict[str, Tensor]  # [n, D] each: [CLS], or the mean over patches without one
    patch: dict[str, Tensor]  # [n * PATCHES, D] each, on the coarsest of the grids
    indices: Tensor  # [n] int64, places of the images in their source: broken ones are left out


def sample_tokens(
    models: Sequence[EvalModel],
    source: Source,
    *,
    size_px: int,  # of models that have no size of their own
    seed: int = 0,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
) -> SampledTokens:
    """Run all models on the images of a source; ValueError where hardly any can be read."""
    log.info("features of %d images for %d models", len(source), len(models))
    features = extract_all(
        {model.name: model.fn for model in models},
        source,
        size_px={model.name: model.size_px or size_px for model in models},
        batch_size=batch_size,
        max_grid=MAX_GRID,
        device=device,
    )
    indices = next(iter(features.values())).indices
    if len(indices) < LEAST:
        raise ValueError(
            f"{len(indices)} images of {source.name!r} are too few: {LEAST} are needed, 500 better"
        )
    image = {name: f.patch_mean if f.cls is None else f.cls for name, f in features.items()}
    return SampledTokens(
        {name: values for name, values in image.items() if values is not None},
        patch_tokens(features, per_image=PATCHES, seed=seed),
        indices,
    )


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
