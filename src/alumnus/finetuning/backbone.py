"""What a head stands on: an encoder by any name that `alumnus evaluate` takes."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from alumnus.evaluation.tasks import EvalModel
from alumnus.measure import encoder_model, teacher_model
from alumnus.runs import is_encoder, load_encoder
from alumnus.teachers import load_teacher

__all__ = ["Backbone", "open_backbone"]


@dataclass(frozen=True)
class Backbone:
    """An encoder, as evaluations see it."""

    network: nn.Module
    model: EvalModel  # of that network

    def fingerprint(self) -> str:
        """A hash of the weights."""
        digest = hashlib.sha256()
        for name, value in self.network.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()


def open_backbone(name: str, device: torch.device) -> Backbone:
    """The bare encoder of a run, an encoder, a released checkpoint, or a teacher; frozen."""
    path = Path(name).expanduser()
    if is_encoder(path):
        encoder = load_encoder(path).requires_grad_(False)
        return Backbone(encoder, encoder_model(path.resolve().name, encoder, device))
    teacher = load_teacher(name).to(device)
    return Backbone(teacher, teacher_model(teacher))
