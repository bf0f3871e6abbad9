"""Sliding windows: an image of any size through a model that sees squares.

Axes: K classes, H W pixels, S side of the window.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["padded", "slide", "window_boxes"]


def window_boxes(height: int, width: int, *, window: int, stride: int) -> Iterator[tuple[int, int]]:
    """Top and left of the windows that cover an image; the last ones end at its edges."""
    for top in _starts(height, window, stride):
        for left in _starts(width, window, stride):
            yield top, left


def _starts(length: int, window: int, stride: int) -> list[int]:
    last = max(0, length - window)
    return [*range(0, last, stride), last]


def padded(pixels: Tensor, window: int, *, value: float) -> Tensor:  # [..., H, W]
    """At least `window` high and wide: filled up at the right and at the bottom."""
    bottom, right = (max(0, window - side) for side in pixels.shape[-2:])
    return F.pad(pixels, (0, right, 0, bottom), value=value) if bottom or right else pixels


def slide(
    image: Tensor,  # [3, H, W]
    logits: Callable[[Tensor], Tensor],  # [n, 3, S, S] -> [n, K, h, w]
    *,
    window: int,
    stride: int,
    batch_size: int,
) -> Tensor:  # [K, H, W] float32
    """Logits of each pixel: the mean over the windows that it lies in.

    The logits of a window are brought to its pixels (bilinear). An image that is smaller than a
    window is filled up with 0, the mean colour.

    Source: the sliding-window inference of mmsegmentation, which DINOv2 uses.
    """
    height, width = image.shape[-2:]
    canvas = padded(image, window, value=0.0)
    boxes = list(window_boxes(*canvas.shape[-2:], window=window, stride=stride))
    total: Tensor | None = None
    count = canvas.new_zeros(canvas.shape[-2:])
    for i in range(0, len(boxes), batch_size):
        part = boxes[i : i + batch_size]
        crops = torch.stack([canvas[:, t : t + window, le : le + window] for t, le in part])
        fine = F.interpolate(
            logits(crops).float(), size=(window, window), mode="bilinear", align_corners=False
        )
        if total is None:
            total = fine.new_zeros(fine.shape[1], *canvas.shape[-2:])
        for (top, left), values in zip(part, fine, strict=True):
            total[:, top : top + window, left : left + window] += values
            count[top : top + window, left : left + window] += 1
    assert total is not None, "an image has at least one window"
    return (total / count)[:, :height, :width]
