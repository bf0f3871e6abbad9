"""One run, from its configuration to the evaluated encoder, in each of its processes."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from alumnus import assembly, auto, licences, measure
from alumnus.assembly import Images
from alumnus.config import RunConfig, load_config, to_yaml
from alumnus.data import BadImage, BadImages, Batch
from alumnus.distill import Distillation
from alumnus.evaluation.depth import DepthProtocol
from alumnus.evaluation.results import Results
from alumnus.evaluation.segmentation import SegmentationProtocol
from alumnus.evaluation.suite import evaluate as evaluate_models
from alumnus.evaluation.tasks import TaskSpec
from alumnus.report.table import plain, results_table
from alumnus.run_folder import RunFolder
from alumnus.runs import load_student, save_encoder, save_student
from alumnus.student import Student, StudentSpec, build_student
from alumnus.teachers import FeatureCache, Teacher, TeacherPool
from alumnus.training.checkpoint import Checkpoints, write_atomically
from alumnus.training.distributed import World
from alumnus.training.logs import MetricsLog, read_metrics
from alumnus.training.loop import Interval, StoppedError, Trainer
from alumnus.training.schedules import evenly_spaced
from alumnus.training.sharding import whole
from alumnus.training.stopping import stop_on_signals
from alumnus.watching import Watch, plan_watch

__all__ = [
    "DistillResult",
    "Parts",
    "Setup",
    "new_trainer",
    "prepare",
    "run_config",
    "set_up",
]

log = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Setup:
    """What a run learns from and into: enough to compute teacher features."""

    config: RunConfig  # nothing in it is `auto` any more
    choices: Sequence[object]  # what `auto` became, and why
    teachers: dict[str, Teacher]
    images: Images
    student: Student
    spec: StudentSpec
    pool: TeacherPool
    features: FeatureCache | None
    watch: Watch | None


@dataclass(frozen=True)
class Parts(Setup):
    """All that a run is made of, before anything is written."""

    tasks: list[TaskSpec]
    run: Distillation


def set_up(config: RunConfig, device: torch.device, world: World) -> Setup:
    """Load teachers, open images, settle what is `auto`; ValueError for what cannot work."""
    teachers = assembly.load_teachers(config)
    sources = assembly.open_sources(config, [teacher.domain for teacher in teachers.values()])
    student, spec = assembly.new_student(config, teachers)
    config, choices = auto.settle(
        config,
        images=sum(map(len, sources.train)),
        student=student,
        teachers=teachers,
        device=device,
        processes=world.size,
    )
    images = assembly.lay_out(config, sources, device, teachers=teachers, processes=world.size)
    pool = assembly.build_pool(config, teachers, student)
    features = assembly.plan_cache(config, pool, images)
    watch = plan_watch(config, images, pool, steps=assembly.run_steps(config, images), world=world)
    return Setup(config, choices, teachers, images, student, spec, pool, features, watch)


def prepare(config: RunConfig, device: torch.device, world: World) -> Parts:
    """Set up and build everything; ValueError for whatever cannot work."""
    setup = set_up(config, device, world)
    tasks = _tasks(setup.config)
    run = assembly.build_distillation(
        setup.config, setup.student, setup.teachers, setup.images, device=device, world=world
    )
    if config.init is not None:
        assembly.start_from(config.init, run)
    return Parts(**vars(setup), tasks=tasks, run=run)


def run_config(
    config: RunConfig,
    folder: RunFolder,
    device: torch.device,
    world: World,
    *,
    resume: bool,
    overwrite: bool,
    on_interval: Callable[[Interval], None] | None,
) -> DistillResult:
    """What every process of a run does; the first one alone writes, logs and evaluates."""
    before = None
    if resume and folder.config.is_file():
        earlier = load_config(folder.config)  # with the settings that have come since, as they are
        config, before = auto.as_before(config, earlier), to_yaml(earlier)
    check = partial(
        folder.check, to_yaml(config), before=before, resume=resume, overwrite=overwrite
    )
    world.first_alone(check)
    parts = prepare(config, device, world)
    config, run, images, teachers = parts.config, parts.run, parts.images, parts.teachers

    with ExitStack() as stack:
        world.first_alone(lambda: stack.enter_context(folder.held()))
        world.first_alone(partial(folder.open, to_yaml(config), overwrite=overwrite))
        world.first_alone(partial(_write_licences, config, folder, teachers))
        if world.is_first:
            stack.enter_context(folder.logged())
        for choice in parts.choices:
            log.info("auto      %s", choice)
        _introduce(config, run, images, teachers, world)
        run.teachers = assembly.build_targets(config, parts.pool, parts.features, device, world)
        steps, loss = _train(parts, folder, world, resume=resume, also=on_interval)
        tensors = _whole_tensors(run)
        world.first_alone(partial(_save, config, folder, parts.spec, tensors, teachers))
        look = partial(_evaluate, config, folder, teachers, parts.tasks, device)
        results = world.first_alone(look) if parts.tasks else None
    return DistillResult(folder.path, steps, loss, results)


def _train(
    parts: Parts,
    folder: RunFolder,
    world: World,
    *,
    resume: bool,
    also: Callable[[Interval], None] | None,
) -> tuple[int, float | None]:
    """Finished steps, and the loss of the last report (in the first process)."""
    config, run, images, watch = parts.config, parts.run, parts.images, parts.watch
    bad_images = BadImages(
        folder.bad_images, images=sum(map(len, images.train)), max_bad=config.data.max_bad
    )
    trainer, batches = new_trainer(config, run, images, folder, bad_images, world)
    first = trainer.resume() if resume else 0
    if first:
        log.info("resumed after step %d of %d", first, trainer.steps)
    if not run.standardizers.get_buffer("calibrated"):
        assembly.calibrate(run, batches(0), config.standardize.calibration_steps, world)
    if watch is not None:
        watch.start(run, parts.teachers, read_metrics(folder.metrics, last_step=first))
        trainer.on_eval, trainer.evaluate_at = watch, watch.steps_to_look
        if world.any(watch.stopped):  # the run had ended there
            trainer.steps = first
    with stop_on_signals(also_after_errors=world.size > 1) as stop_requested:
        trainer.stop_requested = stop_requested
        try:
            if not world.is_first:
                return trainer.run(), None
            return _run_and_report(trainer, run, folder, bad_images, first, also)
        except StoppedError as stopped:
            stopped.exit_code = stop_requested.exit_code
            raise


def _run_and_report(
    trainer: Trainer[Batch],
    run: Distillation,
    folder: RunFolder,
    bad_images: BadImages,
    first: int,
    also: Callable[[Interval], None] | None,
) -> tuple[int, float | None]:
    losses: list[float] = []
    metrics = MetricsLog(
        folder.metrics,
        folder.tensorboard,
        names={"loss_T": run.teacher_names},
        first_step=first,
    )

    def report(interval: Interval) -> None:
        met = {"bad_images": float(bad_images.count)}
        interval = replace(interval, metrics={**interval.metrics, **met})
        metrics(interval)
        losses.append(interval.metrics["loss"])
        if also is not None:
            also(replace(interval, metrics=metrics.named(interval)))

    trainer.on_log = report
    try:
        done = trainer.run()
    finally:
        metrics.close()
    return done, losses[-1] if losses else None


def new_trainer(
    config: RunConfig,
    run: Distillation,
    images: Images,
    folder: RunFolder,
    on_bad_images: Callable[[list[BadImage]], None],
    world: World,
) -> tuple[Trainer[Batch], Callable[[int], Iterator[Batch]]]:
    """The loop of a run, and what gives it batches."""
    steps = assembly.run_steps(config, images)
    batches = partial(
        assembly.batches,
        config,
        images,
        device=run.device,
        targets=run.teachers,
        world=world,
        on_bad_images=on_bad_images,
    )
    trainer: Trainer[Batch] = Trainer(
        trainable=run,
        batches=batches,
        steps=steps,
        batch_size=config.optim.batch,
        accumulate=config.optim.accumulate,
        seed=config.train.seed,
        log_every=config.train.log_every,
        save_at=frozenset(evenly_spaced(steps, min(steps, config.train.checkpoints))),
        checkpoints=Checkpoints(folder.checkpoints, keep=config.train.keep, world=world),
        world=world,
    )
    return trainer, batches


def _whole_tensors(run: Distillation) -> dict[str, torch.Tensor]:
    """The student to keep and the statistics, put together in every process, on the CPU."""
    parts = {"student": run.result, "standardizers": run.standardizers}
    return {
        f"{part}.{name}": whole(tensor).cpu()
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }


def _save(
    config: RunConfig,
    folder: RunFolder,
    spec: StudentSpec,
    tensors: Mapping[str, torch.Tensor],
    teachers: Mapping[str, Teacher],
) -> None:
    student = build_student(spec)
    standardizers = assembly.new_standardizers(config, teachers)
    torch.nn.ModuleDict({"student": student, "standardizers": standardizers}).load_state_dict(
        tensors
    )
    info = {
        "teachers": {
            name: {"licence": teacher.licence, "domain": teacher.domain}
            for name, teacher in teachers.items()
        },
        "inherits": [asdict(terms) for terms in assembly.inherited(config, teachers)],
    }
    save_student(folder.path, student, spec, standardizers, info)
    save_encoder(folder.path, student.encoder, spec.encoder, info)


def _write_licences(config: RunConfig, folder: RunFolder, teachers: Mapping[str, Teacher]) -> None:
    """What the student inherits, in words; encoder.json holds it as data."""
    lines = licences.sentences(assembly.inherited(config, teachers))
    write_atomically(folder.licences, "".join(f"{line}\n" for line in lines))


def _tasks(config: RunConfig) -> list[TaskSpec]:
    section = config.evaluate
    return measure.parse_tasks(
        section.tasks,
        size_px=section.size or config.data.size,
        trials=section.trials,
        seed=config.train.seed,
        segmentation=SegmentationProtocol(steps=section.head_steps),
        depth=DepthProtocol(steps=section.head_steps),
    )


def _evaluate(
    config: RunConfig,
    folder: RunFolder,
    teachers: Mapping[str, Teacher],
    tasks: Sequence[TaskSpec],
    device: torch.device,
) -> Results:
    rows = measure.whole_teachers(teachers)
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
    config: RunConfig,
    run: Distillation,
    images: Images,
    teachers: Mapping[str, Teacher],
    world: World,
) -> None:
    steps = assembly.run_steps(config, images)
    encoder = sum(p.numel() for p in run.student.get_submodule("encoder").parameters())
    batch = config.optim.batch * config.optim.accumulate
    log.info("student   %s, %.3g M parameters", config.student.model, encoder / 1e6)
    for name, teacher in teachers.items():
        tokens = "+".join(teacher.token_types)
        log.info("teacher   %s, %d wide, %s, domain %s", name, teacher.dim, tokens, teacher.domain)
    for sentence in licences.sentences(assembly.inherited(config, teachers)):
        log.info("licences  %s", sentence)
    for source in images.train:
        log.info("images    %s: %d, domain %s", source.name, len(source), source.domain)
    log.info("held out  %d images", sum(len(source) for source in images.held_out))
    log.info(
        "training  %d steps of %d images at %s px, %s on %s%s",
        steps,
        batch,
        ", ".join(map(str, config.data.sides)),
        "bf16" if run.bf16 else "fp32",
        run.device,
        "" if world.size == 1 else f", {world.size} processes ({config.train.parallel})",
    )
    if config.train.shard_teachers:
        parts = "over the processes" if world.size > 1 else "not, as this process is alone"
        log.info("sharded   teachers, %s", parts)
