"""Heads in files: STEM.safetensors, complete in itself, beside its encoder or alone."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from alumnus.strict import fill
from alumnus.tensor_files import read_described_tensors, read_description, write_described

__all__ = ["load_described_head", "save_described_head"]

Head = TypeVar("Head", bound=nn.Module)


def save_described_head(
    folder: str | Path, stem: str, head: nn.Module, extra: Mapping[str, Any] | None = None
) -> None:
    """Write STEM.safetensors and STEM.json from `head.spec`, a dataclass; `extra` is its "info"."""
    description = {stem: asdict(head.spec), "info": dict(extra or {})}  # type: ignore[call-overload]
    write_described(Path(folder), stem, head.state_dict(), description)


def load_described_head(
    path: str | Path, stem: str, build: Callable[[Mapping[str, Any]], Head], *, what: str
) -> Head:
    """The head of a folder or of its .safetensors file, float32, in eval mode.

    `build` makes it from its spec's values. ValueError, one sentence that calls it `what`, where
    there is none or where tensors do not fit its description.
    """
    weights = Path(path)
    if weights.is_dir():
        weights = weights / f"{stem}.safetensors"
    if not weights.is_file():
        raise ValueError(f"there is no {what} at {path}: expected {stem}.safetensors")
    description = read_description(weights, stem)
    head = build(description[stem])
    tensors = read_described_tensors(weights, description)
    return fill(head, tensors, what=f"the weights in {weights}").float()
