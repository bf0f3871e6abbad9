"""The suite: the same images and protocols for students and teachers alike."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from alumnus.data import Source
from alumnus.evaluation.features import (
    FeatureFn,
    FeatureKind,
    Features,
    Geometry,
    extract_all,
)
from alumnus.evaluation.joints import (
    JOINT_GRID,
    LSP_TORSO,
    SIGMA,
    Pairs,
    constant_joints,
    joint_regression,
    pck,
)
from alumnus.evaluation.knn import KNN_K, knn_classify
from alumnus.evaluation.logistic import C_RANGE, MAX_ITER, logistic_regression
from alumnus.evaluation.results import (
    JsonValue,
    ModelKind,
    ModelRecord,
    Results,
    TaskRecord,
    TaskScore,
)
from alumnus.spelling import unknown

__all__ = ["CONSTANT", "EvalModel", "TaskKind", "TaskSpec", "evaluate"]

TaskKind = Literal["knn", "logistic", "joints"]
METRICS: dict[TaskKind, str] = {
    "knn": "top-1 of weighted k-NN, %",
    "logistic": "top-1 of logistic regression, %",
    "joints": "PCK@0.2 of the torso, %",
}
SHORT: dict[TaskKind, str] = {"knn": "k-NN", "logistic": "logistic", "joints": "PCK"}
CONSTANT = "constant"  # the row of the trivial predictor
HEADLINE_K = 20  # fixed in advance: the best k of the test set would be tuned on it
THRESHOLD = 0.2  # of the torso


@dataclass(frozen=True, kw_only=True)
class EvalModel:
    """A row of the table: what turns images into tokens, and what it is."""

    name: str
    kind: ModelKind
    fn: FeatureFn  # [B, 3, S, S] ImageNet-normalised -> tokens, in evaluation mode
    size_px: int | None = None  # of its input, where it is not the task's


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """A column of the table: a protocol, images to fit on and images to score.

    `feature` is the image-level feature of k-NN and logistic regression: "auto" is [CLS] where a
    model has one, else the mean over its patches. `torso` names the joints that PCK measures
    with. The default name is that of the test source and the protocol.
    """

    kind: TaskKind
    train: Source
    test: Source
    name: str = ""
    size_px: int = 224
    seed: int = 0
    feature: Literal["auto", "cls", "patch-mean"] = "auto"
    trials: int = 40  # of the search for C
    torso: Pairs = field(default=LSP_TORSO)

    def __post_init__(self) -> None:
        if self.kind not in get_args(TaskKind):
            raise unknown("task", self.kind, get_args(TaskKind))
        if self.feature not in ("auto", "cls", "patch-mean"):
            raise unknown("feature", self.feature, ["auto", "cls", "patch-mean"])
        if not self.name:
            object.__setattr__(self, "name", f"{self.test.name} {SHORT[self.kind]}")

    @property
    def geometry(self) -> Geometry:
        """How a picture becomes square: joints must stay in it."""
        return "squash" if self.kind == "joints" else "crop"


class _LacksFeatureError(Exception):
    """A model does not have the tokens that a task needs."""


def evaluate(
    models: Sequence[EvalModel],
    tasks: Sequence[TaskSpec],
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    device: str | torch.device = "cpu",
    on_progress: Callable[[str], None] | None = None,
) -> Results:
    """Score every model on every task, and a constant prediction beside them.

    Tasks with the same images and input size share one extraction, in which each image is decoded
    once for all models. A model without the tokens that a task needs gets no score there, and
    `Results.missing` says why. Broken images are left out, with a warning, for all models: the
    task's record counts and hashes the others. Results depend on the seeds of the tasks only.
    """
    for what, names in (("models", [m.name for m in models]), ("tasks", [t.name for t in tasks])):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two {what} of an evaluation are named {twice[0]!r}")
    if any(m.name == CONSTANT for m in models):
        raise ValueError(f"the name {CONSTANT!r} is that of the trivial predictor")
    say = on_progress or (lambda line: None)

    scores: dict[str, dict[str, TaskScore]] = {t.name: {} for t in tasks}
    missing: dict[str, dict[str, str]] = {t.name: {} for t in tasks}
    records: dict[str, TaskRecord] = {}
    for group in _groups(tasks):
        train, test = (
            _extract(models, group, source, batch_size, num_workers, device, say)
            for source in (group[0].train, group[0].test)
        )
        for task in group:
            for model in models:
                say(f"{task.name}: {model.name}")
                try:
                    score = _SCORE[task.kind](task, train[model.name], test[model.name])
                    scores[task.name][model.name] = score
                except _LacksFeatureError as error:
                    missing[task.name][model.name] = str(error)
            any_model = models[0].name
            scores[task.name][CONSTANT] = _constant(task, train[any_model], test[any_model])
            records[task.name] = _record(task, train[any_model], test[any_model])
    return Results(
        models=(
            *(ModelRecord(name=m.name, kind=m.kind) for m in models),
            ModelRecord(name=CONSTANT, kind="baseline"),
        ),
        tasks=tuple(records[task.name] for task in tasks),
        scores=scores,
        missing=missing,
    )


def _groups(tasks: Sequence[TaskSpec]) -> list[list[TaskSpec]]:
    """Tasks that can share their features, in the order of their first."""
    groups: dict[tuple[object, ...], list[TaskSpec]] = {}
    for task in tasks:
        key = (id(task.train), id(task.test), task.size_px, task.geometry)
        groups.setdefault(key, []).append(task)
    return list(groups.values())


def _extract(
    models: Sequence[EvalModel],
    group: Sequence[TaskSpec],
    source: Source,
    batch_size: int,
    num_workers: int,
    device: str | torch.device,
    say: Callable[[str], None],
) -> dict[str, Features]:
    """Features of one source for all models, with classes numbered as in training."""
    task = group[0]
    say(f"features of {source.name}: {len(source)} images")
    want: list[FeatureKind] = ["patches"] if task.geometry == "squash" else ["cls", "patch-mean"]
    features = extract_all(
        {m.name: m.fn for m in models},
        source,
        size_px={m.name: m.size_px or task.size_px for m in models},
        batch_size=batch_size,
        want=want,
        geometry=task.geometry,
        max_grid=JOINT_GRID,
        num_workers=num_workers,
        device=device,
    )
    what, held = (
        ("joints", next(iter(features.values())).joints)
        if task.geometry == "squash"
        else ("classes", next(iter(features.values())).labels)
    )
    if held is None:
        raise ValueError(f"task {task.name!r} needs {what}, which {source.name!r} does not have")
    renumber = _class_numbers(source, task.train)
    if renumber is None:
        return features
    return {
        name: replace(f, labels=None if f.labels is None else renumber[f.labels])
        for name, f in features.items()
    }


def _class_numbers(source: Source, train: Source) -> Tensor | None:
    """For each class of `source` its number in `train`; None where they are numbered alike."""
    ours, theirs = source.classes, train.classes
    if ours is None or theirs is None or ours == theirs:
        return None
    foreign = [name for name in ours if name not in theirs]
    if foreign:
        raise ValueError(
            f"class {foreign[0]!r} of {source.name!r} is not among the {len(theirs)} classes of "
            f"the training images in {train.name!r}"
        )
    return torch.tensor([theirs.index(name) for name in ours])


def _image_feature(task: TaskSpec, features: Features) -> tuple[FeatureKind, Tensor]:
    """The kind and the values [n, D] of the image-level feature that a task asks for."""
    kind: FeatureKind = task.feature if task.feature != "auto" else "cls"
    if task.feature == "auto" and features.cls is None:
        kind = "patch-mean"
    values = features.cls if kind == "cls" else features.patch_mean
    if values is None:
        raise _LacksFeatureError(f"no {kind} feature")
    return kind, values


def _labels(features: Features) -> Tensor:
    assert features.labels is not None, "checked when the features were extracted"
    return features.labels


def _score_knn(task: TaskSpec, train: Features, test: Features) -> TaskScore:
    kind, train_x = _image_feature(task, train)
    _, test_x = _image_feature(task, test)
    y, truth = _labels(train), _labels(test)
    classes = max(int(y.max()), int(truth.max())) + 1
    by_k = knn_classify(train_x, y, test_x, truth, num_classes=classes)
    chosen = by_k.get(HEADLINE_K) or by_k[min(by_k, key=lambda k: abs(k - HEADLINE_K))]
    details: dict[str, JsonValue] = {
        "feature": kind,
        "dim": train_x.shape[1],
        "k": chosen.k,
        "top5": chosen.top5,
        "top1_by_k": {str(k): score.top1 for k, score in by_k.items()},
    }
    return TaskScore(value=chosen.top1, details=details)


def _score_logistic(task: TaskSpec, train: Features, test: Features) -> TaskScore:
    kind, train_x = _image_feature(task, train)
    _, test_x = _image_feature(task, test)
    score = logistic_regression(
        train_x, _labels(train), test_x, _labels(test), trials=task.trials, seed=task.seed
    )
    details: dict[str, JsonValue] = {
        "feature": kind,
        "dim": train_x.shape[1],
        "c": score.c,
        "val_top1": score.val_top1,
    }
    return TaskScore(value=score.top1, details=details)


def _score_joints(task: TaskSpec, train: Features, test: Features) -> TaskScore:
    if train.patches is None or test.patches is None or train.grid is None:
        raise _LacksFeatureError("no patch tokens")
    assert train.joints is not None, "checked when the features were extracted"
    assert test.joints is not None, "checked when the features were extracted"
    score = joint_regression(
        train.patches,
        train.joints,
        train.sizes,
        test.patches,
        test.joints,
        test.sizes,
        grid=train.grid,
        threshold=THRESHOLD,
        torso=task.torso,
        seed=task.seed,
    )
    details: dict[str, JsonValue] = {
        "grid": list(train.grid),
        "dim": train.patches.shape[2],
        "strength": score.strength,
        "val_pck": score.val_pck,
        "mean_error_px": score.mean_error_px,
        "people": score.people,
        "joints": score.joints,
    }
    return TaskScore(value=score.pck, details=details)


_SCORE: dict[TaskKind, Callable[[TaskSpec, Features, Features], TaskScore]] = {
    "knn": _score_knn,
    "logistic": _score_logistic,
    "joints": _score_joints,
}


def _constant(task: TaskSpec, train: Features, test: Features) -> TaskScore:
    """What a prediction scores that never looks at the image.

    Joints: each at its mean place in training. Classes: always one that is most frequent in
    training; where several are, the mean over them.
    """
    if task.kind == "joints":
        assert train.joints is not None, "checked when the features were extracted"
        assert test.joints is not None, "checked when the features were extracted"
        places = constant_joints(train.joints, len(test))
        score = pck(places, test.joints, test.sizes, threshold=THRESHOLD, torso=task.torso)
        return TaskScore(value=score.pck, details={"mean_error_px": score.mean_error_px})
    counts = _labels(train).bincount()
    frequent = (counts == counts.max()).nonzero().flatten()
    hits = torch.isin(_labels(test), frequent).double().mean().item()
    return TaskScore(value=100 * hits / len(frequent), details={"classes": len(frequent)})


def _record(task: TaskSpec, train: Features, test: Features) -> TaskRecord:
    protocol: dict[TaskKind, dict[str, JsonValue]] = {
        "knn": {"ks": list(KNN_K), "headline_k": HEADLINE_K, "temperature": 0.07, "l2": True},
        "logistic": {
            "solver": "lbfgs",
            "max_iter": MAX_ITER,
            "c_range": list(C_RANGE),
            "trials": task.trials,
            "val_ratio": 0.2,
        },
        "joints": {
            "readout": "ridge regression of heat maps",
            "max_grid": list(JOINT_GRID),
            "sigma": SIGMA,
            "threshold": THRESHOLD,
            "torso": [list(pair) for pair in task.torso],
            "val_ratio": 0.2,
        },
    }
    common: dict[str, JsonValue] = {"geometry": task.geometry}
    if task.kind != "joints":
        common["feature"] = task.feature
    return TaskRecord(
        name=task.name,
        kind=task.kind,
        metric=METRICS[task.kind],
        size_px=task.size_px,
        seed=task.seed,
        train=_images(task.train, train),
        test=_images(task.test, test),
        protocol={**protocol[task.kind], **common},
    )


def _images(source: Source, features: Features) -> dict[str, JsonValue]:
    """Which images: two evaluations with the same hash saw the same ones in the same order."""
    digest = hashlib.sha256()
    for index in features.indices.tolist():
        digest.update(source.identity(index).encode() + b"\n")
    return {
        "source": source.name,
        "images": len(features),
        "left_out": len(source) - len(features),
        "identities_sha256": digest.hexdigest(),
    }
