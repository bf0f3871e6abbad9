"""A few hundred held-out images with their teachers' tokens, seen again and again in a run."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from alumnus.data import AugmentConfig, Size, Source, Subset, sweep
from alumnus.distill import Targets
from alumnus.tokens import Tokens

__all__ = ["PLAIN", "HeldOut", "spread"]

PLAIN = AugmentConfig(kind="none")  # resize and centre crop
KEPT_BYTES = 2**29  # of images and targets; more is computed anew each time


def spread(sources: Sequence[Source], count: int) -> list[Source]:
    """At most `count` images, at equal distances over all sources, which may be sorted."""
    total = sum(len(source) for source in sources)
    places = np.linspace(0, total - 1, min(count, total)).round().astype(np.int64)
    chosen: list[Source] = []
    start = 0
    for source in sources:
        part = places[(places >= start) & (places < start + len(source))] - start
        if len(part):
            chosen.append(Subset(source, part))
        start += len(source)
    return chosen


HOST = torch.device("cpu")


class HeldOut:
    """Batches of (images, raw targets) on a device, in one order; broken images are left out.

    Images are resized and cut out at the centre, for the teachers at their own size. Targets are
    computed once and kept where all fits into half a GiB of the host's memory.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        teachers: Targets,
        *,
        size: Size,
        teacher_size: Size | None = None,
        channels: int = 3,
        batch_size: int = 32,
        device: torch.device | str = "cpu",
        bf16: bool = False,
    ) -> None:
        self.count = sum(len(source) for source in sources)
        self._sources, self._teachers, self._device, self._bf16 = sources, teachers, device, bf16
        self._size, self._teacher_size, self._channels = size, teacher_size, channels
        self._batch_size = batch_size
        self._kept: list[tuple[Tensor, Mapping[str, Tokens]]] = []

    def __iter__(self) -> Iterator[tuple[Tensor, Mapping[str, Tokens]]]:
        for images, targets in self._kept or self._computed():
            yield (
                images.to(self._device),
                {n: t.to(torch.device(self._device)) for n, t in targets.items()},
            )

    def _computed(self) -> Iterator[tuple[Tensor, Mapping[str, Tokens]]]:
        made: list[tuple[Tensor, Mapping[str, Tokens]]] = []
        room = KEPT_BYTES
        batches = sweep(
            self._sources,
            PLAIN,
            size=self._size,
            teacher_size=self._teacher_size,
            channels=self._channels,
            batch_size=self._batch_size,
        )
        for batch in batches:
            seen = batch._replace(
                images=batch.images.to(self._device),
                teacher_images=batch.teacher_images.to(self._device),
            )
            device_type = torch.device(self._device).type
            with (
                torch.no_grad(),
                torch.autocast(device_type, torch.bfloat16, enabled=self._bf16),
            ):
                targets = dict(self._teachers.targets(seen))
            yield batch.images, targets
            room -= batch.images.nbytes + sum(_bytes(tokens) for tokens in targets.values())
            if room >= 0:
                made.append((batch.images, {n: t.to(HOST) for n, t in targets.items()}))
            else:
                made.clear()
        self._kept = made


def _bytes(tokens: Tokens) -> int:
    return sum(tokens.of(token_type).nbytes for token_type in tokens.types)
