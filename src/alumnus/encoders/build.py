"""From a description to an encoder."""

import importlib
import inspect
from typing import Any, cast

from torch import nn

from alumnus.encoders.base import Encoder
from alumnus.encoders.croco import CrocoEncoder
from alumnus.encoders.spec import EncoderSpec
from alumnus.encoders.timm_models import TimmEncoder
from alumnus.encoders.vit import ViT

__all__ = ["build_encoder"]

INTERFACE = ("dim", "block_dims", "patch_size", "num_heads", "in_channels", "image_size")


def build_encoder(spec: EncoderSpec) -> Encoder:
    """A new encoder with fresh weights (timm's published ones if `pretrained`).

    ValueError, one sentence, for a name that is not known or sizes that do not fit together.
    """
    if spec.pretrained and not spec.model.startswith("timm:"):
        raise ValueError(f"pretrained weights exist for timm models only, not for {spec.model!r}")
    if spec.model.startswith("python:"):
        return _python_encoder(spec)
    if spec.options and not spec.model.startswith("timm:"):
        raise ValueError(f"options are for timm: and python: models, not for {spec.model!r}")
    if spec.model.startswith("timm:"):
        return TimmEncoder(spec)
    return CrocoEncoder(spec) if spec.model == "croco" else ViT(spec)


def _python_encoder(spec: EncoderSpec) -> Encoder:
    """`python:package.module:factory`, called with the spec's options."""
    module_name, _, factory_name = spec.model.removeprefix("python:").partition(":")
    if not module_name or not factory_name:
        raise ValueError(f"{spec.model!r} is not of the form python:package.module:factory")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, one that it imports is not
        raise ValueError(f"there is no Python module {module_name!r} for {spec.model!r}") from error
    factory: Any = getattr(module, factory_name, None)
    if not callable(factory):
        raise ValueError(f"module {module_name!r} has no factory {factory_name!r}")
    try:
        inspect.signature(factory).bind(**spec.options)
    except TypeError as error:
        raise ValueError(f"{spec.model!r} cannot be called with its options: {error}") from error
    encoder = factory(**spec.options)
    if not isinstance(encoder, nn.Module):
        raise ValueError(f"{spec.model!r} gives a {type(encoder).__name__}, not a torch module")
    if missing := [name for name in INTERFACE if not hasattr(encoder, name)]:
        raise ValueError(f"the encoder of {spec.model!r} lacks {', '.join(missing)}")
    return cast(Encoder, encoder)
