"""The images of a run: sources, their order, batches on the device."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_start_method

import torch

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
from alumnus.distill import Targets
from alumnus.hardware import choose_workers, memory_bytes
from alumnus.spelling import size_text
from alumnus.teachers import (
    PoolWithWorkers,
)
from alumnus.tokens import Tokens
from alumnus.training.distributed import ALONE, World
from alumnus.training.schedules import total_steps

__all__ = [
    "Images",
    "Sources",
    "augmentation",
    "batches",
    "lay_out",
    "open_images",
    "open_sources",
    "run_steps",
]

log = logging.getLogger(__name__)

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
            f"the decoded images take about {size_text(needed)} of {size_text(memory)} of memory a "
            "process, too much for data.resident=true: set data.resident=auto"
        )
    log.info("images    %d are decoded once, about %s (data.resident)", count, size_text(needed))
    return [Resident(source, short_px=short_px) for source in sources]


def _passes(config: RunConfig, images: int) -> float:
    """How often each image is read; 0 where that is not settled."""
    optim = config.optim
    if optim.steps is not None:
        batch = optim.batch_size if isinstance(optim.batch_size, int) else 0
        return optim.steps * batch * optim.accumulate / images
    epochs = optim.epochs if isinstance(optim.epochs, float) else 0.0
    return epochs * (optim.epoch_images or images) / images


def augmentation(config: RunConfig) -> AugmentConfig:
    """The augmentation's distributions."""
    low, high = config.data.augment.crop_scale
    return AugmentConfig(kind=config.data.augment.kind, crop_scale=(low, high))


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
