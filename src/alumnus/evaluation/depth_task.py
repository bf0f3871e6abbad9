"""A depth task of the suite: every model with a linear head of its own."""

from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch

from alumnus.evaluation.depth import DepthObjective, bins_of, constant_depths, score_depths
from alumnus.evaluation.depth_maps import DepthScore, survey
from alumnus.evaluation.head_training import train_head
from alumnus.evaluation.results import JsonValue, TaskScore
from alumnus.evaluation.segmentation import STRIDE
from alumnus.evaluation.segmentation_task import Dense, dense_model
from alumnus.evaluation.tasks import EvalModel, LacksFeatureError, TaskSpec
from alumnus.heads.depth_bins import LAMBDA

__all__ = ["depth_cell", "depth_protocol", "measure_depth"]


def measure_depth(
    models: Sequence[EvalModel],
    task: TaskSpec,
    *,
    batch_size: int,
    num_workers: int,
    device: str | torch.device,
    say: Callable[[str], None],
) -> Dense:
    """Train and score a head for each model in turn, on the same images and in the same order."""
    used = task.depth
    say(f"depths of {task.name}: {len(task.train)} and {len(task.test)} images")
    train, test = (
        survey(source, most_m=used.most_m, num_workers=num_workers)
        for source in (task.train, task.test)
    )
    bins = bins_of(used, train.most_m).to(device)
    scores: dict[str, TaskScore] = {}
    missing: dict[str, str] = {}
    for model in models:
        say(f"{task.name}: {model.name}")
        try:
            dense = dense_model(model, task.size_px, device, layers=used.layers, with_cls=True)
        except LacksFeatureError as error:
            missing[model.name] = str(error)
            continue
        trained = train_head(
            dense,
            train.images,
            objective=DepthObjective(bins, median_scaling=used.median_scaling),
            protocol=used,
            batch_size=batch_size,
            num_workers=num_workers,
            device=device,
            seed=task.seed,
        )
        score = score_depths(
            dense,
            trained.head,
            bins,
            test.images,
            median_scaling=used.median_scaling,
            batch_size=batch_size,
            num_workers=num_workers,
            device=device,
        )
        details: dict[str, JsonValue] = {
            "size_px": dense.window,
            "dim": dense.dim,
            "lr": trained.lr,
            "val_delta1": trained.val_score,
        }
        scores[model.name] = depth_cell(score, details, test.pixels)
    constant = constant_depths(
        train.median_m, test.images, median_scaling=used.median_scaling, num_workers=num_workers
    )
    return Dense(
        scores=scores,
        missing=missing,
        constant=depth_cell(constant, {"depth_m": train.median_m}, test.pixels),
        train=train.images.indices,
        test=test.images.indices,
    )


def depth_protocol(task: TaskSpec) -> dict[str, JsonValue]:
    """How it was measured, for the record."""
    used = task.depth
    return {
        "head": "BatchNorm and 1x1 convolution on frozen patch tokens, each beside [CLS]",
        "depth": "mean over uniform bins, weighed by relu(logit) + 0.1",
        "loss": f"scale-invariant logarithmic, lambda {LAMBDA}",
        "inference": "sliding window",
        "stride": round(STRIDE, 4),
        "optimizer": "AdamW, linear warm-up, linear decay",
        "score": "mean over images, pixels with a depth, at the stored size",
        "constant": "median over training images of their median depth",
        **asdict(used),
        "steps": used.total_steps,
        "lr": list(used.rates),
        "lr_chosen_on": "20% of the training images" if len(used.rates) > 1 else None,
        "loss_stride": used.loss_stride,
        "features": "computed once",
    }


def depth_cell(score: DepthScore, details: dict[str, JsonValue], pixels: int) -> TaskScore:
    """A cell of the table: delta1, and all errors beside it."""
    return TaskScore(value=score.delta1, details={**details, **asdict(score), "pixels": pixels})
