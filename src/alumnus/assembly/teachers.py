"""The teachers of a run: the pool, its feature cache, targets."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from alumnus.assembly.images import Images, augmentation
from alumnus.config import RunConfig, TeacherSection
from alumnus.distill import Targets
from alumnus.hardware import choose_bf16, choose_workers
from alumnus.licences import Terms, refusals
from alumnus.losses import distill_losses
from alumnus.runs import load_terms
from alumnus.spelling import size_text
from alumnus.student import Student
from alumnus.teachers import (
    CachedTeachers,
    FeatureCache,
    PoolWithWorkers,
    Teacher,
    TeacherPool,
    UnavailableError,
    known_terms,
    load_teacher,
)
from alumnus.tokens import Tokens
from alumnus.training.distributed import ALONE, World, is_sharded, shard_frozen

__all__ = [
    "build_pool",
    "build_targets",
    "inherited",
    "live",
    "load_teachers",
    "plan_cache",
    "started_from",
    "teacher_of",
]

log = logging.getLogger(__name__)


def load_teachers(config: RunConfig) -> dict[str, Teacher]:
    """The teachers by name; an `optional` one that cannot be had is left out with a warning."""
    teachers: dict[str, Teacher] = {}
    for name, section in config.teachers.items():
        try:
            teachers[name] = teacher_of(name, section)
        except UnavailableError as error:
            if not section.optional:
                raise
            log.warning("going on without teacher %s: %s", name, error)
    if not teachers:
        raise UnavailableError("none of the teachers can be had")
    for _, sentence in refusals(config.licence, inherited(config, teachers)):
        raise ValueError(sentence)
    return teachers


def teacher_of(name: str, section: TeacherSection) -> Teacher:
    """The teacher that a section of a configuration describes."""
    return load_teacher(
        section.model,
        name=name,
        weights=section.weights,
        tokens=None if section.tokens is None else tuple(section.tokens),
        domain=section.domain,
        licence=section.licence,
        mean=section.mean,
        std=section.std,
        grid=section.grid,
        pos_interp=section.pos_interp,
    )


def inherited(config: RunConfig, teachers: Mapping[str, Teacher]) -> list[Terms]:
    """What a student takes over: from its teachers, and from weights that it starts from."""
    terms = [terms for teacher in teachers.values() for terms in teacher.terms]
    return [*terms, *started_from(config, besides=terms)]


def started_from(config: RunConfig, *, besides: Sequence[Terms] = ()) -> list[Terms]:
    """What the weights bring that a student starts from, as far as it is not among `besides`.

    Nothing is loaded; ValueError for an `init` that cannot be read.
    """
    terms: list[Terms] = []
    if config.init is not None:
        earlier = load_terms(Path(config.init).expanduser()) or (Terms("init", "unknown"),)
        terms += [replace(t, of=f"init/{t.of}") for t in earlier if t not in besides]
    if config.student.pretrained:
        name = config.student.model.removeprefix("timm:")
        terms += known_terms(f"student/{name}", f"timm:{name}")
    return terms


def build_pool(config: RunConfig, teachers: Mapping[str, Teacher], student: Student) -> TeacherPool:
    """The teachers together; ValueError where one cannot teach this student at this size."""
    hosts = [name for name, teacher in teachers.items() if teacher.runs_on == "host"]
    if hosts and not config.cache.enabled and config.data.augment.where == "device":
        raise ValueError(
            f"teacher {', '.join(hosts)} runs in the data workers and needs finished images there: "
            "take data.augment.where=auto, or read its features from cache.enabled=true"
        )
    pool = TeacherPool(teachers, student.encoder.patch_size)
    for side in {*config.data.sides, config.data.size}:  # held-out images have the latter
        teacher_side = config.data.teacher_size or side
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

    It is the first process that fills it; the others wait. Live teachers are spread over the
    processes where `train.shard_teachers` says so.
    """
    if config.train.shard_teachers and world.size > 1:
        _shard(pool, device)
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
        log.info("caching %d rows of teacher features (%s)", cache.rows, size_text(cache.bytes))
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


def _shard(pool: TeacherPool, device: torch.device) -> None:
    """ValueError for a teacher that cannot be sharded."""
    if device.type == "cpu" and torch.get_num_threads() > 1:
        raise ValueError(
            "train.shard_teachers on a CPU needs train.threads=1: threads of a process would each "
            "call for the other processes' parts"
        )
    for name, teacher in pool.teachers.items():
        has_weights = any(True for _ in teacher.network.parameters())
        if teacher.runs_on != "device" or not has_weights or is_sharded(teacher.network):
            continue
        try:
            share = shard_frozen(teacher.network, device)
        except (AssertionError, NotImplementedError, ValueError) as error:
            raise ValueError(
                f"teacher {name} cannot be sharded ({error}): take train.shard_teachers=false"
            ) from error
        if share < 0.5:
            log.warning(
                "teacher %s: only %.0f%% of its weights are in lists of modules; the others are "
                "put together by the first batch and stay so",
                name,
                100 * share,
            )


def _twice(tokens: Tokens) -> Tokens:
    """A batch of two from a batch of one: BatchNorm and statistics need two."""
    return Tokens(
        patches=None if tokens.patches is None else tokens.patches.repeat(2, 1, 1),
        grid=tokens.grid,
        cls=None if tokens.cls is None else tokens.cls.repeat(2, 1),
    )
