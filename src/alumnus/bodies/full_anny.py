"""Anny as its authors ship it: 13,718 vertices, where the package `anny` is installed.

Heads predict the rotations and the 16 shape numbers of the baked body (`baked`). Rotations are
Anny's own, of the 20 bones that were kept; for a shape the six phenotypes are sought whose body is
nearest. Code Apache-2.0, data CC0: topology `anny` only, never its licensed ones. The first time it
takes two minutes, 2 GB of memory and 790 MB of disk, in a cache of its own.

Axes: P people, V vertices, C = 6 phenotypes.
"""

from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from alumnus.bodies.baked import BakedAnny
from alumnus.miniworld.body import BODY_FILE, BONES, load_body
from alumnus.miniworld.torch_body import TorchBody

__all__ = ["FullAnny", "nearest_phenotypes"]

PHENOTYPES = ("gender", "age", "muscle", "weight", "height", "proportions")  # each 0 to 1
ROUNDS = 12
DAMPING = 1e-3  # of the mean diagonal: muscle and weight are nearly alike
STEP = 0.02  # of the differences that stand for derivatives


class FullAnny:
    """The body of the package `anny`; ValueError where that is not installed."""

    name = "anny-full"
    joints, links, primary = BakedAnny.joints, BakedAnny.links, BakedAnny.primary

    def __init__(self) -> None:
        try:
            anny = import_module("anny")
        except ModuleNotFoundError as error:
            if error.name != "anny":
                raise
            raise ValueError(
                "the full Anny body needs the package anny: pip install 'alumnus[anny]'; --body "
                "anny is the same body with fewer vertices, and is always there"
            ) from error
        self._model: Any = anny.Anny(topology="anny", skinning_method="lbs").to(torch.float32)
        labels = list(self._model.bone_labels)
        self._bones = [labels.index(name) for _, name, _ in BONES]
        self._same = load_file(BODY_FILE)["anny_vertices"].long()  # Anny's, of the baked body's
        self._baked = load_body()

    @property
    def faces(self) -> NDArray[np.intp]:
        """[T, 3]."""
        return np.asarray(self._model.faces, np.intp)

    def posed(self, shape: Tensor, rotations: Tensor, expression: Tensor) -> tuple[Tensor, Tensor]:
        """Vertices [P, V, 3] and the baked body's joints [P, J, 3]; it has no expressions here."""
        if not len(shape):
            return torch.zeros(0, int(self.faces.max()) + 1, 3), torch.zeros(0, len(self.joints), 3)
        phenotypes = nearest_phenotypes(self, shape.cpu())
        pose = torch.eye(4).repeat(len(shape), self._model.bone_count, 1, 1)
        pose[:, self._bones, :3, :3] = rotations.cpu().float()
        vertices, heads = self.of_phenotypes(phenotypes, pose)
        points = torch.cat([vertices[:, self._same], heads], dim=1)
        return vertices, points[:, torch.from_numpy(self._baked.joint_point)]

    def of_phenotypes(self, phenotypes: Tensor, pose: Tensor | None) -> tuple[Tensor, Tensor]:
        """Vertices [P, V, 3] and heads of the kept bones of phenotypes [P, C]; None: at rest."""
        named = {name: phenotypes[:, i] for i, name in enumerate(PHENOTYPES)}
        with torch.no_grad():
            found = self._model(pose, named)
        heads = found["bone_poses"][:, self._bones, :3, 3]
        return found["vertices"].float(), heads.float()

    def shared_points(self, phenotypes: Tensor) -> Tensor:  # [P, C] -> [P, n]
        """At rest, every tenth point that the baked body has too, flat."""
        vertices, _ = self.of_phenotypes(phenotypes, None)
        return vertices[:, self._same[::10]].flatten(1)


def nearest_phenotypes(body: FullAnny, shape: Tensor) -> Tensor:  # [P, 16] -> [P, C]
    """The phenotypes whose body at rest is nearest to the baked body's of these shape numbers.

    Gauss-Newton with differences for derivatives: bodies are linear in the phenotypes between a
    few grid points.
    """
    baked = TorchBody()
    wanted = (
        baked.mean[: baked.vertices]
        + (shape @ baked.basis).unflatten(1, (-1, 3))[:, : baked.vertices]
    )
    wanted = wanted[:, ::10].flatten(1)  # [P, n]
    count, ways = len(shape), len(PHENOTYPES)
    found = torch.full((count, ways), 0.5)
    steps = STEP * torch.eye(ways)
    for _ in range(ROUNDS):
        middle = found.clamp(STEP, 1 - STEP)
        tried = torch.cat([found[:, None], middle[:, None] + steps, middle[:, None] - steps], dim=1)
        points = body.shared_points(tried.flatten(0, 1)).unflatten(0, (count, 1 + 2 * ways))
        here, ahead, behind = points.split([1, ways, ways], dim=1)
        slope = (ahead - behind) / (2 * STEP)  # [P, C, n]
        square = slope @ slope.transpose(1, 2)
        mean = square.diagonal(dim1=1, dim2=2).mean(dim=1)
        square = square + DAMPING * mean[:, None, None] * torch.eye(ways)
        gap = slope @ (wanted - here[:, 0])[..., None]
        found = (found + torch.linalg.solve(square, gap)[..., 0]).clamp(0, 1)
    return found
