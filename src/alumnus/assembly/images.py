"""The images of a run: sources, their order, batches on the device."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_all_start_methods, get_start_method
from types import MappingProxyType
from typing import Literal

import torch

from alumnus.config import RunConfig, SourceSection
from alumnus.data import (
    AugmentConfig,
    BadImage,
    Batch,
    DevicePixels,
    DrawnSizes,
    Mixture,
    Resident,
    Source,
    Turned,
    Turning,
    hold_out,
    make_loader,
    open_source,
    resident_bytes,
)
from alumnus.distill import Targets
from alumnus.hardware import choose_workers, memory_bytes
from alumnus.spelling import size_text
from alumnus.teachers import PoolWithWorkers, Teacher
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

CPU = torch.device("cpu")
RESIDENT_SHORT = 4  # times the image size: a crop of 8% of the area still has its pixels
RESIDENT_PASSES = 3  # from which on decoding once pays
RESIDENT_SHARE: dict[bool | str, float] = {"auto": 0.15, True: 0.6, "device": 0.5}  # of memory


@dataclass(frozen=True)
class Sources:
    """Where the images of a run come from."""

    train: list[Source]
    held_out: list[Source]


@dataclass(frozen=True)
class Images(Sources):
    """The images of a run, in its order."""

    mixture: Mixture
    keep_on: torch.device | None = None  # where the images of `train` are kept, if at all
    short_px: int | None = None  # and at which short side at most

    @cached_property
    def on_device(self) -> DevicePixels | None:
        """The images of `train` there; decoded when the first batch asks for them."""
        if self.keep_on is None:
            return None
        return DevicePixels(self.train, self.keep_on, short_px=self.short_px)


def open_images(config: RunConfig, teacher_domains: list[str]) -> Images:
    """Open the sources and lay them out; ValueError for whatever cannot be trained on."""
    return lay_out(config, open_sources(config, teacher_domains))


def open_sources(config: RunConfig, teacher_domains: list[str]) -> Sources:
    """Open the sources and hold some images out; ValueError for what cannot be trained on."""
    learned = config.data.learned.values()
    if not learned:
        raise ValueError("there are no images to learn from: give data.train=FOLDER")
    default, turning = teacher_domains[0], config.departures.turning
    opened = [_open(section, default, turning) for section in learned]
    if config.data.val:
        train, held_out = (
            opened,
            [_open(section, default, turning) for section in config.data.val],
        )
    else:
        train, held_out = hold_out(opened)
    for source in train:
        _check_source(config, source)
    return Sources(train, held_out)


def lay_out(
    config: RunConfig,
    sources: Sources,
    device: torch.device = CPU,
    *,
    teachers: Mapping[str, Teacher] = MappingProxyType({}),
    processes: int = 1,
) -> Images:
    """The sources in the order of the run; its batch is settled.

    Small sets are decoded here, once for the run; `processes` share the machine's memory.
    """
    named = zip(sources.train, config.data.learned.values(), strict=True)
    place = _keep_on(
        config, sources.train, device, _cropped_by_workers(config, teachers), processes
    )
    short_px = _short_px(config)
    train = sources.train
    if place == "memory":
        train = [Resident(source, short_px=short_px) for source in train]
    mixture = Mixture(
        train,
        sampling=config.data.sampling,
        temperature=config.data.temperature,
        weights={source.name: section.weight for source, section in named},
        seed=config.train.seed,
        batch=config.optim.batch,
        views=config.cache.views if config.cache.enabled else None,
    )
    keep_on = device if place == "device" else None
    return Images(train, sources.held_out, mixture, keep_on, short_px)


def _keep_on(
    config: RunConfig,
    sources: list[Source],
    device: torch.device,
    by_workers: str | None,  # why it is workers that crop
    processes: int,
) -> Literal["files", "memory", "device"]:
    """Where images are read from: `data.resident`, or what pays. ValueError if it cannot be."""
    wanted = config.data.resident
    if wanted is False:
        return "files"
    place: Literal["memory", "device"] = "memory"
    if wanted == "device" or (wanted == "auto" and device.type != "cpu" and not by_workers):
        place = "device"
    if wanted == "auto" and not _pays(config, sum(map(len, sources)), place):
        return "files"
    if config.student.in_channels not in (1, 3):  # others need the sources' arrays
        raise ValueError(
            f"data.resident keeps images of 3 channels, but the student takes "
            f"{config.student.in_channels}: set data.resident=auto"
        )
    if place == "device" and by_workers:
        raise ValueError(
            f"data.resident=device cannot be where {by_workers}: set data.resident=auto"
        )
    short_px = _short_px(config)
    needed = sum(resident_bytes(source, short_px=short_px) for source in sources)
    where = device if place == "device" else CPU
    memory = memory_bytes(where) // (processes if where.type == "cpu" else 1)
    if needed > RESIDENT_SHARE[wanted] * memory:
        if wanted == "auto":
            return "files"
        raise ValueError(
            f"the decoded images take about {size_text(needed)} of {size_text(memory)} of memory a "
            f"process, too much for data.resident={str(wanted).lower()}: set data.resident=auto"
        )
    log.info(
        "images    %d are decoded once and kept %s, about %s (data.resident)",
        sum(map(len, sources)),
        f"on {device}" if place == "device" else "in memory",
        size_text(needed),
    )
    return place


def _short_px(config: RunConfig) -> int | None:
    """The short side at which images are kept; auto changes no pixel of what it keeps.

    So neither a resumed run nor a feature cache depends on whether it kept any.
    """
    if config.data.resident == "auto":
        return None
    return RESIDENT_SHORT * max(*config.data.sides, config.data.teacher_size or 0)


def _pays(config: RunConfig, images: int, place: Literal["memory", "device"]) -> bool:
    """Whether decoding once is worth it, and nothing stands against it."""
    method = get_start_method(allow_none=True) or get_all_start_methods()[0]
    shared = place == "device" or method == "fork"  # other workers would copy the memory
    bare = config.student.in_channels in (1, 3)
    return shared and bare and _passes(config, images) >= RESIDENT_PASSES


def _cropped_by_workers(config: RunConfig, teachers: Mapping[str, Teacher]) -> str | None:
    """Why batches cannot be made on the device; None where they can."""
    if config.data.augment.kind == "none":
        return "images are not cropped at random (data.augment.kind=none)"
    hosts = [name for name, teacher in teachers.items() if teacher.runs_on == "host"]
    if hosts and not config.cache.enabled:
        return f"teacher {hosts[0]!r} runs on the host and has no feature cache"
    return None


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
        on_device=images.on_device,
        drawn_sizes=_drawn_sizes(config),
    )
    for batch in loader:
        if loader.bad_images:
            on_bad_images(loader.bad_images)
            loader.bad_images = []
        # only pixels travel: reading numbers back from the device would make the host wait
        pictures = {id(x): x for x in (batch.images, batch.teacher_images)}  # may be one
        there = {key: x.to(device, non_blocking=True) for key, x in pictures.items()}
        yield batch._replace(
            images=there[id(batch.images)],
            teacher_images=there[id(batch.teacher_images)],
            targets=_on(device, batch.targets),
        )


def _drawn_sizes(config: RunConfig) -> DrawnSizes | None:
    """The sizes of the run's steps; None where all have one."""
    if not config.data.sizes:
        return None
    step_images = config.optim.batch * config.optim.accumulate
    return DrawnSizes(tuple(config.data.sizes), step_images, config.train.seed)


def _on(device: torch.device, targets: Mapping[str, Tokens] | None) -> dict[str, Tokens] | None:
    return None if targets is None else {name: t.to(device) for name, t in targets.items()}


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


def _open(section: SourceSection, default_domain: str, turning: Turning) -> Source:
    source = open_source(
        section.path,
        split=section.split,
        name=section.name,
        domain=section.domain or default_domain,
        generic=section.generic,
        where=section.where,
        columns=section.columns,
    )
    return source if section.turn is None else Turned(source, section.turn, how=turning)
