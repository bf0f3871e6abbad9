"""How long a run will take, from some of its steps: the real student, images and teachers.

Where features are cached, random ones of their shapes stand in, and the teachers' time is measured
by itself. Nothing is written and nothing kept.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from alumnus import assembly
from alumnus.assembly import Images
from alumnus.config import RunConfig
from alumnus.data import Batch, sweep
from alumnus.distill import Distillation, DistillBatch
from alumnus.hardware import choose_workers
from alumnus.plans import Time
from alumnus.teachers import FeatureCache, TeacherPool
from alumnus.tokens import Tokens

__all__ = ["measure_time"]

MEASURED_STEPS, WARM_STEPS = 20, 3
CACHE_BATCH = 32  # images, as FeatureCache.build takes them
CACHE_BATCHES = 2  # after one that warms up


def measure_time(
    config: RunConfig,
    run: Distillation,
    images: Images,
    pool: TeacherPool,
    cache: FeatureCache | None,
    steps: int,
) -> Time:
    """Some steps, after others that warm up; and the teachers' time where features are missing."""
    run.teachers = assembly.live(pool) if cache is None else _StandIns(cache)
    feed = partial(
        assembly.batches,
        images=images,
        device=run.device,
        targets=run.teachers,
        on_bad_images=_ignore,
    )
    calibrated = bool(run.standardizers.get_buffer("calibrated"))
    _warm_up(config, run, feed)
    # the loader's workers start with the clock: what they prefetched before would count as free
    batches = feed(config, position=0)
    first = next(batches)
    _synchronize(run.device)
    started, waited = time.perf_counter(), 0.0
    for step in range(MEASURED_STEPS):
        asked = time.perf_counter()
        given = [first if step == i == 0 else next(batches) for i in range(config.optim.accumulate)]
        waited += time.perf_counter() - asked
        run.step(given, 0)
    _synchronize(run.device)
    took = time.perf_counter() - started

    looks = 0 if calibrated else config.standardize.calibration_steps
    look_s = _look_seconds(run, first) + waited / (MEASURED_STEPS * config.optim.accumulate)
    return Time(
        step_s=took / MEASURED_STEPS,
        data_wait=waited / took,
        cache_s=_cache_seconds(config, run, images, pool, cache) if cache else 0.0,
        train_s=took / MEASURED_STEPS * steps + look_s * looks,
    )


def _warm_up(config: RunConfig, run: Distillation, feed: Callable[..., Iterator[Batch]]) -> None:
    assert run.teachers is not None, "set before"
    batch = next(feed(_without_workers(config), position=0))
    if not run.standardizers.get_buffer("calibrated"):
        run.standardizers.calibrate(run.teachers.targets(batch))
        run.standardizers.end_calibration()
    for _ in range(WARM_STEPS):
        run.step([batch] * config.optim.accumulate, 0)


def _look_seconds(run: Distillation, batch: Batch) -> float:
    """The time of the teachers alone, which calibration takes for each batch."""
    assert run.teachers is not None, "set before"
    started = time.perf_counter()
    run.teachers.targets(batch)
    _synchronize(run.device)
    return time.perf_counter() - started


def _cache_seconds(
    config: RunConfig, run: Distillation, images: Images, pool: TeacherPool, cache: FeatureCache
) -> float:
    """From the time of a few batches as `FeatureCache.build` makes them."""
    missing = {name: store for name, store in cache.stores.items() if not store.complete}
    if not missing:
        return 0.0
    batches = iter(
        sweep(
            images.train,
            assembly.augmentation(config),
            size=config.data.size,
            batch_size=CACHE_BATCH,
            views=config.cache.views,
            num_workers=choose_workers(config.data.workers, run.device),
            seed=config.train.seed,
            teacher_size=config.data.teacher_size,
            channels=config.student.in_channels,
        )
    )
    part = pool.subset(missing)
    first = next(batches)
    _look(part, run, first)  # warms up
    started, seen = time.perf_counter(), 0
    for batch in islice(batches, CACHE_BATCHES):
        _look(part, run, batch)
        seen += len(batch.position)
    if not seen:  # the first batch is all there is
        _look(part, run, first)
        seen = len(first.position)
    rows = cache.rows - min(store.done for store in missing.values())
    return (time.perf_counter() - started) / seen * rows


def _look(pool: TeacherPool, run: Distillation, batch: Batch) -> None:
    on_device = batch._replace(
        images=batch.images.to(run.device), teacher_images=batch.teacher_images.to(run.device)
    )
    with torch.autocast(run.device.type, torch.bfloat16, enabled=run.bf16):
        pool.targets(on_device)
    _synchronize(run.device)


class _StandIns:
    """Random features of the shapes that a cache will give."""

    def __init__(self, cache: FeatureCache) -> None:
        self._shapes = cache.pool.probe(_pair(cache.size), _pair(cache.teacher_size or cache.size))
        self._made: dict[int, dict[str, Tokens]] = {}

    def targets(self, batch: DistillBatch) -> Mapping[str, Tokens]:
        count, device = len(batch.images), batch.images.device
        if count not in self._made:
            self._made[count] = {n: _random(t, count, device) for n, t in self._shapes.items()}
        return self._made[count]


def _random(tokens: Tokens, count: int, device: torch.device) -> Tokens:
    def like(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else torch.randn(count, *tensor.shape[1:], device=device)

    return Tokens(patches=like(tokens.patches), grid=tokens.grid, cls=like(tokens.cls))


def _without_workers(config: RunConfig) -> RunConfig:
    data = config.data.model_copy(update={"workers": 0})
    return config.model_copy(update={"data": data})


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _ignore(_: object) -> None:
    """Broken images are the run's to report."""


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
