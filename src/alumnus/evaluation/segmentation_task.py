"""A segmentation task of the suite: every model with a linear head of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from alumnus.evaluation.masks import census, count_classes
from alumnus.evaluation.miou import IGNORE, MaskScore
from alumnus.evaluation.results import JsonValue, TaskScore
from alumnus.evaluation.segmentation import (
    STRIDE,
    DenseModel,
    MaskedSource,
    constant_masks,
    score_head,
)
from alumnus.evaluation.segmentation_training import train_head
from alumnus.evaluation.tasks import EvalModel, LacksFeatureError, TaskSpec

__all__ = ["Segmented", "segment", "segmentation_protocol"]


@dataclass(frozen=True, kw_only=True)
class Segmented:
    """What came out, and which images were used."""

    scores: Mapping[str, TaskScore]  # by model
    missing: Mapping[str, str]  # model -> why it has no score
    constant: TaskScore
    train: Tensor  # [n] int64, places in the source
    test: Tensor  # [m] int64


def segment(
    models: Sequence[EvalModel],
    task: TaskSpec,
    *,
    batch_size: int,
    num_workers: int,
    device: str | torch.device,
    say: Callable[[str], None],
) -> Segmented:
    """Train and score a head for each model in turn, on the same images and in the same order."""
    say(f"masks of {task.name}: {len(task.train)} and {len(task.test)} images")
    train, test = (
        MaskedSource(source, census(source, num_workers=num_workers))
        for source in (task.train, task.test)
    )
    classes = count_classes(train.found, test.found, task.train.classes)
    scores: dict[str, TaskScore] = {}
    missing: dict[str, str] = {}
    for model in models:
        say(f"{task.name}: {model.name}")
        try:
            dense = _dense_model(model, task.size_px, device)
        except LacksFeatureError as error:
            missing[model.name] = str(error)
            continue
        head = train_head(
            dense,
            train,
            classes=classes,
            protocol=task.segmentation,
            batch_size=batch_size,
            num_workers=num_workers,
            device=device,
            seed=task.seed,
        )
        score = score_head(
            dense,
            head,
            test,
            protocol=task.segmentation,
            batch_size=batch_size,
            num_workers=num_workers,
            device=device,
        )
        details = {"size_px": dense.window, "dim": head.dim, **_details(score, task)}
        scores[model.name] = TaskScore(value=score.miou, details=details)
    constant = constant_masks(train.found, test.found, classes=classes)
    return Segmented(
        scores=scores,
        missing=missing,
        constant=TaskScore(value=constant.miou, details=_details(constant, task)),
        train=train.found.indices,
        test=test.found.indices,
    )


def segmentation_protocol(task: TaskSpec) -> dict[str, JsonValue]:
    """How it was measured, for the record."""
    used = task.segmentation
    return {
        "head": "BatchNorm and 1x1 convolution on frozen patch tokens",
        "inference": "sliding window",
        "stride": round(STRIDE, 4),
        "optimizer": "AdamW, linear warm-up, linear decay",
        "ignore": IGNORE,
        "classes": "those of the test masks",
        **asdict(used),
        "steps": used.total_steps,
        "loss_stride": used.loss_stride,
        "scales": list(used.scales),
        "features": "computed in each step" if used.augment else "computed once",
    }


def _dense_model(model: EvalModel, size_px: int, device: str | torch.device) -> DenseModel:
    """The model at the size of the task, as near as its patch and its nature let it come."""
    if model.fixed_size and model.size_px is not None:
        window = model.size_px
    else:
        window = max(1, round(size_px / model.patch_px)) * model.patch_px
    fn = model.dense_fn or model.fn

    def features(images: Tensor) -> Tensor:
        with torch.no_grad():
            return fn(images).as_map()

    with torch.no_grad():
        tokens = fn(torch.zeros(1, 3, window, window, device=device))
    if tokens.patches is None:
        raise LacksFeatureError("no patch tokens")
    return DenseModel(name=model.name, fn=features, window=window, dim=tokens.patches.shape[2])


def _details(score: MaskScore, task: TaskSpec) -> dict[str, JsonValue]:
    """Numbers beside the mean, and the IoU of each class that occurs."""
    names = task.train.classes or tuple(str(i) for i in range(len(score.iou)))
    return {
        "pixel_accuracy": score.pixel_accuracy,
        "class_accuracy": score.class_accuracy,
        "classes": score.occurring,
        "pixels": score.pixels,
        "iou": {
            name: iou
            for name, iou in zip(names, score.iou.tolist(), strict=True)
            if iou == iou  # not NaN
        },
    }
