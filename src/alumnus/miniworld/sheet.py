"""Contact sheets of the miniworld, as in the docs: `python -m alumnus.miniworld.sheet FOLDER`."""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alumnus.miniworld.materials import MATERIALS
from alumnus.miniworld.objects import CLASSES, Scene, render_object
from alumnus.miniworld.shapes import SHAPES

__all__ = ["class_sheet", "label_sheet", "tiled"]

Picture = NDArray[np.uint8]  # [H, W, 3]
_FAR_M = 4.0  # depth shown as black
_TINTS = np.array([[40, 44, 52], [240, 170, 60], [90, 150, 220]], np.uint8)  # by MASK_NAMES


def class_sheet(*, seed: int = 1, size_px: int = 80) -> Picture:
    """One scene of each class: a row per material, a column per shape."""
    rendered = (render_object(seed, index, size_px) for index in range(len(CLASSES)))
    scenes = {scene.cls: scene for scene in rendered}
    by_material = sorted(scenes, key=lambda cls: divmod(cls, len(MATERIALS))[::-1])
    return tiled([scenes[cls].image for cls in by_material], columns=len(SHAPES))


def label_sheet(*, seed: int = 2, size_px: int = 80, count: int = 8) -> Picture:
    """`count` scenes: the picture, below it the mask, below that the depth."""
    scenes = [render_object(seed, index, size_px) for index in range(count)]
    rows = [s.image for s in scenes], [_TINTS[s.mask] for s in scenes], map(_depth, scenes)
    return tiled([picture for row in rows for picture in row], columns=count)


def tiled(pictures: list[Picture], *, columns: int) -> Picture:
    """Pictures of one size side by side, row by row."""
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)


def _depth(scene: Scene) -> Picture:
    near = np.clip(1 - scene.depth / _FAR_M, 0, 1)
    return np.repeat((near * 255).astype(np.uint8)[..., None], 3, axis=2)


def main() -> None:
    """Write the two sheets of the docs."""
    parser = argparse.ArgumentParser(prog="python -m alumnus.miniworld.sheet")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    sheets = {"classes": class_sheet(), "labels": label_sheet()}
    for name, sheet in sheets.items():
        Image.fromarray(sheet).save(folder / f"miniworld_{name}.png", optimize=True)


if __name__ == "__main__":
    main()
