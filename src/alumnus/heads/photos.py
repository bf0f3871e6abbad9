"""Photographs as heads take them: read, turned upright, in numbers."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alumnus.data.decode import BrokenImageError, decode_rgb, upright_rgb
from alumnus.images import normalised

__all__ = ["normalised_pixels", "read_photo", "smooth_filter"]


def read_photo(photo: str | Path | Image.Image) -> Image.Image:
    """All pixels of a file or of an open image in RGB, upright as its EXIF orientation says.

    ValueError, one sentence, for anything else.
    """
    if isinstance(photo, Image.Image):
        return upright_rgb(photo)
    path = Path(photo).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no photograph {str(path)!r}")
    try:
        data = path.read_bytes()
    except OSError as error:
        why = error.strerror or str(error)
        raise BrokenImageError(str(path.parent), path.name, why) from error
    return decode_rgb(data, source=str(path.parent), identity=path.name, full_size=True)


def normalised_pixels(image: Image.Image) -> Tensor:  # [1, 3, H, W]
    """By the ImageNet statistics."""
    return normalised(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255)


def smooth_filter(factor: float) -> Image.Resampling:
    """Lanczos where a photograph shrinks, bicubic where it grows."""
    return Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BICUBIC
