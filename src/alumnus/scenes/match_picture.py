"""Two photographs side by side, with lines between what matches.

Axes: k matches.
"""

import colorsys

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

__all__ = ["match_picture"]

HEIGHT = 480  # px, of both photographs in the picture
WIDEST = 1920  # px, of the picture
LINES = 64  # drawn, the most
DULL = (150, 150, 150)  # of matches that do not agree with the pose
DOT = 2  # px

Array = NDArray[np.float64]


def match_picture(
    images: tuple[Image.Image, Image.Image],
    left: Array,  # [k, 2] pixels of the photographs, the surest first
    right: Array,
    agree: NDArray[np.bool_],  # [k] with the cameras' pose: the others are grey
) -> Image.Image:
    """At most 64 lines, spread over the left photograph; colours go by the place there."""
    height = min(HEIGHT, *(image.height * WIDEST // (2 * image.width) for image in images))
    scales = [max(1, height) / image.height for image in images]
    shown = [
        image.resize((max(1, round(image.width * scale)), max(1, height)))
        for image, scale in zip(images, scales, strict=True)
    ]
    canvas = Image.new("RGB", (shown[0].width + shown[1].width, shown[0].height))
    canvas.paste(shown[0], (0, 0))
    canvas.paste(shown[1], (shown[0].width, 0))
    pen = ImageDraw.Draw(canvas)
    for k in _spread(left, images[0].size):
        x, y = (left[k] + 0.5) * scales[0]
        x2, y2 = (right[k] + 0.5) * scales[1] + (shown[0].width, 0)
        hue = (x / shown[0].width + y / shown[0].height) / 2
        bright = colorsys.hsv_to_rgb(hue, 0.85, 1)
        colour = tuple(round(255 * c) for c in bright) if agree[k] else DULL
        pen.line([(x, y), (x2, y2)], fill=colour, width=1)
        for at, across in ((x, y), (x2, y2)):
            pen.ellipse([at - DOT, across - DOT, at + DOT, across + DOT], fill=colour)
    return canvas


def _spread(places: Array, size: tuple[int, int]) -> list[int]:
    """The surest match in each cell of a grid over the photograph."""
    side = int(LINES**0.5)
    cells = np.clip((places + 0.5) / size * side, 0, side - 1).astype(int)
    _, chosen = np.unique(cells @ (side, 1), return_index=True)
    return sorted(int(k) for k in chosen)
