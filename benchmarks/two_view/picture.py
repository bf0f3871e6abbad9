"""Rooms as heads on several encoders see them: docs/results/two-view.png.

    python -m benchmarks.two_view.picture HEAD [HEAD ...] [--file docs/results/two-view.png]

HEAD is a folder of `run.py`, or `miniworld-rooms`; each has two rows, one for each of two pairs.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from alumnus.heads.two_view.pairs import ViewPairs
from alumnus.miniworld import MiniworldSource
from alumnus.miniworld.room_pairs import load_pairs
from alumnus.miniworld.show_rooms import prediction_sheet
from benchmarks.two_view.scores import network_views

COLOURS = 256


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("heads", nargs="+")
    parser.add_argument("--file", type=Path, default=Path("docs/results/two-view.png"))
    parser.add_argument("--first", type=int, default=0, help="the first of both pairs")
    given = parser.parse_args()
    last = given.first + 2
    held = load_pairs(MiniworldSource("rooms", "test", length=2 * last))
    every = (held.images, held.depth, held.K, held.pose, held.match)
    pairs = ViewPairs(*(values[given.first : last] for values in every))
    sheets = [prediction_sheet(network_views(head), pairs) for head in given.heads]
    whole = Image.fromarray(np.concatenate(sheets))
    whole.quantize(COLOURS).save(given.file, optimize=True)


if __name__ == "__main__":
    main()
