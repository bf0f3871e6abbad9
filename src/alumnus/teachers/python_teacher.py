"""Any torch module of yours as a teacher: `python:package.module:factory`."""

import importlib
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from alumnus.images import IMAGENET_MEAN, IMAGENET_STD
from alumnus.teachers.base import Traits
from alumnus.tokens import EncoderOutput, Tokens

__all__ = ["find_factory", "python_teacher", "traits_of"]

PROBE_SIZE_PX = 224  # where the module does not say its size


def python_teacher(spec: str) -> tuple[nn.Module, Traits]:
    """Call the factory of `package.module:factory`; its module returns Tokens or EncoderOutput."""
    network = find_factory(spec)()
    if not isinstance(network, nn.Module):
        raise ValueError(f"'python:{spec}' gives a {type(network).__name__}, not a torch module")
    return network, traits_of(network, name=spec)


def find_factory(spec: str) -> Callable[[], Any]:
    """What `package.module:factory` names; ValueError where there is no such thing."""
    module_name, _, factory_name = spec.partition(":")
    if not module_name or not factory_name:
        raise ValueError(f"'python:{spec}' is not of the form python:package.module:factory")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, one that it imports is not
        raise ValueError(
            f"there is no Python module {module_name!r} for teacher {spec!r}"
        ) from error
    factory: Any = getattr(module, factory_name, None)
    if not callable(factory):
        raise ValueError(f"module {module_name!r} has no factory {factory_name!r}")
    return cast(Callable[[], Any], factory)


def traits_of(network: nn.Module, *, name: str, **known: Any) -> Traits:
    """Attributes of the module that are named as in Traits; `known` goes before them.

    Width, patch size and token types are found with one blank image where they are missing.
    """
    fields = Traits.__dataclass_fields__
    given = {f: getattr(network, f) for f in fields if getattr(network, f, None) is not None}
    values: dict[str, Any] = {**given, **known}
    if missing := {"dim", "patch_size", "token_types"} - values.keys():
        probed = _probe(network, values.get("input_size") or PROBE_SIZE_PX, name)
        values |= {f: probed[f] for f in missing}
    for f, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        values[f] = tuple(float(v) for v in values.get(f, default))
    values["token_types"] = tuple(values["token_types"])
    return Traits(**values)


@torch.no_grad()
def _probe(network: nn.Module, size_px: int, name: str) -> dict[str, Any]:
    output = network.eval()(torch.zeros(1, 3, size_px, size_px))
    tokens = output.final if isinstance(output, EncoderOutput) else output
    if not isinstance(tokens, Tokens) or not tokens.types:
        raise ValueError(
            f"teacher {name!r} returns a {type(output).__name__}, but alumnus.Tokens with patches "
            "or cls, or an EncoderOutput, was expected"
        )
    return {
        "dim": tokens.of(tokens.types[0]).shape[-1],
        "patch_size": size_px // tokens.grid[0] if tokens.grid else size_px,
        "token_types": tokens.types,
    }
