"""Cameras in an empty room, whose walls tell exactly what each pixel shows."""

from typing import NamedTuple

import torch
from torch import Tensor

from alumnus.heads.two_view.geometry import into_camera
from alumnus.scenes.pointmaps import Pointmaps, Seen

__all__ = ["FOCAL", "Cameras", "answer", "cameras", "pairs"]

HALF_ROOM = torch.tensor([3.0, 2.0, 4.0], dtype=torch.float64)  # metres
FOCAL = 40.0  # px


class Cameras(NamedTuple):
    """Cameras in a room, and the point of the wall that each pixel shows."""

    poses: Tensor  # [n, 4, 4]
    world: list[Tensor]  # [H, W, 3] each


def cameras(count: int, *, seed: int = 0) -> Cameras:
    """Cameras that look about; every other one is upright."""
    generator = torch.Generator().manual_seed(seed)
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    world = []
    for k, pose in enumerate(poses):
        turn, shift = torch.rand(2, 3, generator=generator, dtype=torch.float64) - 0.5
        axis = torch.tensor([0.2, 0.8, 0.1], dtype=torch.float64) * turn
        cross = torch.linalg.cross(torch.eye(3, dtype=torch.float64), axis.expand(3, 3))
        pose[:3, :3], pose[:3, 3] = torch.linalg.matrix_exp(cross), 2 * shift
        height, width = (36, 48) if k % 2 else (48, 36)
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        rays = torch.stack([(x - (width - 1) / 2) / FOCAL, (y - (height - 1) / 2) / FOCAL], dim=-1)
        rays = torch.cat([rays, torch.ones(height, width, 1)], dim=-1).double() @ pose[:3, :3].T
        to_wall = (HALF_ROOM * rays.sign() - pose[:3, 3]) / rays
        world.append(pose[:3, 3] + rays * to_wall.min(dim=-1, keepdim=True).values)
    return Cameras(poses, world)


def answer(scene: Cameras, i: int, j: int, *, scale: float, noise: float = 0.0) -> Pointmaps:
    generator = torch.Generator().manual_seed(17 * i + j)
    maps = [
        into_camera(scene.world[k][None], scene.poses[i][None])[0].float() * scale for k in (i, j)
    ]
    maps = [m + noise * torch.randn(m.shape, generator=generator) for m in maps]
    sure = [torch.rand(m.shape[:2], generator=generator) + 0.1 for m in maps]
    return Pointmaps(i, j, maps[0], maps[1], sure[0], sure[1])


def pairs(scene: Cameras, ends: list[tuple[int, int]], *, noise: float = 0.0) -> list[Seen]:
    """Answers, each in a unit of its own, the mean of which is the metre; exact matches."""
    drawn = torch.randn(2 * len(ends), generator=torch.Generator().manual_seed(1)) / 4
    units = (drawn - drawn.mean()).exp().tolist()
    return [
        Seen(
            answer(scene, i, j, scale=units[2 * k], noise=noise),
            answer(scene, j, i, scale=units[2 * k + 1], noise=noise),
            agree=100 - k,
            **matches(scene, i, j),
        )
        for k, (i, j) in enumerate(ends)
    ]


def matches(scene: Cameras, i: int, j: int) -> dict[str, Tensor]:
    """Pixels of photograph i and where photograph j shows them: places, not whole pixels."""
    height, width = scene.world[j].shape[:2]
    local = into_camera(scene.world[i][None], scene.poses[j][None])[0]
    middle = torch.tensor([width - 1, height - 1]) / 2
    there = FOCAL * local[..., :2] / local[..., 2:] + middle
    shown = (local[..., 2] > 0) & ((there - middle).abs() <= middle).all(dim=-1)
    rows, columns = shown.nonzero().T
    first = torch.stack([columns, rows], dim=1)
    return {"first": first, "second": there[shown], "match_sure": torch.ones(len(first))}
