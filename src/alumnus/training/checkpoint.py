"""Checkpoints: atomic folders of tensors, checked by hash when they are read.

A checkpoint is `checkpoints/step-00001200/` with `state.safetensors` and `meta.json`. It
appears under its name only when all of it is on the disk; nothing in it is code.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor

from alumnus.tensor_files import write_tensors

__all__ = ["Checkpoint", "Checkpoints", "write_atomically"]

log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """What a run needs to go on: the number of finished steps, tensors, and plain values."""

    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run; the last `keep` stay."""

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def steps(self) -> list[int]:
        """Finished steps of the checkpoints that are there, oldest first."""
        names = (re.fullmatch(r"step-(\d+)", path.name) for path in self.folder.glob("step-*"))
        return sorted(int(match[1]) for match in names if match)

    def save(self, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Path:
        """Write one checkpoint, then remove those beyond `keep`.

        OSError with one sentence when the disk is full; earlier checkpoints stay.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        final = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".step-{step:08d}.{os.getpid()}"
        for left in self.folder.glob(".step-*"):  # by a run that was killed while it wrote
            shutil.rmtree(left, ignore_errors=True)
        try:
            temporary.mkdir()
            write_tensors(
                {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
                temporary / "state.safetensors",
            )
            record = {"step": step, "sha256": _sha256(temporary / "state.safetensors"), **meta}
            (temporary / "meta.json").write_text(json.dumps(record, indent=1) + "\n")
            for path in temporary.iterdir():
                _sync(path)
            shutil.rmtree(final, ignore_errors=True)  # the same step, written again by a resume
            temporary.rename(final)
            _sync(self.folder)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if error.errno == errno.ENOSPC or "space" in str(error):
                raise OSError(
                    errno.ENOSPC,
                    f"the disk is full: checkpoint step {step} could not be written; free some "
                    "space and go on with --resume (earlier checkpoints are intact)",
                ) from error
            raise
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.folder / f"step-{old:08d}", ignore_errors=True)
        return final

    def load_newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; damaged ones are reported and passed over."""
        for step in reversed(self.steps()):
            folder = self.folder / f"step-{step:08d}"
            try:
                return _load(folder)
            except (OSError, ValueError, KeyError) as error:
                log.warning("checkpoint %s is damaged (%s): using the one before", folder, error)
        return None


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that readers see the old one or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    _sync(temporary)
    temporary.replace(path)


def _load(folder: Path) -> Checkpoint:
    meta = json.loads((folder / "meta.json").read_text())
    state = folder / "state.safetensors"
    if _sha256(state) != meta.pop("sha256"):
        raise ValueError("its hash does not match")
    return Checkpoint(meta.pop("step"), load_file(state), meta)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
