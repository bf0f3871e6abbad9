"""A mode under which whatever would make the host wait for a device fails, also on a CPU."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["NoHostReads"]


class NoHostReads(TorchDispatchMode):
    """Raises where the host would wait for a value of the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "the host reads the device"
        return func(*args, **(kwargs or {}))
