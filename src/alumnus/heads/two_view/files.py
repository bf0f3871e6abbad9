"""Two-view heads in files: two_view.safetensors, beside its encoder or alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alumnus.heads.files import load_described_head, save_described_head
from alumnus.heads.two_view.head import TwoViewHead
from alumnus.heads.two_view.spec import TwoViewSpec

__all__ = ["load_two_view_head", "save_two_view_head"]

STEM = "two_view"


def save_two_view_head(
    folder: str | Path, head: TwoViewHead, extra: Mapping[str, Any] | None = None
) -> None:
    """Write two_view.safetensors and two_view.json; `extra` goes into the JSON as "info"."""
    save_described_head(folder, STEM, head, extra)


def load_two_view_head(path: str | Path) -> TwoViewHead:
    """The head of a folder or of its .safetensors file; see `load_described_head`."""

    def build(values: Mapping[str, Any]) -> TwoViewHead:
        return TwoViewHead(TwoViewSpec.from_dict(values))

    return load_described_head(path, STEM, build, what="two-view head")
