"""Weights fit a module tensor by tensor, or one sentence says which do not."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from torch import Tensor, nn

__all__ = ["fill", "misfits"]

M = TypeVar("M", bound=nn.Module)
NAMED = 3  # tensors of each kind in a sentence


def fill(module: M, state: Mapping[str, Tensor], *, what: str, assign: bool = False) -> M:
    """The module with exactly these weights, in eval mode; `assign` for one without memory.

    ValueError that begins with `what` and names tensors that are missing, too many or of another
    shape; the module is not changed then.
    """
    if wrong := misfits(module.state_dict(), state):
        raise ValueError(f"{what} do not fit: {wrong}")
    module.load_state_dict(state, assign=assign)
    return module.eval()


def misfits(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """In words, how the given tensors differ from the expected ones; empty where they fit."""
    shapes = [
        f"{name} is {_shape(given[name])} and not {_shape(tensor)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    parts = (
        ("missing ", [name for name in expected if name not in given]),
        ("unknown ", [name for name in given if name not in expected]),
        ("", shapes),
    )
    return "; ".join(word + _few(names) for word, names in parts if names)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
