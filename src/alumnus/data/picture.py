"""Two forms of a decoded picture: Pillow's, and the bytes of its pixels."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["Picture", "as_image", "as_pixels", "pixels_of"]

Picture = Image.Image | Tensor  # RGB; or [3, H, W] uint8, in memory [H, W, 3]


def as_image(picture: Picture) -> Image.Image:
    """The picture for Pillow; a copy where it was pixels."""
    if isinstance(picture, Tensor):
        return Image.fromarray(picture.permute(1, 2, 0).numpy())
    return picture


def as_pixels(picture: Picture) -> Tensor:  # [3, H, W] uint8
    """The picture's pixels; a copy where it was an image."""
    return picture if isinstance(picture, Tensor) else pixels_of(np.array(picture))


def pixels_of(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:  # [H, W, 3]
    """An array as pixels, which share its memory."""
    return torch.from_numpy(array).permute(2, 0, 1)
