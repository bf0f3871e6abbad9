"""Contact sheets of the miniworld, as in the docs: `python -m alumnus.miniworld.sheet FOLDER`."""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from alumnus.miniworld.body import JOINTS, LINKS
from alumnus.miniworld.materials import MATERIALS
from alumnus.miniworld.objects import CLASSES, Scene, render_object
from alumnus.miniworld.people import Person, render_person
from alumnus.miniworld.shapes import SHAPES

__all__ = ["class_sheet", "label_sheet", "people_label_sheet", "people_sheet", "skeleton", "tiled"]

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


def people_sheet(*, seed: int = 1, size_px: int = 96, rows: int = 4, columns: int = 10) -> Picture:
    """The first people of a series."""
    return tiled(
        [render_person(seed, index, size_px).image for index in range(rows * columns)],
        columns=columns,
    )


def people_label_sheet(*, seed: int = 2, size_px: int = 120, count: int = 8) -> Picture:
    """`count` people: the picture, its joints, the mask, the depth."""
    people = [render_person(seed, index, size_px) for index in range(count)]
    rows = (
        [person.image for person in people],
        [skeleton(person) for person in people],
        [_TINTS[person.mask] for person in people],
        [_depth(person) for person in people],
    )
    return tiled([picture for row in rows for picture in row], columns=count)


def skeleton(person: Person) -> Picture:
    """The joints over a darkened picture: left orange, right blue, rings where hidden."""
    image = Image.fromarray(person.image // 2)
    draw = ImageDraw.Draw(image)
    at = {
        name: (float(x), float(y)) for (name, _), (x, y) in zip(JOINTS, person.pixels, strict=True)
    }
    colours = {"left": (250, 170, 50), "right": (90, 180, 255)}
    for one, other in LINKS:
        draw.line([at[one], at[other]], fill=colours.get(other.split("_")[-1], (255, 255, 255)))
    for (name, _), seen in zip(JOINTS, person.visible, strict=True):
        x, y = at[name]
        colour = colours.get(name.split("_")[-1], (255, 255, 255))
        draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=colour if seen else None, outline=colour)
    return np.asarray(image)


def tiled(pictures: list[Picture], *, columns: int) -> Picture:
    """Pictures of one size side by side, row by row."""
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)


def _depth(scene: Scene | Person) -> Picture:
    near = np.clip(1 - scene.depth / _FAR_M, 0, 1)
    return np.repeat((near * 255).astype(np.uint8)[..., None], 3, axis=2)


def main() -> None:
    """Write the sheets of the docs."""
    parser = argparse.ArgumentParser(prog="python -m alumnus.miniworld.sheet")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    sheets = {
        "classes": class_sheet(),
        "labels": label_sheet(),
        "people": people_sheet(),
        "people_labels": people_label_sheet(),
    }
    for name, sheet in sheets.items():
        Image.fromarray(sheet).save(folder / f"miniworld_{name}.png", optimize=True)


if __name__ == "__main__":
    main()
