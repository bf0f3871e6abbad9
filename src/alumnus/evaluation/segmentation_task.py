"""A segmentation task of the suite: every model with a linear head of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from alumnus.data import names_of
from alumnus.evaluation.features import FeatureFn
from alumnus.evaluation.head_training import train_head
from alumnus.evaluation.masks import LabelledSource, census, count_classes
from alumnus.evaluation.miou import IGNORE, MaskScore
from alumnus.evaluation.results import JsonValue, TaskScore
from alumnus.evaluation.segmentation import (
    STRIDE,
    DenseModel,
    MaskObjective,
    constant_masks,
    score_head,
)
from alumnus.evaluation.tasks import EvalModel, LacksFeatureError, TaskSpec
from alumnus.heads import LinearHead, load_linear_head
from alumnus.tokens import Tokens

__all__ = [
    "Dense",
    "OnHead",
    "dense_model",
    "mask_details",
    "segment",
    "segmentation_protocol",
]

OnHead = Callable[[TaskSpec, str, LinearHead], None]  # the name is the model's


@dataclass(frozen=True, kw_only=True)
class Dense:
    """What came out, and which images were used."""

    scores: Mapping[str, TaskScore]  # by model
    missing: Mapping[str, str]  # model -> why it has no score
    constant: TaskScore
    train: Tensor | None  # [n] int64, places in the source; None: learns from nothing
    test: Tensor  # [m] int64


def segment(
    models: Sequence[EvalModel],
    task: TaskSpec,
    *,
    batch_size: int,
    num_workers: int,
    device: str | torch.device,
    say: Callable[[str], None],
    on_head: OnHead | None = None,
) -> Dense:
    """Train and score a head for each model in turn, on the same images and in the same order.

    Or score the given head, for all models whose features are as wide as it takes them.
    ValueError where that is none, and for a head of another number of classes.
    """
    given = _given_head(task, device)
    say(f"masks of {task.name}: {len(task.train)} and {len(task.test)} images")
    learned, held = (census(source, num_workers=num_workers) for source in (task.train, task.test))
    train = LabelledSource(task.train, learned.indices)
    test = LabelledSource(task.test, held.indices)
    classes = count_classes(learned, held, names_of(task.train, "mask"))
    if given is not None:
        classes = _agreed(given, classes, task)
    scores: dict[str, TaskScore] = {}
    missing: dict[str, str] = {}
    for model in models:
        say(f"{task.name}: {model.name}")
        try:
            dense = dense_model(
                model, task.size_px, device, layers=task.segmentation.layers, head=given
            )
        except LacksFeatureError as error:
            missing[model.name] = str(error)
            continue
        details: dict[str, JsonValue] = {"size_px": dense.window, "dim": dense.dim}
        if given is None:
            trained = train_head(
                dense,
                train,
                objective=MaskObjective(classes=classes),
                protocol=task.segmentation,
                batch_size=batch_size,
                num_workers=num_workers,
                device=device,
                seed=task.seed,
            )
            details |= {"lr": trained.lr, "val_miou": trained.val_score}
            if on_head is not None:
                on_head(task, model.name, trained.head)
        head = trained.head if given is None else given
        score = score_head(
            dense,
            head,
            test,
            protocol=task.segmentation,
            batch_size=batch_size,
            num_workers=num_workers,
            device=device,
        )
        scores[model.name] = TaskScore(
            value=score.miou, details=details | mask_details(score, task)
        )
    if given is not None and not scores:
        name, why = next(iter(missing.items()))
        raise ValueError(f"the head in {task.segmentation.head!r} fits no model: {name}: {why}")
    constant = constant_masks(learned, held, classes=classes)
    return Dense(
        scores=scores,
        missing=missing,
        constant=TaskScore(value=constant.miou, details=mask_details(constant, task)),
        train=train.indices,
        test=test.indices,
    )


def _given_head(task: TaskSpec, device: str | torch.device) -> LinearHead | None:
    path = task.segmentation.head
    return None if path is None else load_linear_head(path).to(device)


def _agreed(head: LinearHead, classes: int, task: TaskSpec) -> int:
    """The classes of the head, where the images can have them."""
    named = names_of(task.train, "mask") is not None
    if head.classes < classes or (named and head.classes != classes):
        raise ValueError(
            f"the head in {task.segmentation.head!r} has {head.classes} classes, but "
            f"{task.train.name!r} has {classes}"
        )
    return head.classes


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
        "lr": list(used.rates),
        "lr_chosen_on": "20% of the training images" if len(used.rates) > 1 else None,
        "loss_stride": used.loss_stride,
        "scales": list(used.scales),
        "features": "computed in each step" if used.augment else "computed once",
    }


def dense_model(
    model: EvalModel,
    size_px: int,
    device: str | torch.device,
    *,
    layers: int = 1,
    head: LinearHead | None = None,
    with_cls: bool = False,
    learns: bool = False,
) -> DenseModel:
    """The model at the size of the task, as near as its patch and its nature let it come.

    With a given head, of as many last layers as make up its width. `with_cls` puts [CLS], where
    the model has one, behind each patch token. Gradients reach a model that `learns`.
    LacksFeatureError where the model has no patches, no such layers or another width.
    """
    if model.fixed_size and model.size_px is not None:
        window = model.size_px
    else:
        window = max(1, round(size_px / model.patch_px)) * model.patch_px
    blank = torch.zeros(1, 3, window, window, device=device)
    fn = model.dense_fn or model.fn
    with torch.no_grad():
        width = _width(fn(blank))
    if head is not None:
        layers, rest = divmod(head.dim, width)
        if rest or not layers or (layers > 1 and model.layers_fn is None):
            raise LacksFeatureError(f"its patches are {width} wide, the head takes {head.dim}")
    if layers > 1:
        fn = _joined_layers(model, layers)
        try:
            with torch.no_grad():
                fn(blank)
        except ValueError as error:
            raise LacksFeatureError(str(error)) from error

    def features(images: Tensor) -> Tensor:
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            tokens = fn(images)
            patches = tokens.as_map()
            if not with_cls or tokens.cls is None:
                return patches
            cls = tokens.cls[:, :, None, None].expand(-1, -1, *patches.shape[2:])
            return torch.cat([patches, cls], dim=1)

    return DenseModel(name=model.name, fn=features, window=window, dim=features(blank).shape[1])


def _width(tokens: Tokens) -> int:
    if tokens.patches is None:
        raise LacksFeatureError("no patch tokens")
    return tokens.patches.shape[2]


def _joined_layers(model: EvalModel, layers: int) -> FeatureFn:
    several = model.layers_fn
    if several is None:
        raise LacksFeatureError(f"no features of {layers} layers")
    return lambda images: several(images, layers)


def mask_details(score: MaskScore, task: TaskSpec) -> dict[str, JsonValue]:
    """Numbers beside the mean, and the IoU of each class that occurs."""
    names = names_of(task.train, "mask") or tuple(str(i) for i in range(len(score.iou)))
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
