"""Networks of an encoder and a head, by name: what `load_two_view` and `load_people` share."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from torch import nn

from alumnus.encoders import Encoder
from alumnus.finetuning.head_files import load_head
from alumnus.finetuning.head_model import HeadModel
from alumnus.hardware import choose_device
from alumnus.runs import is_encoder
from alumnus.teachers import open_encoder

__all__ = ["encoder_beside", "finetuned", "is_finetuned", "opened_network"]

Network = TypeVar("Network", bound=nn.Module)
Model = TypeVar("Model", bound=HeadModel)


def opened_network(
    model: str | Path | Network,
    load: Callable[..., Network],  # of a name, and encoder=
    encoder: str | None,
    device: str,
) -> Network:
    """A network by name on a device ("auto": the accelerator, if any); one that is open stays."""
    if isinstance(model, nn.Module):
        return model
    chosen = choose_device(device)
    return load(model, encoder=encoder).to(chosen)


def encoder_beside(
    path: Path, encoder: str | Path | Encoder | None, *, asked: str | None = None
) -> Encoder:
    """The one that is named, else the one in the folder of a head's file.

    ValueError where there is none, with the name that the head asks for, if it does.
    """
    beside = path if path.is_dir() else path.parent
    if encoder is None and not is_encoder(beside):
        which = f", which should be {asked!r}" if asked else ""
        raise ValueError(f"there is no encoder beside {path}: name one with encoder=PATH{which}")
    return open_encoder(beside if encoder is None else encoder)


def is_finetuned(path: Path) -> bool:
    """Whether it is a result of `alumnus finetune`."""
    return (path / "head.json").is_file()


def finetuned(
    path: Path, encoder: str | Path | Encoder | None, kind: type[Model], *, what: str
) -> Model:
    """A result of `alumnus finetune`; ValueError for one of another kind than `what` names."""
    if isinstance(encoder, Encoder):
        raise ValueError(f"{path} knows its encoder: leave encoder= out, or say where it is now")
    model = load_head(path, encoder=None if encoder is None else str(encoder))
    if not isinstance(model, kind):
        raise ValueError(f"{path} holds a head for {model.spec.kind}, not for {what}")
    return model
