"""One run of `alumnus finetune`, from its settings to the measured head."""

import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from alumnus import licences, measure
from alumnus.evaluation.results import ModelRecord, Results
from alumnus.evaluation.suite import CONSTANT
from alumnus.evaluation.tasks import TaskSpec
from alumnus.finetune_config import EPOCHS, FinetuneConfig, from_yaml, to_yaml
from alumnus.finetuning.backbone import Backbone, Learner, open_backbone, open_learner
from alumnus.finetuning.course import Course, Finding
from alumnus.finetuning.head_files import save_head
from alumnus.finetuning.kinds import KINDS
from alumnus.finetuning.layer_rates import layer_rates
from alumnus.finetuning.tuning import Tuning
from alumnus.hardware import choose_bf16, choose_device
from alumnus.report.table import Table, plain
from alumnus.run_folder import RunFolder
from alumnus.runs import save_encoder
from alumnus.training.checkpoint import Checkpoints, write_atomically
from alumnus.training.logs import MetricsLog
from alumnus.training.loop import Evaluation, Interval, StoppedError, Trainer
from alumnus.training.optimizer import build_adamw
from alumnus.training.schedules import cosine_schedule, evenly_spaced, total_steps
from alumnus.training.stopping import stop_on_signals

__all__ = ["SETTINGS", "FinetuneResult", "run_finetune"]

log = logging.getLogger(__name__)

SETTINGS = "finetune.yaml"  # in the folder of a result
STARTED_ON = "encoder.sha256"  # there too: a hash of the weights at the start
WEIGHT_DECAY_UNFROZEN = 0.05


@dataclass(frozen=True)
class FinetuneResult:
    """What a finished `alumnus finetune` left."""

    folder: Path
    steps: int
    loss: float | None  # of the last report; None where nothing was left to do
    results: Results  # on the test images

    @property
    def table(self) -> str:
        """The score beside that of a constant prediction, and what it consists of, as text."""
        [task] = self.results.tasks
        details = next(kind.details for name, kind in KINDS.items() if name == task.kind)
        rows = tuple(
            (name, f"{score.value:.1f}", *(f"{score.details[key]:.3g}" for key in details))
            for name, score in self.results.scores[task.name].items()
        )
        return plain(Table(("model", task.name, *details), rows))

    @property
    def how_to_load(self) -> str:
        """The lines that use the head."""
        return f'import alumnus\nmodel = alumnus.load_head("{self.folder}")'


def run_finetune(
    config: FinetuneConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    on_interval: Callable[[Interval], None] | None = None,
) -> FinetuneResult:
    """Train the head of a configuration, measure it, write both to its folder."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError("finetune runs in one process: start it without torchrun")
    assert config.out is not None, "checked by the configuration"
    folder = RunFolder(Path(config.out).expanduser(), SETTINGS)
    _keep_apart(folder.path, config.encoder)
    before = None
    if resume and folder.config.is_file():  # with the settings that have come since
        before = to_yaml(from_yaml(folder.config.read_text()))
    folder.check(to_yaml(config), before=before, resume=resume, overwrite=overwrite)
    device = choose_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    task = _task(config)
    backbone: Backbone
    if config.unfrozen:
        backbone = open_learner(config.encoder, device)
    else:
        backbone = open_backbone(config.encoder, device)
    fingerprint = backbone.fingerprint()
    if resume:
        _check_same(folder.path / STARTED_ON, fingerprint, config.encoder)
    course = KINDS[config.head].course(config, backbone, task, device)
    with folder.held():
        folder.open(to_yaml(config), overwrite=overwrite)
        write_atomically(folder.path / STARTED_ON, f"{fingerprint}\n")
        with folder.logged():
            tuning = _tuning(config, backbone, course, device)
            steps, loss = _train(config, tuning, folder, resume=resume, also=on_interval)
            tuning.module.eval()
            if isinstance(backbone, Learner):
                _save_encoder(config, backbone, folder)
            save_head(
                folder.path, course.head, course.spec, encoder=config.encoder, backbone=backbone
            )
            log.info("measuring on %d images of %s", len(task.test), task.test.name)
            results = _results(config, backbone, course.test())
            results.save(folder.evaluation / "results.json")
    return FinetuneResult(folder.path, steps, loss, results)


def _keep_apart(out: Path, encoder: str) -> None:
    """ValueError where writing to `out` would replace the encoder that is read."""
    read, written = Path(encoder).expanduser().resolve(), out.resolve()
    if read.exists() and (written == read or written in read.parents):
        raise ValueError(
            f"out={str(out)!r} holds the encoder {encoder!r}, which it would replace: choose "
            "another folder"
        )


def _check_same(path: Path, fingerprint: str, encoder: str) -> None:
    """ValueError where the run of a folder was started on an encoder of other weights."""
    if path.is_file() and path.read_text().strip() != fingerprint:
        raise ValueError(
            f"the weights of {encoder!r} are not those that the run in {str(path.parent)!r} was "
            "started on: bring these back, or start again with --overwrite"
        )


def _task(config: FinetuneConfig) -> TaskSpec:
    """The images, opened and looked at; ValueError where they have other labels or none."""
    assert config.data is not None, "checked by the configuration"
    kind = KINDS[config.head]
    task = measure.head_task(kind.task, config.data, size_px=config.size, seed=config.seed)
    return replace(task, name=f"{task.test.name} {kind.score}")


def _tuning(
    config: FinetuneConfig, backbone: Backbone, course: Course[Any], device: torch.device
) -> Tuning[Any]:
    """The head, an encoder that learns, and their optimiser."""
    kind = KINDS[config.head]
    module = torch.nn.ModuleDict({"head": course.head})
    rates = dict.fromkeys((name for name, _ in module.named_parameters()), config.lr or kind.lr)
    weight_decay = kind.weight_decay
    if isinstance(backbone, Learner):
        module["encoder"] = backbone.network
        of_encoder = layer_rates(backbone.network, rate=config.encoder_lr, decay=config.layer_decay)
        rates |= {f"encoder.{name}": rate for name, rate in of_encoder.items()}
        weight_decay = WEIGHT_DECAY_UNFROZEN
    if config.weight_decay is not None:
        weight_decay = config.weight_decay
    batch_size = config.batch_size or kind.batch_size
    steps = config.steps or total_steps(
        config.epochs or EPOCHS, images=course.examples, batch=batch_size
    )
    share = cosine_schedule(1.0, 0.0, steps=steps, warmup_steps=int(config.warmup * steps))
    return Tuning(
        course,
        module,
        build_adamw(module, weight_decay=weight_decay, peak_of=rates.__getitem__),
        steps=steps,
        batch_size=batch_size,
        share=lambda step: float(share[step]),
        bf16=choose_bf16(config.precision, device),
    )


def _train(
    config: FinetuneConfig,
    tuning: Tuning[Any],
    folder: RunFolder,
    *,
    resume: bool,
    also: Callable[[Interval], None] | None,
) -> tuple[int, float | None]:
    """Finished steps, and the loss of the last report."""
    trainer = _trainer(config, tuning, folder)
    first = trainer.resume() if resume else 0
    if first:
        log.info("resumed after step %d of %d", first, trainer.steps)
    losses: list[float] = []
    metrics = MetricsLog(folder.metrics, folder.tensorboard, names={}, first_step=first)

    def report(interval: Interval) -> None:
        metrics(interval)
        losses.append(interval.metrics["loss"])
        if also is not None:
            also(interval)

    trainer.on_log = report
    with stop_on_signals() as stop_requested:
        trainer.stop_requested = stop_requested
        try:
            done = trainer.run()
        except StoppedError as stopped:
            stopped.exit_code = stop_requested.exit_code
            raise
        finally:
            metrics.close()
    return done, losses[-1] if losses else None


def _trainer(config: FinetuneConfig, tuning: Tuning[Any], folder: RunFolder) -> Trainer[Any]:
    course, steps, batch_size = tuning.course, tuning.steps, tuning.batch_size
    log.info("training  %d steps of %d, %d examples", steps, batch_size, course.examples)

    def look(step: int) -> Evaluation:
        tuning.module.eval()
        found = course.look()
        for name, value in found.items():
            log.info("held out  %s %.3g after step %d", name, value, step)
        return Evaluation({f"held_out/{name}": value for name, value in found.items()})

    return Trainer(
        trainable=tuning,
        batches=lambda position: course.batches(position, batch_size),
        steps=steps,
        batch_size=batch_size,
        seed=config.seed,
        log_every=config.log_every,
        save_at=frozenset(evenly_spaced(steps, min(steps, config.checkpoints))),
        checkpoints=Checkpoints(folder.checkpoints, keep=config.keep),
        evaluate_at=frozenset(
            evenly_spaced(steps, min(steps, config.evaluations)) if config.evaluations else ()
        ),
        on_eval=look,
    )


def _save_encoder(config: FinetuneConfig, learned: Learner, folder: RunFolder) -> None:
    """The tuned encoder as any other, with what it inherits."""
    info = {
        "tuned_from": config.encoder,
        "inherits": [asdict(terms) for terms in learned.terms],
    }
    save_encoder(folder.path, learned.network, learned.spec, info)
    lines = licences.sentences(learned.terms)
    write_atomically(folder.licences, "".join(f"{line}\n" for line in lines))


def _results(config: FinetuneConfig, backbone: Backbone, found: Finding) -> Results:
    """The head's score and that of a constant prediction, as results of an evaluation."""
    name, metric = backbone.model.name, KINDS[config.head].metric
    task = replace(found.record, kind=config.head, metric=metric)
    return Results(
        models=(
            ModelRecord(name=name, kind="student"),
            ModelRecord(name=CONSTANT, kind="baseline"),
        ),
        tasks=(task,),
        scores={task.name: {name: found.score, CONSTANT: found.constant}},
        missing={task.name: {}},
    )
