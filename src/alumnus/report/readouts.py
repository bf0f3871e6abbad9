"""Pictures of what was read out of tokens: masks, depths, matches of two views, joints.

All are [H, W, 3] in [0, 1], `SHOWN_PX` wide. Places are x and y in widths and heights.
"""

import colorsys
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

__all__ = ["depth_picture", "joints_picture", "mask_picture", "match_picture", "picture"]

SHOWN_PX = 256
TINT = 0.65  # of a mask's colour over the picture
RIGHT, WRONG = (80, 230, 110), (240, 70, 70)
SIDES = {"left": (250, 170, 50), "right": (90, 180, 255)}


def picture(image: Image.Image) -> Tensor:
    """An image as it is, enlarged with sharp edges."""
    return _tensor(_enlarged(image))


def mask_picture(image: Image.Image, mask: Tensor) -> Tensor:  # mask: [H, W] int64, 0 background
    """The picture in grey, its classes in colours."""
    grey = np.asarray(image.convert("L").convert("RGB"), np.float32)
    hues = [colorsys.hsv_to_rgb((0.1 + 0.5 * k) % 1, 0.75, 1.0) for k in range(int(mask.max()))]
    colours = np.array([(0.0, 0.0, 0.0), *hues], np.float32)[mask.numpy()] * 255
    share = (mask.numpy() > 0)[..., None] * TINT
    mixed = ((1 - share) * grey + share * colours).astype(np.uint8)
    return _tensor(_enlarged(Image.fromarray(mixed)))


def depth_picture(depth_m: Tensor, *, least_m: float, most_m: float) -> Tensor:  # [H, W]
    """Near is bright."""
    near = ((most_m - depth_m) / (most_m - least_m)).clamp(0, 1)
    return _tensor(_enlarged(Image.fromarray((near * 255).to(torch.uint8).numpy()).convert("RGB")))


def match_picture(
    one: Image.Image,
    other: Image.Image,
    places: Tensor,  # [k, 2, 2], in the first and in the second view
    right: Tensor,  # [k] bool
) -> Tensor:
    """Both views side by side; a line a match, green where it is right and red where not."""
    scale = SHOWN_PX // 2
    canvas = Image.new("RGB", (2 * scale, scale))
    for i, view in enumerate((one, other)):
        canvas.paste(view.resize((scale, scale), Image.Resampling.NEAREST), (i * scale, 0))
    pen = ImageDraw.Draw(canvas)
    for (here, there), good in zip(places.tolist(), right.tolist(), strict=True):
        ends = [(here[0] * scale, here[1] * scale), ((1 + there[0]) * scale, there[1] * scale)]
        pen.line(ends, fill=RIGHT if good else WRONG)
        for x, y in ends:
            pen.ellipse([x - 1.5, y - 1.5, x + 1.5, y + 1.5], fill=RIGHT if good else WRONG)
    return _tensor(canvas)


def joints_picture(
    image: Image.Image,
    places: Tensor,  # [J, 2]
    names: Sequence[str],  # J; what ends in _left or _right has its colour
    links: Sequence[tuple[str, str]],
) -> Tensor:
    """Joints and the lines between them over a darkened picture."""
    canvas = _enlarged(image).point(lambda level: level // 2)
    pen = ImageDraw.Draw(canvas)
    width, height = canvas.size
    at = {n: (x * width, y * height) for n, (x, y) in zip(names, places.tolist(), strict=True)}
    for one, other in links:
        pen.line([at[one], at[other]], fill=SIDES.get(other.split("_")[-1], "white"), width=3)
    for name, (x, y) in at.items():
        pen.ellipse([x - 4, y - 4, x + 4, y + 4], fill=SIDES.get(name.split("_")[-1], "white"))
    return _tensor(canvas)


def _enlarged(image: Image.Image) -> Image.Image:
    height = round(image.height * SHOWN_PX / image.width)
    return image.resize((SHOWN_PX, height), Image.Resampling.NEAREST)


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).float() / 255
