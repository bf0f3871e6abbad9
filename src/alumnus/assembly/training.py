"""What is trained in a run: the student, its statistics, a step."""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from alumnus.assembly.images import Images, run_steps
from alumnus.balance import default_drop_probability, eligible_table
from alumnus.config import RunConfig
from alumnus.data import (
    Batch,
)
from alumnus.distill import Distillation
from alumnus.encoders import Encoder, EncoderSpec, grid_side, resize_pos_embed
from alumnus.hardware import choose_bf16
from alumnus.projectors import ProjectorSpec
from alumnus.randomness import derive_seed
from alumnus.runs import load_student
from alumnus.standardize import Standardizers
from alumnus.student import Student, StudentSpec, build_student
from alumnus.teachers import (
    Teacher,
)
from alumnus.training.distributed import ALONE, World, shard, spread
from alumnus.training.optimizer import build_adamw, clip_each
from alumnus.training.schedules import cosine_schedule, peak_rate
from alumnus.training.sharding import fill
from alumnus.weighing import Balance, Ranks

__all__ = [
    "build_distillation",
    "calibrate",
    "encoder_spec",
    "new_standardizers",
    "new_student",
    "start_from",
]

log = logging.getLogger(__name__)


def new_student(config: RunConfig, teachers: Mapping[str, Teacher]) -> tuple[Student, StudentSpec]:
    """A student with fresh weights (a function of the seed) and what describes it."""
    projectors = {
        name: ProjectorSpec(
            kind=config.projector.kind,
            dim=teacher.dim,
            token_types=tuple(teacher.token_types),
            options=config.projector.options,
        )
        for name, teacher in teachers.items()
    }
    side = config.projector.side
    sides = {
        name: ProjectorSpec(kind="linear", dim=teacher.dim, token_types=tuple(teacher.token_types))
        for name, teacher in teachers.items()
        if side is not None and name == side.teacher  # an optional teacher may be missing
    }
    spec = StudentSpec(encoder=encoder_spec(config), projectors=projectors, sides=sides)
    torch.manual_seed(derive_seed(config.train.seed, "initial weights"))
    return build_student(spec), spec


def encoder_spec(config: RunConfig) -> EncoderSpec:
    """What describes the student's encoder."""
    return EncoderSpec(image_size=config.data.size, **config.student.model_dump(exclude_none=True))


def new_standardizers(config: RunConfig, teachers: Mapping[str, Teacher]) -> Standardizers:
    """The teachers' statistics, as at the start of a run."""
    shapes = {name: dict.fromkeys(t.token_types, t.dim) for name, t in teachers.items()}
    return Standardizers(config.standardize.kind, shapes)


def build_distillation(
    config: RunConfig,
    student: Student,
    teachers: Mapping[str, Teacher],
    images: Images,
    *,
    device: torch.device,
    world: World = ALONE,
) -> Distillation:
    """Everything a step needs, on the device and spread over the processes, but for the targets.

    ValueError where a teacher would teach nothing, or the batch cannot be dealt out evenly.
    """
    if config.optim.batch % world.size:
        raise ValueError(
            f"optim.batch_size={config.optim.batch} cannot be dealt out to {world.size} "
            f"processes: take a multiple of {world.size}"
        )
    eligible_TS = eligible_table(
        config.balance.sharing,
        teacher_domains=[teacher.domain for teacher in teachers.values()],
        source_domains=[source.domain for source in images.train],
        source_generic=[source.generic for source in images.train],
    )
    idle = [name for name, row in zip(teachers, eligible_TS.tolist(), strict=True) if not any(row)]
    if idle:
        raise ValueError(
            f"nothing would be learned from teacher {idle[0]}: no source has its domain "
            f"{teachers[idle[0]].domain!r}, and balance.sharing is {config.balance.sharing}"
        )
    drop_p = config.balance.drop_p
    balance = Balance(
        eligible_TS,
        drop_probability=default_drop_probability(len(teachers)) if drop_p == "auto" else drop_p,
        weights_T=torch.tensor([config.teachers[name].loss_weight for name in teachers]),
        weighting=config.balance.weights,
        aggregation=config.departures.aggregation,
        scope=config.departures.scope,
    ).to(device)
    student.to(device)
    _freeze_unused(student, config.data.size)
    if config.train.checkpoint_activations:
        _checkpoint_activations(student.encoder, config.student.model)
    if config.train.compile:
        _compile(student, teachers)
    ema = None if config.train.ema is None else copy.deepcopy(student).requires_grad_(False)
    network, no_sync = spread(student, student.units, world, config.train.parallel)
    if ema is not None and world.size > 1 and config.train.parallel == "fsdp2":
        shard(ema, ema.units)
    trained = torch.nn.ModuleDict({"student": student, "balance": balance})
    beta1, beta2 = config.optim.betas
    optimizer = build_adamw(
        trained, betas=(beta1, beta2), eps=config.optim.eps, weight_decay=config.optim.weight_decay
    )
    steps = run_steps(config, images)
    global_batch = config.optim.batch * config.optim.accumulate
    rate = cosine_schedule(
        peak_rate(config.optim.lr, batch=global_batch),
        config.optim.min_lr,
        steps=steps,
        warmup_steps=int(config.optim.warmup * steps),
    )
    momentum = cosine_schedule(
        config.standardize.momentum_start, config.standardize.momentum_end, steps=steps
    )
    clip: Callable[[list[torch.nn.Parameter]], Tensor] = partial(
        clip_each,
        max_norm=config.optim.clip_norm,
        all_reduce_sum=world.all_reduce_sum if config.train.parallel == "fsdp2" else None,
    )
    return Distillation(
        student=student,
        standardizers=new_standardizers(config, teachers).to(device),
        balance=balance,
        optimizer=optimizer,
        rate=lambda step: float(rate[step]),
        momentum=lambda step: float(momentum[step]),
        clip=clip,
        global_batch=global_batch,
        seed=config.train.seed,
        bf16=choose_bf16(config.train.precision, device),
        cosine_weight=config.loss.cosine_weight,
        smooth_l1_weight=config.loss.smooth_l1_weight,
        patch_share=config.loss.patch_share,
        side_weight=0.0 if config.projector.side is None else config.projector.side.weight,
        network=network,
        ranks=Ranks(world.size, world.all_reduce_sum, no_sync),
        ema=ema,
        ema_decay=config.train.ema or 0.0,
    )


def calibrate(
    run: Distillation, batches: Iterator[Batch], steps: int, world: World = ALONE
) -> None:
    """Take the statistics of `frozen` and `phi-s` from the first batches, teachers only."""
    assert run.teachers is not None, "targets are set before"
    log.info("standardisation: statistics of %d batch%s", steps, "" if steps == 1 else "es")
    for _ in range(steps):
        batch = next(batches)  # images are not made in bf16
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.bf16):  # as in a step
            targets = run.teachers.targets(batch)
        run.standardizers.calibrate(targets)
    run.standardizers.end_calibration(run.ranks.all_reduce_sum if run.ranks.size > 1 else None)
    for statistic in run.standardizers.buffers():  # processors need not agree on eigenvectors
        world.from_first(statistic)


def start_from(path: str, run: Distillation) -> None:
    """Begin with another run's encoder, projectors and statistics; strict.

    Positions are resized to the student's image size (explicit size, no offset), as DUNE's
    second stage does. ValueError names what does not fit.
    """
    initial = load_student(path)
    theirs = torch.nn.ModuleDict({"model": initial.student, "statistics": initial.standardizers})
    mine = torch.nn.ModuleDict({"model": run.student, "statistics": run.standardizers})
    state, ours = theirs.state_dict(), mine.state_dict()
    key = "model.encoder.pos_embed"
    if key in state and key in ours and state[key].shape != ours[key].shape:
        state[key] = resize_pos_embed(state[key], grid_side(ours[key]))
    wrong = sorted(
        name
        for name in ours.keys() | state.keys()
        if name not in ours or name not in state or ours[name].shape != state[name].shape
    )
    if wrong:
        raise ValueError(
            f"init={path} is a student of another kind: {len(wrong)} tensors differ, {wrong[0]!r} "
            "first; its encoder, projectors, teachers and standardisation must be this run's"
        )
    fill(ours, state)
    run.start_average()


def _compile(student: Student, teachers: Mapping[str, Teacher]) -> None:
    """In place, so that no tensor changes its name; block by block, so that equal ones share code.

    Those that differ in their rate of drop path alone do not: code is made for each, and once more
    for evaluation, so torch's limit for one kind of module is raised. Teachers on the host are not
    torch's.
    """
    most = 4 * len(student.units)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, most)
    for unit in student.units:
        unit.compile()
    for teacher in teachers.values():
        if teacher.runs_on == "device":
            teacher.network.compile()


def _freeze_unused(student: Student, side_px: int) -> None:
    """No training for what no prediction depends on, such as the final norm beside a ladder.

    Nothing changes, as it would never get a gradient; but several processes wait for those.
    """
    like = next(student.parameters())
    images = like.new_zeros(1, student.encoder.in_channels, side_px, side_px)
    predictions = student.eval()(images).values()
    total = sum(tokens.of(kind).sum() for tokens in predictions for kind in tokens.types)
    assert isinstance(total, Tensor), "a student predicts something"
    trained = [p for p in student.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(total, trained, allow_unused=True)
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def _checkpoint_activations(encoder: Encoder, name: str) -> None:
    enable: Callable[[], None] | None = getattr(encoder, "set_grad_checkpointing", None)
    if enable is None:
        raise ValueError(
            f"student {name!r} has no set_grad_checkpointing(), which "
            "train.checkpoint_activations needs"
        )
    enable()
