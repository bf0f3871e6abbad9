"""People heads in files: people.safetensors, beside its encoder or alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alumnus.heads.files import load_described_head, save_described_head
from alumnus.heads.people.head import PeopleHead
from alumnus.heads.people.spec import PeopleSpec

__all__ = ["load_people_head", "save_people_head"]

STEM = "people"


def save_people_head(
    folder: str | Path, head: PeopleHead, extra: Mapping[str, Any] | None = None
) -> None:
    """Write people.safetensors and people.json; `extra` goes into the JSON as "info"."""
    save_described_head(folder, STEM, head, extra)


def load_people_head(path: str | Path) -> PeopleHead:
    """The head of a folder or of its .safetensors file; see `load_described_head`."""

    def build(values: Mapping[str, Any]) -> PeopleHead:
        return PeopleHead(PeopleSpec.from_dict(values))

    return load_described_head(path, STEM, build, what="people head")
