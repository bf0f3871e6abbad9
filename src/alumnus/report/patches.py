"""What models see in images: patch tokens as colours, or as likeness to a chosen patch.

Axes: n tokens, h w grid, D width. A map is one image's patch tokens, [h, w, D].
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from matplotlib import colormaps
from torch import Tensor

from alumnus.report.pca import Basis, Palette, turn_towards
from alumnus.report.sheet import Column
from alumnus.tokens import Grid, Tokens, resize_grid

__all__ = ["PatchMaps", "pca_columns", "similarity", "similarity_columns"]

LOWEST = 0.02  # share of the patches that are shown as the least alike
COLOURS = "magma"


@dataclass(frozen=True)
class PatchMaps:
    """What one model made of each image."""

    name: str
    maps: Sequence[Tensor]  # [h, w, D] float32, for each image
    predicts: str | None = None  # name of the teacher whose features these are meant to be

    @property
    def tokens(self) -> Tensor:  # [n, D]
        """Those of all images."""
        return torch.cat([m.flatten(0, 1) for m in self.maps])


def pca_columns(models: Sequence[PatchMaps]) -> list[Column]:
    """Each model's patches in the colours of three principal components, over all images.

    Predictions have the basis and the palette of their teacher, where it is among the models:
    equal colours are equal features. Their mean cosine with those of the teacher is below their
    name. Any other model has its own, whose colours are turned to be
    most like those of the first model.
    """
    by_name = {model.name: model for model in models}
    owners = [by_name.get(model.predicts or model.name, model) for model in models]
    first: list[Tensor] | None = None  # components of the first model, [h, w, 3]
    fitted: dict[str, tuple[Basis, Palette]] = {}
    for owner in owners:
        if owner.name in fitted:
            continue
        basis = Basis.fit(owner.tokens)
        if first is None:
            first = [basis.components(m) for m in owner.maps]
        else:
            reference = [_resized(r, _grid(m)) for r, m in zip(first, owner.maps, strict=True)]
            basis = basis.turned(
                turn_towards(basis.components(owner.tokens), PatchMaps("", reference).tokens)
            )
        fitted[owner.name] = (basis, Palette.fit(basis.components(owner.tokens)))
    columns: list[Column] = []
    for model, owner in zip(models, owners, strict=True):
        basis, palette = fitted[owner.name]
        cells = [palette.colours(basis.components(m)) for m in model.maps]
        print_small = ["own basis"]
        if owner is not model:
            print_small = [
                "basis of its teacher",
                f"centred cosine {_likeness(model, owner):.2f}",
            ]
        columns.append(Column([model.name, *print_small], cells))
    return columns


def similarity(patches: Tensor, at: tuple[float, float]) -> Tensor:  # [h, w, D] -> [h, w]
    """Cosine of each patch with the one at x and y, in widths and heights of the image."""
    h, w = _grid(patches)
    row, column = (min(cells - 1, int(share * cells)) for share, cells in ((at[1], h), (at[0], w)))
    return F.cosine_similarity(patches, patches[row, column], dim=-1)


def similarity_columns(models: Sequence[PatchMaps], at: tuple[float, float]) -> list[Column]:
    """Each model's likeness of all patches to the chosen one, bright where it is high.

    One scale a model, written below its name, since the cosines of some models are all high.
    """
    columns: list[Column] = []
    for model in models:
        maps = [similarity(m, at) for m in model.maps]
        low = torch.cat([m.flatten() for m in maps]).quantile(LOWEST).item()
        shades = [((m - low) / max(1 - low, 1e-6)).clamp(0, 1) for m in maps]
        cells = [torch.from_numpy(colormaps[COLOURS](m.numpy())[..., :3]) for m in shades]
        columns.append(Column([model.name, f"cosine {low:.2f} to 1"], cells))
    return columns


def _grid(patches: Tensor) -> Grid:
    return patches.shape[0], patches.shape[1]


def _resized(patches: Tensor, grid: Grid) -> Tensor:  # [h, w, D] -> [*grid, D]
    tokens = Tokens(patches=patches.flatten(0, 1)[None], grid=_grid(patches))
    resized: Tensor = resize_grid(tokens, grid).of("patch")[0].unflatten(0, grid)
    return resized


def _likeness(model: PatchMaps, teacher: PatchMaps) -> float:
    """Mean cosine of predicted and true patches, both less the teacher's mean, on the coarser grid.

    Less the mean, since that of some teachers is so long that any two patches are alike.
    """
    centre = teacher.tokens.mean(dim=0)
    cosines: list[Tensor] = []
    for ours, theirs in zip(model.maps, teacher.maps, strict=True):
        grid = min(_grid(ours), _grid(theirs))
        guess, truth = (_resized(m, grid) - centre for m in (ours, theirs))
        cosines.append(F.cosine_similarity(guess, truth, dim=-1).flatten())
    return torch.cat(cosines).mean().item()
