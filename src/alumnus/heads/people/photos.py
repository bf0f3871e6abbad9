"""Photographs in the square that a people head looks at, and the way back to their pixels.

Pixels are counted from the picture's corner: the first one's centre is at (0.5, 0.5).
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from alumnus.heads.photos import normalised_pixels, read_photo, smooth_filter

__all__ = ["FIELD_OF_VIEW_DEG", "SquarePhoto", "check_field_of_view", "prepare_square"]

FIELD_OF_VIEW_DEG = 60.0  # across the long side, of a photograph that says nothing


@dataclass(frozen=True)
class SquarePhoto:
    """A photograph, fitted into a square whose rest is black."""

    picture: Image.Image  # the photograph itself, RGB and upright
    images: Tensor  # [1, 3, S, S] ImageNet-normalised
    K: Tensor  # [1, 3, 3] intrinsics of the square
    original_K: Tensor  # [3, 3] of the photograph: the same camera
    scale: tuple[float, float]  # pixels of the square per pixel of the photograph, x and y
    offset: tuple[int, int]  # px of black on the left and at the top

    def in_original(self, xy: Tensor) -> Tensor:  # [..., 2] -> [..., 2]
        """Where places (x, y) of the square are in the photograph."""
        place: Tensor = (xy - torch.tensor(self.offset).to(xy)) / torch.tensor(self.scale).to(xy)
        return place


def prepare_square(
    photo: str | Path | Image.Image,
    *,
    side_px: int,
    fov_deg: float = FIELD_OF_VIEW_DEG,
    K: Tensor | None = None,  # [3, 3] of the photograph; None: by the field of view, centred
) -> SquarePhoto:
    """A photograph in the middle of a square, its aspect kept, its camera known or assumed.

    `fov_deg` is across its long side, and so across the square. ValueError for an angle that is
    none of a camera, and for a file that is no photograph.

    Source: the published inference of Multi-HMR (arXiv 2402.14654).
    """
    check_field_of_view(fov_deg)
    picture = read_photo(photo)
    factor = side_px / max(picture.size)
    width, height = (max(1, round(side * factor)) for side in picture.size)
    left, top = (side_px - width) // 2, (side_px - height) // 2
    square = Image.new("RGB", (side_px, side_px))
    square.paste(picture.resize((width, height), smooth_filter(factor)), (left, top))
    scale = (width / picture.width, height / picture.height)
    if K is None:
        focal = max(picture.size) / (2 * math.tan(math.radians(fov_deg) / 2))
        x, y = picture.width / 2, picture.height / 2
        K = torch.tensor([[focal, 0, x], [0, focal, y], [0, 0, 1.0]])
    to_square = torch.tensor([[scale[0], 0, left], [0, scale[1], top], [0, 0, 1.0]])
    return SquarePhoto(
        picture=picture,
        images=normalised_pixels(square),
        K=(to_square @ K.float())[None],
        original_K=K.float(),
        scale=scale,
        offset=(left, top),
    )


def check_field_of_view(fov_deg: float) -> None:
    """ValueError, one sentence, for an angle that is none of a camera."""
    if not 1 <= fov_deg <= 175:
        raise ValueError(f"the field of view is {fov_deg:g} degrees, but must be 1 to 175")
