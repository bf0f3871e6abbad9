"""Features of images in a file: `alumnus extract`."""

import json
import os
from pathlib import Path

import torch
from torch import Tensor

from alumnus.data import Source
from alumnus.evaluation.features import FeatureKind, extract_features
from alumnus.evaluation.tasks import EvalModel
from alumnus.tensor_files import write_tensors

__all__ = ["extract_to_file"]


def extract_to_file(
    model: EvalModel,
    source: Source,
    path: Path,
    *,
    size_px: int | None = None,  # None: the model's own, else 224
    patches: bool = False,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> dict[str, tuple[int, ...]]:
    """Write `cls` [n, D], `patch_mean` [n, D], `patches` [n, N, D] (each where there is such).

    Float32, in the order of the source; `labels` [n] where it has classes. The names of the
    images and the patch grid are in the file's metadata ("names", a JSON list; "grid").
    Broken images have neither row nor name. Returns the shapes.
    """
    size_px = size_px or model.size_px or 224
    want: list[FeatureKind] = ["cls", "patch-mean"]
    found = extract_features(
        model.fn,
        source,
        size_px=size_px,
        batch_size=batch_size,
        want=[*want, "patches"] if patches else want,
        device=device,
    )
    held: dict[str, Tensor | None] = {
        "cls": found.cls,
        "patch_mean": found.patch_mean,
        "patches": found.patches,
        "labels": found.labels,
    }
    tensors = {name: tensor.contiguous() for name, tensor in held.items() if tensor is not None}
    metadata = {
        "model": model.name,
        "size_px": str(size_px),
        "names": json.dumps([source.identity(i) for i in found.indices.tolist()]),
        "grid": json.dumps(found.grid),
        "classes": json.dumps(source.classes),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_tensors(tensors, partial, metadata=metadata)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
