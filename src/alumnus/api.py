"""One function per command: what `alumnus COMMAND` does, in one call."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from alumnus import assembly, hub, measure, preflight
from alumnus.assembly import Images
from alumnus.config import ConfigError, RunConfig, conflicts, load_config, to_yaml
from alumnus.config_errors import Problem
from alumnus.data import BadImage, Batch, eval_transform, open_source
from alumnus.distill import Distillation
from alumnus.evaluation.results import Results
from alumnus.evaluation.suite import TaskSpec
from alumnus.evaluation.suite import evaluate as evaluate_models
from alumnus.extraction import extract_to_file
from alumnus.hardware import choose_device
from alumnus.report.pca import pca_picture
from alumnus.report.table import plain, results_table
from alumnus.run_folder import RunFolder
from alumnus.runs import load_student, save_encoder, save_student
from alumnus.student import Student, StudentSpec
from alumnus.teachers import Teacher
from alumnus.training.checkpoint import Checkpoints
from alumnus.training.logs import MetricsLog
from alumnus.training.loop import Interval, Trainer
from alumnus.training.schedules import evenly_spaced

__all__ = [
    "DemoResult",
    "DistillResult",
    "cache",
    "demo",
    "distill",
    "evaluate",
    "extract",
    "get",
    "show_config",
]

log = logging.getLogger(__name__)

DEMO_IMAGES = 4  # rows of the demo's picture


@dataclass(frozen=True)
class DistillResult:
    """What a finished distillation left."""

    folder: Path
    steps: int
    loss: float | None  # of the last report; None where nothing was left to do
    results: Results | None  # of the recipe's evaluation

    @property
    def table(self) -> str:
        """The evaluation as text; empty without one."""
        return plain(results_table(self.results)) if self.results else ""

    @property
    def how_to_load(self) -> str:
        """The two lines that load the encoder."""
        return f'import alumnus\nencoder = alumnus.load("{self.folder}")'


def show_config(recipe: str | Path, *overrides: str) -> str:
    """The whole configuration of a run as YAML, which is a recipe itself."""
    return to_yaml(load_config(recipe, overrides))


def distill(
    recipe: str | Path | RunConfig,
    *overrides: str,
    resume: bool = False,
    overwrite: bool = False,
    on_interval: Callable[[Interval], None] | None = None,
    **settings: Any,
) -> DistillResult:
    """Distil the teachers of a recipe into one encoder.

        alumnus.distill("folder", data={"train": "photos"}, out="runs/photos")
        alumnus.distill("folder", "data.train=photos", "out=runs/photos")

    Writes the run folder: configuration, metrics, checkpoints, the encoder, its evaluation.
    `resume` goes on with an interrupted run, and ends with the same weights, bit for bit on a
    CPU, as one that was never stopped. ValueError (ConfigError for settings) in one sentence
    for whatever cannot work, before anything is written.
    """
    config = _checked(recipe, overrides, settings, preflight.before_a_run)
    assert config.out is not None, "checked before the run"
    folder = RunFolder(Path(config.out).expanduser())
    text = to_yaml(config)
    folder.check(text, resume=resume, overwrite=overwrite)
    device = choose_device(config.train.device)
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)

    teachers = assembly.load_teachers(config)
    images = assembly.open_images(config, [teacher.domain for teacher in teachers.values()])
    student, spec = assembly.new_student(config, teachers)
    pool = assembly.build_pool(config, teachers, student)
    features = assembly.plan_cache(config, pool, images)
    tasks = _tasks(config)
    run = assembly.build_distillation(config, student, teachers, images, device=device)
    if config.init is not None:
        assembly.start_from(config.init, student, run.standardizers)

    folder.open(text, overwrite=overwrite)
    with _log_file(folder.log):
        _introduce(config, run, images, teachers)
        run.teachers = assembly.build_targets(config, pool, features, device)
        loss = _train(config, run, images, folder, resume=resume, also=on_interval)
        _save(folder, student, spec, run, teachers)
        results = _evaluate(config, folder, teachers, tasks, device) if tasks else None
    return DistillResult(folder.path, assembly.run_steps(config, images), loss, results)


def evaluate(
    models: Sequence[str],
    tasks: Sequence[str],
    *,
    size: int = 224,
    trials: int = 40,
    batch_size: int = 64,
    device: str = "auto",
    seed: int = 0,
) -> Results:
    """Measure runs, encoders, released checkpoints and teachers, all in the same way.

    A run brings its bare encoder, its projection into each teacher's space, the same encoder
    untrained, and its teachers. `tasks` read `knn=PATH`, `logistic=TRAIN,TEST`, `joints=PATH`.
    """
    opened = measure.parse_tasks(tasks, size_px=size, trials=trials, seed=seed)
    chosen = choose_device(device)
    rows = measure.models_of(models, chosen)
    return evaluate_models(rows, opened, batch_size=batch_size, device=chosen, on_progress=log.info)


def cache(recipe: str | Path, *overrides: str, **settings: Any) -> Path:
    """Compute the teacher features of a recipe; goes on where it was stopped.

    A run of the same recipe with cache.enabled=true then starts at once.
    """
    settings = {**settings, "cache": {**settings.get("cache", {}), "enabled": True}}
    config = _checked(recipe, overrides, settings, preflight.before_teachers_run)
    device = choose_device(config.train.device)
    teachers = assembly.load_teachers(config)
    images = assembly.open_images(config, [teacher.domain for teacher in teachers.values()])
    student, _ = assembly.new_student(config, teachers)
    pool = assembly.build_pool(config, teachers, student)
    features = assembly.plan_cache(config, pool, images)
    assert features is not None, "the cache was enabled above"
    assembly.build_targets(config, pool, features, device)
    return features.folder


def extract(
    model: str,
    images: str,
    out: str | Path,
    *,
    size: int | None = None,
    patches: bool = False,
    batch_size: int = 64,
    overwrite: bool = False,
    device: str = "auto",
) -> dict[str, tuple[int, ...]]:
    """Write the features of images to a safetensors file; the shapes that were written.

    `model` is a run (its bare encoder), an encoder, a released checkpoint or a teacher; `size`,
    px, that of the model where not given.
    """
    path = Path(out).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(f"features are written as .safetensors, so {path} needs that ending")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} is there already: add --overwrite, or choose another file")
    chosen = choose_device(device)
    source = open_source(images)
    row = measure.bare_model(model, chosen)
    return extract_to_file(
        row, source, path, size_px=size, patches=patches, batch_size=batch_size, device=chosen
    )


def get(name: str) -> Path:
    """Fetch the weights of a teacher into the cache, so that it works offline from then on."""
    return hub.get(name)


@dataclass(frozen=True)
class DemoResult(DistillResult):
    """The demo's run and its picture."""

    picture: Path


def demo(
    out: str | Path = "runs/demo",
    *,
    steps: int | None = None,
    on_interval: Callable[[Interval], None] | None = None,
) -> DemoResult:
    """Two teachers into one small ViT on rendered pictures, evaluated and drawn."""
    words = [f"out={out}", *([f"optim.steps={steps}"] if steps else [])]
    repeated = RunFolder(Path(out)).config.is_file()
    result = distill("demo", *words, overwrite=repeated, on_interval=on_interval)
    rows = measure.models_of([str(result.folder)], torch.device("cpu"))
    source = open_source("miniworld:objects:test")
    images = torch.stack([eval_transform(source.read(i).image, 64) for i in range(DEMO_IMAGES)])
    shown = {row.name: row.fn for row in rows if row.kind == "teacher"}
    shown |= {row.kind: row.fn for row in rows if row.kind == "student"}
    picture = pca_picture(shown, images, result.folder / "pca.png")
    return DemoResult(result.folder, result.steps, result.loss, result.results, picture)


def _checked(
    recipe: str | Path | RunConfig,
    overrides: Sequence[str],
    settings: Mapping[str, Any],
    also: Callable[[RunConfig], Iterable[Problem]],
) -> RunConfig:
    """The configuration of a run that can begin; ConfigError with all that stands in its way."""
    if not isinstance(recipe, RunConfig):
        return load_config(recipe, overrides, settings, also=also)
    if said := [problem.sentence for problem in (*conflicts(recipe), *also(recipe))]:
        raise ConfigError("\n".join(dict.fromkeys(said)))
    return recipe


def _train(
    config: RunConfig,
    run: Distillation,
    images: Images,
    folder: RunFolder,
    *,
    resume: bool,
    also: Callable[[Interval], None] | None,
) -> float | None:
    steps = assembly.run_steps(config, images)
    batches = partial(
        assembly.batches,
        config,
        images,
        device=run.device,
        on_bad_images=partial(_record_bad_images, folder),
    )
    trainer: Trainer[Batch] = Trainer(
        trainable=run,
        batches=batches,
        steps=steps,
        batch_size=config.optim.batch_size,
        accumulate=config.optim.accumulate,
        seed=config.train.seed,
        log_every=config.train.log_every,
        save_at=frozenset(evenly_spaced(steps, min(steps, config.train.checkpoints))),
        checkpoints=Checkpoints(folder.checkpoints, keep=config.train.keep),
    )
    first = trainer.resume() if resume else 0
    if first:
        log.info("resumed after step %d of %d", first, steps)
    if not run.standardizers.get_buffer("calibrated"):
        assembly.calibrate(run, batches(0), config.standardize.calibration_steps)
    losses: list[float] = []
    metrics = MetricsLog(
        folder.metrics,
        folder.tensorboard,
        names={"loss_T": run.teacher_names},
        first_step=first,
    )

    def report(interval: Interval) -> None:
        metrics(interval)
        losses.append(interval.metrics["loss"])
        if also is not None:
            also(replace(interval, metrics=metrics.named(interval)))

    trainer.on_log = report
    try:
        trainer.run()
    finally:
        metrics.close()
    return losses[-1] if losses else None


def _save(
    folder: RunFolder,
    student: Student,
    spec: StudentSpec,
    run: Distillation,
    teachers: Mapping[str, Teacher],
) -> None:
    info = {
        "teachers": {
            name: {"licence": teacher.licence, "domain": teacher.domain}
            for name, teacher in teachers.items()
        }
    }
    save_student(folder.path, student, spec, run.standardizers, info)
    save_encoder(folder.path, student.encoder, spec.encoder, info)


def _tasks(config: RunConfig) -> list[TaskSpec]:
    section = config.evaluate
    return measure.parse_tasks(
        section.tasks,
        size_px=section.size or config.data.size,
        trials=section.trials,
        seed=config.train.seed,
    )


def _evaluate(
    config: RunConfig,
    folder: RunFolder,
    teachers: Mapping[str, Teacher],
    tasks: Sequence[TaskSpec],
    device: torch.device,
) -> Results:
    rows = [measure.teacher_model(teacher) for teacher in teachers.values()]
    rows += measure.student_models(load_student(folder.path), "student", device)
    results = evaluate_models(
        rows,
        tasks,
        batch_size=config.evaluate.batch_size,
        device=device,
        on_progress=log.info,
    )
    results.save(folder.evaluation / "results.json")
    return results


def _introduce(
    config: RunConfig, run: Distillation, images: Images, teachers: Mapping[str, Teacher]
) -> None:
    steps = assembly.run_steps(config, images)
    encoder = sum(p.numel() for p in run.student.get_submodule("encoder").parameters())
    batch = config.optim.batch_size * config.optim.accumulate
    log.info("student   %s, %.3g M parameters", config.student.model, encoder / 1e6)
    for name, teacher in teachers.items():
        log.info(
            "teacher   %s, %d wide, %s, domain %s, licence %s",
            name,
            teacher.dim,
            "+".join(teacher.token_types),
            teacher.domain,
            teacher.licence,
        )
    for source in images.train:
        log.info("images    %s: %d, domain %s", source.name, len(source), source.domain)
    log.info("held out  %d images", sum(len(source) for source in images.held_out))
    log.info(
        "training  %d steps of %d images at %d px, %s on %s",
        steps,
        batch,
        config.data.size,
        "bf16" if run.bf16 else "fp32",
        run.device,
    )


def _record_bad_images(folder: RunFolder, bad: Sequence[BadImage]) -> None:
    lines = [json.dumps(image._asdict()) for image in bad]
    known = folder.bad_images.read_text().splitlines() if folder.bad_images.is_file() else []
    with folder.bad_images.open("a") as file:  # a resumed run meets some of them again
        file.writelines(f"{line}\n" for line in lines if line not in known)
    log.warning("%d broken images replaced, see %s", len(bad), folder.bad_images)


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """What the package says goes to log.txt too."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s"))
    logger = logging.getLogger("alumnus")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(level or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
