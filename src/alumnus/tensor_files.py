"""Safetensors files with the permissions that any other new file has here."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

__all__ = ["write_tensors"]


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
