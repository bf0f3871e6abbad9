"""Pictures of what models see in given images: `alumnus visualize`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alumnus.data import BrokenImageError, open_source
from alumnus.data.decode import decode_rgb
from alumnus.data.folder import EXTENSIONS
from alumnus.evaluation.tasks import EvalModel
from alumnus.images import IMAGENET_MEAN, IMAGENET_STD
from alumnus.report.patches import PatchMaps, pca_columns, similarity_columns
from alumnus.report.sheet import Column, draw_sheet

__all__ = ["own_size", "parse_place", "patch_maps", "read_images", "write_sheet"]

SIZE_PX = 224  # of the short side, where a model has none
SHOWN_PX = 320  # short side of an image in the picture


def parse_place(text: str) -> tuple[float, float]:
    """`X,Y` in widths and heights; ValueError for anything else."""
    parts = text.split(",")
    try:
        x, y = (float(part) for part in parts)
    except ValueError:
        x = y = -1.0
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError(
            f"{text!r} is no place in an image: it should read X,Y in shares of width and height "
            "from 0 to 1, e.g. 0.5,0.3"
        )
    return x, y


def read_images(spec: str, count: int) -> list[Image.Image]:
    """One image file, or `count` images spread over a source; broken ones are passed over.

    ValueError where there is none that can be read.
    """
    path = Path(spec).expanduser()
    if path.is_file() and path.suffix.lower() in EXTENSIONS:
        return [decode_rgb(path.read_bytes(), source=path.parent.name, identity=path.name)]
    source = open_source(spec)
    images: list[Image.Image] = []
    last: BrokenImageError | None = None
    for index in np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int):
        try:
            images.append(source.read(int(index)).image)
        except BrokenImageError as error:
            last = error
    if not images:
        raise ValueError(f"none of the images chosen of {source.name!r} can be read: {last}")
    return images


def own_size(model: EvalModel, image: Image.Image, size_px: int | None) -> tuple[int, int]:
    """Width and height at which a model looks at an image.

    The short side is `size_px`, else the model's own; both are multiples of its patch, the long
    one as near to the aspect as these allow. A network of one fixed size sees a square.
    """
    short = (None if model.fixed_size else size_px) or model.size_px or SIZE_PX
    if model.fixed_size:
        return short, short
    short = _whole(short, model.patch_px)
    scale = short / min(image.size)
    width, height = (_whole(side * scale, model.patch_px) for side in image.size)
    return width, height


@torch.no_grad()
def patch_maps(
    model: EvalModel,
    images: Sequence[Image.Image],
    *,
    size_px: int | None,
    device: torch.device | str = "cpu",
) -> list[Tensor] | None:  # [h, w, D] float32 for each image
    """A model's patch tokens of each image; None for a model without any."""
    maps: list[Tensor] = []
    for image in images:
        resized = image.resize(own_size(model, image, size_px), Image.Resampling.BICUBIC)
        pixels = _pixels(resized).permute(2, 0, 1)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        tokens = (model.dense_fn or model.fn)(((pixels - mean) / std)[None].to(device))
        if tokens.patches is None:
            return None
        maps.append(tokens.as_map()[0].permute(1, 2, 0).float().cpu())
    return maps


def write_sheet(
    models: Sequence[EvalModel],
    images: Sequence[Image.Image],
    path: Path,
    *,
    at: tuple[float, float] | None = None,
    size_px: int | None = None,
    device: torch.device | str = "cpu",
) -> Path:
    """A PNG with a row for each image: principal components, or likeness to the patch `at`.

    A student's projection stands beside its teacher, in the teacher's basis. ValueError where no
    model has patch tokens.
    """
    shown: list[PatchMaps] = []
    teachers = {model.name: model for model in models if model.kind == "teacher"}
    for model in _beside_teachers(models):
        maps = patch_maps(model, images, size_px=size_px, device=device)
        if maps is not None:
            is_guess = model.kind == "projected" and model.space in teachers
            shown.append(PatchMaps(model.name, maps, predicts=model.space if is_guess else None))
    if not shown:
        raise ValueError(
            f"pictures need patch tokens, which {', '.join(m.name for m in models)} do not have"
        )
    columns = pca_columns(shown) if at is None else similarity_columns(shown, at)
    first = Column(["image"], [_pixels(_small(image)) for image in images])
    aspects = [image.height / image.width for image in images]
    return draw_sheet([first, *columns], aspects, path, mark=at)


def _beside_teachers(models: Sequence[EvalModel]) -> list[EvalModel]:
    """Each teacher, then what is projected to it; then all others."""
    order: list[EvalModel] = []
    for teacher in (m for m in models if m.kind == "teacher"):
        of = [m for m in models if m.kind == "projected" and m.space == teacher.name]
        order += [teacher, *of]
    return order + [m for m in models if not any(m is other for other in order)]


def _whole(pixels: float, patch_px: int) -> int:
    return max(1, round(pixels / patch_px)) * patch_px


def _small(image: Image.Image) -> Image.Image:
    scale = min(1.0, SHOWN_PX / min(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _pixels(image: Image.Image) -> Tensor:  # [H, W, 3] in [0, 1]
    return torch.from_numpy(np.array(image)).float() / 255
