"""A picture of what models see: their patch tokens, reduced to three colours by PCA."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from alumnus.images import IMAGENET_MEAN, IMAGENET_STD
from alumnus.tokens import Tokens, resize_grid

__all__ = ["agree", "pca_colours", "pca_picture", "principal_components"]

CELL_INCHES = 1.7
COMPONENTS = 3  # red, green, blue
CLIPPED = 0.02  # share of the tokens at each end that saturate a colour


def principal_components(patches: Tensor) -> Tensor:  # [B, N, D] -> [B, N, 3]
    """The first three principal components over all patches of all images, each of variance 1.

    One basis a model, so its colours mean the same in all images. The sign of each component is
    fixed by its largest loading; components that do not exist are 0.
    """
    flat = patches.flatten(0, 1).double()
    flat = flat - flat.mean(dim=0)
    _, scale, basis = torch.linalg.svd(flat, full_matrices=False)  # [K], [K, D]
    basis = basis[:COMPONENTS]
    largest = basis.gather(1, basis.abs().argmax(dim=1, keepdim=True))
    std = scale[:COMPONENTS] / max(1, len(flat) - 1) ** 0.5
    exists = scale[:COMPONENTS] > 1e-6 * scale[:1].clamp(min=1e-12)
    weights = (basis * largest.sign()).T * torch.where(exists, 1 / std.clamp(min=1e-12), 0.0)
    components = flat @ weights  # [B * N, 3 or fewer]
    padded = F.pad(components, (0, COMPONENTS - components.shape[1]))
    unit_variance: Tensor = padded.unflatten(0, patches.shape[:2]).float()
    return unit_variance


def agree(components: Tensor, reference: Tensor) -> Tensor:  # [B, N, 3] each
    """Turn components (a rotation or reflection in colour space) to be most like a reference.

    The principal components of two models come in unrelated orders and signs. A turn of three
    colours makes like structure look alike; it cannot make any (orthogonal Procrustes problem).
    """
    u, _, vh = torch.linalg.svd(components.flatten(0, 1).T @ reference.flatten(0, 1))
    turned: Tensor = components @ (u @ vh)
    return turned


def pca_colours(components: Tensor) -> Tensor:  # [B, N, 3] -> [B, N, 3] in [0, 1]
    """Colours of components: the middle of the range of each becomes grey, a few ends saturate."""
    flat = components.flatten(0, 1)
    low, high = flat.quantile(torch.tensor([CLIPPED, 1 - CLIPPED]), dim=0)
    colours: Tensor = ((components - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    return colours


def pca_picture(
    models: Mapping[str, Callable[[Tensor], Tokens]],
    images: Tensor,  # [B, 3, H, W], ImageNet-normalised
    path: Path,
    *,
    reference: str | None = None,
) -> Path:
    """Write a PNG with a row for each image: the image, then each model's patch tokens in colours.

    Each model has one PCA basis for all images shown. Colours of the others are turned towards
    those of `reference`, by default the first model. Models without patch tokens are left out.
    """
    if not models:
        raise ValueError("a PCA picture needs at least one model")
    with torch.no_grad():
        tokens = {name: model(images) for name, model in models.items()}
    shown = {name: t for name, t in tokens.items() if t.patches is not None and t.grid is not None}
    if not shown:
        raise ValueError(f"a PCA picture needs patch tokens, which {', '.join(models)} do not have")
    components = {n: principal_components(t.of("patch").float().cpu()) for n, t in shown.items()}
    first = reference if reference in shown else next(iter(shown))
    target = Tokens(patches=components[first], grid=shown[first].grid)

    columns: dict[str, Tensor] = {"image": _pixels(images)}  # each [B, h, w, 3] in [0, 1]
    for name, held in shown.items():
        assert held.grid is not None, "only tokens with a grid are shown"
        turned = components[name]
        if name != first:
            turned = agree(turned, resize_grid(target, held.grid).of("patch"))
        columns[name] = pca_colours(turned).unflatten(1, held.grid)
    return _draw(columns, path, height_to_width=images.shape[2] / images.shape[3])


def _pixels(images: Tensor) -> Tensor:  # [B, H, W, 3] in [0, 1]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (images.cpu().float() * std + mean).clamp(0, 1).permute(0, 2, 3, 1)


def _draw(columns: Mapping[str, Tensor], path: Path, *, height_to_width: float) -> Path:
    """Rows of square-pixel cells, all columns at the size of the images, patches sharp-edged."""
    count = len(next(iter(columns.values())))
    width, height = CELL_INCHES * len(columns), CELL_INCHES * height_to_width * count
    title = 0.3  # inches above the cells
    figure = Figure(figsize=(width, height + title), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(count, len(columns), squeeze=False)
    figure.subplots_adjust(0, 0, 1, height / (height + title), wspace=0.03, hspace=0.03)
    for column, (name, cells) in enumerate(columns.items()):
        for row, cell in enumerate(cells):
            axis = axes[row, column]
            axis.imshow(cell.numpy(), extent=(0, 1, height_to_width, 0), interpolation="nearest")
            axis.set_axis_off()
        axes[0, column].set_title(_shortened(name), fontsize=8, pad=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def _shortened(name: str, limit: int = 26) -> str:
    return name if len(name) <= limit else name[: limit - 3] + "..."
