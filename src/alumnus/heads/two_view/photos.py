"""Photographs at the size that a two-view network looks at, and the way back to their pixels."""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from alumnus.heads.photos import normalised_pixels, read_photo, smooth_filter

__all__ = ["Photo", "prepare_photo"]


@dataclass(frozen=True)
class Photo:
    """A photograph, resized and cropped."""

    images: Tensor  # [1, 3, H, W] ImageNet-normalised
    scale: tuple[float, float]  # pixels of the resized photograph per pixel of the original, x, y
    offset: tuple[int, int]  # px that the crop leaves out on the left and at the top
    size: tuple[int, int]  # width and height of the photograph itself, px

    @property
    def middle(self) -> tuple[float, float]:
        """Where in `images` the middle of the photograph is, (x, y)."""
        x, y = (
            side / 2 * scale - left - 0.5
            for side, scale, left in zip(self.size, self.scale, self.offset, strict=True)
        )
        return x, y

    def in_original(self, xy: Tensor) -> Tensor:  # [..., 2] -> [..., 2]
        """Where pixels (x, y) of `images` are in the photograph itself.

        Whole numbers are centres of pixels in both.
        """
        offset, scale = torch.tensor(self.offset), torch.tensor(self.scale)
        original: Tensor = (xy + offset + 0.5) / scale - 0.5
        return original


def prepare_photo(
    photo: str | Path | Image.Image,
    *,
    patch_size: int,
    long_side_px: int = 512,
    squares: bool = True,  # False: a photograph that becomes square is cut to 4:3
) -> Photo:
    """A photograph for the network: its long side at `long_side_px`, its middle in whole patches.

    Lanczos where it shrinks, bicubic where it grows. A file is turned as its EXIF orientation
    says. Source: the published inference of DUSt3R and MASt3R. ValueError for a photograph so thin
    that not one patch is left, or a file that is none.
    """
    image = read_photo(photo)
    factor = long_side_px / max(image.size)
    size = round(image.width * factor), round(image.height * factor)
    resized = image.resize((max(1, size[0]), max(1, size[1])), smooth_filter(factor))
    width, height = (side // patch_size * patch_size for side in resized.size)
    if width == height and not squares:
        height = 3 * width // 4 // patch_size * patch_size
    if not width or not height:
        raise ValueError(
            f"a photograph of {image.width}x{image.height} px is too thin: at a long side of "
            f"{long_side_px} px not one patch of {patch_size} px fits"
        )
    left, top = (resized.width - width) // 2, (resized.height - height) // 2
    return Photo(
        images=normalised_pixels(resized.crop((left, top, left + width, top + height))),
        scale=(resized.width / image.width, resized.height / image.height),
        offset=(left, top),
        size=image.size,
    )
