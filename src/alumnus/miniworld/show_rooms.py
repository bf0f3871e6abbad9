"""What the rooms teacher sees, as in the docs: `python -m alumnus.miniworld.show_rooms FILE.png`.

A row per test pair: both views with matches found by descriptors (green: within 4 px of the true
place, red: not, blue: of a point that the other view does not show), then the true and the
predicted depth of the first view.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from alumnus.evaluation.pair_scores import CLOSE_PX, Views, shown
from alumnus.heads.two_view import (
    PixelMatches,
    ViewPrediction,
    fast_reciprocal_matches,
    grid_starts,
    within_border,
)
from alumnus.heads.two_view.pairs import ViewPairs
from alumnus.miniworld import MiniworldSource, teacher_folder
from alumnus.miniworld.room_pairs import load_pairs
from alumnus.miniworld.score_rooms import shipped_views
from alumnus.miniworld.sheet import tiled

__all__ = ["prediction_sheet"]

Picture = NDArray[np.uint8]  # [H, W, 3]
FAR_M = 5.0  # depth shown as black
ENLARGED = 3
EVERY = 6  # px between the starts of matches
RIGHT, WRONG, HIDDEN = (60, 220, 90), (240, 60, 50), (90, 150, 255)


@torch.no_grad()
def prediction_sheet(views: Views, pairs: ViewPairs) -> Picture:
    """All of some pairs, by a network."""
    batch = pairs.at(slice(None))
    first, second = views(batch.images)
    rows = []
    for k in range(len(batch)):
        depths = [_grey(d.numpy()) for d in (batch.depth[k, 0], first.points[k, ..., 2])]
        rows += [*_matched(batch, k, first, second), *(_enlarged(d) for d in depths)]
    return tiled(rows, columns=4)


def _matched(
    pairs: ViewPairs, k: int, first: ViewPrediction, second: ViewPrediction
) -> tuple[Picture, Picture]:
    """The two views with lines across both."""
    one, other = first.desc[k], second.desc[k]
    found = fast_reciprocal_matches(one, other, grid_starts(one, every=EVERY))
    found = within_border(found, one, other)
    views = (pairs.images[k] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    side = ENLARGED * views.shape[2]
    canvas = Image.fromarray(np.concatenate([_enlarged(view) for view in views], axis=1))
    pen = ImageDraw.Draw(canvas)
    for colour, ends in _lines(pairs, k, found):
        (x, y), (x2, y2) = ((ENLARGED * a, ENLARGED * b) for a, b in ends)
        pen.line([(x, y), (x2 + side, y2)], fill=colour)
        for at in ((x, y), (x2 + side, y2)):
            pen.ellipse([at[0] - 2, at[1] - 2, at[0] + 2, at[1] + 2], outline=colour)
    drawn = np.asarray(canvas)
    return drawn[:, :side], drawn[:, side:]


def _lines(
    pairs: ViewPairs, k: int, found: PixelMatches
) -> list[tuple[tuple[int, int, int], list[tuple[float, float]]]]:
    """The colour and the two ends of each match, in pixels from the corner."""
    there = shown(pairs, k)
    lines = []
    for (x, y), (x2, y2) in zip(found.first.tolist(), found.second.tolist(), strict=True):
        off = np.hypot(there.x[y, x] - x2 - 0.5, there.y[y, x] - y2 - 0.5)
        seen = RIGHT if off < CLOSE_PX else WRONG
        colour = seen if there.visible[y, x] else HIDDEN
        lines.append((colour, [(x + 0.5, y + 0.5), (x2 + 0.5, y2 + 0.5)]))
    return lines


def _grey(depth: NDArray[np.float32]) -> Picture:
    near = np.clip(1 - depth / FAR_M, 0, 1)
    return np.repeat((near * 255).astype(np.uint8)[..., None], 3, axis=2)


def _enlarged(picture: Picture) -> Picture:
    return picture.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(prog="python -m alumnus.miniworld.show_rooms")
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", default=teacher_folder("rooms"))
    parser.add_argument("--pairs", type=int, default=4, help="the first ones of the test split")
    given = parser.parse_args()
    pairs = load_pairs(MiniworldSource("rooms", "test", length=2 * given.pairs))
    sheet = prediction_sheet(shipped_views(given.folder), pairs)
    Image.fromarray(sheet).save(given.file, optimize=True)


if __name__ == "__main__":
    main()
