"""Checkpoints: atomic folders of tensors, checked by hash when they are read.

A checkpoint is `checkpoints/step-00001200/` with safetensors files and `meta.json`: one file
`state.safetensors`, or one shard from each process where the student is sharded. It appears
under its name only when all of it is on the disk; nothing in it is code.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor

from alumnus.tensor_files import write_tensors
from alumnus.training.distributed import World
from alumnus.training.sharding import fill, is_shard, load_shards, save_shards

__all__ = ["Checkpoint", "Checkpoints", "write_atomically"]

log = logging.getLogger(__name__)

STATE = "state.safetensors"  # all tensors, where they are not sharded


class Checkpoint(NamedTuple):
    """A whole checkpoint: finished steps, names of its tensors, plain values, where it lies."""

    step: int
    names: list[str]
    meta: dict[str, Any]
    folder: Path

    def load_into(self, tensors: Mapping[str, Tensor]) -> None:
        """Fill tensors, sharded ones too, with what the checkpoint holds under their names.

        The number of processes need not be that of the run that wrote it. ValueError for a name
        that it lacks or another shape.
        """
        if (self.folder / STATE).is_file():
            fill(tensors, load_file(self.folder / STATE))
        else:
            load_shards(tensors, self.folder)


class Checkpoints:
    """The checkpoints of one run; the last `keep` stay. Every process of a run calls `save`."""

    def __init__(self, folder: Path, *, keep: int = 2, world: World | None = None) -> None:
        self.folder, self.keep, self.world = folder, keep, world or World()

    def steps(self) -> list[int]:
        """Finished steps of the checkpoints that are there, oldest first."""
        names = (re.fullmatch(r"step-(\d+)", path.name) for path in self.folder.glob("step-*"))
        return sorted(int(match[1]) for match in names if match)

    def save(self, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Path:
        """Write one checkpoint, then remove those beyond `keep`.

        OSError with one sentence when the disk is full; earlier checkpoints stay. It ends all
        processes of the run.
        """
        final = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".step-{step:08d}.part"
        is_sharded = any(is_shard(tensor) for tensor in tensors.values())
        try:
            self.world.first_alone(partial(self._begin, temporary))
            if is_sharded:
                self.world.together(partial(save_shards, tensors, temporary))
            record = {"step": step, "tensors": sorted(tensors), **meta}
            whole = None if is_sharded else tensors
            self.world.first_alone(partial(self._finish, temporary, final, whole, record))
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if error.errno == errno.ENOSPC or "No space left" in str(error):
                raise OSError(
                    errno.ENOSPC,
                    f"the disk is full: checkpoint step {step} could not be written; free some "
                    "space and go on with --resume (earlier checkpoints are intact)",
                ) from error
            raise
        return final

    def newest(self, at_most: int | None = None) -> Checkpoint | None:
        """The newest whole checkpoint; damaged ones are reported and passed over."""
        for old in self.folder.glob(".step-*.old"):  # a kill came between two renames
            final = self.folder / old.stem.removeprefix(".")
            if not final.exists():
                with suppress(FileNotFoundError):  # another process was faster
                    old.rename(final)
        for step in reversed(self.steps()):
            if at_most is not None and step > at_most:
                continue
            folder = self.folder / f"step-{step:08d}"
            try:
                return _open(folder)
            except (OSError, ValueError, KeyError) as error:
                log.warning("checkpoint %s is damaged (%s): using the one before", folder, error)
        return None

    def _begin(self, temporary: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(".step-*"):  # by a run that was killed while it wrote
            shutil.rmtree(left, ignore_errors=True)
        temporary.mkdir()

    def _finish(
        self,
        temporary: Path,
        final: Path,
        tensors: Mapping[str, Tensor] | None,  # None: the shards are written
        record: dict[str, Any],
    ) -> None:
        if tensors is not None:
            write_tensors(
                {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
                temporary / STATE,
            )
        record["sha256"] = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
        (temporary / "meta.json").write_text(json.dumps(record, indent=1) + "\n")
        for path in (*temporary.iterdir(), temporary):
            _sync(path)
        if final.exists():  # the same step, written again by a resume
            final.rename(self.folder / f".{final.name}.old")
        temporary.rename(final)
        _sync(self.folder)
        shutil.rmtree(self.folder / f".{final.name}.old", ignore_errors=True)
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.folder / f"step-{old:08d}", ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that readers see the old one or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        _sync(temporary)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)


def _open(folder: Path) -> Checkpoint:
    meta = json.loads((folder / "meta.json").read_text())
    for name, expected in meta.pop("sha256").items():
        if _sha256(folder / name) != expected:
            raise ValueError(f"the hash of {name} does not match")
    return Checkpoint(meta.pop("step"), meta.pop("tensors"), meta, folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
