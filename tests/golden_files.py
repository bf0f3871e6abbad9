"""The golden fixtures: numbers of the published systems, from the folder `ALUMNUS_GOLDEN`."""

import json
import os
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(os.environ.get("ALUMNUS_GOLDEN") or Path(__file__).parent / "golden")


def golden_path(filename: str) -> Path:
    """Path of a file of the core set."""
    return ROOT / "core" / filename


def threed(name: str) -> tuple[dict[str, Tensor], Any]:
    """The tensors of `threed/<name>.safetensors`, weights as float32, and the settings in it."""
    path = ROOT / "threed" / f"{name}.safetensors"
    with safe_open(path, framework="pt") as file:
        settings = json.loads(file.metadata()["config"])
    tensors = {k: v.float() if k.startswith("w/") else v for k, v in load_file(path).items()}
    return tensors, settings


def threed_json(name: str) -> Any:
    """The record `threed/<name>.json`."""
    return json.loads((ROOT / "threed" / f"{name}.json").read_text())


def golden(name: str) -> dict[str, Tensor]:
    """The tensors of `core/<name>.safetensors`."""
    return load_file(golden_path(f"{name}.safetensors"))


def golden_json(name: str) -> Any:
    """The settings in `core/<name>.json`."""
    return json.loads(golden_path(f"{name}.json").read_text())


def sub(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose name starts with `prefix`, named by the rest."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
