"""Sliding windows: an image of any size through a model that sees squares.

Axes: K classes, H W pixels, S side of the window.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["padded", "slide", "slide_all", "window_boxes"]


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
    [found] = slide_all([image], logits, window=window, stride=stride, batch_size=batch_size)
    return found


def slide_all(
    images: Sequence[Tensor],  # [3, H, W] each
    logits: Callable[[Tensor], Tensor],  # [n, 3, S, S] -> [n, K, h, w]
    *,
    window: int,
    stride: int,
    batch_size: int,
) -> list[Tensor]:  # [K, H, W] float32 each
    """`slide` for several images, whose windows share batches."""
    canvases = [padded(image, window, value=0.0) for image in images]
    boxes = [
        (i, slice(top, top + window), slice(left, left + window))
        for i, canvas in enumerate(canvases)
        for top, left in window_boxes(*canvas.shape[-2:], window=window, stride=stride)
    ]
    totals: list[Tensor] = []
    counts = [canvas.new_zeros(canvas.shape[-2:]) for canvas in canvases]
    for start in range(0, len(boxes), batch_size):
        part = boxes[start : start + batch_size]
        crops = torch.stack([canvases[i][:, rows, columns] for i, rows, columns in part])
        fine = F.interpolate(
            logits(crops).float(), size=(window, window), mode="bilinear", align_corners=False
        )
        totals = totals or [fine.new_zeros(fine.shape[1], *count.shape) for count in counts]
        for (i, rows, columns), values in zip(part, fine, strict=True):
            totals[i][:, rows, columns] += values
            counts[i][rows, columns] += 1
    return [
        (total / count)[:, : image.shape[-2], : image.shape[-1]]
        for total, count, image in zip(totals, counts, images, strict=True)
    ]
