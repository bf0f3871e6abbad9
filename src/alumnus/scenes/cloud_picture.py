"""A cloud of points and its cameras, looked at from three sides.

Axes: k points, n cameras. Poses are camera to world; x right, y down, z forward.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from alumnus.scenes.cloud import Cloud

__all__ = ["cloud_picture", "splatted"]

PANEL = (400, 400)  # px, width and height
FOCAL = 420.0  # px
GROUND = (24, 26, 30)
MARK = (255, 90, 60)  # of cameras
SPLAT = (2, 4)  # px, sides of the squares
SPREAD = 0.9  # share of the points that the size of a scene goes by
FRUSTUM = 0.12  # of that size, length of a camera's drawing
COMMON = 0.1  # length of the mean of cameras' directions, from which they have one in common
# Where to stand: in sizes of the scene from its middle, to the right, down and ahead of the
# cameras' mean direction; and whether what is above the cameras (a ceiling) is left out.
STANDS = (
    ((0.0, -1.1, -2.5), False),
    ((2.4, -1.2, -1.2), False),
    ((0.0, -3.0, -0.6), True),
)

Array = NDArray[np.float64]


class Stand(NamedTuple):
    """A camera that looks at the scene."""

    rotation: Array  # [3, 3] world to camera
    eye: Array  # [3]


def cloud_picture(cloud: Cloud, poses: Array) -> Image.Image:  # poses: [n, 4, 4]
    """Three panels: from behind the cameras, from their right, from above."""
    points = cloud.points.astype(np.float64)
    axes = _axes(poses)  # rows: right, down, ahead
    middle = (3 * np.median(points, axis=0) + poses[:, :3, 3].mean(axis=0)) / 4
    size = float(np.quantile(np.linalg.norm(points - middle, axis=1), SPREAD)) or 1.0
    highest = (poses[:, :3, 3] @ axes[1]).min()
    canvas = Image.new("RGB", (PANEL[0] * len(STANDS), PANEL[1]))
    for number, (offset, without_top) in enumerate(STANDS):
        stand = _looking(middle + size * np.array(offset) @ axes, middle, axes)
        kept = points @ axes[1] > highest if without_top else np.ones(len(points), bool)
        drawn = splatted(Cloud(cloud.points[kept], cloud.colours[kept]), stand)
        panel = Image.fromarray(drawn)
        _draw_cameras(ImageDraw.Draw(panel), stand, poses, FRUSTUM * size)
        canvas.paste(panel, (PANEL[0] * number, 0))
    return canvas


def splatted(cloud: Cloud, stand: Stand) -> NDArray[np.uint8]:  # [H, W, 3]
    """The cloud from a stand: near points over far ones, larger squares where there are few."""
    width, height = PANEL
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = GROUND
    x, y, z = _projected(cloud.points.astype(np.float64), stand)
    ahead = np.flatnonzero((z > 0) & np.isfinite(x) & (np.abs(x) < 1e6) & (np.abs(y) < 1e6))
    order = ahead[np.argsort(-z[ahead])]
    side = int(np.clip(round((width * height / max(1, len(x))) ** 0.5), *SPLAT))
    square = np.stack(np.unravel_index(np.arange(side**2), (side, side)))  # [2, s]
    below = y[order].astype(int)[:, None] + square[0]  # [k, s]: all of a far point come first
    at = x[order].astype(int)[:, None] + square[1]
    inside = (at >= 0) & (at < width) & (below >= 0) & (below < height)
    colours = np.repeat(cloud.colours[order], inside.sum(axis=1), axis=0)
    canvas[below[inside], at[inside]] = colours
    return canvas


def _axes(poses: Array) -> Array:  # [3, 3]
    """Mean right, down and ahead of the cameras, at right angles; the first one's where none is."""
    ahead, down = poses[:, :3, 2].mean(axis=0), poses[:, :3, 1].mean(axis=0)
    if min(np.linalg.norm(ahead), np.linalg.norm(np.cross(down, ahead))) < COMMON:
        ahead, down = poses[0, :3, 2], poses[0, :3, 1]
    return _frame(ahead, down)


def _frame(ahead: Array, down: Array) -> Array:  # [3, 3]
    """Rows right, down, ahead: `ahead` as it is, down as near to `down` as that allows."""
    forward = ahead / max(float(np.linalg.norm(ahead)), 1e-9)
    right = np.cross(down, forward)
    right = right / max(float(np.linalg.norm(right)), 1e-9)
    return np.stack([right, np.cross(forward, right), forward])


def _looking(eye: Array, at: Array, axes: Array) -> Stand:
    """From above the picture's top is ahead of the cameras, else it is up."""
    ahead = at - eye
    steep = abs(ahead @ axes[1]) > 0.9 * np.linalg.norm(ahead)
    return Stand(_frame(ahead, -axes[2] if steep else axes[1]), eye)


def _projected(points: Array, stand: Stand) -> tuple[Array, Array, Array]:
    """Columns, rows and depths in a panel."""
    local = (points - stand.eye) @ stand.rotation.T
    z = local[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        flat = FOCAL * local[:, :2] / z[:, None]
    return flat[:, 0] + PANEL[0] / 2, flat[:, 1] + PANEL[1] / 2, z


def _draw_cameras(pen: ImageDraw.ImageDraw, stand: Stand, poses: Array, length: float) -> None:
    corners = length * np.array(
        [[0, 0, 0], [-0.6, -0.45, 1], [0.6, -0.45, 1], [0.6, 0.45, 1], [-0.6, 0.45, 1]]
    )
    lines: Sequence[tuple[int, int]] = [(0, k) for k in range(1, 5)]
    lines = [*lines, (1, 2), (2, 3), (3, 4), (4, 1)]
    for pose in poses:
        x, y, z = _projected(corners @ pose[:3, :3].T + pose[:3, 3], stand)
        if (z <= 0).any():
            continue
        for a, b in lines:
            pen.line([(x[a], y[a]), (x[b], y[b])], fill=MARK)
