"""A mode under which whatever would make the host wait for a device fails, also on a CPU."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["NoHostReads"]


ATEN = torch.ops.aten
READS = (  # a value, or a shape that depends on values
    ATEN._local_scalar_dense.default,
    ATEN.nonzero.default,
    ATEN.masked_select.default,
    ATEN._unique2.default,
    ATEN.unique_dim.default,
)
INDEXING = (ATEN.index.Tensor, ATEN.index_put_.default)


class NoHostReads(TorchDispatchMode):
    """Raises where the host would wait for a value of the device; `fake_accelerator` sees more."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in READS, "the host reads the device"
        if func in INDEXING:
            masks = [i for i in args[1] if i is not None and i.dtype == torch.bool]
            assert not masks, "how many a mask selects is read from the device"
        return func(*args, **(kwargs or {}))
