"""Whether a teacher sees images as its authors meant: compared with a reference's preprocessing."""

from collections.abc import Callable
from dataclasses import dataclass

import timm
from timm.data import resolve_data_config

from alumnus import hub
from alumnus.images import IMAGENET_MEAN, IMAGENET_STD
from alumnus.teachers.base import INTERPOLATION, Teacher
from alumnus.teachers.transformers_hub import fetched, transformers_package

__all__ = ["Preprocessing", "difference", "one_side", "reference_preprocessing"]

RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
NEAR = 1e-3  # of statistics; some write 0.406, some 0.40599


@dataclass(frozen=True)
class Preprocessing:
    """How a reference makes a network's input of an image."""

    size_px: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str | None  # None: not said


def difference(teacher: Teacher) -> str | None:
    """One sentence where the teacher's preprocessing is not its reference's; None where it is.

    The size is compared for a teacher that has one; others run at the size of the images.
    """
    reference = teacher.traits.reference
    theirs = None if reference is None else reference_preprocessing(reference)
    if theirs is None:
        return None
    found = []
    if teacher.input_size is not None and theirs.size_px not in (None, teacher.input_size):
        found.append(f"size {teacher.input_size} px instead of {theirs.size_px} px")
    statistics = (("mean", teacher.mean, theirs.mean), ("std", teacher.std, theirs.std))
    for name, ours, others in statistics:
        if max(abs(a - b) for a, b in zip(ours, others, strict=True)) > NEAR:
            found.append(f"{name} {_text(ours)} instead of {_text(others)}")
    if theirs.interpolation not in (None, INTERPOLATION):
        found.append(f"{INTERPOLATION} instead of {theirs.interpolation} resizing")
    if not found:
        return None
    return f"teacher {teacher.name} is run otherwise than {reference} states: {', '.join(found)}"


def reference_preprocessing(reference: str) -> Preprocessing | None:
    """That of `timm:MODEL`, `hf:ORG/NAME` or `torchvision:WEIGHTS`; None where it is not here."""
    library, _, name = reference.partition(":")
    return READERS[library](name)


def one_side(size: object) -> int | None:
    """One side in px of a size in any of the ways that transformers writes it."""
    if isinstance(size, dict):
        size = next((size[k] for k in ("shortest_edge", "height", "longest_edge") if k in size), 0)
    if isinstance(size, list | tuple) and size:
        size = size[0]
    return size if isinstance(size, int) and size > 0 else None


def _timm(name: str) -> Preprocessing | None:
    if not timm.is_model(name):  # an older timm
        return None
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None:
        return None
    data = resolve_data_config(pretrained_cfg=config.to_dict())
    return Preprocessing(
        int(data["input_size"][-1]), tuple(data["mean"]), tuple(data["std"]), data["interpolation"]
    )


def _transformers(place: str) -> Preprocessing | None:
    try:
        read = transformers_package().BaseImageProcessor.get_image_processor_dict
        settings, _ = fetched(read, place)
    except hub.UnavailableError:
        return None
    crop = settings.get("crop_size") if settings.get("do_center_crop", True) else None
    mean = tuple(settings.get("image_mean") or IMAGENET_MEAN)
    std = tuple(settings.get("image_std") or IMAGENET_STD)
    if not settings.get("do_normalize", True):
        mean, std = (0.0,) * 3, (1.0,) * 3
    size_px = one_side(crop or settings.get("size"))
    return Preprocessing(size_px, mean, std, RESAMPLING.get(settings.get("resample", -1)))


def _torchvision(weights: str) -> Preprocessing | None:
    from torchvision.models import get_weight

    made = get_weight(weights).transforms()
    (size_px,) = {*made.crop_size}
    return Preprocessing(size_px, tuple(made.mean), tuple(made.std), made.interpolation.value)


READERS: dict[str, Callable[[str], Preprocessing | None]] = {
    "timm": _timm,
    "hf": _transformers,
    "torchvision": _torchvision,
}


def _text(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.3g}" for value in values)
