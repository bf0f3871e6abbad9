"""Posed pictures, and what a camera in the same place sees that is turned and zoomed.

All crops and changes of size are such cameras: their intrinsics and poses are true, their pixels
square and their axis goes through the middle of the picture, which a network that is not told
intrinsics could not know otherwise.

Axes: H W pixels of a stored picture, h w of its kept copy, S side of a seen one.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from alumnus.data import Source
from alumnus.evaluation.matching import View
from alumnus.evaluation.view_pairs import Posed, read_picture

__all__ = ["Frame", "Frames", "Gaze", "ahead", "drawn_gaze", "following", "look"]

KEPT_BYTES = 1 << 30  # of frames in memory, each process
MOST_ZOOM = 1.15  # of training: a nearer look shows other distances
CELLS = 12  # along each side: what the gaze of a second view is chosen by


class Frame(NamedTuple):
    """A posed picture."""

    picture: Tensor  # [3, h, w] uint8, RGB; smaller than the depth where less is enough
    view: View  # of the stored picture, H x W
    scene: int | str
    paired: bool  # as in `Posed`

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.picture.nbytes + self.view.depth.nbytes


class Gaze(NamedTuple):
    """Where a virtual camera looks: through (x, y, 1) of the real one's frame, `zoom` times."""

    x: float
    y: float
    zoom: float = 1.0


class Frames:
    """The posed pictures of a source, kept in memory once read, as far as there is room.

    Pictures are kept at the size at which a look straight ahead is `size_px` wide.
    """

    def __init__(self, source: Source, *, size_px: int) -> None:
        self.source, self.size_px = source, size_px
        self._kept: dict[int, Frame] = {}
        self._bytes = 0

    def __getitem__(self, index: int) -> Frame:
        if index in self._kept:
            return self._kept[index]
        picture, posed = read_picture(self.source, index)
        frame = Frame(self._shrunk(picture, posed), posed.view, posed.scene, posed.paired)
        if self._bytes + frame.nbytes <= KEPT_BYTES:
            self._kept[index] = frame
            self._bytes += frame.nbytes
        return frame

    def _shrunk(self, picture: Image.Image, posed: Posed) -> Tensor:
        K = posed.view.K
        focal = self.size_px / 2 / _reach(posed.view)
        scales = [min(1.0, focal / float(K[k, k])) for k in (0, 1)]
        size = [
            max(1, round(side * scale)) for side, scale in zip(picture.size, scales, strict=True)
        ]
        rgb = picture.convert("RGB")
        if size != list(picture.size):
            rgb = rgb.resize((size[0], size[1]), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def ahead() -> Gaze:
    """Along the axis of the real camera."""
    return Gaze(0.0, 0.0)


def drawn_gaze(view: View, generator: torch.Generator) -> Gaze:
    """A random one that stays inside of the picture."""
    x, y, zoom = torch.rand(3, generator=generator).tolist()
    zoom = 1 + (MOST_ZOOM - 1) * zoom
    (left, right), (top, bottom) = _room(view, zoom)
    return Gaze(left + (right - left) * x, top + (bottom - top) * y, zoom)


def following(first: Frame, gaze: Gaze, second: Frame, *, zoom: float) -> Gaze:
    """A look of the second camera at what the first one's look shows: the middle of that.

    Where it sees nothing of it, straight ahead.
    """
    seen = look(first, gaze, size_px=CELLS).view
    v, u = torch.meshgrid(torch.arange(CELLS) + 0.5, torch.arange(CELLS) + 0.5, indexing="ij")
    rays = torch.stack([u, v, torch.ones_like(u)], dim=-1).double() @ torch.linalg.inv(seen.K).T
    world = (rays * seen.depth[..., None]) @ seen.pose[:3, :3].T + seen.pose[:3, 3]
    there = (world - second.view.pose[:3, 3]) @ second.view.pose[:3, :3]  # [S, S, 3]
    z = there[..., 2].clamp(min=1e-6)
    x, y = there[..., 0] / z, there[..., 1] / z
    (left, right), (top, bottom) = _field(second.view)
    inside = (seen.depth > 0) & (there[..., 2] > 1e-6)
    inside &= (x > left) & (x < right) & (y > top) & (y < bottom)
    if not inside.any():
        return ahead()._replace(zoom=zoom)
    sideways, upright = _room(second.view, zoom)
    return Gaze(_within(x[inside].mean(), sideways), _within(y[inside].mean(), upright), zoom)


def look(frame: Frame, gaze: Gaze, *, size_px: int) -> Frame:
    """The picture [3, S, S], depth, intrinsics and pose of a virtual camera.

    Zoom 1 straight ahead is the largest square around the real camera's axis. Colours are
    interpolated, depths are those of the pixel that a ray falls into. What lies outside of the
    stored picture is black and without depth.
    """
    depth, K, pose = frame.view
    height, width = depth.shape
    turn = _turn(gaze)
    focal, middle = gaze.zoom * size_px / 2 / _reach(frame.view), size_px / 2
    own = torch.tensor([[focal, 0, middle], [0, focal, middle], [0, 0, 1]], dtype=torch.float64)
    v, u = torch.meshgrid(torch.arange(size_px) + 0.5, torch.arange(size_px) + 0.5, indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1).double()
    rays = pixels @ torch.linalg.inv(own).T @ turn.T  # [S, S, 3] in the real camera's frame
    ahead_of = rays[..., 2] > 1e-6
    z = rays[..., 2].clamp(min=1e-6)
    x = K[0, 0] * rays[..., 0] / z + K[0, 2]
    y = K[1, 1] * rays[..., 1] / z + K[1, 2]
    inside = ahead_of & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    row, column = y.long().clamp(0, height - 1), x.long().clamp(0, width - 1)
    found = torch.where(inside, depth[row, column] / z.float(), 0.0)  # a virtual ray has z = 1
    grid = torch.stack([2 * x / width - 1, 2 * y / height - 1], dim=-1).float()
    colours = F.grid_sample(
        frame.picture[None].float(), grid[None], padding_mode="border", align_corners=False
    )[0]
    seen = torch.where(inside, colours, 0.0).round().clamp(0, 255).byte()
    turned = pose.clone()
    turned[:3, :3] = pose[:3, :3] @ turn
    return frame._replace(picture=seen, view=View(found, own, turned))


def _turn(gaze: Gaze) -> Tensor:  # [3, 3] float64
    """The smallest rotation that brings the axis (0, 0, 1) to the gaze."""
    length = math.sqrt(gaze.x**2 + gaze.y**2 + 1)
    a, b, c = gaze.x / length, gaze.y / length, 1 / length
    cross = torch.tensor([[0, 0, a], [0, 0, b], [-a, -b, 0]], dtype=torch.float64)
    turn: Tensor = torch.eye(3, dtype=torch.float64) + cross + cross @ cross / (1 + c)
    return turn


def _field(view: View) -> tuple[tuple[float, float], tuple[float, float]]:
    """What the picture covers: x / z from left to right, y / z from top to bottom."""
    height, width = view.depth.shape
    K = view.K.tolist()
    return (
        (-K[0][2] / K[0][0], (width - K[0][2]) / K[0][0]),
        (-K[1][2] / K[1][1], (height - K[1][2]) / K[1][1]),
    )


def _reach(view: View) -> float:
    """Tangent of half the field of view of the largest square around the axis."""
    (left, right), (top, bottom) = _field(view)
    return max(min(-left, right, -top, bottom), 1e-3)


def _room(view: View, zoom: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where gazes may go, along x and y, so that their pictures stay inside (but for corners)."""
    half = _reach(view) / zoom
    (left, right), (top, bottom) = _field(view)
    return (
        (min(left + half, 0.0), max(right - half, 0.0)),
        (min(top + half, 0.0), max(bottom - half, 0.0)),
    )


def _within(value: Tensor, room: tuple[float, float]) -> float:
    return min(max(float(value), room[0]), room[1])
