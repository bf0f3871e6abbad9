"""The camera of body regression: rays as features, points to pixels and back, depth as nearness.

Axes: B images, P people, h w grid. Points in metres, x right, y down, z forward; pixels from the
picture's corner. `K` [..., 3, 3] are intrinsics in pixels. Everything is float32, under autocast
too: bfloat16 is off by pixels and centimetres.
"""

import math

import torch
from torch import Tensor

from alumnus.tokens import Grid

__all__ = [
    "camera_channels",
    "camera_embedding",
    "default_intrinsics",
    "distance_from_nearness",
    "nearness_from_distance",
    "project",
    "reference_focal",
    "unproject",
]

FIELD_OF_VIEW = math.pi / 3  # of the reference camera, and of a picture without intrinsics
FARTHEST_M = 50.0
_EPSILON = 1e-10


def camera_channels(bands: int) -> int:
    """Width of `camera_embedding`."""
    return 3 + 2 * 3 * bands


def camera_embedding(
    K: Tensor,  # [B, 3, 3]
    *,
    grid: Grid,
    patch_size: int,
    bands: int,
    max_resolution: int,
) -> Tensor:  # [B, camera_channels, h, w]
    """The viewing ray of each cell's centre, with sines and cosines of its coordinates.

        r = K^-1 (row_px, column_px, 1),   (r, sin(pi f_k r), cos(pi f_k r))

    with `bands` frequencies f_k evenly from 1 to max_resolution / 2, coordinate by coordinate.
    Row and column stand in each other's place, as the weights of Multi-HMR expect it.

    Source: Multi-HMR (arXiv 2402.14654), section 3.3, after Perceiver (arXiv 2103.03206).
    """
    h, w = grid
    row, column = (
        (torch.arange(cells, device=K.device, dtype=torch.float32) + 0.5) * patch_size
        for cells in (h, w)
    )
    ones = torch.ones(h, w, device=K.device)
    pixels = torch.stack([row[:, None] * ones, column * ones, ones], dim=-1)  # [h, w, 3]
    rays = _turned(pixels.flatten(0, 1), torch.linalg.inv(K.float())).unflatten(1, (h, w))
    frequencies = torch.linspace(1.0, max_resolution / 2, bands, device=K.device)
    waves = (math.pi * rays[..., None] * frequencies).flatten(-2)  # [B, h, w, 3 * bands]
    return torch.cat([rays, waves.sin(), waves.cos()], dim=-1).permute(0, 3, 1, 2)


def reference_focal(side_px: float) -> float:
    """Focal length in pixels of a square picture of 60 degrees."""
    return side_px / (2 * math.tan(FIELD_OF_VIEW / 2))


def default_intrinsics(side_px: int) -> Tensor:  # [3, 3]
    """What is assumed of a square picture that says nothing: 60 degrees, centred."""
    focal, middle = reference_focal(side_px), side_px / 2
    return torch.tensor([[focal, 0, middle], [0, focal, middle], [0, 0, 1.0]])


def distance_from_nearness(nearness: Tensor, K: Tensor, *, side_px: float) -> Tensor:  # [P]
    """Metres along the optical axis of a regressed value [P]; see `nearness_from_distance`."""
    factor = K[..., 0, 0] / reference_focal(side_px)
    return ((nearness * factor).exp() - _EPSILON).clamp(0, FARTHEST_M)


def nearness_from_distance(distance: Tensor, K: Tensor, *, side_px: float) -> Tensor:  # [P]
    """Log depth, as seen by the reference camera: log(d) f_ref / f.

    Source: Multi-HMR (arXiv 2402.14654), section 3.3.
    """
    return (distance + _EPSILON).log() * (reference_focal(side_px) / K[..., 0, 0])


def project(points: Tensor, K: Tensor) -> Tensor:  # [P, n, 3], [P, 3, 3] -> [P, n, 2]
    """Where points are on the picture."""
    on_plane = points.float() / points[..., 2:].float()
    return _turned(on_plane, K)[..., :2]


def unproject(pixels: Tensor, distance: Tensor, K: Tensor) -> Tensor:
    """Points [P, n, 3] at pixels [P, n, 2] and depths [P, n, 1] along the optical axis."""
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1).float()
    return _turned(homogeneous, torch.linalg.inv(K.float())) * distance


def _turned(points: Tensor, matrices: Tensor) -> Tensor:  # [P, n, 3], [P, 3, 3]
    """Products that autocast leaves alone."""
    with torch.autocast(points.device.type, enabled=False):
        products: Tensor = points @ matrices.float().transpose(-1, -2)
    return products
