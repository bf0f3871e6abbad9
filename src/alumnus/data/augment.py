"""Augmentation as data: what is done to an image is drawn first, as numbers, then applied.

One draw serves every output size, the feature cache, a device-side implementation, statistical
tests and the replay of a bad step. Drawing is here, pixels are in `pixels`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from alumnus.data.philox import uniforms
from alumnus.spelling import unknown

__all__ = [
    "DUNE",
    "UNIC",
    "AugmentConfig",
    "AugmentKind",
    "AugmentParams",
    "Box",
    "crop_box",
    "draw",
]

AugmentKind = Literal["full", "crop_flip", "none"]
Box = tuple[int, int, int, int]  # top, left, height, width in pixels of the source image

ATTEMPTS = 10  # of a random crop to fit into the image, before the central one


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Distributions of the augmentation, in the order in which it is applied.

    `full`: random resized crop, flip, colour jitter, greyscale, blur, solarisation; `crop_flip`:
    the first two; `none`: the evaluation transform (short side resized, centre crop).
    Defaults are UNIC's (arXiv 2408.05088); DUNE (arXiv 2503.14405) has crop_scale (0.4, 1).
    """

    kind: AugmentKind = "full"
    crop_scale: tuple[float, float] = (0.08, 1.0)  # area, as a share of the image
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height, log-uniform
    flip_p: float = 0.5
    jitter_p: float = 0.8
    brightness: float = 0.4  # factor in 1 -+ this
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1  # shift in -+ this, of the whole circle
    grayscale_p: float = 0.2
    blur_p: float = 0.2
    blur_kernel_px: int = 9
    blur_sigma_px: tuple[float, float] = (0.1, 5.0)
    solarise_p: float = 0.2
    solarise_threshold: float = 0.5

    def __post_init__(self) -> None:
        kinds = get_args(AugmentKind)
        if self.kind not in kinds:
            raise unknown("augmentation kind", self.kind, kinds)
        for name, (low, high) in {
            "crop_scale": self.crop_scale,
            "crop_ratio": self.crop_ratio,
            "blur_sigma_px": self.blur_sigma_px,
        }.items():
            if not 0 < low <= high:
                raise ValueError(f"{name} is ({low}, {high}), but must be 0 < low <= high")
        for name in ("flip_p", "jitter_p", "grayscale_p", "blur_p", "solarise_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be between 0 and 1")
        if self.blur_kernel_px < 1 or self.blur_kernel_px % 2 == 0:
            raise ValueError(f"blur_kernel_px is {self.blur_kernel_px}, but must be odd")


UNIC = AugmentConfig()
DUNE = AugmentConfig(crop_scale=(0.4, 1.0))


@dataclasses.dataclass(frozen=True)
class AugmentParams:
    """The draws for B images; `params[i]` are those of one image."""

    scale: Tensor  # [B, 10] float64, crop area as a share of the image, by attempt
    ratio: Tensor  # [B, 10] float64, crop width / height, by attempt
    place: Tensor  # [B, 2] float64 in (0, 1): top and left of the crop within its room
    flip: Tensor  # [B] bool
    jitter: Tensor  # [B] bool
    order: Tensor  # [B, 4] int64, a permutation of brightness, contrast, saturation, hue
    factors: Tensor  # [B, 4] float64, in that same numbering (not in the order of application)
    grayscale: Tensor  # [B] bool
    blur: Tensor  # [B] bool
    sigma_px: Tensor  # [B] float64, at the output size
    solarise: Tensor  # [B] bool

    def __len__(self) -> int:
        return len(self.flip)

    def __getitem__(self, i: int) -> "AugmentParams":
        return self.map(lambda values: values[i])

    def map(self, change: Callable[[Tensor], Tensor]) -> "AugmentParams":
        """All tensors changed in the same way: moved, pinned, sliced."""
        return AugmentParams(*(change(getattr(self, f.name)) for f in dataclasses.fields(self)))


def draw(
    seed: int,
    source: ArrayLike,  # [B] or a number, as the next two
    index: ArrayLike,
    view: ArrayLike,
    config: AugmentConfig,
) -> AugmentParams:  # [B]
    """The augmentation of each (source, index, view): a pure function, in any order or company.

    Every number has its fixed counter, so that an option changes no draw of another one.
    """
    counters = np.broadcast_arrays(*(np.atleast_1d(np.asarray(c)) for c in (source, index, view)))
    where = dict(
        zip(("source", "index", "view"), (c.astype(np.uint64) for c in counters), strict=True)
    )
    u = uniforms(2 * ATTEMPTS + 16, seed=seed, **where)
    scale_u, ratio_u, rest = u[:, :ATTEMPTS], u[:, ATTEMPTS : 2 * ATTEMPTS], u[:, 2 * ATTEMPTS :]
    crops, colours = config.kind != "none", config.kind == "full"
    log_ratio = np.log(config.crop_ratio)
    half_widths = np.array([config.brightness, config.contrast, config.saturation, config.hue])
    centres = np.array([1.0, 1.0, 1.0, 0.0])
    lowest = np.maximum(centres - half_widths, [0.0, 0.0, 0.0, -0.5])
    values = {
        "scale": _between(scale_u, *config.crop_scale),
        "ratio": np.exp(_between(ratio_u, *log_ratio)),
        "place": rest[:, 0:2],
        "flip": (rest[:, 2] < config.flip_p) & crops,
        "jitter": (rest[:, 3] < config.jitter_p) & colours,
        "order": np.argsort(rest[:, 4:8], axis=1),
        "factors": lowest + rest[:, 8:12] * (centres + half_widths - lowest),
        "grayscale": (rest[:, 12] < config.grayscale_p) & colours,
        "blur": (rest[:, 13] < config.blur_p) & colours,
        "sigma_px": _between(rest[:, 14], *config.blur_sigma_px),
        "solarise": (rest[:, 15] < config.solarise_p) & colours,
    }
    return AugmentParams(
        **{k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in values.items()}
    )


def crop_box(params: AugmentParams, *, height_px: int, width_px: int, config: AugmentConfig) -> Box:
    """The random resized crop of one image: the first attempt that fits, else a central one.

    The central crop is the largest one whose ratio is within `crop_ratio`. Source: torchvision's
    RandomResizedCrop, whose distribution this is.
    """
    for scale, ratio in zip(params.scale.tolist(), params.ratio.tolist(), strict=True):
        area = height_px * width_px * scale
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < w <= width_px and 0 < h <= height_px:
            top_u, left_u = params.place.tolist()
            return int(top_u * (height_px - h + 1)), int(left_u * (width_px - w + 1)), h, w
    narrowest, widest = config.crop_ratio
    h, w = height_px, width_px
    if w / h < narrowest:
        h = round(w / narrowest)
    elif w / h > widest:
        w = round(h * widest)
    return (height_px - h) // 2, (width_px - w) // 2, h, w


def _between(
    u: np.ndarray[tuple[int, ...], np.dtype[np.float64]], low: float, high: float
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return low + u * (high - low)
