"""A matching task of the suite: pairs of views, of which nothing is learned."""

from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch

from alumnus.evaluation.features import extract_all
from alumnus.evaluation.matching import (
    MatchScore,
    match_grid,
    match_score,
    nearest_patches,
    same_place,
)
from alumnus.evaluation.results import JsonValue, TaskScore
from alumnus.evaluation.segmentation_task import Dense
from alumnus.evaluation.tasks import EvalModel, TaskSpec
from alumnus.evaluation.view_pairs import (
    LEAST_OVERLAP,
    MOST_PAIRS,
    paired_truth,
    pairs_of,
    read_posed,
)
from alumnus.tokens import Tokens, resize_grid

__all__ = ["matching_protocol", "measure_matching"]


def measure_matching(
    models: Sequence[EvalModel],
    task: TaskSpec,
    *,
    batch_size: int,
    num_workers: int,
    device: str | torch.device,
    say: Callable[[str], None],
) -> Dense:
    """Match the pairs of views among the test images, for each model on the same patches.

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
    indices = features[models[0].name].indices.tolist()
    views = {i: read_posed(task.test, i) for i in indices}
    pairs = pairs_of(views, name=task.test.name, seed=task.seed)
    truth = paired_truth(views, pairs, grid)
    place = {index: at for at, index in enumerate(indices)}
    first, second = (torch.tensor([place[pair[k]] for pair in pairs]) for k in (0, 1))
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
        details: dict[str, JsonValue] = {
            "grid": list(held.grid),
            "dim": patches.shape[2],
            "pairs": len(pairs),
        }
        scores[model.name] = _cell(match_score(found, truth, grid), details)
    constant = match_score(same_place(len(pairs), grid), truth, grid)
    return Dense(
        scores=scores,
        missing=missing,
        constant=_cell(constant, {}),
        train=None,
        test=torch.tensor(sorted({i for pair in pairs for i in pair})),
    )


def matching_protocol(task: TaskSpec) -> dict[str, JsonValue]:
    """How it was measured, for the record."""
    return {
        "pairs": "of posed frames two of a scene with an overlap of at least "
        f"{LEAST_OVERLAP} either way, at most {MOST_PAIRS}; else images 2i and 2i + 1",
        "geometry": task.geometry,
        "match": "largest cosine among all patches of the other view",
        "grid": list(match_grid(task.size_px)),
        "counted": "patches whose middle both views show",
        "found": "centre of the match at most 1 patch from the true place",
        "constant": "the same place in the other view",
    }


def _cell(score: MatchScore, details: dict[str, JsonValue]) -> TaskScore:
    return TaskScore(value=score.within_one, details={**details, **asdict(score)})
