"""Safetensors files: with ordinary permissions, and ones that describe themselves.

A self-describing file holds in its metadata the JSON from which its model is rebuilt and a hash
of its tensors. One file, so one rename replaces both or neither. The same JSON lies beside it for
people and other tools.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = [
    "read_described_tensors",
    "read_description",
    "weights_hash",
    "write_described",
    "write_tensors",
]

METADATA = "alumnus"  # key of the description in a file's metadata


def write_tensors(
    tensors: Mapping[str, Tensor], path: Path, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write contiguous tensors to a safetensors file.

    Its permissions follow the umask; `save_file` alone makes files that only their owner may
    read, so that colleagues could not load what was shared with them.
    """
    path.touch()
    permissions = path.stat().st_mode
    save_file(dict(tensors), path, metadata=dict(metadata) if metadata is not None else None)
    path.chmod(permissions)


def write_described(
    folder: Path, stem: str, tensors: Mapping[str, Tensor], description: Mapping[str, Any]
) -> None:
    """STEM.safetensors, complete in itself, then STEM.json; each by fsync and rename."""
    folder.mkdir(parents=True, exist_ok=True)
    held = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({**description, "sha256": weights_hash(held)}, indent=1) + "\n"
    weights = folder / f".{stem}.safetensors.{os.getpid()}"
    write_tensors(held, weights, metadata={METADATA: text})
    _replace(weights, folder / f"{stem}.safetensors")
    copy = folder / f".{stem}.json.{os.getpid()}"
    copy.write_text(text)
    _replace(copy, folder / f"{stem}.json")


def read_description(weights: Path, key: str) -> dict[str, Any]:
    """The JSON in a file's metadata; ValueError if there is none or it has no `key`."""
    try:
        with safe_open(weights, framework="pt") as file:
            values = json.loads((file.metadata() or {}).get(METADATA, "{}"))
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{weights} is damaged or no safetensors file") from error
    if not isinstance(values, dict) or key not in values:
        raise ValueError(f"{weights} does not hold an alumnus {key.replace('_', '-')}")
    return cast(dict[str, Any], values)


def read_described_tensors(weights: Path, description: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a file with this description; ValueError if their hash is another one."""
    tensors: dict[str, Tensor] = load_file(weights)
    if description.get("sha256") != weights_hash(tensors):
        raise ValueError(f"{weights} is damaged: its tensors are not those that were saved")
    return tensors


def _replace(temporary: Path, final: Path) -> None:
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(final)


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
