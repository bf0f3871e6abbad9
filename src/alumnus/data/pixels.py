"""Images to normalised tensors: the drawn augmentation, and the evaluation transform.

Geometry and colour work on 8-bit images as in the published systems, blur and solarisation on
floats. All sizes are (height, width) in pixels, or one number for a square.
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
from alumnus.images import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["Size", "apply", "apply_to_array", "eval_transform", "gaussian_blur"]

Size = int | tuple[int, int]

ADJUST = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
MEAN = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
STD = torch.tensor(IMAGENET_STD).view(3, 1, 1)


def apply(
    image: Image.Image,  # RGB
    params: AugmentParams,  # of one image: draw(...)[i]
    size: Size,
    config: AugmentConfig,
) -> Tensor:  # [3, H, W] float32, ImageNet-normalised
    """Augment one image. The geometry is relative to the image, so any `size` shows the same part.

    Source: the pipelines of UNIC and DUNE, with torchvision's operations on Pillow images.
    """
    if config.kind == "none":
        return eval_transform(image, size)
    top, left, h, w = crop_box(params, height_px=image.height, width_px=image.width, config=config)
    view = image.crop((left, top, left + w, top + h))
    height_px, width_px = _pair(size)
    view = view.resize((width_px, height_px), Image.Resampling.BICUBIC)
    if params.flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if params.jitter:
        factors = params.factors.tolist()
        for i in params.order.tolist():
            view = ADJUST[i](view, factors[i])
    if params.grayscale:
        view = view.convert("L").convert("RGB")
    pixels = _to_float(view)
    if params.blur:
        pixels = gaussian_blur(
            pixels, kernel_px=config.blur_kernel_px, sigma_px=float(params.sigma_px)
        )
    if params.solarise:
        pixels = TF.solarize(pixels, config.solarise_threshold)
    return _normalise(pixels)


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


def eval_transform(image: Image.Image, size: Size) -> Tensor:  # [3, H, W] float32, normalised
    """Resize (bicubic, antialiased) until the image just covers `size`, cut out the centre."""
    (resized_h, resized_w), (top, left, h, w) = _covering(image.height, image.width, _pair(size))
    resized = image.resize((resized_w, resized_h), Image.Resampling.BICUBIC)
    return _normalise(_to_float(resized.crop((left, top, left + w, top + h))))


def gaussian_blur(pixels: Tensor, *, kernel_px: int, sigma_px: float) -> Tensor:  # [C, H, W]
    """Gaussian blur with reflected borders, as a sum of shifted images along each axis.

    Twin of torchvision's, 2-3 times as fast (0.7 for 1.4 ms at 224 px) and without a
    convolution, whose summation order may depend on the number of threads.
    """
    half = kernel_px // 2
    steps = torch.linspace(-half, half, kernel_px)
    weights = torch.exp(-0.5 * (steps / sigma_px) ** 2)
    shares: list[float] = (weights / weights.sum()).tolist()
    height, width = pixels.shape[-2:]
    padded = F.pad(pixels[None], (half, half, half, half), mode="reflect")[0]
    rows = shares[0] * padded[..., :width]
    for i in range(1, kernel_px):
        rows.add_(padded[..., i : i + width], alpha=shares[i])
    blurred = shares[0] * rows[..., :height, :]
    for i in range(1, kernel_px):
        blurred.add_(rows[..., i : i + height, :], alpha=shares[i])
    return blurred


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _to_float(image: Image.Image) -> Tensor:  # [3, H, W] in [0, 1]
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div_(255.0)


def _normalise(pixels: Tensor) -> Tensor:
    return (pixels - MEAN).div_(STD)


def _normalise_channels(pixels: Tensor) -> Tensor:
    return (pixels - MEAN.mean()) / STD.mean()


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
