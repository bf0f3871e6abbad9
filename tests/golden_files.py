"""The golden fixtures: numbers of the published systems, from the folder `ALUMNUS_GOLDEN`."""

import json
import os
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(os.environ.get("ALUMNUS_GOLDEN") or Path(__file__).parent / "golden")


def golden_path(filename: str) -> Path:
    """Path of a file of the core set."""
    return ROOT / "core" / filename


def golden(name: str) -> dict[str, Tensor]:
    """The tensors of `core/<name>.safetensors`."""
    return load_file(golden_path(f"{name}.safetensors"))


def golden_json(name: str) -> Any:
    """The settings in `core/<name>.json`."""
    return json.loads(golden_path(f"{name}.json").read_text())


def sub(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose name starts with `prefix`, named by the rest."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
