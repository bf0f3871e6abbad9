"""Frozen features of a source, for several models from one decoding of the images."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alumnus.data import BrokenImageError, Source, eval_transform
from alumnus.spelling import unknown
from alumnus.tokens import Grid, Tokens, resize_grid

__all__ = [
    "FeatureFn",
    "FeatureKind",
    "Features",
    "Geometry",
    "Wanted",
    "extract_all",
    "extract_features",
    "joints_of",
    "to_tensor",
]

log = logging.getLogger(__name__)

FeatureFn = Callable[[Tensor], Tokens]  # [B, 3, S, S] ImageNet-normalised -> tokens
FeatureKind = Literal["cls", "patch-mean", "patches"]
Wanted = FeatureKind | Literal["image"]  # "image": "cls", or "patch-mean" of a model without it
Geometry = Literal["crop", "squash"]


@dataclass(frozen=True, kw_only=True)
class Features:
    """Float32 CPU features of n images with their labels; what a model or source lacks is None."""

    cls: Tensor | None = None  # [n, D]
    patch_mean: Tensor | None = None  # [n, D]
    patches: Tensor | None = None  # [n, N, D]
    grid: Grid | None = None  # of the patches
    labels: Tensor | None = None  # [n] int64, the field "cls"
    joints: Tensor | None = None  # [n, J, 3], x and y in widths and heights, 1 where visible
    body: Tensor | None = None  # [n, J, 3] joints in the camera's frame, metres
    sizes: Tensor  # [n, 2] int64, width and height of the stored images in pixels
    indices: Tensor  # [n] int64, places of the images in their source: broken ones are left out

    def __len__(self) -> int:
        return len(self.sizes)


class _Item(NamedTuple):
    """One image, at each size that some model wants, and its labels."""

    place: int  # in the source
    views: dict[int, Tensor]  # size in pixels -> [3, S, S]
    label: int | None
    joints: list[list[float]] | None
    body: list[list[float]] | None
    size: tuple[int, int]


def to_tensor(
    image: Image.Image, size_px: int, geometry: Geometry, *, resize_ratio: float = 1.0
) -> Tensor:  # [3, S, S]
    """The square, ImageNet-normalised input of a model.

    - crop: short side resized to `resize_ratio * size_px` (bicubic, antialiased), the central
      square of `size_px` cut out: 1 shows all of the short side, as in UNIC and t-ReX; others
      resize to 256 and cut out 224, 8/7
    - squash: the whole picture resized to a square, so that no joint leaves it
    """
    if geometry == "squash":
        image = image.resize((size_px, size_px), Image.Resampling.BICUBIC)
        return eval_transform(image, size_px)
    resized_px = round(resize_ratio * size_px)
    margin = round((resized_px - size_px) / 2)
    whole = eval_transform(image, resized_px)
    return whole[:, margin : margin + size_px, margin : margin + size_px].contiguous()


class _Pictures(Dataset[_Item | BrokenImageError]):
    """A source as a torch data set. An error is a value, to come back from a data worker."""

    def __init__(
        self, source: Source, sizes_px: Sequence[int], geometry: Geometry, resize_ratio: float
    ) -> None:
        self.source, self.sizes_px = source, sizes_px
        self.geometry, self.resize_ratio = geometry, resize_ratio

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> _Item | BrokenImageError:
        try:
            sample = self.source.read(index)
            image, fields = sample.image, sample.fields
        except BrokenImageError as error:
            return error
        views = {
            size: to_tensor(image, size, self.geometry, resize_ratio=self.resize_ratio)
            for size in self.sizes_px
        }
        body = fields.get("joints")
        points = None if body is None else np.asarray(body, np.float64).tolist()
        return _Item(index, views, fields.get("cls"), joints_of(fields), points, image.size)


def joints_of(fields: Mapping[str, Any]) -> list[list[float]] | None:
    """Joints on the picture, J times [x, y, visible] in pixels; None of an image without.

    They are json["joints"], or the fields "pixels" [J, 2] and "visible" [J].
    """
    if "pixels" in fields and "visible" in fields:
        visible = np.asarray(fields["visible"], np.float64)[:, None]
        placed: list[list[float]] = np.concatenate([fields["pixels"], visible], axis=1).tolist()
        return placed
    record = fields.get("json")
    joints = record.get("joints") if isinstance(record, dict) else None
    return [[float(v) for v in joint] for joint in joints] if joints else None


def _reduced(
    tokens: Tokens, want: Collection[Wanted], max_grid: Grid | None
) -> dict[FeatureKind, Tensor]:
    """The wanted features of a batch that the model has, in float32 on the CPU."""
    features: dict[FeatureKind, Tensor] = {}
    if "image" in want:
        want = [*want, "patch-mean" if tokens.cls is None else "cls"]
    if "cls" in want and tokens.cls is not None:
        features["cls"] = tokens.cls
    if tokens.patches is not None:
        if "patch-mean" in want:
            features["patch-mean"] = tokens.patches.float().mean(dim=1)
        if "patches" in want:
            features["patches"] = resize_grid(tokens, _coarser(tokens.grid, max_grid)).of("patch")
    return {kind: value.float().cpu() for kind, value in features.items()}


def _coarser(grid: Grid | None, max_grid: Grid | None) -> Grid:
    """The grid, in each direction at most `max_grid`."""
    assert grid is not None, "patch tokens always carry their grid"
    return grid if max_grid is None else (min(grid[0], max_grid[0]), min(grid[1], max_grid[1]))


def _batches(
    source: Source,
    sizes_px: Sequence[int],
    geometry: Geometry,
    resize_ratio: float,
    *,
    batch_size: int,
    num_workers: int,
) -> Iterator[list[_Item]]:
    """The images that can be read; the others are named in the log, and counted at the end."""
    loader = DataLoader(
        _Pictures(source, sizes_px, geometry, resize_ratio),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=list,
    )
    broken: list[BrokenImageError] = []
    for read in loader:
        errors = [item for item in read if isinstance(item, BrokenImageError)]
        for error in errors:
            log.warning("left out: %s", error)
        broken += errors
        if len(errors) < len(read):
            yield [item for item in read if not isinstance(item, BrokenImageError)]
    if broken and len(broken) == len(source):
        raise ValueError(
            f"none of the {len(source)} images of {source.name!r} can be read; the last: "
            f"{broken[-1]}"
        )
    if broken:
        log.warning("%s: %d of %d images left out", source.name, len(broken), len(source))


def extract_all(
    models: Mapping[str, FeatureFn],
    source: Source,
    *,
    size_px: int | Mapping[str, int],
    batch_size: int = 64,
    want: Collection[Wanted] = get_args(FeatureKind),
    geometry: Geometry = "crop",
    resize_ratio: float = 1.0,
    max_grid: Grid | None = None,
    num_workers: int = 0,
    device: str | torch.device = "cpu",
) -> dict[str, Features]:
    """Features of the images of a source, in its order, for each model by name.

    `size_px` is one input size for all models or one for each. Every image is decoded once, and
    resized once for each size. Patch grids finer than `max_grid` are averaged down to it. Models
    run without gradients on images on `device`; evaluation mode is theirs to set. Joints are those
    of `joints_of`, scaled to the image, and in three dimensions the field "joints" [J, 3].

    An image that cannot be decoded is left out for all models, with a warning that names it;
    `Features.indices` are those of the others. ValueError where there are no others.
    """
    for kind in want:
        if kind not in (*get_args(FeatureKind), "image"):
            raise unknown("feature", kind, [*get_args(FeatureKind), "image"])
    sizes_px = dict.fromkeys(models, size_px) if isinstance(size_px, int) else dict(size_px)
    parts: dict[str, dict[FeatureKind, list[Tensor]]] = {name: {} for name in models}
    grids: dict[str, Grid] = {}
    items: list[_Item] = []
    for batch in _batches(
        source,
        sorted(set(sizes_px.values())),
        geometry,
        resize_ratio,
        batch_size=batch_size,
        num_workers=num_workers,
    ):
        views = {
            size: torch.stack([item.views[size] for item in batch]).to(device)
            for size in batch[0].views
        }
        for name, model in models.items():
            with torch.no_grad():
                tokens = model(views[sizes_px[name]])
            for kind, value in _reduced(tokens, want, max_grid).items():
                parts[name].setdefault(kind, []).append(value)
            if tokens.grid is not None:
                grids[name] = _coarser(tokens.grid, max_grid)
        items += [item._replace(views={}) for item in batch]  # the pixels are no longer needed

    truth = _truth(items, source)
    return {
        name: replace(
            truth,
            cls=_joined(held.get("cls")),
            patch_mean=_joined(held.get("patch-mean")),
            patches=_joined(held.get("patches")),
            grid=grids.get(name) if "patches" in held else None,
        )
        for name, held in parts.items()
    }


def _joined(parts: list[Tensor] | None) -> Tensor | None:
    return None if parts is None else torch.cat(parts)


def _truth(items: Sequence[_Item], source: Source) -> Features:
    """The labels of a source, which must be there for all of its images or for none."""
    labels = [item.label for item in items if item.label is not None]
    joints = [item.joints for item in items if item.joints is not None]
    bodies = [item.body for item in items if item.body is not None]
    for what, held in (("class", labels), ("joints", joints), ("3D joints", bodies)):
        if held and len(held) < len(items):
            raise ValueError(f"{len(items) - len(held)} images of {source.name!r} have no {what}")
    for people in (joints, bodies):
        if len({len(person) for person in people}) > 1:
            raise ValueError(f"images of {source.name!r} have different numbers of joints")
    sizes = torch.tensor([item.size for item in items], dtype=torch.int64).reshape(-1, 2)
    placed = None
    if joints:
        placed = torch.tensor(joints)  # [n, J, 3]
        placed[..., :2] /= sizes[:, None]
    return Features(
        labels=torch.tensor(labels, dtype=torch.int64) if labels else None,
        joints=placed,
        body=torch.tensor(bodies) if bodies else None,
        sizes=sizes,
        indices=torch.tensor([item.place for item in items], dtype=torch.int64),
    )


def extract_features(
    model: FeatureFn,
    source: Source,
    *,
    size_px: int,
    batch_size: int = 64,
    want: Collection[Wanted] = get_args(FeatureKind),
    geometry: Geometry = "crop",
    resize_ratio: float = 1.0,
    max_grid: Grid | None = None,
    num_workers: int = 0,
    device: str | torch.device = "cpu",
) -> Features:
    """`extract_all` for one model."""
    return extract_all(
        {"model": model},
        source,
        size_px=size_px,
        batch_size=batch_size,
        want=want,
        geometry=geometry,
        resize_ratio=resize_ratio,
        max_grid=max_grid,
        num_workers=num_workers,
        device=device,
    )["model"]
