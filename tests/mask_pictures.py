"""Sources of pictures with masks, in memory."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alumnus.data import Sample
from alumnus.evaluation.miou import IGNORE
from alumnus.tokens import Tokens

COLOURS = np.array([[40, 60, 200], [30, 160, 60], [200, 40, 40]], np.uint8)
ALIEN = 3  # a class of no colour of its own: its pixels are white


class Stripes:
    """Upright stripes of three colours, each a class, 48 x 32 px; one corner is ignored."""

    domain, generic = "stripes", False

    def __init__(self, name: str, length: int, seed: int, *, classes: int = 3) -> None:
        self.name = name
        self.classes: tuple[str, ...] | None = ("blue", "green", "red", "alien")[:classes]
        self.reads = 0
        generator = np.random.default_rng(seed)
        self._cuts = np.sort(generator.choice(np.arange(1, 6), (length, 2)), axis=1) * 8
        self._order = np.stack([generator.permutation(3) for _ in range(length)])

    def __len__(self) -> int:
        return len(self._cuts)

    def identity(self, index: int) -> str:
        return f"{self.name}/{index}"

    def read(self, index: int) -> Sample:
        self.reads += 1
        mask = np.repeat(self._order[index], np.diff([0, *self._cuts[index], 48]))
        mask = np.tile(mask.astype(np.uint8), (32, 1))
        image = Image.fromarray(COLOURS[mask])
        mask = mask.copy()
        mask[:4, :4] = IGNORE
        return Sample(image, {"mask": mask})


def colours(patch: int) -> Callable[[Tensor], Tokens]:
    """A model that sees the mean colour of each patch."""

    def fn(images: Tensor) -> Tokens:
        return Tokens.from_map(torch.nn.functional.avg_pool2d(images, patch))

    return fn


def write_mask_folder(folder: Path, *, count: int = 4) -> Path:
    """Stripes as a folder of images and masks with splits train and val."""
    for seed, split in enumerate(("train", "val")):
        stripes = Stripes(split, count, seed)
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            sample = stripes.read(i)
            image, fields = sample.image, sample.fields
            image.save(folder / "images" / split / f"{i}.png")
            Image.fromarray(fields["mask"]).save(folder / "masks" / split / f"{i}.png")
    return folder
