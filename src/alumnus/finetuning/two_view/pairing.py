"""Which pictures of a source are trained on together, by how much they show of each other."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch

from alumnus.data import BrokenImageError, Source
from alumnus.evaluation.view_pairs import Posed, pairs_of
from alumnus.finetuning.maps import split_rows
from alumnus.finetuning.two_view.frames import Frames, ahead, look

__all__ = ["Pair", "Pairing", "find_pairs", "split_pairs", "used"]

log = logging.getLogger(__name__)

MEASURED_PX = 24  # along each side of a look straight ahead: one pixel each decides on overlap
MOST_PAIRS = 20_000

Pair = tuple[int, int]  # places in the source


class Pairing(NamedTuple):
    """Pairs of a source."""

    pairs: list[Pair]
    paired: bool  # the source says which: each picture is in one pair, else in many


def find_pairs(
    frames: Frames, *, overlap: tuple[float, float], seed: int, most: int = MOST_PAIRS
) -> Pairing:
    """Pairs whose looks straight ahead show of each other a share within `overlap`.

    Those of a source that says its pairs are taken as they are. Broken pictures are left out, with
    a warning; ValueError where no pair is left.
    """
    views: dict[int, Posed] = {}
    for index in range(len(frames.source)):
        try:
            frame = frames[index]
        except BrokenImageError as error:
            log.warning("left out: %s", error)
            continue
        view = frame.view if frame.paired else look(frame, ahead(), size_px=MEASURED_PX).view
        views[index] = Posed(view, frame.scene, frame.paired)
    name = frames.source.name
    found = pairs_of(views, name=name, seed=seed, overlap=overlap, most=most, step_px=1)
    return Pairing(found, all(view.paired for view in views.values()))


def split_pairs(source: Source, pairing: Pairing) -> tuple[list[Pair], list[Pair]]:
    """Pairs to learn from, and held out: no picture is in both.

    A tenth of the pictures is held out, by their names (of pairs that the source names, by the
    first picture's), and pairs of one that is and one that is not are left out.
    """
    pairs = pairing.pairs
    if pairing.paired:
        indices = torch.tensor([first for first, _ in pairs])
        rows = split_rows(source, indices)
        learned, held_out = ([pairs[row] for row in part.tolist()] for part in rows)
        return learned, held_out
    indices = torch.tensor(sorted({index for pair in pairs for index in pair}))
    parts = [set(indices[rows].tolist()) for rows in split_rows(source, indices)]
    learned, held_out = ([pair for pair in pairs if part.issuperset(pair)] for part in parts)
    return learned, held_out


def used(pairs: Sequence[Pair]) -> torch.Tensor:  # [n] int64
    """The pictures of some pairs."""
    return torch.tensor(sorted({index for pair in pairs for index in pair}), dtype=torch.int64)
