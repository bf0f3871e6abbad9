"""What a run will need, as numbers and as a text."""

from collections.abc import Sequence
from dataclasses import dataclass

from alumnus.auto import Choice
from alumnus.spelling import size_text

__all__ = ["Disk", "Memory", "Part", "Plan", "Time"]

Row = tuple[str, ...]
FIRST_COLUMN = 9  # characters


@dataclass(frozen=True)
class Part:
    """A network of the run."""

    role: str  # encoder, projector, teacher
    name: str
    parameters: int
    flops: int | None  # of an image forward, mean over data.sizes; None: outside torch
    licence: str | None = None  # of a teacher, as stated


@dataclass(frozen=True)
class Memory:
    """Bytes of one process during a step, counted; and the most that the measurement took."""

    weights: int  # of the student, with buffers
    gradients: int
    optimizer: int
    activations: int
    teachers: int  # weights; where features are cached, while they are computed
    peak: int | None  # measured: of the accelerator, or of the whole process on a CPU

    @property
    def total(self) -> int:
        """All that was counted."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.teachers


@dataclass(frozen=True)
class Disk:
    """Bytes."""

    cache: int  # teacher features
    cache_missing: int  # of these, not there yet
    checkpoints: int  # those kept, and one being written
    models: int  # encoder.safetensors and student.safetensors
    free: int  # where the run is written


@dataclass(frozen=True)
class Time:
    """Seconds."""

    step_s: float  # of one step, with its batches
    data_wait: float  # share of it spent waiting for images
    cache_s: float  # until the missing features are computed
    train_s: float  # all steps

    @property
    def hours(self) -> float:
        """Until the encoder is written; without evaluation."""
        return (self.cache_s + self.train_s) / 3600


@dataclass(frozen=True)
class Plan:
    """What a run will need; `str(plan)` is what `alumnus plan` prints."""

    parts: tuple[Part, ...]
    images: int  # to learn from
    held_out: int
    steps: int
    batch: int  # images of a step
    choices: tuple[Choice, ...]  # what `auto` became
    memory: Memory
    disk: Disk
    time: Time | None  # None: not measured
    licences: tuple[str, ...]  # sentences

    def __str__(self) -> str:
        blocks = (
            _part_rows(self.parts),
            _length_rows(self),
            _memory_rows(self.memory),
            _disk_rows(self.disk),
            _time_rows(self.time),
            _labelled("licences", *self.licences),
        )
        return "\n\n".join(_aligned(rows) for rows in blocks)


def _part_rows(parts: tuple[Part, ...]) -> list[Row]:
    head = ("part", "name", "M parameters", "GFLOPs an image", "licence")
    rows = [
        (
            part.role,
            part.name,
            f"{part.parameters / 1e6:.2f}",
            "outside torch" if part.flops is None else f"{part.flops / 1e9:.2f}",
            part.licence or "",
        )
        for part in parts
    ]
    return [head, *rows]


def _length_rows(plan: Plan) -> list[Row]:
    shown = plan.steps * plan.batch
    return [
        ("images", f"{plan.images:,} to learn from, {plan.held_out:,} held out"),
        ("steps", f"{plan.steps:,} of {plan.batch} images: {shown:,} shown"),
        *_labelled("auto", *map(str, plan.choices)),
    ]


def _memory_rows(memory: Memory) -> list[Row]:
    peak = "" if memory.peak is None else f"{size_text(memory.peak)} at most while measuring"
    return _labelled(
        "memory",
        f"{size_text(memory.total)} a process, counted:",
        f"weights {size_text(memory.weights)}, gradients {size_text(memory.gradients)}, "
        f"optimiser {size_text(memory.optimizer)}, activations {size_text(memory.activations)}, "
        f"teachers {size_text(memory.teachers)}",
        peak,
    )


def _disk_rows(disk: Disk) -> list[Row]:
    cache = (
        f"feature cache {size_text(disk.cache)}, of which {size_text(disk.cache_missing)} missing"
    )
    return _labelled(
        "disk",
        f"checkpoints {size_text(disk.checkpoints)}, encoder and student {size_text(disk.models)}",
        cache if disk.cache else "",
        f"{size_text(disk.free)} free where the run is written",
    )


def _time_rows(needed: Time | None) -> list[Row]:
    if needed is None:
        return _labelled("time", "not measured")
    return _labelled(
        "time",
        f"{_duration(needed.cache_s + needed.train_s)} without evaluation",
        f"training {_duration(needed.train_s)}: {needed.step_s:.3g} s a step, "
        f"{needed.data_wait:.0%} of it waiting for images",
        f"before that, teacher features {_duration(needed.cache_s)}" if needed.cache_s else "",
    )


def _labelled(label: str, *lines: str) -> list[Row]:
    """The label before the first line; empty lines are left out."""
    said = [line for line in lines if line]
    return [(label if i == 0 else "", line) for i, line in enumerate(said)]


def _aligned(rows: Sequence[Row]) -> str:
    widths = [
        max(FIRST_COLUMN * (i == 0), *(len(row[i]) for row in rows)) for i in range(len(rows[0]))
    ]
    cells = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in cells)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
