"""The suite: the same images and protocols for students and teachers alike."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from alumnus.data import Source
from alumnus.evaluation.depth_task import depth_protocol, measure_depth
from alumnus.evaluation.features import Features, extract_all
from alumnus.evaluation.joints import JOINT_GRID
from alumnus.evaluation.matching_task import matching_protocol, measure_matching
from alumnus.evaluation.protocols import FIT, Scorer, TestSet, constant_score, protocol, zeroshot
from alumnus.evaluation.remembered import Remembered
from alumnus.evaluation.results import JsonValue, ModelRecord, Results, TaskRecord, TaskScore
from alumnus.evaluation.segmentation_task import Dense, OnHead, segment, segmentation_protocol
from alumnus.evaluation.tasks import METRICS, EvalModel, LacksFeatureError, TaskKind, TaskSpec

__all__ = ["CONSTANT", "TaskSpec", "class_numbers", "evaluate", "task_record"]

CONSTANT = "constant"  # the row of the trivial predictor
# Tasks that see images in a way of their own; matching first, as it shows them to all models.
OWN: dict[TaskKind, tuple[Callable[..., Dense], Callable[[TaskSpec], dict[str, JsonValue]]]] = {
    "matching": (measure_matching, matching_protocol),
    "segmentation": (segment, segmentation_protocol),
    "depth": (measure_depth, depth_protocol),
}
SYNSET = re.compile(r"n\d{8}")  # of WordNet; sets of ImageNet's classes number them as sorted


def evaluate(
    models: Sequence[EvalModel],
    tasks: Sequence[TaskSpec],
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    device: str | torch.device = "cpu",
    on_progress: Callable[[str], None] | None = None,
    on_head: OnHead | None = None,
) -> Results:
    """Score every model on every task, and a constant prediction beside them.

    Tasks with the same training images and input size share one extraction of these, in which
    each image is decoded once for all models; those that differ in their test images alone (such
    as ImageNet's and its variants) share what was fitted; on a CPU tasks with a source in common
    share forward passes (`Remembered`). A model without the tokens that a task needs gets no score
    there, and `Results.missing` says why. Broken images are left out, with a warning, for all
    models: the task's record counts and hashes the others. Results depend on the seeds of the tasks
    only, but for rounding.
    """
    for what, names in (("models", [m.name for m in models]), ("tasks", [t.name for t in tasks])):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two {what} of an evaluation are named {twice[0]!r}")
    if any(m.name == CONSTANT for m in models):
        raise ValueError(f"the name {CONSTANT!r} is that of the trivial predictor")
    run = _Run(batch_size, num_workers, device, on_progress or (lambda line: None), on_head)
    columns: dict[str, _Column] = {}
    for part in _on_the_same_images(tasks):
        memory = Remembered()
        several = len(part) > 1 and not any(task.segmentation.augment for task in part)
        seen = [memory.of(model) if several else model for model in models]
        # First those that show each batch to all models in turn: rows may share work on it.
        for column in (*_fitted_tasks(seen, part, run), *_own_tasks(seen, part, run)):
            columns[column.record.name] = column
    ordered = [columns[task.name] for task in tasks]
    return Results(
        models=(
            *(ModelRecord(name=m.name, kind=m.kind) for m in models),
            ModelRecord(name=CONSTANT, kind="baseline"),
        ),
        tasks=tuple(column.record for column in ordered),
        scores={column.record.name: column.scores for column in ordered},
        missing={column.record.name: column.missing for column in ordered},
    )


class _Run(NamedTuple):
    """How an evaluation runs."""

    batch_size: int
    num_workers: int
    device: str | torch.device
    say: Callable[[str], None]
    on_head: OnHead | None


class _Column(NamedTuple):
    """A task, measured."""

    record: TaskRecord
    scores: dict[str, TaskScore]  # by model
    missing: dict[str, str]  # model -> why it has no score


def _own_tasks(
    models: Sequence[EvalModel], tasks: Sequence[TaskSpec], run: _Run
) -> Iterator[_Column]:
    """Those of `OWN`, one after the other."""
    for task in sorted((t for t in tasks if t.kind in OWN), key=lambda t: list(OWN).index(t.kind)):
        measure, describe = OWN[task.kind]
        also = {"on_head": run.on_head} if task.kind == "segmentation" else {}
        found = measure(
            models,
            task,
            batch_size=run.batch_size,
            num_workers=run.num_workers,
            device=run.device,
            say=run.say,
            **also,
        )
        record = task_record(task, found.train, found.test, describe(task))
        yield _Column(record, {**found.scores, CONSTANT: found.constant}, dict(found.missing))


def _fitted_tasks(
    models: Sequence[EvalModel], tasks: Sequence[TaskSpec], run: _Run
) -> Iterator[_Column]:
    """All others: fitted to the features of images, shared where they can be."""
    for group in _groups([task for task in tasks if task.kind not in OWN]):
        first = group[0]
        train = None if first.text is not None else _extract(models, group, first.train, run)
        fitted: dict[tuple[object, ...], Scorer] = {}
        for same_test in _by_test(group):
            test = _extract(models, group, same_test[0].test, run)
            for task in same_test:
                yield _measured(models, task, train, test, fitted, run)


def _measured(
    models: Sequence[EvalModel],
    task: TaskSpec,
    train: Mapping[str, Features] | None,  # by model; None: learns from nothing
    test: Mapping[str, Features],
    fitted: dict[tuple[object, ...], Scorer],  # to be added to
    run: _Run,
) -> _Column:
    """Each model fitted, unless a task before has, and scored."""
    scores: dict[str, TaskScore] = {}
    missing: dict[str, str] = {}
    among = _among(task)
    for model in models:
        run.say(f"{task.name}: {model.name}")
        try:
            key = (model.name, *_fitted_alike(task))
            if key not in fitted:
                learned = None if train is None else train[model.name]
                fitted[key] = _fit(task, model, learned, run.device)
            scores[model.name] = fitted[key](TestSet(features=test[model.name], among=among))
        except LacksFeatureError as error:
            missing[model.name] = str(error)
    any_model = models[0].name
    learned = None if train is None else train[any_model]
    held = TestSet(features=test[any_model], among=among)
    scores[CONSTANT] = constant_score(task, learned, held)
    used = None if learned is None else learned.indices
    return _Column(task_record(task, used, held.features.indices, protocol(task)), scores, missing)


def _on_the_same_images(tasks: Sequence[TaskSpec]) -> list[list[TaskSpec]]:
    """Tasks with a source in common, directly or through others, in the order of their first."""
    parts: list[tuple[set[int], list[TaskSpec]]] = []
    for task in tasks:
        sources, members = {id(task.train), id(task.test)}, [task]
        joined = [part for part in parts if part[0] & sources]
        parts = [part for part in parts if part not in joined]
        for others, earlier in reversed(joined):
            sources, members = sources | others, earlier + members
        parts.append((sources, members))
    return [members for _, members in parts]


def _groups(tasks: Sequence[TaskSpec]) -> list[list[TaskSpec]]:
    """Tasks that can share their training features, in the order of their first."""
    groups: dict[tuple[object, ...], list[TaskSpec]] = {}
    for task in tasks:
        key = (id(task.train), id(task.text), task.size_px, task.resize_ratio, task.geometry)
        groups.setdefault(key, []).append(task)
    return list(groups.values())


def _by_test(group: Sequence[TaskSpec]) -> list[list[TaskSpec]]:
    """Tasks that can share their test features too."""
    parts: dict[int, list[TaskSpec]] = {}
    for task in group:
        parts.setdefault(id(task.test), []).append(task)
    return list(parts.values())


def _fit(
    task: TaskSpec, model: EvalModel, train: Features | None, device: str | torch.device
) -> Scorer:
    return zeroshot(task, model) if train is None else FIT[task.kind](task, train, device)


def _fitted_alike(task: TaskSpec) -> tuple[object, ...]:
    """What else decides the fit to the training features of a group."""
    return (task.kind, task.seed, task.feature, task.trials, task.torso, task.root)


def _extract(
    models: Sequence[EvalModel],
    group: Sequence[TaskSpec],
    source: Source,
    run: _Run,
) -> dict[str, Features]:
    """Features of one source for all models, with classes numbered as in training."""
    run.say(f"features of {source.name}: {len(source)} images")
    task = group[0]
    renumber = class_numbers(source, task)
    features = extract_all(
        {m.name: m.fn for m in models},
        source,
        size_px={m.name: m.size_px or task.size_px for m in models},
        batch_size=run.batch_size,
        want={task.wants for task in group},
        geometry=task.geometry,
        resize_ratio=task.resize_ratio,
        max_grid=JOINT_GRID,
        num_workers=run.num_workers,
        device=run.device,
    )
    truth = next(iter(features.values()))
    for each in group:
        what, held = {
            "joints": ("joints", truth.joints),
            "body": ("3D joints", truth.body),
        }.get(each.kind, ("classes", truth.labels))
        if held is None:
            raise ValueError(
                f"task {each.name!r} needs {what}, which {source.name!r} does not have"
            )
    if renumber is None:
        return features
    assert truth.labels is not None, "classes are what is renumbered"
    if task.text is not None and truth.labels.max() >= len(renumber):
        raise ValueError(
            f"{source.name!r} has an image of class {int(truth.labels.max())}, but the text "
            f"features are of {len(renumber)} classes"
        )
    return {
        name: replace(f, labels=None if f.labels is None else renumber[f.labels])
        for name, f in features.items()
    }


def class_numbers(source: Source, task: TaskSpec) -> Tensor | None:
    """For each class of `source` its number in the task; None where they are numbered alike."""
    ours, theirs = source.classes, task.classes
    if ours is None and task.text is not None:
        ours = _numbered_classes(source, task.text.classes)
    if ours is None or theirs is None or ours == theirs:
        return None
    number = {name: i for i, name in enumerate(theirs)}
    foreign = [name for name in ours if name not in number]
    if foreign:
        where = "text features" if task.text else f"training images in {task.train.name!r}"
        raise ValueError(
            f"class {foreign[0]!r} of {source.name!r} is not among the {len(theirs)} classes of "
            f"the {where}"
        )
    return torch.tensor([number[name] for name in ours])


def _numbered_classes(source: Source, named: tuple[str, ...]) -> tuple[str, ...]:
    """Which class of a text each label of a source without names is; ValueError if nobody says."""
    if all(SYNSET.fullmatch(name) for name in named):
        return tuple(sorted(named))
    numbers = tuple(str(i) for i in range(len(named)))
    if set(named) == set(numbers):
        return numbers
    raise ValueError(
        f"{source.name!r} numbers its classes without names, so its text features have to be of "
        f"synsets such as 'n01440764' or of numbers from 0, not of {named[0]!r}"
    )


def _among(task: TaskSpec) -> Tensor | None:
    """The classes that a prediction may choose from; None: all of the task."""
    return None if task.among == "train" else class_numbers(task.test, task)


def task_record(
    task: TaskSpec,
    train: Tensor | None,  # [n] int64, places in the source; None: learns from nothing
    test: Tensor,  # [m] int64
    how: Mapping[str, JsonValue],
) -> TaskRecord:
    """A column of the results: the images that were used, and the protocol `how`."""
    return TaskRecord(
        name=task.name,
        kind=task.kind,
        metric=METRICS[task.kind].about,
        unit=METRICS[task.kind].unit,
        better=METRICS[task.kind].better,
        size_px=task.size_px,
        seed=task.seed,
        train={} if train is None else _images(task.train, train),
        test=_images(task.test, test),
        protocol=how,
    )


def _images(source: Source, indices: Tensor) -> dict[str, JsonValue]:
    """Which images: two evaluations with the same hash saw the same ones in the same order."""
    digest = hashlib.sha256()
    for index in indices.tolist():
        digest.update(source.identity(index).encode() + b"\n")
    return {
        "source": source.name,
        "images": len(indices),
        "left_out": len(source) - len(indices),
        "identities_sha256": digest.hexdigest(),
    }
