"""Which images of a source are two views of one place, and what is known about each.

Axes: H W pixels.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from alumnus.data import Source
from alumnus.evaluation.depth_maps import read_depth
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
    "read_posed",
]

FIELDS = ("depth", "K", "pose", "pair")
RECORD = ("scene", "K", "T_cam_to_world")
NEEDS = "depth, K, pose and pair of each image, or depth and a json with scene, K, T_cam_to_world"

LEAST_OVERLAP = 0.3  # of posed frames, share of either that the other shows
MOST_PAIRS = 200
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
    """One view; ValueError, one sentence, where it lacks something.

    The field "K" counts pixels from the picture's corner; that of a json from the centre of its
    first pixel, as OpenCV does.
    """
    fields = source.read(index).fields
    if not is_posed(fields):
        raise ValueError(f"{source.identity(index)!r} of {source.name!r} lacks some of: {NEEDS}")
    depth = read_depth(source, index).mask
    if "pair" in fields:
        view = View(depth, _matrix(fields["K"]), _matrix(fields["pose"]))
        return Posed(view, int(fields["pair"]), paired=True)
    record = fields["json"]
    view = View(depth, _matrix(record["K"]), _matrix(record["T_cam_to_world"]))
    view.K[:2, 2] += 0.5
    return Posed(view, str(record["scene"]), paired=False)


def _matrix(values: Any) -> Tensor:
    """A copy in float64."""
    return torch.from_numpy(np.array(values, np.float64))


def pairs_of(views: Mapping[int, Posed], *, name: str, seed: int = 0) -> list[tuple[int, int]]:
    """The pairs among the images of a source, by their numbers.

    Images that say their pair are 2i and 2i + 1; where one of these is missing (its file is
    broken), so is the pair. Of frames with a pose only, two of a scene that each show at least 0.3
    of the other; of more than 200 such pairs as many are drawn. ValueError where views of a pair
    do not follow each other, or where there are no pairs.
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
        coarse = {i: _coarse(posed.view) for i, posed in views.items()}
        found = [
            (i, j)
            for i, j in combinations(views, 2)
            if views[i].scene == views[j].scene
            and min(_overlap(coarse[i], coarse[j]), _overlap(coarse[j], coarse[i])) >= LEAST_OVERLAP
        ]
        generator = torch.Generator().manual_seed(derive_seed(seed, "pairs of views"))
        drawn = torch.randperm(len(found), generator=generator)[:MOST_PAIRS].sort().values
        found = [found[k] for k in drawn.tolist()]
    if not found:
        raise ValueError(f"no two images of {name!r} are views of the same place")
    return found


def paired_truth(views: Mapping[int, Posed], pairs: Sequence[tuple[int, int]], grid: Grid) -> Truth:
    """Where the patches of each first view are in the second one."""
    places = [true_places(views[i].view, views[j].view, grid) for i, j in pairs]
    sizes = [tuple(reversed(views[j].view.depth.shape)) for _, j in pairs]
    return Truth(
        torch.stack([seen for seen, _ in places]),
        torch.stack([where for _, where in places]),
        torch.tensor(sizes),
    )


def _coarse(view: View) -> View:
    K = view.K.clone()
    K[:2] /= COARSE_PX
    return View(view.depth[COARSE_PX // 2 :: COARSE_PX, COARSE_PX // 2 :: COARSE_PX], K, view.pose)


def _overlap(one: View, other: View) -> float:
    """Share of the pixels of one view with a depth that the other shows."""
    held = one.depth > 0
    shown = torch.from_numpy(shared_pixels(one, other).visible)
    return float((shown & held).sum() / held.sum().clamp(min=1))
