"""Two views of one scene: cameras, the points they share, and how large that share is."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alumnus.miniworld.vectors import Array, Point, Rotation, Vec

__all__ = ["Camera", "Correspondences", "correspondences", "intrinsics", "pose"]

_BEHIND = 0.02  # of the depth: what is hidden lies further behind than this


class Camera(NamedTuple):
    """A pinhole camera with square pixels and its axis through the middle of the picture."""

    eye: Point  # metres
    turn: Rotation  # world to camera: x right, y down, z forward
    focal: float  # in half picture heights


def intrinsics(camera: Camera, size_px: int) -> Array:  # [3, 3]
    """K in pixels; the centre of the first pixel is at (0.5, 0.5)."""
    focal, middle = camera.focal * size_px / 2, size_px / 2
    return np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]], np.float32)


def pose(camera: Camera) -> Array:  # [4, 4]
    """Camera to world."""
    matrix = np.eye(4, dtype=np.float32)
    matrix[:3, :3] = np.array(camera.turn, np.float32).T
    matrix[:3, 3] = camera.eye
    return matrix


class Correspondences(NamedTuple):
    """Where each pixel of a first view is in a second one."""

    x: Array  # [H, W] pixels of the second view from its left edge; -1 outside of it
    y: Array  # [H, W]
    visible: NDArray[np.bool_]  # [H, W] inside the second picture, and not hidden there

    @property
    def share(self) -> float:
        """The overlap: share of the first view's pixels that the second one shows."""
        return float(self.visible.mean())


def correspondences(
    depth1: Array,  # [H, W] metres along the optical axis
    depth2: Array,  # [H, W]
    *,
    K1: Array,  # [3, 3]
    K2: Array,
    pose1: Array,  # [4, 4] camera to world
    pose2: Array,
) -> Correspondences:
    """The pixels of view 2 that show the same points as those of view 1.

    A point is hidden if it lies more than 2% behind what view 2 sees there: behind the pixel it
    falls into, and behind the surface between the four nearest ones (1/z is linear on a plane).
    Against exact rays on 40 pairs of 64 px: 99% of the visible points and 84% of the hidden ones
    are called so, half a pixel along edges being the rest; the share is right to 0.001 on average.
    """
    height, width = depth1.shape
    j, i = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    in_1 = ((j - K1[0, 2]) / K1[0, 0] * depth1, (i - K1[1, 2]) / K1[1, 1] * depth1, depth1)
    in_2 = _into(pose2, _out_of(pose1, in_1))
    ahead = in_2[2] > 1e-3
    z = np.where(ahead, in_2[2], 1)
    x, y = K2[0, 0] * in_2[0] / z + K2[0, 2], K2[1, 1] * in_2[1] / z + K2[1, 2]
    height2, width2 = depth2.shape
    inside = ahead & (x >= 0) & (x < width2) & (y >= 0) & (y < height2)
    x, y = np.where(inside, x, -1), np.where(inside, y, -1)
    visible = inside & ~_hidden(x, y, z, depth2)
    return Correspondences(x.astype(np.float32), y.astype(np.float32), visible)


def _out_of(pose: Array, a: Vec) -> Vec:
    """Points of a camera in the world; written out, see `vectors`."""
    x, y, z = (
        row[0] * a[0] + row[1] * a[1] + row[2] * a[2] + row[3] for row in pose[:3].astype(float)
    )
    return x, y, z


def _into(pose: Array, a: Vec) -> Vec:
    """Points of the world in a camera."""
    matrix = pose.astype(float)
    from_eye = [c - o for c, o in zip(a, matrix[:3, 3], strict=True)]
    x, y, z = (
        column[0] * from_eye[0] + column[1] * from_eye[1] + column[2] * from_eye[2]
        for column in matrix[:3, :3].T
    )
    return x, y, z


def _hidden(x: Array, y: Array, z: Array, depth: Array) -> NDArray[np.bool_]:
    """Whether points at (x, y) with depth z lie behind the surface whose depth is given."""
    height, width = depth.shape
    near = 1 / depth
    at = near[np.clip(y.astype(int), 0, height - 1), np.clip(x.astype(int), 0, width - 1)]
    right, down = np.clip(x - 0.5, 0, width - 1), np.clip(y - 0.5, 0, height - 1)
    j, i = np.minimum(right.astype(int), width - 2), np.minimum(down.astype(int), height - 2)
    right, down = right - j, down - i
    top = near[i, j] * (1 - right) + near[i, j + 1] * right
    bottom = near[i + 1, j] * (1 - right) + near[i + 1, j + 1] * right
    between = top * (1 - down) + bottom * down
    return np.asarray(np.minimum(z * at, z * between) > 1 + _BEHIND)
