"""A trained head in a folder: its weights, and head.json that says what it stands on."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from alumnus.finetuning.backbone import Backbone, open_backbone
from alumnus.finetuning.head_model import HeadModel, HeadSpec
from alumnus.finetuning.kinds import KINDS
from alumnus.runs import is_encoder
from alumnus.spelling import unknown
from alumnus.text_files import write_text

__all__ = ["load_head", "save_head"]

FORMAT = "alumnus-head/1"
DESCRIPTION = "head.json"
STANDS_ON = ("encoder", "encoder_sha256", "sha256")  # keys beside those of `HeadSpec`


def save_head(
    folder: Path, head: nn.Module, spec: HeadSpec, *, encoder: str, backbone: Backbone
) -> None:
    """Write the head and what it is.

    `encoder` is the name of the one that it stands on; one that has learned lies beside it.
    """
    kind = KINDS[cast(Any, spec.kind)]
    weights = folder / kind.weights
    kind.save(head, weights)
    path = Path(encoder).expanduser()
    description = {
        "format": FORMAT,
        **dataclasses.asdict(spec),
        "encoder": None
        if backbone.learns
        else str(path.resolve())
        if is_encoder(path)
        else encoder,
        "encoder_sha256": backbone.fingerprint(),
        "sha256": _sha256(weights),
    }
    write_text(folder / DESCRIPTION, json.dumps(description, indent=1) + "\n")


def load_head(
    folder: str | Path, *, encoder: str | None = None, device: str | torch.device = "cpu"
) -> HeadModel:
    """The encoder and the head that `alumnus finetune` trained, for use: nothing of it learns.

    `encoder` says where its encoder is now, where that was moved. ValueError, one sentence, for a
    folder without a head, a damaged one, and an encoder of other weights than it was trained on.
    """
    folder = Path(folder).expanduser()
    description = _describe(folder)
    known, expected, stored = (description.pop(key) for key in STANDS_ON)
    name = encoder or known or str(folder)
    spec = HeadSpec.from_dict(description)
    if spec.kind not in KINDS:
        raise unknown("head", spec.kind, KINDS)
    kind = KINDS[cast(Any, spec.kind)]
    weights = folder / kind.weights
    if not weights.is_file() or _sha256(weights) != stored:
        raise ValueError(f"{weights} is damaged: it is not what was saved")
    backbone = open_backbone(name, torch.device(device))
    if backbone.fingerprint() != expected:
        raise ValueError(
            f"the head in {str(folder)!r} was trained on an encoder with other weights than those "
            f"of {name!r} now; say where that one is: load_head(..., encoder=PATH)"
        )
    model = kind.model(backbone, kind.load(weights), spec)
    return model.to(device).eval().requires_grad_(False)


def _describe(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} holds no {DESCRIPTION}: no head was finished there")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}") from error
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise ValueError(f"{str(path)!r} is no description of a head: its format is not {FORMAT}")
    lacking = [key for key in STANDS_ON if key not in values]
    if lacking:
        raise ValueError(f"{str(path)!r} is damaged: it lacks {' and '.join(lacking)}")
    return values


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
