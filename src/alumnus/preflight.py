"""What a run would fail at later, found before it begins: nothing is loaded, no image is read.

Each check yields sentences with the settings that they are about; `load_config(also=...)` reports
them together with everything else that is wrong.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from alumnus.assembly import encoder_spec, started_from
from alumnus.config import DataSection, RunConfig, SourceSection, TeacherSection
from alumnus.config_errors import Problem
from alumnus.data import open_source
from alumnus.evaluation.text_features import load_text_features
from alumnus.finetune_config import FinetuneConfig
from alumnus.hardware import choose_device
from alumnus.licences import Terms, refusals
from alumnus.measure import parse_task
from alumnus.projectors import ProjectorSpec
from alumnus.runs import is_encoder, keeps_projectors
from alumnus.student import StudentSpec, build_student
from alumnus.teachers import TEACHERS, UnavailableError, check_teacher, known_terms

__all__ = ["before_a_run", "before_finetuning", "before_teachers_run"]


def before_a_run(config: RunConfig) -> Iterator[Problem]:
    """Whatever stands in the way of `alumnus distill`."""
    if config.out is None:
        yield Problem("where should the run be written? give out=FOLDER", ("out",))
    yield from before_teachers_run(config)
    for i, text in enumerate(config.evaluate.tasks):
        yield from _bad_task(f"evaluate.tasks.{i}", text)
    if config.train.knn is not None and config.train.knn.count(",") > 1:
        yield Problem("train.knn is one set of images, PATH or TRAIN,TEST", ("train.knn",))
    elif config.train.knn is not None:
        yield from _bad_task("train.knn", f"knn={config.train.knn}")
    if config.init is not None and not keeps_projectors(Path(config.init).expanduser()):
        yield Problem(_no_student(Path(config.init).expanduser()), ("init",))


def before_teachers_run(config: RunConfig) -> Iterator[Problem]:
    """Whatever stands in the way of teachers, images and the student."""
    for name, teacher in config.teachers.items():
        yield from _bad_teacher(name, teacher)
    if not config.data.learned:
        yield Problem("there are no images to learn from: give data.train=FOLDER", ("data.train",))
    yield from _sources_without_path(config.data)
    for key, source in config.data.learned.items():
        if source.path:
            yield from _bad_source(key, source)
    for i, source in enumerate(config.data.val):
        yield from _bad_source(f"data.val.{i}", source)
    yield from _closed_licences(config)
    yield from _idle_domains(config)
    yield from _bad_student(config)
    try:
        choose_device(config.train.device)
    except ValueError as error:
        yield Problem(str(error), ("train.device",))


def before_finetuning(config: FinetuneConfig) -> Iterator[Problem]:
    """Whatever stands in the way of `alumnus finetune`."""
    path = Path(config.encoder).expanduser()
    if not is_encoder(path):
        try:
            check_teacher(config.encoder)
        except ValueError as error:
            yield Problem(str(error), ("encoder",))
    parts = [part.strip() for part in (config.data or "").split(",") if part.strip()]
    if len(parts) == 1:
        parts = [f"{parts[0]}:train", f"{parts[0]}:test"]
    for spec in parts:
        yield from _bad_source("data", SourceSection(path=spec))
    try:
        choose_device(config.device)
    except ValueError as error:
        yield Problem(str(error).removeprefix("train."), ("device",))


def _bad_teacher(name: str, section: TeacherSection) -> Iterator[Problem]:
    try:
        check_teacher(section.model, section.weights)
    except UnavailableError as error:
        if not section.optional:
            sentence = str(error).replace("weights=PATH", f"teachers.{name}.weights=PATH")
            yield Problem(sentence, (f"teachers.{name}.weights",))
    except ValueError as error:
        yield Problem(str(error), (f"teachers.{name}.model",))
    info = TEACHERS.get(section.model)
    lacking = [t for t in section.tokens or () if info is not None and t not in info.token_types]
    if info is not None and lacking:
        yield Problem(
            f"teacher {name} has no {lacking[0]!r} tokens, only {', '.join(info.token_types)}",
            (f"teachers.{name}.tokens",),
        )


def _closed_licences(config: RunConfig) -> Iterator[Problem]:
    """What breaks `licence`, of teachers and `init`, where theirs is known without loading them."""
    found: list[tuple[str, Callable[[], Sequence[Terms]]]] = [
        (f"teachers.{name}", partial(known_terms, name, section.model, section.licence))
        for name, section in config.teachers.items()
    ]
    start = "student.pretrained" if config.init is None else "init"
    found.append((start, partial(started_from, config)))
    for key, read in found:
        try:
            terms = read()
        except ValueError:  # not there or damaged: said elsewhere
            continue
        for _, sentence in refusals(config.licence, terms):
            yield Problem(sentence, ("licence", key))


def _sources_without_path(data: DataSection) -> Iterator[Problem]:
    """Named sources that nobody said where to find, in one sentence."""
    lost = [section.name or "" for section in data.learned.values() if not section.path]
    if lost:
        yield Problem(
            f"{len(lost)} source{'s have' if len(lost) > 1 else ' has'} no path "
            f"({', '.join(lost)}): give data.sources.NAME=PATH for each, or data.root=FOLDER that "
            "holds them by name; data.sources.NAME=null leaves one out, data.train=PATH all",
            ("data.train", "data.sources", "data.root"),
        )


def _bad_source(key: str, section: SourceSection) -> Iterator[Problem]:
    """Opens what is cheap to open or does not exist; a folder of images is not listed here."""
    folder = Path(section.path).expanduser()
    plain = (
        folder.is_dir()
        and not (folder / "index.json").exists()
        and not section.where
        and not section.columns
    )
    if plain and (section.split is None or (folder / section.split).is_dir()):
        return
    head, _, tail = section.path.rpartition(":")
    if head and (Path(head).expanduser() / tail).is_dir():
        return
    try:
        open_source(section.path, split=section.split, where=section.where, columns=section.columns)
    except ValueError as error:
        yield Problem(str(error), (key,))


def _bad_task(key: str, text: str) -> Iterator[Problem]:
    try:
        kind, train, tests = parse_task(text)
        if kind == "zeroshot":
            load_text_features(train)
    except ValueError as error:
        yield Problem(str(error), (key,))
        return
    for spec in tests if kind == "zeroshot" else (train, *tests):
        yield from _bad_source(key, SourceSection(path=spec))


def _idle_domains(config: RunConfig) -> Iterator[Problem]:
    """Teachers and sources of domains that meet nobody, where all domains are known."""
    sharing, learned = config.balance.sharing, config.data.learned
    teachers = {name: _domain(teacher) for name, teacher in config.teachers.items()}
    if sharing == "full" or None in teachers.values() or not teachers or not learned:
        return
    default = next(iter(teachers.values()))
    images = [source.domain or default for source in learned.values()]
    for_all = [source.generic and sharing == "own+generic" for source in learned.values()]
    for name, domain in teachers.items():
        if domain not in images and not any(for_all):
            yield Problem(
                f"nothing would be learned from teacher {name}: no source has its domain "
                f"{domain!r}, and balance.sharing is {sharing}",
                (f"teachers.{name}", "data.train", "data.sources", "balance.sharing"),
            )
    for (key, source), domain, generic in zip(learned.items(), images, for_all, strict=True):
        if domain not in teachers.values() and not generic:
            yield Problem(
                f"no teacher learns from the images of {source.path or source.name!r}: none has "
                f"the domain {domain!r}, and balance.sharing is {sharing}",
                (key, "teachers", "balance.sharing"),
            )


def _domain(section: TeacherSection) -> str | None:
    """The domain of a teacher, where that is known without loading it."""
    info = TEACHERS.get(section.model)
    return section.domain or (info.domain if info is not None else None)


def _bad_student(config: RunConfig) -> Iterator[Problem]:
    """Builds the student without memory, where it is one of ours."""
    foreign = config.student.model.startswith(("timm:", "python:"))
    if foreign or config.data.size % config.student.patch_size:  # said already
        return
    about = ("student", "projector", "data.size")
    try:
        spec = encoder_spec(config)
        projector = ProjectorSpec(
            kind=config.projector.kind,
            dim=8,
            token_types=("patch",),
            options=config.projector.options,
        )
        with torch.device("meta"):
            build_student(StudentSpec(encoder=spec, projectors={"any": projector}))
    except ValueError as error:
        yield Problem(str(error), about)


def _no_student(path: Path) -> str:
    """What `init` lacks."""
    if not path.exists():
        return f"there is nothing at {path} to start from: init is the folder of a finished run"
    return f"init={path} keeps no student with projectors: it is no finished run"
