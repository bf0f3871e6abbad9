"""What patch tokens know of the miniworld, drawn: masks, depths, matches of two views, joints.

Masks, depths and joints are linear maps of frozen tokens, fitted in closed form in a second for
each model; matches are nearest neighbours and need no fit. Axes: n images, N patches, D width, C
channels of a map, H W pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from alumnus.data import Sample, eval_transform, open_source
from alumnus.evaluation.joints import joint_regression, ridge
from alumnus.evaluation.matching import nearest_patches
from alumnus.evaluation.tasks import EvalModel
from alumnus.evaluation.view_pairs import paired_truth, read_posed
from alumnus.miniworld.body import JOINTS, LINKS
from alumnus.report import readouts
from alumnus.report.sheet import Column, draw_sheet
from alumnus.tokens import Grid

__all__ = ["fit_pixels", "write_readouts"]

SIZE_PX = 64
FITTED = 960  # pictures of a domain that maps are fitted to
SHOWN = 2  # rows of each kind
PAIRS = (4, 10)  # first views of those that are matched
STRENGTH = 1e-3  # of the ridge, relative to the mean diagonal of X'X
COARSER = 4  # times, depths are read out
MASKS = 3  # background, target, other objects
BATCH = 96
Maps = Callable[[Tensor], Tensor]  # tokens [n, N, D] -> [n, C, H, W]


@dataclass(frozen=True)
class Row:
    """One picture: as it is, as it should be read, and as each model's tokens read it."""

    image: Tensor
    truth: Tensor
    read: list[Tensor]


def write_readouts(
    teachers: dict[str, EvalModel],  # by domain: objects, rooms, people
    others: Sequence[EvalModel],
    path: Path,
) -> Path:
    """A PNG with rows of masks, depths, matches and joints, each on pictures of the test split.

    Columns: the picture, the truth, the teacher of that domain, then the `others`.
    """
    rows: list[Row] = []
    for domain, make in {
        "objects": _masks,
        "rooms": _depths,
        "rooms again": _matches,
        "people": _joints,
    }.items():
        rows += make([teachers[domain.split()[0]], *others])
    heads = [["picture"], ["truth"], ["teacher", "of that domain"], *([m.name] for m in others)]
    cells = [[row.image for row in rows], [row.truth for row in rows]]
    cells += [[row.read[i] for row in rows] for i in range(1 + len(others))]
    columns = [Column(head, column) for head, column in zip(heads, cells, strict=True)]
    return draw_sheet(columns, [row.truth.shape[0] / row.truth.shape[1] for row in rows], path)


def fit_pixels(tokens: Tensor, maps: Tensor, grid: Grid) -> Maps:
    """A linear map from each patch token [n, N, D] to all pixels of its patch in [n, C, H, W].

    One map for all places, with an intercept a place; channels are standardised.
    """
    (h, w), (height, width) = grid, maps.shape[-2:]
    patch = (height // h, width // w)
    target = F.unfold(maps, patch, stride=patch).transpose(1, 2)  # [n, N, C ph pw]
    mean, prior = tokens.mean(dim=0), target.mean(dim=0)
    std = (tokens - mean).square().mean(dim=(0, 1)).sqrt().clamp_min(1e-6)
    x = ((tokens - mean) / std).flatten(0, 1)
    (weights,) = ridge(x, (target - prior).flatten(0, 1), [STRENGTH])

    def read(new: Tensor) -> Tensor:
        made = ((new - mean) / std) @ weights + prior
        return F.fold(made.transpose(1, 2), (height, width), patch, stride=patch)

    return read


def _masks(models: Sequence[EvalModel]) -> list[Row]:
    fitted, shown = _samples("objects")
    truth = torch.stack([_map(s, "mask").long() for s in fitted])
    maps = F.one_hot(truth, MASKS).permute(0, 3, 1, 2).float()
    read = [_read(model, fitted, maps, shown).argmax(dim=1) for model in models]
    return [
        Row(
            readouts.picture(sample.image),
            readouts.mask_picture(sample.image, _map(sample, "mask").long()),
            [readouts.mask_picture(sample.image, of_model[i]) for of_model in read],
        )
        for i, sample in enumerate(shown)
    ]


def _depths(models: Sequence[EvalModel]) -> list[Row]:
    fitted, shown = _samples("rooms")
    fine = torch.stack([_map(s, "depth").clamp_min(1e-2).log()[None] for s in fitted])
    maps = F.avg_pool2d(fine, COARSER)  # then smooth in between: single pixels are guesswork
    read = [
        F.interpolate(
            _read(model, fitted, maps, shown), scale_factor=COARSER, mode="bilinear"
        ).exp()[:, 0]
        for model in models
    ]
    rows = []
    for i, sample in enumerate(shown):
        depth = _map(sample, "depth")
        draw = partial(
            readouts.depth_picture, least_m=float(depth.min()), most_m=float(depth.max())
        )
        cells = [draw(of_model[i]) for of_model in read]
        rows.append(Row(readouts.picture(sample.image), draw(depth), cells))
    return rows


def _matches(models: Sequence[EvalModel]) -> list[Row]:
    source = open_source("miniworld:rooms:test")
    views = [[source.read(i + k) for i in PAIRS] for k in range(2)]
    grid = (SIZE_PX // models[0].patch_px,) * 2
    posed = {i + k: read_posed(source, i + k) for i in PAIRS for k in range(2)}
    truth = paired_truth(posed, [(i, i + 1) for i in PAIRS], grid)
    centres = torch.stack(
        torch.meshgrid(*((torch.arange(side) + 0.5) / side for side in grid), indexing="xy"), dim=-1
    ).flatten(0, 1)  # [N, 2]
    found = [
        nearest_patches(_tokens(model, views[0]), _tokens(model, views[1])) for model in models
    ]
    rows = []
    for i, (one, other) in enumerate(zip(*views, strict=True)):
        seen = truth.seen[i].nonzero()[::3, 0]  # not all: lines would hide the picture
        here, true = centres[seen], truth.places[i][seen].float()
        draw = partial(readouts.match_picture, one.image, other.image)
        cells = []
        for of_model in found:
            there = centres[of_model[i][seen]]
            right = ((there - true) * grid[0]).norm(dim=1) <= 1
            cells.append(draw(torch.stack([here, there], dim=1), right))
        nothing, all_right = here.new_zeros(0, 2, 2), torch.ones(len(seen), dtype=torch.bool)
        plain = draw(nothing, all_right[:0])
        rows.append(Row(plain, draw(torch.stack([here, true], dim=1), all_right), cells))
    return rows


def _joints(models: Sequence[EvalModel]) -> list[Row]:
    fitted, shown = _samples("people")
    places = [torch.stack([_places(s) for s in samples]) for samples in (fitted, shown)]
    sizes = [torch.tensor([s.image.size for s in samples]) for samples in (fitted, shown)]
    grid = (SIZE_PX // models[0].patch_px,) * 2
    names = [name for name, _ in JOINTS]
    torso = (
        (names.index("shoulder_left"), names.index("hip_right")),
        (names.index("shoulder_right"), names.index("hip_left")),
    )
    read = [
        joint_regression(
            _tokens(model, fitted),
            places[0],
            sizes[0],
            _tokens(model, shown),
            places[1],
            sizes[1],
            grid=grid,
            torso=torso,
        ).prediction
        for model in models
    ]
    draw = partial(readouts.joints_picture, names=names, links=LINKS)
    return [
        Row(
            readouts.picture(sample.image),
            draw(sample.image, places[1][i, :, :2]),
            [draw(sample.image, of_model[i]) for of_model in read],
        )
        for i, sample in enumerate(shown)
    ]


def _samples(domain: str) -> tuple[list[Sample], list[Sample]]:
    """Pictures to fit to, and those that are shown."""
    train, test = (open_source(f"miniworld:{domain}:{split}") for split in ("train", "test"))
    return [train.read(i) for i in range(FITTED)], [test.read(2 * i) for i in range(SHOWN)]


def _map(sample: Sample, field: str) -> Tensor:
    return torch.from_numpy(sample.fields[field])


def _places(sample: Sample) -> Tensor:  # [J, 3]
    """Places of the joints, and 1 where visible."""
    size = torch.tensor(sample.image.size)
    places = torch.from_numpy(sample.fields["pixels"]).float() / size
    seen = torch.from_numpy(sample.fields["visible"]).float()
    return torch.cat([places, seen[:, None]], dim=1)


def _read(
    model: EvalModel, fitted: Sequence[Sample], maps: Tensor, shown: Sequence[Sample]
) -> Tensor:
    grid = (SIZE_PX // model.patch_px,) * 2
    return fit_pixels(_tokens(model, fitted), maps, grid)(_tokens(model, shown))


@torch.no_grad()
def _tokens(model: EvalModel, samples: Sequence[Sample]) -> Tensor:  # [n, N, D] float32
    images = torch.stack([eval_transform(sample.image, SIZE_PX) for sample in samples])
    parts = [model.fn(batch).of("patch").float() for batch in images.split(BATCH)]
    return torch.cat(parts)
