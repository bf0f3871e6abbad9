"""Folders of images with a mask or a depth beside each: ADE20K, Cityscapes, or a plain layout."""

import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alumnus.data.batch import Sample
from alumnus.data.decode import DECODER_ERRORS, BrokenImageError
from alumnus.data.folder import FolderSource
from alumnus.data.names import Names
from alumnus.spelling import unknown

__all__ = ["MaskFolderSource", "MaskLayout", "mask_layout"]

IGNORED = 255
# Cityscapes: the 19 classes that are evaluated, and their ids in *_labelIds.png.
CITYSCAPES = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17,
    "traffic light": 19, "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23,
    "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32,
    "bicycle": 33,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MaskLayout:
    """Where images and masks lie, and what the values of a mask stand for.

    Depths are laid out as masks are: `held` says which of the two.
    """

    images: str  # folder with a subfolder for each split
    masks: str
    splits: Mapping[str, str] = field(default_factory=dict)  # other words for a split
    image_end: str = ""  # of a name, after what it shares with its mask; "" the suffix
    mask_end: str = ".png"
    table: NDArray[np.uint8] | None = None  # [256] class of a mask's value; None: the value
    classes: tuple[str, ...] | None = None
    held: Literal["mask", "depth"] = "mask"

    def mask_of(self, image: str) -> str:
        """Relative path of the mask of the image at this relative path."""
        end = self.image_end or PurePosixPath(image).suffix
        return image.removesuffix(end) + self.mask_end


def mask_layout(folder: Path) -> MaskLayout | None:
    """The layout of a folder; None where it is none of them.

    - ADE20K, as `ADEChallengeData2016`: `images/training`, `annotations/training`, the same with
      `validation` (the split "test"); 150 classes, 0 ("other") is ignored
    - Cityscapes: `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`, `gtFine/SPLIT/CITY/
      *_gtFine_labelIds.png`; 19 classes, other ids are ignored; "test" is its split val, whose
      labels are public
    - any other: `images/SPLIT/NAME.jpg`, `masks/SPLIT/NAME.png`; a mask's values are classes from
      0 and 255 is ignored; `classes.txt`, where there is one, names a class a line
    - with depth: `images/SPLIT/NAME.jpg`, `depth/SPLIT/NAME.png` of 16 bits in millimetres, or
      `depth/SPLIT/NAME.npy`, floats in metres; 0 is no depth
    """
    if (folder / "leftImg8bit").is_dir() and (folder / "gtFine").is_dir():
        return MaskLayout(
            images="leftImg8bit",
            masks="gtFine",
            splits={"test": "val"},
            image_end="_leftImg8bit.png",
            mask_end="_gtFine_labelIds.png",
            table=_table(dict(zip(CITYSCAPES.values(), range(len(CITYSCAPES)), strict=True))),
            classes=tuple(CITYSCAPES),
        )
    if not (folder / "images").is_dir():
        return None
    if (folder / "annotations" / "training").is_dir():
        return MaskLayout(
            images="images",
            masks="annotations",
            splits={"train": "training", "val": "validation", "test": "validation"},
            table=_table({value: value - 1 for value in range(1, 151)}),
            classes=_ade20k_names(folder / "objectInfo150.txt"),
        )
    held: Literal["mask", "depth"] = "mask" if (folder / "masks").is_dir() else "depth"
    masks = "masks" if held == "mask" else "depth"
    if not (folder / masks).is_dir():
        return None
    tests = [s for s in ("test", "val", "validation") if (folder / masks / s).is_dir()]
    arrays = held == "depth" and any((folder / masks).rglob("*.npy"))
    return MaskLayout(
        images="images",
        masks=masks,
        splits={"test": tests[0]} if tests else {},
        mask_end=".npy" if arrays else ".png",
        classes=_names(folder / "classes.txt") if held == "mask" else None,
        held=held,
    )


class MaskFolderSource:
    """The images of one split with the field "mask" [H, W] uint8, 255 where no class counts.

    Or with the field "depth" [H, W], as the file has it. ValueError where an image has none.
    """

    def __init__(
        self,
        folder: Path,
        layout: MaskLayout,
        *,
        split: str | None = None,  # None: train
        name: str,
        domain: str = "default",
        generic: bool = False,
    ) -> None:
        wanted = split or "train"
        chosen = layout.splits.get(wanted, wanted)
        if not (folder / layout.images / chosen).is_dir():
            held = [p.name for p in (folder / layout.images).iterdir() if p.is_dir()]
            raise unknown(f"split (a folder in {str(folder / layout.images)!r})", wanted, held)
        self.name, self.domain, self.generic = name, domain, generic
        self.classes, self._layout = layout.classes, layout
        self._masks = folder / layout.masks / chosen
        self._images = FolderSource(folder / layout.images / chosen, name=name)
        paths = [layout.mask_of(self._images.identity(i)) for i in range(len(self._images))]
        there = {
            Path(here, file).relative_to(self._masks).as_posix()
            for here, _, files in os.walk(self._masks, followlinks=True)
            for file in files
        }
        lacking = [path for path in paths if path not in there]
        if lacking:
            raise ValueError(
                f"{len(lacking)} of {len(paths)} images of {name!r} have no {layout.held}; the "
                f"first that is not there: {str(self._masks / lacking[0])!r}"
            )
        self._paths = Names(paths)

    def __len__(self) -> int:
        return len(self._images)

    def identity(self, index: int) -> str:
        """The image's path relative to the folder of its split."""
        return self._images.identity(index)

    def read(self, index: int) -> Sample:
        """Decode one image and its mask or depth."""
        return Sample(self._images.read(index).picture, {self._layout.held: self._mask(index)})

    def _mask(self, index: int) -> NDArray[Any]:  # [H, W]
        path = self._masks / self._paths[index]
        try:
            data = io.BytesIO(path.read_bytes())
            mask = np.asarray(
                np.load(data, allow_pickle=False) if path.suffix == ".npy" else Image.open(data)
            )
        except DECODER_ERRORS as error:
            why = f"its {self._layout.held} {path.name!r} is damaged ({error})"
            raise BrokenImageError(self.name, self.identity(index), why) from error
        if self._layout.table is None or mask.dtype != np.uint8:
            return mask
        return np.asarray(self._layout.table[mask])


def _table(classes: Mapping[int, int]) -> NDArray[np.uint8]:
    """From values to classes; all others are ignored."""
    table = np.full(256, IGNORED, np.uint8)
    table[list(classes)] = list(classes.values())
    return table


def _ade20k_names(path: Path) -> tuple[str, ...]:
    """The first word of each of the 150 classes, in the order of the official list.

    Without that file, which comes with the images, their numbers.
    """
    names = {}
    if path.is_file():
        for line in path.read_text(errors="replace").splitlines():
            cells = line.split("\t")
            if re.fullmatch(r"\d+", cells[0].strip()) and len(cells) > 1:
                names[int(cells[0])] = re.split("[,;]", cells[-1])[0].strip()
    return tuple(names.get(number, str(number)) for number in range(1, 151))


def _names(path: Path) -> tuple[str, ...] | None:
    """One class a line."""
    return tuple(path.read_text().rstrip().splitlines()) if path.is_file() else None
