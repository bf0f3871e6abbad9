"""How each kind of task is scored: fitted once to the features of a model, then used on tests."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from alumnus.evaluation.body_joints import STRENGTHS, BodyScore, body_regression, constant_body
from alumnus.evaluation.features import FeatureKind, Features
from alumnus.evaluation.joints import JOINT_GRID, SIGMA, constant_joints, joint_regression, pck
from alumnus.evaluation.knn import KNN_K, knn_classify
from alumnus.evaluation.linear import LinearClassifier
from alumnus.evaluation.logistic import C_RANGE, MAX_ITER, fit_logistic
from alumnus.evaluation.logistic_sgd import (
    BATCH_SIZE,
    EPOCHS,
    LR_RANGE,
    MOMENTUM,
    WEIGHT_DECAY_RANGE,
    fit_sgd,
)
from alumnus.evaluation.results import JsonValue, TaskScore
from alumnus.evaluation.tasks import EvalModel, LacksFeatureError, TaskKind, TaskSpec

__all__ = ["FIT", "Scorer", "TestSet", "constant_score", "protocol", "zeroshot"]

HEADLINE_K = 20  # fixed in advance: the best k of the test set would be tuned on it
THRESHOLD = 0.2  # of the torso
Details = dict[str, JsonValue]


@dataclass(frozen=True, kw_only=True)
class TestSet:
    """What a fitted protocol is scored on."""

    __test__ = False  # no test case of pytest's

    features: Features  # of one model
    among: Tensor | None = None  # numbers of the classes to choose from; None: all of training

    @property
    def labels(self) -> Tensor:  # [n]
        return _labels(self.features)


Scorer = Callable[[TestSet], TaskScore]
Fit = Callable[[TaskSpec, Features, str | torch.device], Scorer]


def _image_feature(task: TaskSpec, features: Features) -> tuple[FeatureKind, Tensor]:
    """The kind and the values [n, D] of the image-level feature that a task asks for."""
    kind: FeatureKind = task.feature if task.feature != "auto" else "cls"
    if task.feature == "auto" and features.cls is None:
        kind = "patch-mean"
    values = features.cls if kind == "cls" else features.patch_mean
    if values is None:
        raise LacksFeatureError(f"no {kind} feature")
    return kind, values


def _labels(features: Features) -> Tensor:
    assert features.labels is not None, "checked when the features were extracted"
    return features.labels


def _knn(task: TaskSpec, train: Features, device: str | torch.device) -> Scorer:
    kind, train_x = _image_feature(task, train)
    y = _labels(train)

    def score(test: TestSet) -> TaskScore:
        _, test_x = _image_feature(task, test.features)
        classes = max(int(y.max()), int(test.labels.max())) + 1
        by_k = knn_classify(train_x, y, test_x, test.labels, num_classes=classes, among=test.among)
        chosen = by_k.get(HEADLINE_K) or by_k[min(by_k, key=lambda k: abs(k - HEADLINE_K))]
        details: Details = {
            "feature": kind,
            "dim": train_x.shape[1],
            "k": chosen.k,
            "top5": chosen.top5,
            "top1_by_k": {str(k): score.top1 for k, score in by_k.items()},
        }
        return TaskScore(value=chosen.top1, details=details)

    return score


def _logistic(task: TaskSpec, train: Features, device: str | torch.device) -> Scorer:
    _, x = _image_feature(task, train)
    kind = torch.device(device).type
    fit = fit_logistic(
        x,
        _labels(train),
        trials=task.trials,
        seed=task.seed,
        device=device if kind == "cuda" else "cpu",  # others may lack float64
    )
    return _linear(task, fit.classifier, {"c": fit.c, "val_top1": fit.val_top1})


def _logistic_sgd(task: TaskSpec, train: Features, device: str | torch.device) -> Scorer:
    _, x = _image_feature(task, train)
    fit = fit_sgd(x, _labels(train), trials=task.trials, seed=task.seed, device=device)
    chosen: Details = {"lr": fit.lr, "weight_decay": fit.weight_decay, "val_top1": fit.val_top1}
    return _linear(task, fit.classifier, chosen)


def _linear(task: TaskSpec, classifier: LinearClassifier, chosen: Details) -> Scorer:
    def score(test: TestSet) -> TaskScore:
        kind, x = _image_feature(task, test.features)
        hits = classifier.predict(x, among=test.among) == test.labels
        details: Details = {"feature": kind, "dim": x.shape[1], **chosen}
        return TaskScore(value=100 * hits.double().mean().item(), details=details)

    return score


def _joints(task: TaskSpec, train: Features, device: str | torch.device) -> Scorer:
    def score(test: TestSet) -> TaskScore:
        tested = test.features
        if train.patches is None or tested.patches is None or train.grid is None:
            raise LacksFeatureError("no patch tokens")
        assert train.joints is not None, "checked when the features were extracted"
        assert tested.joints is not None, "checked when the features were extracted"
        found = joint_regression(
            train.patches,
            train.joints,
            train.sizes,
            tested.patches,
            tested.joints,
            tested.sizes,
            grid=train.grid,
            threshold=THRESHOLD,
            torso=task.torso,
            seed=task.seed,
        )
        details: Details = {
            "grid": list(train.grid),
            "dim": train.patches.shape[2],
            "strength": found.strength,
            "val_pck": found.val_pck,
            "mean_error_px": found.mean_error_px,
            "people": found.people,
            "joints": found.joints,
        }
        return TaskScore(value=found.pck, details=details)

    return score


def _body(task: TaskSpec, train: Features, device: str | torch.device) -> Scorer:
    def score(test: TestSet) -> TaskScore:
        tested = test.features
        if train.patches is None or tested.patches is None or train.grid is None:
            raise LacksFeatureError("no patch tokens")
        assert train.body is not None, "checked when the features were extracted"
        assert tested.body is not None, "checked when the features were extracted"
        found = body_regression(
            train.patches, train.body, tested.patches, tested.body, root=task.root, seed=task.seed
        )
        return _body_cell(found, {"grid": list(train.grid), "dim": train.patches.shape[2]})

    return score


def _body_cell(found: BodyScore, details: Details) -> TaskScore:
    return TaskScore(value=found.mpjpe_mm, details={**details, **asdict(found)})


def zeroshot(task: TaskSpec, model: EvalModel) -> Scorer:
    """The scorer of a protocol that is fitted to nothing."""
    text = task.text
    assert text is not None, "checked by the task"

    def score(test: TestSet) -> TaskScore:
        if model.space != text.space:
            raise LacksFeatureError(f"its features are not in the space of {text.space}")
        if test.features.cls is None:
            raise LacksFeatureError("no cls feature")
        hits = text.predict(test.features.cls, among=test.among) == test.labels
        return TaskScore(
            value=100 * hits.double().mean().item(), details={"dim": test.features.cls.shape[1]}
        )

    return score


FIT: dict[TaskKind, Fit] = {
    "knn": _knn,
    "logistic": _logistic,
    "logistic-sgd": _logistic_sgd,
    "joints": _joints,
    "body": _body,
}


def constant_score(task: TaskSpec, train: Features | None, test: TestSet) -> TaskScore:
    """What a prediction scores that never looks at the image.

    Joints: each at its mean place in training; in 3D, the mean pose. Classes: always one that is
    most frequent in training, of those to choose from; where several are, the mean over them.
    Zero-shot: the mean over all classes to choose from.
    """
    if task.text is not None:
        classes = len(task.text.classes) if test.among is None else len(test.among)
        return TaskScore(value=100 / classes, details={"classes": classes})
    assert train is not None, "all other tasks learn from images"
    if task.kind == "joints":
        held = test.features
        assert train.joints is not None, "checked when the features were extracted"
        assert held.joints is not None, "checked when the features were extracted"
        places = constant_joints(train.joints, len(held))
        score = pck(places, held.joints, held.sizes, threshold=THRESHOLD, torso=task.torso)
        return TaskScore(value=score.pck, details={"mean_error_px": score.mean_error_px})
    if task.kind == "body":
        assert train.body is not None, "checked when the features were extracted"
        assert test.features.body is not None, "checked when the features were extracted"
        found = constant_body(train.body, test.features.body, root=task.root)
        return _body_cell(found, {})
    y = _labels(train)
    if test.among is not None:
        y = y[torch.isin(y, test.among)]
    counts = y.bincount()
    frequent = (counts == counts.max()).nonzero().flatten()
    hits = torch.isin(test.labels, frequent).double().mean().item()
    return TaskScore(value=100 * hits / len(frequent), details={"classes": len(frequent)})


def protocol(task: TaskSpec) -> Details:
    """The settings of a task's protocol, for the record."""
    own: dict[TaskKind, Details] = {
        "knn": {"ks": list(KNN_K), "headline_k": HEADLINE_K, "temperature": 0.07, "l2": True},
        "logistic": {
            "solver": "lbfgs",
            "max_iter": MAX_ITER,
            "c_range": list(C_RANGE),
            "trials": task.trials,
            "val_ratio": 0.2,
        },
        "logistic-sgd": {
            "solver": "sgd",
            "l2": True,
            "epochs": EPOCHS,
            "batch_size": BATCH_SIZE,
            "momentum": MOMENTUM,
            "schedule": "cosine",
            "lr_range": list(LR_RANGE),
            "weight_decay_range": list(WEIGHT_DECAY_RANGE),
            "trials": task.trials,
            "val_ratio": 0.2,
        },
        "zeroshot": {}
        if task.text is None
        else {
            "classes": len(task.text.classes),
            "space": task.text.space,
            "projection": task.text.projection is not None,
        },
        "joints": {
            "readout": "ridge regression of heat maps",
            "max_grid": list(JOINT_GRID),
            "sigma": SIGMA,
            "threshold": THRESHOLD,
            "torso": [list(pair) for pair in task.torso],
            "val_ratio": 0.2,
        },
        "body": {
            "readout": "ridge regression from all patch tokens",
            "max_grid": list(JOINT_GRID),
            "strengths": list(STRENGTHS),
            "root": task.root,
            "val_ratio": 0.2,
        },
    }
    common: Details = {"geometry": task.geometry}
    if task.kind not in ("joints", "body"):
        common |= {
            "feature": "cls" if task.kind == "zeroshot" else task.feature,
            "resize_ratio": task.resize_ratio,
            "interpolation": "bicubic",
            "among": task.among,
        }
    return {**own[task.kind], **common}
