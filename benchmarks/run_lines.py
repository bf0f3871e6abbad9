"""runs.jsonl: what a benchmark has measured, a line a run, so that it can be stopped and go on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["add_line", "read_lines"]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines so far; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def add_line(path: Path, record: Mapping[str, Any]) -> None:
    """One line more, in one piece: other processes add theirs."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
