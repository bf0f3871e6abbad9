"""Exported networks as teachers, in whatever format: they run on the host, one image at a time.

A format brings an interpreter (LiteRT, ONNX); what is common to them is here: one interpreter for
each of torch's threads, and how its answer becomes tokens. Arrays are of one image:
[h, w, D] a map, [P + N, D] a sequence of P prefix tokens and N patches, [D] one vector.
"""

import hashlib
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alumnus.images import IMAGENET_MEAN, IMAGENET_STD
from alumnus.teachers.base import Traits
from alumnus.tokens import Tokens, TokenType

__all__ = ["ExportedNetwork", "Floats", "Interpreter", "Open", "exported_traits"]

Floats = NDArray[np.float32]
HASHED_BYTES = 1 << 20  # at once
ANY_SIZE_PX = 224  # at which a network that takes any size is looked at


class Interpreter(Protocol):
    """One exported network, opened, on one core."""

    input_size: int | None  # px, the side of the squares that it takes; None: any size
    beside: tuple[Path, ...]  # files with weights that its own names

    def __call__(self, pixels: Floats) -> Floats:
        """The wanted tensor of one image [3, H, W], in the network's statistics."""


Open = Callable[[Path, str], Interpreter]


class ExportedNetwork(nn.Module):
    """One tensor of an exported network, as the tokens of each image.

    Interpreters are made on first use, one for each of torch's threads: they work on different
    images at once, each on one core. They do not travel to other processes, which make their own.
    """

    def __init__(self, file: Path, tensor: str, open_file: Open) -> None:
        super().__init__()
        self.file, self.tensor, self.open_file = file, tensor, open_file
        self._idle: SimpleQueue[Interpreter] = SimpleQueue()
        self._process = os.getpid()
        first = self._interpreter()
        self.input_size, self.beside = first.input_size, first.beside
        side = first.input_size or ANY_SIZE_PX
        seen = first(np.zeros((3, side, side), np.float32))
        self.dim, self.patch_size = int(seen.shape[-1]), side
        if seen.ndim == 3:
            self.patch_size = side // seen.shape[0]
        elif seen.ndim == 2:
            self.patch_size = side // _grid_side(len(seen), side, name=f"{file.name}#{tensor}")
        tokens = self._tokens(torch.from_numpy(seen[None]), side, side)
        self.token_types: tuple[TokenType, ...] = tokens.types
        self._idle.put(first)

    def forward(self, images: Tensor) -> Tokens:  # [B, 3, H, W], in the network's statistics
        pixels = images.detach().cpu().float().contiguous().numpy()
        found: list[Floats | None] = [None] * len(pixels)
        workers = max(1, min(torch.get_num_threads(), len(pixels)))

        def run_share(first: int) -> None:
            interpreter = self._interpreter()
            for i in range(first, len(pixels), workers):
                found[i] = interpreter(pixels[i])
            self._idle.put(interpreter)

        if self._process != os.getpid():  # after a fork: interpreters of our own
            self._idle, self._process = SimpleQueue(), os.getpid()
        if workers == 1:
            run_share(0)
        else:
            with ThreadPoolExecutor(workers) as threads:
                list(threads.map(run_share, range(workers)))
        stacked = torch.from_numpy(np.stack([one for one in found if one is not None]))
        return self._tokens(stacked.to(images.device), *images.shape[-2:])

    def fingerprint(self) -> str:
        """Hash of the file and of those beside it, with the tensor that is read."""
        digest = hashlib.sha256()
        for path in (self.file, *self.beside):
            with path.open("rb") as file:
                while part := file.read(HASHED_BYTES):
                    digest.update(part)
        return f"{digest.hexdigest()}#{self.tensor}"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_idle"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._idle, self._process = SimpleQueue(), os.getpid()

    def _interpreter(self) -> Interpreter:
        try:
            return self._idle.get_nowait()
        except Empty:  # asking first would let another thread take the last one in between
            return self.open_file(self.file, self.tensor)

    def _tokens(self, x: Tensor, height: int, width: int) -> Tokens:
        """[B, h, w, D], [B, P + N, D] or [B, D] as tokens."""
        if x.ndim == 4:
            return Tokens(x.flatten(1, 2), grid=(x.shape[1], x.shape[2]))
        if x.ndim == 2:
            return Tokens(cls=x)
        grid = (height // self.patch_size, width // self.patch_size)
        prefix = x.shape[1] - grid[0] * grid[1]
        return Tokens(x[:, prefix:], grid=grid, cls=x[:, 0] if prefix else None)


def exported_traits(network: ExportedNetwork, *, half: bool) -> Traits:
    """What the network says of itself; `half`: its images are in [-1, 1], else as ImageNet's."""
    return Traits(
        dim=network.dim,
        patch_size=network.patch_size,
        token_types=network.token_types,
        mean=(0.5, 0.5, 0.5) if half else IMAGENET_MEAN,
        std=(0.5, 0.5, 0.5) if half else IMAGENET_STD,
        runs_on="host",
        input_size=network.input_size,
        fixed_size=network.input_size is not None,
    )


def _grid_side(length: int, side_px: int, *, name: str) -> int:
    """Patches along a side: the most that fit into the sequence and divide the image.

    >>> _grid_side(197, 224, name="ViT-B/16"), _grid_side(261, 224, name="ViT-B/14, registers")
    (14, 16)
    """
    for side in range(math.isqrt(length), 0, -1):
        if side_px % side == 0:
            return side
    raise ValueError(f"{name} has {length} tokens, which are no square grid")
