"""What `auto` stands for in a run: batch, epochs, precision, data processes, each with its reason.

Rules are pure functions of the images, the student and the hardware's facts, never of what else
runs there, so that every process of a run comes to the same. What they chose is written into the
run's config.yaml; a resumed run takes it from there.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from alumnus import costs
from alumnus.config import RunConfig
from alumnus.hardware import choose_bf16, choose_workers, core_count, memory_bytes
from alumnus.spelling import size_text

__all__ = ["AUTO", "Choice", "as_before", "choose_batch", "choose_epochs", "settle"]

AUTO = ("train.precision", "data.workers", "optim.batch_size", "optim.epochs")

PASSES = 200  # over the images, as UNIC over ImageNet-1K
MOST_SHOWN = 256_000_000  # images: UNIC's run; DUNE's two stages show 192 million
MOST_SHOWN_CPU = 500_000  # images: hours for a ViT-tiny at 25 to 50 img/s
LEAST_SHOWN = 100_000  # images: a small set is passed more often, up to MOST_PASSES
MOST_PASSES = 1000

MOST_IN_BATCH = 256  # images: what learning rates are given for
CPU_BATCH = 64
CPU_ROWS = 2048  # tokens: from 1,000 to 2,000 on, more at once are not faster (three ViTs measured)
STEPS_PER_PASS = 8  # at least
CPU_SHARE = 0.25  # of the memory, which is others' too
DEVICE_SHARE = 0.6  # the rest: teachers' passing tensors, workspaces, fragments


@dataclass(frozen=True)
class Choice:
    """What a setting that said `auto` was set to."""

    key: str
    value: int | float | str
    reason: str

    def __str__(self) -> str:
        return f"{self.key} {self.value}: {self.reason}"


@dataclass(frozen=True)
class Load:
    """What one process has to hold, bytes."""

    fixed: int  # weights, gradients, optimiser, teachers
    per_image: int  # activations


def settle(
    config: RunConfig,
    *,
    images: int,  # to learn from
    student: nn.Module,
    teachers: Mapping[str, nn.Module],
    device: torch.device,
    processes: int = 1,
) -> tuple[RunConfig, list[Choice]]:
    """The configuration without `auto`, and what was chosen; itself where nothing was."""
    chosen: list[Choice] = []
    bf16 = choose_bf16(config.train.precision, device)
    if config.train.precision == "auto":
        chosen.append(_precision(bf16, device))
    if config.data.workers == "auto":
        chosen.append(_workers(choose_workers("auto", device), device))
    if config.optim.batch_size == "auto":
        per_image = costs.activation_bytes(
            student,
            side_px=max(config.data.sides),
            channels=config.student.in_channels,
            device=device,
            bf16=bf16,
        )
        largest = max(config.data.sides)
        side = largest // int(getattr(student.encoder, "patch_size", largest))
        chosen.append(
            choose_batch(
                images=images,
                tokens=side * side,
                load=Load(_fixed_bytes(config, student, teachers, processes), per_image),
                # images may take half of the device
                memory=memory_bytes(device) // (2 if config.data.resident == "device" else 1),
                on_cpu=device.type == "cpu",
                processes=processes,
            )
        )
    if config.optim.epochs == "auto":
        shown = config.optim.epoch_images or images
        chosen.append(choose_epochs(images=shown, on_cpu=device.type == "cpu"))
    return _with(config, {choice.key: choice.value for choice in chosen}), chosen


def as_before(config: RunConfig, before: RunConfig) -> RunConfig:
    """The configuration with what an earlier start of the same run made of its `auto`."""
    mine, theirs = config.model_dump(), before.model_dump()
    taken = {}
    for key in AUTO:
        section, name = key.split(".")
        if mine[section][name] == "auto":
            taken[key] = theirs[section][name]
    return _with(config, taken)


def choose_batch(
    *,
    images: int,
    tokens: int,  # patches of an image
    load: Load,
    memory: int,  # bytes of the device
    on_cpu: bool,
    processes: int = 1,
) -> Choice:
    """`optim.batch_size`: what is fast, fits into memory and leaves enough steps in a pass.

    Powers of two, times the processes. The learning rate follows by itself: it is given for 256
    images and scales with the batch.
    """
    most = MOST_IN_BATCH // processes
    why = f"{MOST_IN_BATCH} images, what learning rates are given for, fit into memory"
    if on_cpu:
        most = min(max(CPU_BATCH, _power_above(CPU_ROWS / max(tokens, 1))), MOST_IN_BATCH)
        why = (
            f"on a CPU more rows at once are not faster than the {most * tokens:,} of {most} images"
        )
    room = int((CPU_SHARE if on_cpu else DEVICE_SHARE) * memory) - load.fixed
    fits = max(room // max(load.per_image, 1), 2)
    if fits < most:
        most = fits
        free = size_text(max(room, 0))
        why = f"an image takes {size_text(load.per_image)} of activations, {free} are free"
    if (enough := max(images // STEPS_PER_PASS // processes, 8)) < most:
        most = enough
        why = f"{images:,} images then make at least {STEPS_PER_PASS} steps a pass"
    batch = _power_below(most) * processes
    return Choice("optim.batch_size", batch, why)


def choose_epochs(*, images: int, on_cpu: bool) -> Choice:
    """`optim.epochs`: as often as published, more often for few images, within a budget.

    Source: UNIC shows ImageNet-1K 200 times (256 million images), DUNE 150 times (192 million).
    """
    budget = MOST_SHOWN_CPU if on_cpu else MOST_SHOWN
    passes, why = float(PASSES), f"as often as UNIC passes over ImageNet-1K ({PASSES} times)"
    if passes * images < LEAST_SHOWN:
        passes = min(LEAST_SHOWN / images, MOST_PASSES)
        why = f"few images, {images:,}, are passed more often than UNIC's {PASSES} times"
    if passes * images > budget:
        passes = budget / images
        limit = "the budget on a CPU" if on_cpu else "as many as UNIC shows"
        why = f"{budget:,} images shown is {limit}"
    passes = float(round(passes)) if passes >= 10 else round(passes, 2)
    return Choice("optim.epochs", passes, f"{why}; {round(passes * images):,} images shown")


def _precision(bf16: bool, device: torch.device) -> Choice:
    if bf16:
        return Choice("train.precision", "bf16", f"{device.type} has instructions for it")
    return Choice("train.precision", "fp32", f"bf16 would not be faster on this {device.type}")


def _workers(workers: int, device: torch.device) -> Choice:
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = f"{core_count()} cores" + (f" for {processes} processes" if processes > 1 else "")
    share = "which also train" if device.type == "cpu" else "beside the accelerator"
    return Choice("data.workers", workers, f"{cores}, {share}")


def _fixed_bytes(
    config: RunConfig, student: nn.Module, teachers: Mapping[str, nn.Module], processes: int
) -> int:
    """Weights, gradients and the two moments of AdamW, and the teachers' weights if they run."""
    held = 4 * costs.parameter_bytes(student)
    live = [] if config.cache.enabled else list(teachers.values())
    parts = processes if config.train.shard_teachers else 1
    return held + sum(costs.parameter_bytes(teacher) for teacher in live) // parts


def _with(config: RunConfig, values: Mapping[str, object]) -> RunConfig:
    sections: dict[str, dict[str, object]] = {}
    for key, value in values.items():
        section, name = key.split(".")
        sections.setdefault(section, {})[name] = value
    changed = {
        section: getattr(config, section).model_copy(update=update)
        for section, update in sections.items()
    }
    return config.model_copy(update=changed)


def _power_below(number: float) -> int:
    return 1 << max(int(math.log2(number)), 0)


def _power_above(number: float) -> int:
    return 1 << math.ceil(math.log2(max(number, 1)))
