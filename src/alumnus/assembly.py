"""From a configuration to the parts of a run: here config ends, below it nobody knows it."""

import copy
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_all_start_methods, get_start_method
from pathlib import Path

import torch
from torch import Tensor

from alumnus.balance import default_drop_probability, eligible_table
from alumnus.config import RunConfig, SourceSection
from alumnus.data import (
    AugmentConfig,
    BadImage,
    Batch,
    Mixture,
    Resident,
    Source,
    hold_out,
    make_loader,
    open_source,
    resident_bytes,
)
from alumnus.distill import Balance, Distillation, Ranks, Targets
from alumnus.encoders import Encoder, EncoderSpec, grid_side, resize_pos_embed
from alumnus.hardware import choose_bf16, choose_workers, memory_bytes
from alumnus.losses import distill_losses
from alumnus.projectors import ProjectorSpec
from alumnus.randomness import derive_seed
from alumnus.runs import load_student
from alumnus.standardize import Standardizers
from alumnus.student import Student, StudentSpec, build_student
from alumnus.teachers import (
    CachedTeachers,
    FeatureCache,
    PoolWithWorkers,
    Teacher,
    TeacherPool,
    UnavailableError,
    load_teacher,
)
from alumnus.tokens import Tokens
from alumnus.training.distributed import World, shard, spread
from alumnus.training.optimizer import build_adamw, clip_each
from alumnus.training.schedules import cosine_schedule, peak_rate, total_steps
from alumnus.training.sharding import fill

__all__ = [
    "Images",
    "Sources",
    "augmentation",
    "batches",
    "build_distillation",
    "build_pool",
    "build_targets",
    "calibrate",
    "encoder_spec",
    "lay_out",
    "live",
    "load_teachers",
    "new_standardizers",
    "new_student",
    "open_images",
    "open_sources",
    "plan_cache",
    "run_steps",
    "start_from",
]

log = logging.getLogger(__name__)

ALONE = World()
RESIDENT_SHORT = 4  # times the image size: a crop of 8% of the area still has its pixels
RESIDENT_PASSES = 3  # from which on decoding once pays
RESIDENT_SHARE: dict[bool | str, float] = {"auto": 0.15, True: 0.6}  # of the memory


@dataclass(frozen=True)
class Sources:
    """Where the images of a run come from."""

    train: list[Source]
    held_out: list[Source]


@dataclass(frozen=True)
class Images(Sources):
    """The images of a run, in its order."""

    mixture: Mixture


def open_images(config: RunConfig, teacher_domains: list[str]) -> Images:
    """Open the sources and lay them out; ValueError for whatever cannot be trained on."""
    return lay_out(config, open_sources(config, teacher_domains))


def open_sources(config: RunConfig, teacher_domains: list[str]) -> Sources:
    """Open the sources and hold some images out; ValueError for what cannot be trained on."""
    if not config.data.train:
        raise ValueError("there are no images to learn from: give data.train=FOLDER")
    default = teacher_domains[0]
    opened = [_open(section, default) for section in config.data.train]
    if config.data.val:
        train, held_out = (
            opened,
            [_open(section, default) for section in config.data.val],
        )
    else:
        train, held_out = hold_out(opened)
    for source in train:
        _check_source(config, source)
    return Sources(train, held_out)


def lay_out(config: RunConfig, sources: Sources, *, processes: int = 1) -> Images:
    """The sources in the order of the run; its batch is settled.

    Small sets are decoded here, once for the run; `processes` share the machine's memory.
    """
    named = zip(sources.train, config.data.train, strict=True)
    train = _resident(config, sources.train, processes)
    mixture = Mixture(
        train,
        sampling=config.data.sampling,
        temperature=config.data.temperature,
        weights={source.name: section.weight for source, section in named},
        seed=config.train.seed,
        batch=config.optim.batch,
        views=config.cache.views if config.cache.enabled else None,
    )
    return Images(train, sources.held_out, mixture)


def _resident(config: RunConfig, sources: list[Source], processes: int) -> list[Source]:
    """The sources, or their decoded images in memory where `data.resident` says so."""
    wanted = config.data.resident
    count = sum(map(len, sources))
    method = get_start_method(allow_none=True) or get_all_start_methods()[0]
    # forked workers share the memory, others would copy it
    worthwhile = _passes(config, count) >= RESIDENT_PASSES and method == "fork"
    bare = config.student.in_channels in (1, 3)  # others need the sources' arrays
    if wanted is False or (wanted == "auto" and not (worthwhile and bare)):
        return sources
    if not bare:
        raise ValueError(
            f"data.resident keeps images of 3 channels, but the student takes "
            f"{config.student.in_channels}: set data.resident=auto"
        )
    # auto changes no pixel: neither a resumed run nor a feature cache depends on what it chose
    bound = RESIDENT_SHORT * max(config.data.size, config.data.teacher_size or 0)
    short_px = bound if wanted is True else None
    needed = sum(resident_bytes(source, short_px=short_px) for source in sources)
    memory = memory_bytes(torch.device("cpu")) // processes
    if needed > RESIDENT_SHARE[wanted] * memory:
        if wanted == "auto":
            return sources
        raise ValueError(
            f"the decoded images take about {_gib(needed)} of {_gib(memory)} of memory a process, "
            "too much for data.resident=true: set data.resident=auto"
        )
    log.info("images    %d are decoded once, about %s (data.resident)", count, _gib(needed))
    return [Resident(source, short_px=short_px) for source in sources]


def _passes(config: RunConfig, images: int) -> float:
    """How often each image is read; 0 where that is not settled."""
    optim = config.optim
    if optim.steps is not None:
        batch = optim.batch_size if isinstance(optim.batch_size, int) else 0
        return optim.steps * batch * optim.accumulate / images
    epochs = optim.epochs if isinstance(optim.epochs, float) else 0.0
    return epochs * (optim.epoch_images or images) / images


def load_teachers(config: RunConfig) -> dict[str, Teacher]:
    """The teachers by name; an `optional` one that cannot be had is left out with a warning."""
    teachers: dict[str, Teacher] = {}
    for name, section in config.teachers.items():
        try:
            teachers[name] = load_teacher(
                section.model,
                name=name,
                weights=section.weights,
                tokens=None if section.tokens is None else tuple(section.tokens),
                domain=section.domain,
                grid=section.grid,
            )
        except UnavailableError as error:
            if not section.optional:
                raise
            log.warning("going on without teacher %s: %s", name, error)
    if not teachers:
        raise UnavailableError("none of the teachers can be had")
    return teachers


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
    spec = StudentSpec(encoder=encoder_spec(config), projectors=projectors)
    torch.manual_seed(derive_seed(config.train.seed, "initial weights"))
    return build_student(spec), spec


def encoder_spec(config: RunConfig) -> EncoderSpec:
    """What describes the student's encoder."""
    return EncoderSpec(image_size=config.data.size, **config.student.model_dump(exclude_none=True))


def augmentation(config: RunConfig) -> AugmentConfig:
    """The augmentation's distributions."""
    low, high = config.data.augment.crop_scale
    return AugmentConfig(kind=config.data.augment.kind, crop_scale=(low, high))


def build_pool(config: RunConfig, teachers: Mapping[str, Teacher], student: Student) -> TeacherPool:
    """The teachers together; ValueError where one cannot teach this student at this size."""
    hosts = [name for name, teacher in teachers.items() if teacher.runs_on == "host"]
    if hosts and not config.cache.enabled and config.data.augment.where == "device":
        raise ValueError(
            f"teacher {', '.join(hosts)} runs in the data workers and needs finished images there: "
            "take data.augment.where=auto, or read its features from cache.enabled=true"
        )
    pool = TeacherPool(teachers, student.encoder.patch_size)
    side, teacher_side = config.data.size, config.data.teacher_size or config.data.size
    targets = pool.probe((side, side), (teacher_side, teacher_side))
    with torch.no_grad():
        blank = torch.zeros(2, config.student.in_channels, side, side)
        distill_losses(student.eval()(blank), {n: _twice(t) for n, t in targets.items()})
    return pool


def plan_cache(
    config: RunConfig, pool: TeacherPool, images: Images, *, check_disk: bool = True
) -> FeatureCache | None:
    """The feature cache of a run, not built yet; None where teachers are live.

    ValueError where the disk is too small for it, unless that is not asked.
    """
    if not config.cache.enabled:
        return None
    cache = FeatureCache(
        images.train,
        pool,
        augment=augmentation(config),
        size=config.data.size,
        teacher_size=config.data.teacher_size,
        views=config.cache.views,
        seed=config.train.seed,
        channels=config.student.in_channels,
        dtype=config.cache.dtype,
        folder=Path(config.cache.folder) if config.cache.folder else None,
    )
    if check_disk:
        cache.check_disk()
    return cache


def live(pool: TeacherPool) -> Targets:
    """The teachers without a cache: those of the host in the data workers, the others in a step."""
    return PoolWithWorkers(pool) if "host" in {t.runs_on for t in pool.teachers.values()} else pool


def build_targets(
    config: RunConfig,
    pool: TeacherPool,
    cache: FeatureCache | None,
    device: torch.device,
    world: World = ALONE,
) -> Targets:
    """Live teachers on the device, or the feature cache, filled first where it is not full.

    It is the first process that fills it; the others wait.
    """
    pool.to(device)
    if cache is None:
        targets = live(pool)
        if isinstance(targets, PoolWithWorkers):
            workers = choose_workers(config.data.workers, device)
            log.info(
                "host      %s runs in %s; cache.enabled=true would run it once for each view",
                ", ".join(targets.host.teachers),
                f"the data workers ({workers})" if workers else "this process (data.workers=0)",
            )
        return targets
    if not cache.complete:
        log.info("caching %d rows of teacher features (%s)", cache.rows, _gib(cache.bytes))
    said = time.monotonic()

    def progress(done: int, rows: int) -> None:
        nonlocal said
        if time.monotonic() - said > 20:
            log.info("cached %d of %d rows", done, rows)
            said = time.monotonic()

    def build() -> None:
        bf16 = choose_bf16(config.train.precision, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            cache.build(num_workers=choose_workers(config.data.workers, device), progress=progress)

    world.first_alone(build)
    return CachedTeachers(cache)


def batches(
    config: RunConfig,
    images: Images,
    position: int,
    *,
    device: torch.device,
    targets: Targets | None = None,
    world: World = ALONE,
    on_bad_images: Callable[[list[BadImage]], None],
) -> Iterator[Batch]:
    """Endless batches from a position on, their images on the device.

    Where `targets` has teachers on the host, the data workers run them.
    """
    host = targets.host if isinstance(targets, PoolWithWorkers) else None
    loader = make_loader(
        images.mixture,
        augmentation(config),
        size=config.data.size,
        # cached targets need no pictures for teachers
        teacher_size=None if config.cache.enabled else config.data.teacher_size,
        batch_size=config.optim.batch // world.size,
        rank=world.rank,
        ranks=world.size,
        start_position=position,
        num_workers=choose_workers(config.data.workers, device),
        seed=config.train.seed,
        channels=config.student.in_channels,
        pin_memory=device.type == "cuda",
        colour_on=device if _splits(config.data.augment.where, device) and not host else None,
        teach=host.targets if host else None,
    )
    for batch in loader:
        if loader.bad_images:
            on_bad_images(loader.bad_images)
            loader.bad_images = []
        # only pixels travel: reading numbers back from the device would make the host wait
        yield batch._replace(
            images=batch.images.to(device, non_blocking=True),
            teacher_images=batch.teacher_images.to(device, non_blocking=True),
            targets=None if batch.targets is None else _moved(batch.targets, device),
        )


def _moved(targets: Mapping[str, Tokens], device: torch.device) -> dict[str, Tokens]:
    return {n: t.map(lambda x: x.to(device, non_blocking=True)) for n, t in targets.items()}


def _splits(where: str, device: torch.device) -> bool:
    """Whether colour is left to the device; on a CPU single images are faster than batches."""
    return where == "device" or (where == "auto" and device.type != "cpu")


def run_steps(config: RunConfig, images: Images) -> int:
    """Optimiser steps of the run."""
    if config.optim.steps is not None:
        return config.optim.steps
    assert isinstance(config.optim.epochs, float), "checked by the configuration, and settled"
    return total_steps(
        config.optim.epochs,
        images=config.optim.epoch_images or len(images.mixture),
        batch=config.optim.batch * config.optim.accumulate,
    )


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
        uncertainty=config.balance.weights == "uncertainty",
        aggregation=config.departures.aggregation,
        scope=config.departures.scope,
    ).to(device)
    student.to(device)
    _freeze_unused(student, config.data.size)
    if config.train.checkpoint_activations:
        _checkpoint_activations(student.encoder, config.student.model)
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
        network=network,
        ranks=Ranks(world.size, world.all_reduce_sum, no_sync),
        ema=ema,
        ema_decay=config.train.ema or 0.0,
    )


def new_standardizers(config: RunConfig, teachers: Mapping[str, Teacher]) -> Standardizers:
    """The teachers' statistics, as at the start of a run."""
    shapes = {name: dict.fromkeys(t.token_types, t.dim) for name, t in teachers.items()}
    return Standardizers(config.standardize.kind, shapes)


def calibrate(run: Distillation, batches: Iterator[Batch], steps: int) -> None:
    """Take the statistics of `frozen` and `phi-s` from the first batches, teachers only."""
    assert run.teachers is not None, "targets are set before"
    log.info("standardisation: statistics of %d batch%s", steps, "" if steps == 1 else "es")
    for _ in range(steps):
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.bf16):  # as in a step
            targets = run.teachers.targets(next(batches))
        run.standardizers.calibrate(targets)
    run.standardizers.end_calibration(run.ranks.all_reduce_sum if run.ranks.size > 1 else None)


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


def _twice(tokens: Tokens) -> Tokens:
    """A batch of two from a batch of one: BatchNorm and statistics need two."""
    return Tokens(
        patches=None if tokens.patches is None else tokens.patches.repeat(2, 1, 1),
        grid=tokens.grid,
        cls=None if tokens.cls is None else tokens.cls.repeat(2, 1),
    )


def _check_source(config: RunConfig, source: Source) -> None:
    """ValueError, the loader's own sentence, where not one image of a source can be had."""
    alone = make_loader(
        Mixture([source]),
        augmentation(config),
        size=config.data.size,
        batch_size=1,
        channels=config.student.in_channels,
    )
    next(iter(alone))


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f} GiB"


def _open(section: SourceSection, default_domain: str) -> Source:
    return open_source(
        section.path,
        split=section.split,
        name=section.name,
        domain=section.domain or default_domain,
        generic=section.generic,
        where=section.where,
        columns=section.columns,
    )
