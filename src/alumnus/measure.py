"""What is evaluated, by name: runs and released encoders, bare and projected, and teachers."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from alumnus import assembly
from alumnus.config import TeacherSection, load_config
from alumnus.data import (
    BrokenImageError,
    Sample,
    Source,
    names_of,
    open_source,
    shows_some_classes,
)
from alumnus.encoders import Encoder, EncoderSpec, build_encoder, last_layers
from alumnus.evaluation.depth import DepthProtocol
from alumnus.evaluation.features import joints_of
from alumnus.evaluation.segmentation import SegmentationProtocol
from alumnus.evaluation.tasks import EvalModel, TaskKind, TaskSpec
from alumnus.evaluation.text_features import TextFeatures, load_text_features
from alumnus.evaluation.view_pairs import NEEDS, is_posed
from alumnus.heads import load_linear_head
from alumnus.images import luminance
from alumnus.randomness import derive_seed
from alumnus.run_folder import RunFolder
from alumnus.runs import LoadedStudent, is_encoder, keeps_projectors, load_encoder, load_student
from alumnus.teachers import Teacher, load_teacher, teacher_name
from alumnus.tokens import Tokens
from alumnus.training.distributed import is_sharded

__all__ = [
    "bare_model",
    "encoder_model",
    "head_task",
    "models_of",
    "parse_task",
    "parse_tasks",
    "student_models",
    "teacher_model",
    "whole_teachers",
]

log = logging.getLogger(__name__)

IN_TRAINING_ONLY = {  # what two sections of the same teacher may differ in
    "domain": None,
    "licence": None,
    "grid": "auto",
    "loss_weight": 1.0,
    "optional": False,
}

LEARNS_NOTHING: tuple[TaskKind, ...] = ("zeroshot", "matching")
TASK_KINDS: dict[str, TaskKind] = {kind: kind for kind in get_args(TaskKind)}
SIZE_PX: dict[TaskKind, int] = {  # of the published protocols; others 224
    "segmentation": 512,
    "depth": 480,
}


def parse_tasks(
    texts: Sequence[str],
    *,
    size_px: int | None = None,
    trials: int,
    seed: int = 0,
    resize_ratio: float = 1.0,
    segmentation: SegmentationProtocol | None = None,
    depth: DepthProtocol | None = None,
) -> list[TaskSpec]:
    """`knn=PATH` (its splits train and test) or `knn=TRAIN,TEST` as tasks; opens each source once.

    `logistic=TRAIN,TEST,TEST` is one task for each test, and fits once for all of them;
    `zeroshot=TEXT,TEST` compares with the text features of a file; `matching=PATH` measures on the
    split test (or what PATH names), as nothing is learned. Without `size_px` it is 512 for
    segmentation, 480 for depth and 224 for others.

    ValueError, one sentence, for a task that cannot be read or whose images are not there.
    """
    sources: dict[str, Source] = {}

    def opened(spec: str) -> Source:
        if spec not in sources:
            sources[spec] = open_source(spec)
        return sources[spec]

    texts_of: dict[str, TextFeatures] = {}

    def read(spec: str) -> TextFeatures:
        if spec not in texts_of:
            texts_of[spec] = load_text_features(spec)
        return texts_of[spec]

    if segmentation is not None and segmentation.head is not None:
        load_linear_head(segmentation.head)  # refused now, not after an hour
    parsed = [parse_task(text) for text in texts]
    _check_options({kind for kind, _, _ in parsed}, segmentation)
    tasks = [
        TaskSpec(
            kind=kind,
            text=read(train) if kind == "zeroshot" else None,
            train=opened(test if kind in LEARNS_NOTHING else train),
            test=opened(test),
            size_px=size_px or SIZE_PX.get(kind, 224),
            resize_ratio=resize_ratio,
            trials=trials,
            seed=seed,
            among="test" if shows_some_classes(test) else "train",
            segmentation=segmentation or SegmentationProtocol(),
            depth=depth or DepthProtocol(),
            **_people(opened(test)),
        )
        for kind, train, tests in parsed
        for test in tests
    ]
    names = [task.name for task in tasks]
    for task in tasks:
        if names.count(task.name) > 1:
            raise ValueError(f"two tasks are named {task.name!r}: measure the same thing once")
        _check_labels(task)
    return tasks


def head_task(kind: TaskKind, data: str, *, size_px: int | None = None, seed: int = 0) -> TaskSpec:
    """`PATH` (its splits train and test) or `TRAIN,TEST`, to train a head on and to score it.

    As `parse_tasks` reads it, but that a matching task has images to learn from too.
    """
    if kind != "matching":
        [task] = parse_tasks([f"{kind}={data}"], size_px=size_px, trials=1, seed=seed)
        return task
    parts = [part.strip() for part in data.split(",")]
    train, test = parts if len(parts) == 2 else (f"{data}:train", f"{data}:test")
    task = TaskSpec(
        kind=kind,
        train=open_source(train),
        test=open_source(test),
        size_px=size_px or SIZE_PX.get(kind, 224),
        seed=seed,
    )
    _check_labels(task)
    return task


TORSO = (("shoulder_left", "hip_right"), ("shoulder_right", "hip_left"))  # of PCK
ROOT = "pelvis"  # of 3D joints


def _people(source: Source) -> dict[str, Any]:
    """Which joints measure the torso and which is the root, where the source names its joints."""
    names = names_of(source, "joints")
    if names is None:
        return {}
    return {
        "torso": tuple((names.index(one), names.index(other)) for one, other in TORSO),
        "root": names.index(ROOT),
    }


NAMES_SPLIT = re.compile(r":(train|test|val|validation)$|\[\d*:\d*\]$")


def parse_task(text: str) -> tuple[TaskKind, str, tuple[str, ...]]:
    """Kind, images to learn from, sets of images to measure on; ValueError for no task."""
    kind, equals, where = text.partition("=")
    parts = [part.strip() for part in where.split(",")]
    if not equals or kind not in TASK_KINDS or not all(parts):
        raise ValueError(
            f"{text!r} is no task: it should read KIND=PATH or KIND=TRAIN,TEST with KIND one of "
            f"{', '.join(TASK_KINDS)}, e.g. knn=packs/caltech50"
        )
    if kind == "zeroshot" and len(parts) == 1:
        raise ValueError(
            f"{text!r} is no task: zero-shot reads zeroshot=TEXT,TEST, with text features that "
            "alumnus text writes"
        )
    if kind == "matching":  # learns from nothing
        tests = [part if NAMES_SPLIT.search(part) else f"{part}:test" for part in parts]
        return "matching", tests[0], tuple(tests)
    if len(parts) == 1:
        parts = [f"{parts[0]}:train", f"{parts[0]}:test"]
    return TASK_KINDS[kind], parts[0], tuple(parts[1:])


def _check_options(kinds: set[TaskKind], segmentation: SegmentationProtocol | None) -> None:
    """ValueError for options of segmentation that are meant for depth."""
    used = segmentation or SegmentationProtocol()
    given = {
        "--augment": used.augment,
        "--inference ms": used.inference == "ms",
        "--head": used.head is not None,
    }
    foreign = [option for option, is_given in given.items() if is_given]
    if "depth" in kinds and "segmentation" not in kinds and foreign:
        raise ValueError(
            f"{foreign[0]} is an option of segmentation: depth trains its heads on kept features "
            "and measures at one size"
        )


def _check_labels(task: TaskSpec) -> None:
    """ValueError where the images do not have what the task predicts.

    Looks at the first that can be read; where none can, that is said.
    """
    for source in (task.train, task.test):
        labels = _first_sample(source).fields
        what, held = {
            "joints": ("joints", joints_of(labels)),
            "body": ("3D joints", labels.get("joints")),
            "matching": (f"pairs of views ({NEEDS})", labels if is_posed(labels) else None),
            "segmentation": ("masks", labels.get("mask")),
            "depth": ("depth", labels.get("depth")),
        }.get(task.kind, ("classes", labels.get("cls")))
        if held is None:
            raise ValueError(
                f"task {task.name!r} needs {what}, which {source.name!r} does not have"
            )


def _first_sample(source: Source) -> Sample:
    why: BrokenImageError | None = None
    for index in range(len(source)):
        try:
            return source.read(index)
        except BrokenImageError as error:
            why = error
    raise ValueError(
        f"none of the {len(source)} images of {source.name!r} can be read; the last: {why}"
    )


def models_of(names: Sequence[str], device: torch.device) -> list[EvalModel]:
    """Rows for the models named: a run brings its bare encoder, projections and teachers.

    Any other encoder, released checkpoint or teacher is one row. Students with equal encoders
    share the row of the untrained one, runs with equal teachers theirs. ValueError for a model
    that cannot be had; a teacher that a run brings is then left out with a warning.
    """
    students: dict[Path, LoadedStudent | Encoder] = {}
    teachers = _Teachers(device)
    for name in names:
        path = Path(name).expanduser()
        if is_encoder(path):
            path = path.resolve()
            students[path] = load_student(path) if keeps_projectors(path) else load_encoder(path)
            teachers.add_all_of(path)
        else:
            teachers.add(teacher_name(name), TeacherSection(model=name), of=name)

    labels = _labels(list(students), [row.name for row in teachers.rows])
    rows = [*teachers.rows]
    specs: list[EncoderSpec] = []
    for label, loaded in zip(labels, students.values(), strict=True):
        if isinstance(loaded, LoadedStudent):
            rows += _trained_models(loaded, label, device)
            specs.append(_fresh(loaded.spec.encoder))
        else:
            rows.append(encoder_model(label, loaded, device))
    distinct = [spec for i, spec in enumerate(specs) if spec not in specs[:i]]
    rows += [_untrained_model(spec, _untrained_name(spec, distinct), device) for spec in distinct]
    order = ["teacher", "student", "projected", "baseline"]
    return sorted(rows, key=lambda row: order.index(row.kind))


class _Teachers:
    """The rows of teachers: equal ones are loaded once, others keep names of their own."""

    def __init__(self, device: torch.device) -> None:
        self.rows: list[EvalModel] = []
        self._device = device
        self._held: dict[str, TeacherSection] = {}

    def add(self, name: str, section: TeacherSection, *, of: str) -> None:
        """Load a teacher; where another has its name, that of its run follows: `lite2 (run)`."""
        origin = section.model_copy(update=IN_TRAINING_ONLY)
        shown = name if self._held.get(name, origin) == origin else f"{name} ({of})"
        if shown in self._held:
            return
        teacher = assembly.teacher_of(name, origin)
        self.rows.append(replace(teacher_model(teacher.to(self._device)), name=shown))
        self._held[shown] = origin

    def add_all_of(self, run: Path) -> None:
        """The teachers of a run, without those that cannot be had."""
        recipe = RunFolder(run).config
        if not recipe.is_file():
            return
        try:
            sections = load_config(recipe).teachers
        except ValueError as error:
            why = str(error).splitlines()[0]
            log.warning(
                "going on without the teachers of %s: in its config.yaml, %s", run.name, why
            )
            return
        for name, section in sections.items():
            try:
                self.add(name, section, of=run.name)
            except (ValueError, OSError) as error:
                log.warning("going on without teacher %s of %s: %s", name, run.name, error)


def _labels(paths: Sequence[Path], taken: Sequence[str]) -> list[str]:
    """A name for each encoder: its folder's, with those above where two folders have one name.

    `lite2 (run)` is the student in a folder that has the name of a teacher.
    """
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    names = [Path(*path.parts[-depth:]).as_posix() for path in paths]
    return [f"{name} (run)" if name in taken else name for name in names]


def bare_model(name: str, device: torch.device) -> EvalModel:
    """One row: the bare encoder of a run, an encoder, a released checkpoint, or a teacher."""
    path = Path(name).expanduser()
    if is_encoder(path):
        return encoder_model(path.resolve().name, load_encoder(path), device)
    return teacher_model(load_teacher(name).to(device))


def whole_teachers(teachers: Mapping[str, Teacher]) -> list[EvalModel]:
    """Those that one process can call alone; of the others the log says how to measure them."""
    parts = [name for name, teacher in teachers.items() if is_sharded(teacher.network)]
    if parts:
        log.info("sharded, so not measured here: %s; `alumnus evaluate` does", ", ".join(parts))
    return [teacher_model(teacher) for name, teacher in teachers.items() if name not in parts]


def teacher_model(teacher: Teacher) -> EvalModel:
    """A teacher at its own input size."""
    return EvalModel(
        name=teacher.name,
        kind="teacher",
        fn=teacher,
        size_px=teacher.input_size,
        dense_fn=None if teacher.fixed_size else teacher.encode,
        layers_fn=None if teacher.fixed_size else teacher.last_layers,
        patch_px=teacher.patch_size,
        fixed_size=teacher.fixed_size,
        space=teacher.name,
    )


def student_models(loaded: LoadedStudent, label: str, device: torch.device) -> list[EvalModel]:
    """The bare encoder, its projection to each teacher's space, and the same encoder untrained."""
    spec = _fresh(loaded.spec.encoder)
    untrained = _untrained_model(spec, _untrained_name(spec, [spec]), device)
    return [*_trained_models(loaded, label, device), untrained]


def _trained_models(loaded: LoadedStudent, label: str, device: torch.device) -> list[EvalModel]:
    student = loaded.student.to(device).eval()
    seen = _seen_by(student.encoder, label)
    standardizers = loaded.standardizers.to(device)

    predictions = _once(lambda images: standardizers.inverse(student(seen(images))))

    def projection(teacher: str) -> Callable[[Tensor], Tokens]:
        return lambda images: predictions(images)[teacher]

    projected = [
        EvalModel(
            name=f"{label} as {teacher}",
            kind="projected",
            fn=projection(teacher),
            size_px=student.encoder.image_size,
            patch_px=student.encoder.patch_size,
            space=teacher,
        )
        for teacher in loaded.spec.projectors
    ]
    return [encoder_model(label, student.encoder, device), *projected]


def _once(
    fn: Callable[[Tensor], Mapping[str, Tokens]],
) -> Callable[[Tensor], Mapping[str, Tokens]]:
    """`fn`, which is not run again for the same batch: one run serves all rows of a student."""
    last: list[tuple[Tensor, Mapping[str, Tokens]]] = []

    def run(images: Tensor) -> Mapping[str, Tokens]:
        if not last or last[0][0] is not images:
            last[:] = [(images, fn(images))]
        return last[0][1]

    return run


def _fresh(spec: EncoderSpec) -> EncoderSpec:
    """The untrained encoder, without what makes no difference to it in evaluation."""
    return replace(spec, pretrained=False, drop_path=0.0)


def _untrained_model(spec: EncoderSpec, name: str, device: torch.device) -> EvalModel:
    torch.manual_seed(derive_seed(0, "untrained"))
    encoder = build_encoder(spec).to(device).eval()
    return replace(encoder_model(name, encoder, device), kind="baseline")


def _untrained_name(spec: EncoderSpec, beside: Sequence[EncoderSpec]) -> str:
    """`untrained vit_tiny`, with what tells it from others of its model: `(128 px, patch 16)`."""
    others = [other for other in beside if other.model == spec.model]
    words = {"image_size": "{} px", "patch_size": "patch {}"}
    told = [
        words.get(key.name, key.name.replace("_", " ") + " {}").format(getattr(spec, key.name))
        for key in fields(spec)
        if any(getattr(other, key.name) != getattr(spec, key.name) for other in others)
    ]
    return f"untrained {spec.model}" + (f" ({', '.join(told)})" if told else "")


def encoder_model(label: str, encoder: Encoder, device: torch.device) -> EvalModel:
    """A bare encoder at its own size; pictures reach a grey one as luminance."""
    encoder, seen = encoder.to(device).eval(), _seen_by(encoder, label)
    return EvalModel(
        name=label,
        kind="student",
        fn=lambda images: encoder(seen(images)).final,
        layers_fn=lambda images, count: last_layers(encoder, seen(images), count),
        size_px=encoder.image_size,
        patch_px=encoder.patch_size,
    )


def _seen_by(encoder: Encoder, label: str) -> Callable[[Tensor], Tensor]:
    """From RGB images to what the encoder takes: those, or their luminance."""
    if encoder.in_channels not in (1, 3):
        raise ValueError(
            f"{label!r} takes {encoder.in_channels} channels, but pictures are RGB or grey: "
            "give your own tensors to alumnus.load(...) in Python"
        )
    return luminance if encoder.in_channels == 1 else lambda images: images
