"""Contact sheets of the miniworld, as in the docs: `python -m alumnus.miniworld.sheet FOLDER`."""

import argparse
import colorsys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from alumnus.miniworld.body import JOINTS, LINKS
from alumnus.miniworld.materials import MATERIALS
from alumnus.miniworld.objects import CLASSES, Scene, render_object
from alumnus.miniworld.people import Person, render_person
from alumnus.miniworld.rooms import KINDS, RoomPair, RoomView, render_room
from alumnus.miniworld.shapes import SHAPES

__all__ = [
    "class_sheet",
    "label_sheet",
    "match_sheet",
    "people_label_sheet",
    "people_sheet",
    "room_sheet",
    "skeleton",
    "tiled",
]

Picture = NDArray[np.uint8]  # [H, W, 3]
_FAR_M = 4.0  # depth shown as black
_ROOM_FAR_M = 5.0
_TINTS = np.array([[40, 44, 52], [240, 170, 60], [90, 150, 220]], np.uint8)  # by MASK_NAMES
_HUES = [colorsys.hsv_to_rgb(k * 0.618 % 1, 0.55, 0.9) for k in range(len(KINDS))]
_KIND_TINTS = (np.array(_HUES) * 255).astype(np.uint8)


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


def room_sheet(*, seed: int = 1, size_px: int = 96, count: int = 12) -> Picture:
    """`count` pairs of views, the two of each side by side, four pairs a row."""
    pairs = [render_room(seed, index, size_px) for index in range(count)]
    return tiled([view.image for pair in pairs for view in pair.views], columns=8)


def match_sheet(*, seed: int = 2, size_px: int = 144, count: int = 3) -> Picture:
    """A row per pair: both views and what corresponds, their depths, their kinds of things."""
    rows = []
    for pair in (render_room(seed, index, size_px) for index in range(count)):
        depths = [_depth(view, far_m=_ROOM_FAR_M) for view in pair.views]
        kinds = [_KIND_TINTS[pair.kinds[view.ids]] for view in pair.views]
        rows.append(np.concatenate([_matched(pair), *depths, *kinds], axis=1))
    return np.concatenate(rows, axis=0)


def tiled(pictures: list[Picture], *, columns: int) -> Picture:
    """Pictures of one size side by side, row by row."""
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)


def _depth(scene: Scene | Person | RoomView, far_m: float = _FAR_M) -> Picture:
    near = np.clip(1 - scene.depth / far_m, 0, 1)
    return np.repeat((near * 255).astype(np.uint8)[..., None], 3, axis=2)


def _matched(pair: RoomPair, *, across: int = 5) -> Picture:
    """Two views side by side; lines join pixels of a grid with the same points in the other."""
    one, other = pair.views
    found = pair.correspondences()
    size = len(one.image)
    canvas = Image.fromarray(np.concatenate([one.image, other.image], axis=1))
    pen = ImageDraw.Draw(canvas)
    places = ((np.arange(across) + 0.5) * size / across).astype(int)
    for n, (i, j) in enumerate((i, j) for i in places for j in places):
        if not found.visible[i, j]:
            continue
        there = float(found.x[i, j]) + size, float(found.y[i, j])
        red, green, blue = (int(255 * c) for c in colorsys.hsv_to_rgb(n * 0.618 % 1, 0.9, 1.0))
        pen.line([(j + 0.5, i + 0.5), there], fill=(red, green, blue))
        for x, y in ((j + 0.5, i + 0.5), there):
            pen.ellipse([x - 2, y - 2, x + 2, y + 2], outline=(red, green, blue))
    return np.asarray(canvas)


def main() -> None:
    """Write the sheets of the docs."""
    parser = argparse.ArgumentParser(prog="python -m alumnus.miniworld.sheet")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    sheets = {
        "classes": class_sheet,
        "labels": label_sheet,
        "rooms": room_sheet,
        "matches": match_sheet,
        "people": people_sheet,
        "people_labels": people_label_sheet,
    }
    for name, draw in sheets.items():
        Image.fromarray(draw()).save(folder / f"miniworld_{name}.png", optimize=True)


if __name__ == "__main__":
    main()
