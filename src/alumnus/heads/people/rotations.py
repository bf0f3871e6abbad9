"""Rotations in the three forms that body regression uses: matrices, six numbers, vectors."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "matrix_from_rotvec",
    "matrix_from_six",
    "rotvec_from_matrix",
    "six_from_matrix",
]


def matrix_from_six(six: Tensor) -> Tensor:  # [..., 6] -> [..., 3, 3]
    """The rotation whose first two columns come from six numbers, by Gram-Schmidt.

    The first three numbers are the first column before it is normalised, the next three the
    second. Any six numbers will do, and the map is continuous.

    Source: "On the Continuity of Rotation Representations" (arXiv 1812.07035), equation 15.
    """
    one, two = six[..., :3], six[..., 3:]
    x = F.normalize(one, dim=-1)
    y = F.normalize(two - (x * two).sum(dim=-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], dim=-1)


def six_from_matrix(matrix: Tensor) -> Tensor:  # [..., 3, 3] -> [..., 6]
    """The first two columns, one after the other."""
    return matrix[..., :2].transpose(-1, -2).flatten(-2)


def matrix_from_rotvec(rotvec: Tensor) -> Tensor:  # [..., 3] -> [..., 3, 3]
    """Rodrigues' formula; the vector's length is the angle in radians."""
    angle = rotvec.norm(dim=-1, keepdim=True)
    x, y, z = (rotvec / angle.clamp(min=torch.finfo(rotvec.dtype).tiny)).unbind(dim=-1)
    zero = torch.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    cross = torch.stack(rows, dim=-1).unflatten(-1, (3, 3))
    sine, cosine = angle.sin()[..., None], angle.cos()[..., None]
    eye = torch.eye(3, dtype=rotvec.dtype, device=rotvec.device)
    rotation: Tensor = eye + sine * cross + (1 - cosine) * (cross @ cross)
    return rotation


def rotvec_from_matrix(matrix: Tensor) -> Tensor:  # [..., 3, 3] -> [..., 3]
    """Axis times angle, the angle within 0 to pi.

    By the quaternion's largest component, so that half turns are as exact as small ones.
    """
    m = matrix.flatten(-2)
    a, b, c, d, e, f, g, h, i = m.unbind(dim=-1)
    # four times the outer product of the quaternion (w, x, y, z) with itself
    outer = torch.stack(
        [
            torch.stack([1 + a + e + i, h - f, c - g, d - b], dim=-1),
            torch.stack([h - f, 1 + a - e - i, b + d, c + g], dim=-1),
            torch.stack([c - g, b + d, 1 - a + e - i, f + h], dim=-1),
            torch.stack([d - b, c + g, f + h, 1 - a - e + i], dim=-1),
        ],
        dim=-2,
    )
    largest = outer.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
    index = largest[..., None, None].expand(*largest.shape, 1, 4)
    quaternion = F.normalize(outer.gather(-2, index).squeeze(-2), dim=-1)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    w, xyz = quaternion[..., :1], quaternion[..., 1:]
    sine = xyz.norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(sine, w)
    small = sine < 1e-6
    return torch.where(small, 2 * xyz, xyz * angle / sine.clamp(min=1e-6))
