"""Schedules: the value of a setting at every step of a run."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["cosine_schedule", "evenly_spaced", "peak_rate", "poly_schedule", "total_steps"]


def cosine_schedule(
    base: float, final: float, *, steps: int, warmup_steps: int = 0, start: float = 0.0
) -> NDArray[np.float64]:  # [steps]
    """Linear warm-up from `start` to `base`, then half a cosine towards `final`.

    Both ends of the warm-up are included, so `base` occurs twice; `final` is never reached:
    `final + 0.5 (base - final) (1 + cos(pi i / n))`, i = 0 .. n - 1.

    Source: the schedule of both released systems (learning rate; momentum of statistics).
    """
    if not 0 <= warmup_steps <= steps:
        raise ValueError(f"a warm-up of {warmup_steps} steps does not fit into {steps} steps")
    warmup = np.linspace(start, base, warmup_steps) if warmup_steps else np.empty(0)
    i = np.arange(steps - warmup_steps)
    cosine = final + 0.5 * (base - final) * (1 + np.cos(math.pi * i / max(len(i), 1)))
    return np.concatenate([warmup, cosine])


def poly_schedule(
    base: float, *, steps: int, warmup_steps: int = 0
) -> NDArray[np.float64]:  # [steps]
    """Linear decay from `base` towards 0, in the warm-up times a linear rise from almost 0.

        base * (1 - i / steps) * min(1, 1 - (1 - 1e-6) * (1 - i / warmup_steps))

    Source: mmsegmentation's `poly` policy of power 1 with linear warm-up, as in DINOv2's
    configurations of linear segmentation.
    """
    i = np.arange(steps)
    rise = 1 - (1 - 1e-6) * np.clip(1 - i / max(warmup_steps, 1), 0, None)
    return np.asarray(base * (1 - i / steps) * rise if warmup_steps else base * (1 - i / steps))


def peak_rate(rate: float, *, batch: int) -> float:
    """The rate, given for 256 images, scaled linearly to the global batch."""
    return rate * batch / 256


def total_steps(epochs: float, *, images: int, batch: int, even: bool = False) -> int:
    """Steps that show `epochs` times `images` images: rounded up; `even` adds one to odd numbers.

    Source: DUNE's released settings count so, with even=True.
    """
    steps = math.ceil(epochs * images / batch)
    return steps + steps % 2 if even else steps


def evenly_spaced(steps: int, count: int) -> list[int]:
    """`count` numbers of finished steps at equal distances, the last one being `steps`.

    Source: the points at which DUNE's released code evaluates and saves (float32, truncated).
    """
    points = torch.linspace(0, steps, count + 1).int().tolist()
    return [*points[1:-1], steps]
