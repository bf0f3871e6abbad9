"""Features of one teacher on disk: one row for each view of each image, memory-mapped."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from alumnus.spelling import unknown
from alumnus.tokens import Grid, Tokens, TokenType

__all__ = ["FeatureStore", "Layout", "StoreDtype"]

StoreDtype = Literal["bf16", "int8"]
Rows = np.ndarray[tuple[int], np.dtype[np.int64]]
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Layout:
    """What a row holds. bf16: two bytes a value; int8: one, and a float32 scale for each token."""

    rows: int
    cls_dim: int  # 0: no such token
    patch_dim: int
    grid: Grid | None
    dtype: StoreDtype

    def __post_init__(self) -> None:
        if self.dtype not in get_args(StoreDtype):
            raise unknown("dtype of the feature cache", self.dtype, get_args(StoreDtype))

    @classmethod
    def of(cls, tokens: Tokens, *, rows: int, dtype: StoreDtype) -> "Layout":
        """The layout for tokens like these."""
        return cls(
            rows=rows,
            cls_dim=0 if tokens.cls is None else tokens.cls.shape[-1],
            patch_dim=0 if tokens.patches is None else tokens.patches.shape[-1],
            grid=tokens.grid,
            dtype=dtype,
        )

    def shapes(self) -> dict[TokenType, tuple[int, ...]]:
        """Shape of a row, by token type."""
        shapes: dict[TokenType, tuple[int, ...]] = {}
        if self.cls_dim:
            shapes["cls"] = (self.cls_dim,)
        if self.patch_dim and self.grid:
            shapes["patch"] = (self.grid[0] * self.grid[1], self.patch_dim)
        return shapes

    def files(self) -> Iterator[tuple[str, np.dtype[Any], tuple[int, ...]]]:
        """(name, dtype, shape) of each file."""
        for token_type, shape in self.shapes().items():
            if self.dtype == "bf16":
                yield token_type, np.dtype(np.int16), (self.rows, *shape)  # numpy has no bfloat16
            else:
                yield token_type, np.dtype(np.int8), (self.rows, *shape)
                yield f"{token_type}.scale", np.dtype(np.float32), (self.rows, *shape[:-1])
        yield "filled", np.dtype(np.bool_), (self.rows,)

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(dtype.itemsize * int(np.prod(shape)) for _, dtype, shape in self.files())


class FeatureStore:
    """Rows of tokens in a folder. `done` rows were written in order and will not be again."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.folder, self.layout = folder, layout
        self._maps: dict[str, Array] = {}

    @property
    def done(self) -> int:
        """Rows finished by this or an earlier build."""
        try:
            return int(json.loads((self.folder / "progress.json").read_text())["done"])
        except (FileNotFoundError, json.JSONDecodeError, KeyError):
            return 0

    @property
    def complete(self) -> bool:
        return self.done >= self.layout.rows

    @property
    def missing_bytes(self) -> int:
        """Bytes that the disk has not yet given."""
        files = [self.folder / f"{name}.bin" for name, _, _ in self.layout.files()]
        return max(
            0, self.layout.bytes - sum(f.stat().st_blocks * 512 for f in files if f.exists())
        )

    def allocate(self) -> None:
        """Make the files at their full size, so that the disk cannot fill while rows come."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self.folder / "layout.json", asdict(self.layout))
        for name, dtype, shape in self.layout.files():
            size = dtype.itemsize * int(np.prod(shape))
            path = self.folder / f"{name}.bin"
            path.touch()
            with path.open("r+b") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)

    def write(self, rows: Rows, tokens: Tokens) -> None:
        """Store tokens [B, ...] in the rows [B]."""
        for token_type in self.layout.shapes():
            values = tokens.of(token_type).detach().cpu()
            if self.layout.dtype == "bf16":
                self._map(token_type)[rows] = values.bfloat16().view(torch.int16).numpy()
            else:
                scale = values.float().abs().amax(dim=-1).clamp_min(1e-12) / 127
                codes = (values.float() / scale.unsqueeze(-1)).round().to(torch.int8)
                self._map(token_type)[rows] = codes.numpy()
                self._map(f"{token_type}.scale")[rows] = scale.numpy()
        self._map("filled")[rows] = True

    def mark_done(self, done: int) -> None:
        """Note that all rows before `done` are on the disk."""
        for array in self._maps.values():
            assert isinstance(array, np.memmap), "files are memory-mapped"
            array.flush()
        _write(self.folder / "progress.json", {"done": done})

    def read(self, rows: Rows) -> Tokens:
        """The tokens [B, ...] of the rows [B], float32; ValueError for a row never written."""
        order = np.argsort(rows)  # one way over the disk
        ordered = rows[order]
        if not self._map("filled")[ordered].all():
            raise ValueError(f"the feature cache in {self.folder} lacks images of this batch")
        back = torch.from_numpy(np.argsort(order))
        tokens = {t: self._read(t, ordered)[back] for t in self.layout.shapes()}
        return Tokens(
            patches=tokens.get("patch"),
            grid=self.layout.grid if "patch" in tokens else None,
            cls=tokens.get("cls"),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without the memory maps, which would travel to worker processes as copies."""
        return {**self.__dict__, "_maps": {}}

    def _read(self, token_type: TokenType, rows: Rows) -> Tensor:
        values = torch.from_numpy(self._map(token_type)[rows])
        if self.layout.dtype == "bf16":
            return values.view(torch.bfloat16).float()
        scale = torch.from_numpy(self._map(f"{token_type}.scale")[rows])
        return values.float() * scale.unsqueeze(-1)

    def _map(self, name: str) -> Array:
        if name not in self._maps:
            dtype, shape = next((d, s) for n, d, s in self.layout.files() if n == name)
            file = self.folder / f"{name}.bin"
            self._maps[name] = np.memmap(file, dtype, mode="r+", shape=shape)
        return self._maps[name]


def _write(path: Path, values: dict[str, Any]) -> None:
    """JSON, whole or not at all."""
    temporary = path.with_suffix(f".tmp-{os.getpid()}")
    temporary.write_text(json.dumps(values))
    temporary.replace(path)
