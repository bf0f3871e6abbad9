"""One function per command: what `alumnus COMMAND` does, in one call."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from alumnus import assembly
from alumnus.assembly import Images
from alumnus.config import RunConfig, load_config, to_yaml
from alumnus.data import BadImage, Batch, make_loader
from alumnus.distill import Distillation
from alumnus.run_folder import RunFolder
from alumnus.runs import LoadedStudent, load_student, save_encoder, save_student
from alumnus.student import Student, StudentSpec
from alumnus.teachers import Teacher
from alumnus.training.checkpoint import Checkpoints
from alumnus.training.logs import MetricsLog
from alumnus.training.loop import Interval, Trainer
from alumnus.training.schedules import evenly_spaced

__all__ = ["DistillResult", "distill"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DistillResult:
    """What a finished distillation left."""

    folder: Path
    steps: int
    loss: float | None  # of the last report; None where nothing was left to do

    @property
    def how_to_load(self) -> str:
        """The two lines that load the encoder."""
        return f'import alumnus\nencoder = alumnus.load("{self.folder}")'


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
    config = recipe if isinstance(recipe, RunConfig) else load_config(recipe, overrides, settings)
    folder = RunFolder(Path(config.out) if config.out else _default_out(recipe))
    device = assembly.choose_device(config.train.device)
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)

    teachers = assembly.load_teachers(config)
    images = assembly.open_images(config, [teacher.domain for teacher in teachers.values()])
    student, spec = assembly.new_student(config, teachers)
    assembly.check_fit(config, student, teachers)
    if config.init is not None:
        initial = load_student(config.init)
        assembly.start_from(student, initial)
    folder.open(to_yaml(config), resume=resume, overwrite=overwrite)
    with _logged(folder.log):
        _tell(config, images, teachers, student, folder)
        targets = assembly.build_targets(config, teachers, images, student, device=device)
        run = assembly.build_distillation(
            config, student, teachers, targets, images, device=device
        )
        if config.init is not None:
            assembly.start_statistics(run.standardizers, initial)
        loss = _train(config, run, images, teachers, folder, resume=resume, also=on_interval)
        _save(folder, student, spec, run, teachers)
        if config.evaluate.tasks:
            from alumnus.evaluate_run import evaluate_run

            evaluate_run(config, folder, student, run, teachers, device)
    return DistillResult(folder.path, assembly.run_steps(config, images), loss)


def _train(
    config: RunConfig,
    run: Distillation,
    images: Images,
    teachers: Mapping[str, Teacher],
    folder: RunFolder,
    *,
    resume: bool,
    also: Callable[[Interval], None] | None,
) -> float | None:
    steps = assembly.run_steps(config, images)
    trainer: Trainer[Batch] = Trainer(
        trainable=run,
        batches=partial(
            _batches, config, images, run.device, partial(_record_bad_images, folder)
        ),
        steps=steps,
        batch_size=config.optim.batch_size,
        accumulate=config.optim.accumulate,
        seed=config.train.seed,
        log_every=config.train.log_every,
        save_at=frozenset(evenly_spaced(steps, config.train.checkpoints)),
        checkpoints=Checkpoints(folder.checkpoints, keep=config.train.keep),
    )
    first = trainer.resume() if resume else 0
    if first:
        log.info("resumed after step %d of %d", first, steps)
    elif not bool(run.standardizers.calibrated):
        assembly.calibrate(config, run, images)
    losses: list[float] = []
    metrics = MetricsLog(
        folder.metrics, folder.tensorboard, names={"loss_T": list(teachers)}, first_step=first
    )

    def report(interval: Interval) -> None:
        metrics(interval)
        losses.append(interval.metrics["loss"])
        if also is not None:
            also(interval)

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
        },
        "standardize": run.standardizers.kind,
    }
    save_student(folder.path, student, spec, run.standardizers.all_statistics(), info)
    save_encoder(folder.path, student.encoder, spec.encoder, info)
