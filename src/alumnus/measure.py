"""What is evaluated, by name: runs and released encoders, bare and projected, and teachers."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from alumnus.assembly import load_teachers
from alumnus.config import load_config
from alumnus.data import Source, open_source
from alumnus.encoders import Encoder, build_encoder
from alumnus.evaluation.suite import EvalModel, TaskKind, TaskSpec
from alumnus.randomness import derive_seed
from alumnus.run_folder import RunFolder
from alumnus.runs import LoadedStudent, is_encoder, keeps_projectors, load_encoder, load_student
from alumnus.teachers import Teacher, load_teacher
from alumnus.tokens import Tokens

__all__ = ["bare_model", "models_of", "parse_tasks", "student_models", "teacher_model"]

TASK_KINDS: dict[str, TaskKind] = {"knn": "knn", "logistic": "logistic", "joints": "joints"}


def parse_tasks(
    texts: Sequence[str], *, size_px: int, trials: int, seed: int = 0
) -> list[TaskSpec]:
    """`knn=PATH` (its splits train and test) or `knn=TRAIN,TEST` as tasks; opens each source once.

    ValueError, one sentence, for a task that cannot be read or whose images are not there.
    """
    sources: dict[str, Source] = {}

    def opened(spec: str) -> Source:
        if spec not in sources:
            sources[spec] = open_source(spec)
        return sources[spec]

    tasks = [_task(text, opened, size_px=size_px, trials=trials, seed=seed) for text in texts]
    names = [task.name for task in tasks]
    for task in tasks:
        if names.count(task.name) > 1:
            raise ValueError(f"two tasks are named {task.name!r}: measure the same thing once")
        _check_labels(task)
    return tasks


def _task(
    text: str, opened: Callable[[str], Source], *, size_px: int, trials: int, seed: int
) -> TaskSpec:
    kind, equals, where = text.partition("=")
    parts = [part.strip() for part in where.split(",")]
    if not equals or kind not in TASK_KINDS or not all(parts) or len(parts) > 2:
        raise ValueError(
            f"{text!r} is no task: it should read KIND=PATH or KIND=TRAIN,TEST with KIND one of "
            f"{', '.join(TASK_KINDS)}, e.g. knn=packs/caltech50"
        )
    train, test = parts if len(parts) == 2 else (f"{parts[0]}:train", f"{parts[0]}:test")
    return TaskSpec(
        kind=TASK_KINDS[kind],
        train=opened(train),
        test=opened(test),
        size_px=size_px,
        trials=trials,
        seed=seed,
    )


def _check_labels(task: TaskSpec) -> None:
    """ValueError where the images do not have what the task predicts; looks at the first."""
    for source in (task.train, task.test):
        fields = source.read(0).fields
        held = fields.get("json", {}).get("joints") if task.kind == "joints" else fields.get("cls")
        if held is None:
            what = "joints" if task.kind == "joints" else "classes"
            raise ValueError(
                f"task {task.name!r} needs {what}, which {source.name!r} does not have"
            )


def models_of(names: Sequence[str], device: torch.device) -> list[EvalModel]:
    """Rows for the models named: a run brings its bare encoder, projections and teachers.

    Any other encoder, released checkpoint or teacher is one row. ValueError for unknown names.
    """
    rows: dict[str, EvalModel] = {}
    for name in names:
        path = Path(name).expanduser()
        config = RunFolder(path).config
        if config.is_file():
            for alias, teacher in load_teachers(load_config(config)).items():
                rows.setdefault(alias, teacher_model(teacher.to(device)))
        if is_encoder(path):
            label = path.resolve().name
            if keeps_projectors(path):
                found = student_models(load_student(path), label, device)
            else:
                found = [_encoder_model(label, load_encoder(path), device)]
            rows |= {row.name: row for row in found}
        else:
            teacher = load_teacher(name)
            rows.setdefault(teacher.name, teacher_model(teacher.to(device)))
    order = ["teacher", "student", "projected", "baseline"]
    return sorted(rows.values(), key=lambda row: order.index(row.kind))


def bare_model(name: str, device: torch.device) -> EvalModel:
    """One row: the bare encoder of a run, an encoder, a released checkpoint, or a teacher."""
    path = Path(name).expanduser()
    if is_encoder(path):
        return _encoder_model(path.resolve().name, load_encoder(path), device)
    return teacher_model(load_teacher(name).to(device))


def teacher_model(teacher: Teacher) -> EvalModel:
    """A teacher at its own input size."""
    return EvalModel(name=teacher.name, kind="teacher", fn=teacher, size_px=teacher.input_size)


def student_models(loaded: LoadedStudent, label: str, device: torch.device) -> list[EvalModel]:
    """The bare encoder, its projection to each teacher's space, and the same encoder untrained."""
    student = loaded.student.to(device).eval()
    standardizers = loaded.standardizers.to(device)

    def projection(teacher: str) -> Callable[[Tensor], Tokens]:
        def predict(images: Tensor) -> Tokens:
            return standardizers.inverse({teacher: student(images)[teacher]})[teacher]

        return predict

    size_px = student.encoder.image_size
    rows = [_encoder_model(label, student.encoder, device)]
    rows += [
        EvalModel(
            name=f"{label} as {teacher}", kind="projected", fn=projection(teacher), size_px=size_px
        )
        for teacher in loaded.spec.projectors
    ]
    torch.manual_seed(derive_seed(0, "untrained"))
    untrained = build_encoder(loaded.spec.encoder).to(device).eval()
    rows.append(
        EvalModel(
            name=f"{label} untrained",
            kind="baseline",
            fn=lambda images: untrained(images).final,
            size_px=size_px,
        )
    )
    return rows


def _encoder_model(label: str, encoder: Encoder, device: torch.device) -> EvalModel:
    encoder = encoder.to(device).eval()
    return EvalModel(
        name=label,
        kind="student",
        fn=lambda images: encoder(images).final,
        size_px=encoder.image_size,
    )
