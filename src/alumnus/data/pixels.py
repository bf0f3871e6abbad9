"""Images to normalised tensors: the drawn augmentation, and the evaluation transform.

Geometry is here and works on 8-bit images, as in the published systems; what is done to the
colours of the view is in `colour`. All sizes are (height, width) in pixels, or one number for a
square.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from alumnus.data.augment import AugmentConfig, AugmentParams, Box, crop_box
from alumnus.data.colour import develop, normalise
from alumnus.data.picture import Picture, as_image, as_pixels
from alumnus.images import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["Size", "apply", "apply_to_array", "eval_transform", "eval_view", "view"]

Size = int | tuple[int, int]

GREY_MEAN, GREY_STD = sum(IMAGENET_MEAN) / 3, sum(IMAGENET_STD) / 3


def apply(
    picture: Picture,
    params: AugmentParams,  # of one image: draw(...)[i]
    size: Size,
    config: AugmentConfig,
) -> Tensor:  # [3, H, W] float32, ImageNet-normalised
    """Augment one image. The geometry is relative to the image, so any `size` shows the same part.

    Source: the pipelines of UNIC and DUNE. Differs from them in speed, and in the last bits of
    the resize (torch's of 8-bit images for Pillow's) and the hue; docs/results/augmentation.md.
    """
    if config.kind == "none":
        return eval_transform(picture, size)
    return develop(view(picture, params, size, config), params, config)


def view(
    picture: Picture,
    params: AugmentParams,  # of one image
    size: Size,
    config: AugmentConfig,
) -> Tensor:  # [3, H, W] uint8
    """The geometry of the augmentation: what is left is colour, which a device may do."""
    if config.kind == "none":
        return eval_view(picture, size)
    if isinstance(picture, Tensor):
        height_px, width_px = picture.shape[1:]
    else:
        width_px, height_px = picture.size
    top, left, h, w = crop_box(params, height_px=height_px, width_px=width_px, config=config)
    if isinstance(picture, Tensor):
        crop = picture[:, top : top + h, left : left + w]
    else:
        crop = as_pixels(picture.crop((left, top, left + w, top + h)))
    rows = crop[None].contiguous(memory_format=torch.channels_last)  # half the time
    resized = F.interpolate(rows, size=_pair(size), mode="bicubic", antialias=True)[0]
    return (resized.flip(-1) if params.flip else resized).contiguous()


def apply_to_array(
    array: np.ndarray[tuple[int, ...], np.dtype[np.generic]],  # [H, W, C]
    params: AugmentParams,
    size: Size,
    config: AugmentConfig,
) -> Tensor:  # [C, H, W] float32
    """The geometry of the augmentation for an image of any number of channels; no colour.

    Unsigned integers are taken as shares of their largest value, floats as they are; all channels
    are normalised with the mean of ImageNet's statistics.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(_unit_range(array))).permute(2, 0, 1)
    height_px, width_px = array.shape[:2]
    if config.kind == "none":
        resized, (top, left, h, w) = _covering(height_px, width_px, _pair(size))
        pixels = TF.resize(pixels, list(resized), InterpolationMode.BICUBIC, antialias=True)
        return _normalise_channels(pixels[:, top : top + h, left : left + w])
    top, left, h, w = crop_box(params, height_px=height_px, width_px=width_px, config=config)
    pixels = TF.resized_crop(
        pixels, top, left, h, w, list(_pair(size)), InterpolationMode.BICUBIC, antialias=True
    )
    return _normalise_channels(pixels.flip(-1) if params.flip else pixels)


def eval_transform(picture: Picture, size: Size) -> Tensor:  # [3, H, W] float32, normalised
    """Resize (bicubic, antialiased) until the image just covers `size`, cut out the centre."""
    return normalise(eval_view(picture, size))


def eval_view(picture: Picture, size: Size) -> Tensor:  # [3, H, W] uint8
    """As `eval_transform`, before the normalisation."""
    image = as_image(picture)
    (resized_h, resized_w), (top, left, h, w) = _covering(image.height, image.width, _pair(size))
    resized = image.resize((resized_w, resized_h), Image.Resampling.BICUBIC)
    return as_pixels(resized.crop((left, top, left + w, top + h))).contiguous()


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _normalise_channels(pixels: Tensor) -> Tensor:
    return (pixels - GREY_MEAN) / GREY_STD


def _covering(height_px: int, width_px: int, size: tuple[int, int]) -> tuple[tuple[int, int], Box]:
    """Size after the resize, and the central box of `size` in it.

    For a square this is torchvision's Resize (short side, the other one rounded down) and
    CenterCrop.
    """
    h, w = size
    if height_px * w <= width_px * h:  # the height is what limits
        resized = (h, max(w, math.floor(h * width_px / height_px)))
    else:
        resized = (max(h, math.floor(w * height_px / width_px)), w)
    return resized, (round((resized[0] - h) / 2), round((resized[1] - w) / 2), h, w)


def _unit_range(
    array: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    if array.ndim != 3:
        raise ValueError(f"an image array must be [H, W, C], but has shape {array.shape}")
    pixels = array.astype(np.float32)
    if array.dtype.kind == "u":
        pixels /= 2 ** (8 * array.dtype.itemsize) - 1
    return pixels
