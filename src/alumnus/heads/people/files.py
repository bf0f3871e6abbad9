"""People heads in files: people.safetensors, beside its encoder or alone."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alumnus.heads.people.head import PeopleHead
from alumnus.heads.people.spec import PeopleSpec
from alumnus.strict import fill
from alumnus.tensor_files import read_described_tensors, read_description, write_described

__all__ = ["load_people", "save_people"]

STEM = "people"


def save_people(
    folder: str | Path, head: PeopleHead, extra: Mapping[str, Any] | None = None
) -> None:
    """Write people.safetensors and people.json; `extra` goes into the JSON as "info"."""
    description = {STEM: asdict(head.spec), "info": dict(extra or {})}
    write_described(Path(folder), STEM, head.state_dict(), description)


def load_people(path: str | Path) -> PeopleHead:
    """The head of a folder or of its .safetensors file, float32, in eval mode.

    ValueError, one sentence, where there is none or where tensors do not fit its description.
    """
    weights = Path(path)
    if weights.is_dir():
        weights = weights / f"{STEM}.safetensors"
    if not weights.is_file():
        raise ValueError(f"there is no people head at {path}: expected {STEM}.safetensors")
    description = read_description(weights, STEM)
    head = PeopleHead(PeopleSpec.from_dict(description[STEM]))
    tensors = read_described_tensors(weights, description)
    return fill(head, tensors, what=f"the weights in {weights}").float()
