"""Points from depth maps and cameras.

Axes: B images, H W pixels. Poses are camera to world; x right, y down, z forward.
"""

import torch
from torch import Tensor

__all__ = ["into_camera", "unprojected"]


def unprojected(
    depth: Tensor,  # [B, H, W] along the optical axis
    K: Tensor,  # [B, 3, 3] pixels
    pose: Tensor,  # [B, 4, 4]
    *,
    centre: float = 0.0,  # coordinate of the first pixel's centre: 0, or 0.5 from its edge
) -> Tensor:  # [B, H, W, 3]
    """World points of the pixels' centres; those of a depth of 0 or less mean nothing."""
    height, width = depth.shape[1:]
    y, x = torch.meshgrid(
        torch.arange(height, device=depth.device) + centre,
        torch.arange(width, device=depth.device) + centre,
        indexing="ij",
    )
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1)  # [H, W, 3]
    rays: Tensor = pixels @ torch.linalg.inv(K)[:, None].transpose(-1, -2)  # [B, H, W, 3]
    turn, eye = pose[:, None, :3, :3], pose[:, None, None, :3, 3]
    return (rays * depth[..., None]) @ turn.transpose(-1, -2) + eye


def into_camera(points: Tensor, pose: Tensor) -> Tensor:  # [B, H, W, 3], [B, 4, 4]
    """World points in the frame of a camera."""
    turn, eye = pose[:, None, :3, :3], pose[:, None, None, :3, 3]
    return (points - eye) @ turn  # a row times R is R^T times the column
