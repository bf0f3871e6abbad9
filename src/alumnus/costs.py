"""What a model costs: parameters, operations of an image, memory that its backward pass needs."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from alumnus.tokens import Tokens

__all__ = ["activation_bytes", "flops", "parameter_bytes", "parameters"]


def parameters(module: nn.Module) -> int:
    """Number of parameters, each counted once."""
    return sum(p.numel() for p in module.parameters())


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    held = (*module.parameters(), *module.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in held)


@torch.no_grad()
def flops(network: Callable[[Tensor], object], images: Tensor) -> int:
    """Floating-point operations of one forward pass, those of matrix products, convolutions and
    attention: a multiplication and an addition are two.

    Attention is counted as its two products: torch's counter does not know every fused kernel.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(images)
    return int(counter.get_total_flops())


def activation_bytes(
    student: nn.Module, *, side_px: int, channels: int, device: torch.device, bf16: bool
) -> int:
    """What autograd keeps for one image of a forward pass through encoder and projectors, bytes.

    Counted, not measured: the difference between four images and two, so that what does not
    grow with the batch cancels. On any device, the same number every time.
    """
    trial = copy.deepcopy(student).to(device).train()
    kept = [
        _kept_bytes(trial, torch.zeros(count, channels, side_px, side_px, device=device), bf16)
        for count in (2, 4)
    ]
    return max(kept[1] - kept[0], 0) // 2


def _kept_bytes(module: nn.Module, images: Tensor, bf16: bool) -> int:
    held = {tensor.untyped_storage().data_ptr() for tensor in module.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # else another tensor may get the same address

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    autocast = torch.autocast(images.device.type, torch.bfloat16, enabled=bf16)
    with torch.enable_grad(), hooks, autocast:
        predictions: dict[str, Tokens] = module(images)
    outputs = [t.of(kind) for t in predictions.values() for kind in t.types]
    return sum(kept.values()) + LOSS_COPIES * sum(t.numel() * 4 for t in outputs)


LOSS_COPIES = 4  # targets, standardised targets and what both losses keep, in float32
