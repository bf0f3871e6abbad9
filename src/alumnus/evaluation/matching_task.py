"""A matching task of the suite: pairs of views, of which nothing is learned."""

from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from alumnus.data import Source
from alumnus.evaluation.depth_maps import read_depth
from alumnus.evaluation.features import extract_all
from alumnus.evaluation.matching import (
    MatchScore,
    Truth,
    View,
    match_grid,
    match_score,
    nearest_patches,
    same_place,
    true_places,
)
from alumnus.evaluation.results import JsonValue, TaskScore
from alumnus.evaluation.segmentation_task import Dense
from alumnus.evaluation.tasks import EvalModel, TaskSpec
from alumnus.tokens import Tokens, resize_grid

__all__ = ["PAIR_FIELDS", "matching_protocol", "measure_matching", "paired_views"]

PAIR_FIELDS = ("depth", "K", "pose", "pair")  # that a source of pairs of views gives


def measure_matching(
    models: Sequence[EvalModel],
    task: TaskSpec,
    *,
    batch_size: int,
    num_workers: int,
    device: str | torch.device,
    say: Callable[[str], None],
) -> Dense:
    """Match the views 2i and 2i + 1 of the test images, for each model on the same patches.

    Each model sees the whole picture at its own input size, and its patches are brought to the
    grid of the task: averaged from a finer one, interpolated from a coarser one.
    """
    grid = match_grid(task.size_px)
    say(f"views of {task.name}: {len(task.test)} images")
    features = extract_all(
        {m.name: m.fn for m in models},
        task.test,
        size_px={m.name: m.size_px or task.size_px for m in models},
        batch_size=batch_size,
        want=["patches"],
        geometry=task.geometry,
        num_workers=num_workers,
        device=device,
    )
    indices = features[models[0].name].indices
    first, second = _whole_pairs(indices)
    truth = paired_views(task.test, indices[first].tolist(), grid)
    scores: dict[str, TaskScore] = {}
    missing: dict[str, str] = {}
    for model in models:
        held = features[model.name]
        if held.patches is None or held.grid is None:
            missing[model.name] = "no patch tokens"
            continue
        own = Tokens(patches=held.patches, grid=held.grid)
        patches = resize_grid(own, grid).of("patch")
        found = nearest_patches(patches[first], patches[second])
        details: dict[str, JsonValue] = {"grid": list(held.grid), "dim": patches.shape[2]}
        scores[model.name] = _cell(match_score(found, truth, grid), details)
    constant = match_score(same_place(len(first), grid), truth, grid)
    return Dense(
        scores=scores,
        missing=missing,
        constant=_cell(constant, {}),
        train=None,
        test=indices[torch.stack([first, second], dim=1).flatten()],
    )


def _whole_pairs(indices: Tensor) -> tuple[Tensor, Tensor]:
    """Where in `indices` the views 2i and 2i + 1 are, of pairs of which neither is broken."""
    place = {index: at for at, index in enumerate(indices.tolist())}
    whole = [i for i in place if i % 2 == 0 and i + 1 in place]
    first, second = (torch.tensor([place[i + k] for i in whole], dtype=torch.int64) for k in (0, 1))
    return first, second


def paired_views(source: Source, firsts: Sequence[int], grid: tuple[int, int]) -> Truth:
    """Where the patches of the views `firsts` are in the views that follow each of them.

    ValueError, one sentence, where a view lacks a field or belongs to another pair.
    """
    seen, places, sizes = [], [], []
    for i in firsts:
        (one, pair), (other, next_pair) = _view(source, i), _view(source, i + 1)
        if pair != next_pair:
            raise ValueError(
                f"images {i} and {i + 1} of {source.name!r} are of the pairs {pair} and "
                f"{next_pair}, but views of a pair should follow each other: keep an even number "
                "of images from an even one on"
            )
        shown, where = true_places(one, other, grid)
        seen.append(shown)
        places.append(where)
        sizes.append(tuple(reversed(other.depth.shape)))
    if not firsts:
        raise ValueError(f"{source.name!r} has no pair of views")
    return Truth(torch.stack(seen), torch.stack(places), torch.tensor(sizes))


def _view(source: Source, index: int) -> tuple[View, int]:
    fields = source.read(index).fields
    for name in PAIR_FIELDS:
        if name not in fields:
            raise ValueError(
                f"there is no {name} of {source.identity(index)!r} in {source.name!r}: matching "
                f"needs {', '.join(PAIR_FIELDS)}"
            )
    K, pose = (torch.from_numpy(np.asarray(fields[name], np.float64)) for name in ("K", "pose"))
    return View(read_depth(source, index).mask, K, pose), int(fields["pair"])


def matching_protocol(task: TaskSpec) -> dict[str, JsonValue]:
    """How it was measured, for the record."""
    return {
        "geometry": task.geometry,
        "match": "largest cosine among all patches of the other view",
        "grid": list(match_grid(task.size_px)),
        "counted": "patches whose middle both views show",
        "found": "centre of the match at most 1 patch from the true place",
        "constant": "the same place in the other view",
    }


def _cell(score: MatchScore, details: dict[str, JsonValue]) -> TaskScore:
    return TaskScore(value=score.within_one, details={**details, **asdict(score)})
