"""An accelerator without hardware: tensors that know their device and shape, but hold no values.

Whatever a GPU would refuse (tensors of two devices in one operation) or wait for (a value that
the host reads, a copy that is not `non_blocking`) is an error here too.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

__all__ = ["DEVICE", "fake_accelerator", "torch_can_pretend"]

DEVICE = torch.device("cuda", 0)
COPY_IN_PLACE = torch.ops.aten.copy_.default
COPIES = (torch.ops.aten._to_copy.default, COPY_IN_PLACE)


class _FakeAccelerator(FakeTensorMode):
    may_wait = True  # what is made once may

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in COPIES and not self.may_wait:
            if func is COPY_IN_PLACE:
                target, source, waits = args[0].device, args[1].device, not (*args, False)[2]
            else:
                source = args[0].device
                target = torch.device(kwargs.get("device") or source)
                waits = not kwargs.get("non_blocking", False)
            assert source.type == target.type or source.type == "cpu", "the host reads the device"
            assert source.type == target.type or not waits, "the host waits for a copy"
        return super().__torch_dispatch__(func, types, args, kwargs)


def _backward(loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    """The engine of autograd asks the driver, so gradients come from nowhere."""
    assert loss.shape == ()
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)


def _grad(_: Tensor, inputs: Sequence[Tensor], **__: Any) -> list[Tensor]:
    return [torch.zeros_like(x) for x in inputs]


@contextmanager
def fake_accelerator(modules: Sequence[nn.Module] = ()) -> Iterator[_FakeAccelerator]:
    """Moves modules to DEVICE. Once `may_wait` of what it yields is False, waiting is an error."""
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    parameters: list[nn.Parameter] = []
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with (
            _FakeAccelerator(allow_non_fake_inputs=True) as mode,
            patch.object(Tensor, "pin_memory", lambda values: values),
            patch.object(Tensor, "backward", lambda loss: _backward(loss, parameters)),
            patch.object(torch.autograd, "grad", _grad),
        ):
            for module in modules:
                module.to(DEVICE)
                parameters += [p for p in module.parameters() if p.requires_grad]
            yield mode
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)


def torch_can_pretend() -> bool:
    """Whether this torch has tensors of an accelerator without its driver; 2.9 has not."""
    try:
        with fake_accelerator([layer := nn.Linear(1, 1)]):
            seen: Tensor = layer(torch.ones(1, 1, device=DEVICE))
            return seen.device == DEVICE
    except (RuntimeError, AssertionError):
        return False
