"""What an evaluation found: scores by task and model, ratios to the best teacher, as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from alumnus.text_files import write_text

__all__ = ["Better", "JsonValue", "ModelKind", "ModelRecord", "Results", "TaskRecord", "TaskScore"]

FORMAT = "alumnus-evaluation/1"

Better = Literal["higher", "lower"]
ModelKind = Literal["teacher", "student", "projected", "baseline"]
JsonValue = str | int | float | bool | None | list["JsonValue"] | dict[str, "JsonValue"]


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """A row of the table."""

    name: str
    kind: ModelKind


@dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """A column of the table: what was measured, how and on which images."""

    name: str
    kind: str
    metric: str  # what the scores are
    size_px: int  # of the input, where a model does not want its own
    seed: int
    train: Mapping[str, JsonValue]  # source, number of images, hash of their identities
    test: Mapping[str, JsonValue]
    protocol: Mapping[str, JsonValue]
    unit: str = "%"
    better: Better = "higher"


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """One cell: a number in the task's unit, and how it came about."""

    value: float
    details: Mapping[str, JsonValue]


@dataclass(frozen=True, kw_only=True)
class Results:
    """All scores; a model that lacks what a task needs has none there, but a reason."""

    models: tuple[ModelRecord, ...]
    tasks: tuple[TaskRecord, ...]
    scores: Mapping[str, Mapping[str, TaskScore]]  # task -> model -> score
    missing: Mapping[str, Mapping[str, str]]  # task -> model -> why there is no score

    def value(self, task: str, model: str) -> float | None:
        """The score in the task's unit, None where there is none."""
        score = self.scores[task].get(model)
        return None if score is None else score.value

    def best_teacher(self, task: str) -> str | None:
        """The teacher with the best score; None without any."""
        found = {
            m.name: value
            for m in self.models
            if m.kind == "teacher" and (value := self.value(task, m.name)) is not None
        }
        choose = min if self._better(task) == "lower" else max
        return choose(found, key=found.__getitem__, default=None)

    def ratio(self, task: str, model: str) -> float | None:
        """How good a model is in terms of the best teacher: above 1 is better. None without both.

        Its score over the teacher's; of an error, where lower is better, the teacher's over its.
        """
        best, value = self.best_teacher(task), self.value(task, model)
        reference = None if best is None else self.value(task, best)
        if value is None or reference is None:
            return None
        over, under = (reference, value) if self._better(task) == "lower" else (value, reference)
        return over / under if under else None

    def _better(self, task: str) -> Better:
        return next(record.better for record in self.tasks if record.name == task)

    @classmethod
    def merged(cls, parts: Sequence["Results"]) -> "Results":
        """All models and tasks of several evaluations in one.

        A model is one row wherever it was scored; a task is one column if it was the same: equal
        protocol, seed, size and images. ValueError for tasks of one name that were not, for a
        model that is a student here and a teacher there, and for two scores in one place.
        """
        models: dict[str, ModelRecord] = {}
        tasks: dict[str, TaskRecord] = {}
        scores: dict[str, dict[str, TaskScore]] = {}
        missing: dict[str, dict[str, str]] = {}
        for part in parts:
            for model in part.models:
                if models.setdefault(model.name, model) != model:
                    raise ValueError(
                        f"{model.name!r} is a {models[model.name].kind} in one evaluation and a "
                        f"{model.kind} in another: they cannot be merged"
                    )
            for task in part.tasks:
                if asdict(tasks.setdefault(task.name, task)) != asdict(task):
                    raise ValueError(
                        f"task {task.name!r} was measured in two ways (protocol, size, seed or "
                        "images differ): its scores cannot be compared"
                    )
                held = scores.setdefault(task.name, {})
                for name, score in part.scores[task.name].items():
                    if held.setdefault(name, score).value != score.value:
                        raise ValueError(
                            f"{name!r} has two scores on {task.name!r}, {held[name].value:.2f} and "
                            f"{score.value:.2f}: give two models two names"
                        )
                missing.setdefault(task.name, {}).update(part.missing.get(task.name, {}))
        return cls(
            models=tuple(models.values()),
            tasks=tuple(tasks.values()),
            scores=scores,
            missing=missing,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: models, tasks with their protocols, scores, ratios to the best teacher."""
        students = [m.name for m in self.models if m.kind in ("student", "projected")]
        return {
            "format": FORMAT,
            "models": [asdict(m) for m in self.models],
            "tasks": [asdict(t) for t in self.tasks],
            "scores": {
                task: {model: asdict(score) for model, score in by_model.items()}
                for task, by_model in self.scores.items()
            },
            "missing": {task: dict(by_model) for task, by_model in self.missing.items()},
            "best_teacher": {t.name: self.best_teacher(t.name) for t in self.tasks},
            "ratio_to_best_teacher": {
                t.name: {s: self.ratio(t.name, s) for s in students} for t in self.tasks
            },
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Results":
        """The inverse of `to_json`; ValueError for anything else."""
        if record.get("format") != FORMAT:
            raise ValueError(
                f"these are no evaluation results: format is {record.get('format')!r}, "
                f"expected {FORMAT!r}"
            )
        try:
            return cls(
                models=tuple(ModelRecord(**m) for m in record["models"]),
                tasks=tuple(TaskRecord(**t) for t in record["tasks"]),
                scores={
                    task["name"]: {
                        model: TaskScore(**{**score, "value": float(score["value"])})
                        for model, score in record["scores"][task["name"]].items()
                    }
                    for task in record["tasks"]
                },
                missing={task: dict(why) for task, why in record["missing"].items()},
            )
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"these evaluation results are damaged or incomplete: {type(error).__name__} "
                f"{error}"
            ) from error

    def save(self, path: Path) -> Path:
        """Write JSON; a reader sees the old file or the new one, never half of it."""
        return write_text(path, json.dumps(self.to_json(), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Read what `save` wrote; ValueError for any other file."""
        try:
            record = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{str(path)!r} is no JSON: {error}") from error
        return cls.from_json(record if isinstance(record, dict) else {})
