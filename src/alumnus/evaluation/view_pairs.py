"""Which images of a source are two views of one place, and what is known about each.

Axes: H W pixels.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alumnus.data import Source
from alumnus.evaluation.depth_maps import depth_in
from alumnus.evaluation.matching import Truth, View, shared_pixels, true_places
from alumnus.randomness import derive_seed
from alumnus.tokens import Grid

__all__ = [
    "LEAST_OVERLAP",
    "MOST_PAIRS",
    "NEEDS",
    "Posed",
    "is_posed",
    "paired_truth",
    "pairs_of",
    "read_picture",
    "read_posed",
]

FIELDS = ("depth", "K", "pose", "pair")
RECORD = ("scene", "K", "T_cam_to_world")
NEEDS = "depth, K, pose and pair of each image, or depth and a json with scene, K, T_cam_to_world"

LEAST_OVERLAP = 0.3  # of posed frames, share of either that the other shows
MOST_PAIRS = 200
MOST_LOOKED_AT = 20_000
COARSE_PX = 8  # one pixel of so many along each axis decides on overlap


class Posed(NamedTuple):
    """A view, and to what it belongs."""

    view: View
    scene: int | str
    paired: bool  # with the image behind it or before it; else with any of its scene


def is_posed(fields: Mapping[str, Any]) -> bool:
    """Whether an image brings what is `NEEDS`."""
    return all(name in fields for name in FIELDS) or _recorded(fields)


def _recorded(fields: Mapping[str, Any]) -> bool:
    record = fields.get("json")
    known = isinstance(record, dict) and all(name in record for name in RECORD)
    return known and "depth" in fields


def read_posed(source: Source, index: int) -> Posed:
    """One view; see `read_picture`."""
    return read_picture(source, index)[1]


def read_picture(source: Source, index: int) -> tuple[Image.Image, Posed]:
    """One image and its view; ValueError, one sentence, where it lacks something.

    The field "K" counts pixels from the picture's corner; that of a json from the centre of its
    first pixel, as OpenCV does.
    """
    sample = source.read(index)
    fields = sample.fields
    if not is_posed(fields):
        raise ValueError(f"{source.identity(index)!r} of {source.name!r} lacks some of: {NEEDS}")
    where = f"of {source.identity(index)!r} in {source.name!r}"
    picture, depth = depth_in(sample, where=where)
    if "pair" in fields:
        view = View(depth, _matrix(fields["K"]), _matrix(fields["pose"]))
        return picture, Posed(view, int(fields["pair"]), paired=True)
    record = fields["json"]
    view = View(depth, _matrix(record["K"]), _matrix(record["T_cam_to_world"]))
    view.K[:2, 2] += 0.5
    return picture, Posed(view, str(record["scene"]), paired=False)


def _matrix(values: Any) -> Tensor:
    """A copy in float64."""
    return torch.from_numpy(np.array(values, np.float64))


def pairs_of(
    views: Mapping[int, Posed],
    *,
    name: str,
    seed: int = 0,
    overlap: tuple[float, float] = (LEAST_OVERLAP, 1.0),
    most: int = MOST_PAIRS,
    step_px: int = COARSE_PX,
) -> list[tuple[int, int]]:
    """The pairs among the images of a source, by their numbers.

    Images that say their pair are 2i and 2i + 1; where one of these is missing (its file is
    broken), so is the pair. Of frames with a pose only, two of a scene of which each shows a share
    of the other within `overlap`, measured on one pixel of `step_px` along each axis; of more than
    `most` such pairs as many are drawn. Of very many pairs of frames 20,000 are looked at.
    ValueError where views of a pair do not follow each other, or where there are no pairs.
    """
    if all(view.paired for view in views.values()):
        found = [(i, i + 1) for i in views if i % 2 == 0 and i + 1 in views]
        for i, j in found:
            if views[i].scene != views[j].scene:
                raise ValueError(
                    f"images {i} and {j} of {name!r} are of the pairs {views[i].scene} and "
                    f"{views[j].scene}, but views of a pair should follow each other: keep an even "
                    "number of images from an even one on"
                )
    else:
        coarse = {i: _coarse(posed.view, step_px) for i, posed in views.items()}
        least, largest = overlap
        generator = torch.Generator().manual_seed(derive_seed(seed, "pairs of views"))
        together = [(i, j) for i, j in combinations(views, 2) if views[i].scene == views[j].scene]
        found = [
            (i, j)
            for i, j in _drawn(together, MOST_LOOKED_AT, generator)
            if least
            <= min(_overlap(coarse[i], coarse[j]), _overlap(coarse[j], coarse[i]))
            <= largest
        ]
        found = _drawn(found, most, generator)
    if not found:
        raise ValueError(f"no two images of {name!r} are views of the same place")
    return found


def _drawn(
    pairs: list[tuple[int, int]], count: int, generator: torch.Generator
) -> list[tuple[int, int]]:
    """At most so many of them, in their order."""
    if len(pairs) <= count:
        return pairs
    chosen = torch.randperm(len(pairs), generator=generator)[:count].sort().values
    return [pairs[k] for k in chosen.tolist()]


def paired_truth(views: Mapping[int, Posed], pairs: Sequence[tuple[int, int]], grid: Grid) -> Truth:
    """Where the patches of each first view are in the second one."""
    places = [true_places(views[i].view, views[j].view, grid) for i, j in pairs]
    sizes = [tuple(reversed(views[j].view.depth.shape)) for _, j in pairs]
    return Truth(
        torch.stack([seen for seen, _ in places]),
        torch.stack([where for _, where in places]),
        torch.tensor(sizes),
    )


def _coarse(view: View, step_px: int) -> View:
    K = view.K.clone()
    K[:2] /= step_px
    return View(view.depth[step_px // 2 :: step_px, step_px // 2 :: step_px], K, view.pose)


def _overlap(one: View, other: View) -> float:
    """Share of the pixels of one view with a depth that the other shows."""
    held = one.depth > 0
    shown = torch.from_numpy(shared_pixels(one, other).visible)
    return float((shown & held).sum() / held.sum().clamp(min=1))
