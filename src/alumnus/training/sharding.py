"""Tensors sharded over processes (FSDP2): their parts, putting them together, their files."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["fill", "is_shard", "load_shards", "local_part", "save_shards", "whole"]


def is_shard(tensor: Tensor) -> bool:
    """Whether other processes hold other parts of the tensor."""
    return isinstance(tensor, DTensor)


def local_part(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, which shares its memory; else the tensor."""
    part: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return part


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor put together, in every process (all must ask); else the tensor."""
    together: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return together


@torch.no_grad()
def fill(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy whole values into tensors, each process its parts of the sharded ones."""
    for name, tensor in tensors.items():
        value = _value(values, name, tensor)
        if isinstance(tensor, DTensor):
            value = distribute_tensor(
                value.to(tensor.device), tensor.device_mesh, tensor.placements
            )
        local_part(tensor).copy_(local_part(value))


def save_shards(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write safetensors files, one from each process, through torch.distributed.checkpoint.

    OSError, in every process, where one of them cannot write; other errors as they were.
    """
    try:
        with _quiet():
            save(
                {name: tensor.detach() for name, tensor in tensors.items()},
                storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
            )
    except CheckpointException as failed:  # no Exception, but a BaseException
        errors = [error for error, _ in failed.failures.values()]
        raise next((e for e in errors if isinstance(e, OSError)), errors[0]) from failed


def load_shards(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Fill tensors from such files, whatever the number of processes then and now.

    ValueError for a name that they lack or another shape.
    """
    reader = HuggingFaceStorageReader(str(folder))
    known = reader.read_metadata().state_dict_metadata
    for name, tensor in tensors.items():
        stored = known.get(name)
        if not isinstance(stored, TensorStorageMetadata):
            raise ValueError(f"the checkpoint lacks {name!r}")
        _check_shape(name, tensor.shape, stored.size)
    with _quiet():
        load(dict(tensors), storage_reader=reader)


def _value(values: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    if name not in values:
        raise ValueError(f"the checkpoint lacks {name!r}")
    _check_shape(name, like.shape, values[name].shape)
    return values[name]


def _check_shape(name: str, ours: torch.Size, theirs: torch.Size) -> None:
    if ours != theirs:
        raise ValueError(
            f"{name!r} has shape {tuple(theirs)} in the checkpoint, but {tuple(ours)} here"
        )


def _quiet() -> warnings.catch_warnings:
    """Without the library's remarks on running in one process and on its own internals."""
    return warnings.catch_warnings(action="ignore")
