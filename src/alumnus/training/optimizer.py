"""AdamW as both systems use it: two parameter groups, and clipping of each tensor by itself."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from alumnus.training.sharding import is_shard, local_part

__all__ = [
    "allocate_optimizer",
    "build_adamw",
    "clip_each",
    "optimizer_tensors",
    "parameter_groups",
]


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]],
) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """(decayed, not decayed): no weight decay on biases and on tensors with one axis.

    Position embeddings, [CLS], registers and mask tokens are decayed, as released.
    """
    decayed: dict[str, nn.Parameter] = {}
    plain: dict[str, nn.Parameter] = {}
    for name, parameter in parameters:
        if parameter.requires_grad:
            group = plain if name.endswith(".bias") or parameter.ndim <= 1 else decayed
            group[name] = parameter
    return decayed, plain


def build_adamw(
    module: nn.Module,
    *,
    betas: tuple[float, float] = (0.9, 0.99),
    eps: float = 1e-8,
    weight_decay: float = 0.03,
    peak_of: Callable[[str], float] = lambda _: 1.0,
) -> torch.optim.AdamW:
    """Fused AdamW over the two groups; the rate is set at every step by the schedule.

    Fused because it honours `found_inf`: a bad step is then cancelled on the device. Where
    parameters have rates of their own, by name, there are groups for each, which hold it as
    "peak".
    """
    decayed, plain = parameter_groups(module.named_parameters())
    groups = [
        {"params": part, "weight_decay": decay, "peak": peak}
        for named, decay in ((decayed, weight_decay), (plain, 0.0))
        for peak in dict.fromkeys(map(peak_of, named))
        for sharded in (False, True)  # fused kernels take either kind, not both at once
        if (part := [p for n, p in named.items() if peak_of(n) == peak and is_shard(p) is sharded])
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)


@torch.no_grad()
def clip_each(
    parameters: Iterable[nn.Parameter],
    max_norm: float | None,
    *,
    all_reduce_sum: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:  # []
    """Scale each gradient whose own norm exceeds `max_norm` down to it; the norm of all, before.

    factor = max_norm / (norm + 1e-6), applied where below 1; None measures only. Sharded
    gradients need `all_reduce_sum` over the processes that hold the parts: called once, with the
    squared norms of all.

    Source: the released code of both systems (per tensor, not the global norm).
    """
    held = [p.grad for p in parameters if p.grad is not None]
    if not held:
        return torch.zeros(())
    gradients = [local_part(gradient) for gradient in held]
    each = list(torch._foreach_norm(gradients))
    parts = [i for i, gradient in enumerate(held) if gradients[i] is not gradient]
    if all_reduce_sum is not None and parts:
        summed = all_reduce_sum(torch.stack([each[i] for i in parts]).square())
        for i, norm in zip(parts, summed.sqrt().unbind(), strict=True):
            each[i] = norm
    norms = torch.stack(each)
    if max_norm is not None:
        factors = (max_norm / (norms + 1e-6)).clamp_max(1.0)
        torch._foreach_mul_(gradients, list(factors.unbind()))
    return norms.square().sum().sqrt()


def optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as named tensors, `<parameter>/<entry>`: no pickle needed."""
    return {
        f"{name}/{entry}": value
        for name, parameter in module.named_parameters()
        for entry, value in optimizer.state.get(parameter, {}).items()
    }


@torch.no_grad()
def allocate_optimizer(
    module: nn.Module, optimizer: torch.optim.Optimizer, names: Iterable[str]
) -> dict[str, Tensor]:
    """State of an optimiser that has not stepped yet, by the names of `optimizer_tensors`.

    To be filled from a checkpoint. ValueError for an unknown parameter.
    """
    parameters = dict(module.named_parameters())
    for key in names:
        name, entry = key.rsplit("/", 1)
        if name not in parameters:
            raise ValueError(f"the optimiser's state is of another model: it has {name!r}")
        parameter = parameters[name]
        is_count = entry == "step"
        optimizer.state[parameter][entry] = (
            torch.zeros((), device=parameter.device) if is_count else torch.zeros_like(parameter)
        )
    return optimizer_tensors(module, optimizer)
