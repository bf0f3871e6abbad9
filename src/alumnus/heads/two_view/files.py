"""Two-view heads in files: two_view.safetensors, beside its encoder or alone."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alumnus.heads.two_view.head import TwoViewHead
from alumnus.heads.two_view.spec import TwoViewSpec
from alumnus.strict import fill
from alumnus.tensor_files import read_described_tensors, read_description, write_described

__all__ = ["load_two_view", "save_two_view"]

STEM = "two_view"


def save_two_view(
    folder: str | Path, head: TwoViewHead, extra: Mapping[str, Any] | None = None
) -> None:
    """Write two_view.safetensors and two_view.json; `extra` goes into the JSON as "info"."""
    description = {STEM: asdict(head.spec), "info": dict(extra or {})}
    write_described(Path(folder), STEM, head.state_dict(), description)


def load_two_view(path: str | Path) -> TwoViewHead:
    """The head of a folder or of its .safetensors file, float32, in eval mode.

    ValueError, one sentence, where there is none or where tensors do not fit its description.
    """
    weights = Path(path)
    if weights.is_dir():
        weights = weights / f"{STEM}.safetensors"
    if not weights.is_file():
        raise ValueError(f"there is no two-view head at {path}: expected {STEM}.safetensors")
    description = read_description(weights, STEM)
    head = TwoViewHead(TwoViewSpec.from_dict(description[STEM]))
    tensors = read_described_tensors(weights, description)
    return fill(head, tensors, what=f"the weights in {weights}").float()
