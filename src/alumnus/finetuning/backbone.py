"""What a head stands on: an encoder by any name that `alumnus evaluate` takes."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from alumnus.encoders import Encoder, EncoderSpec
from alumnus.evaluation.tasks import EvalModel
from alumnus.licences import Terms
from alumnus.measure import encoder_model, teacher_model
from alumnus.runs import is_encoder, load_encoder, load_encoder_spec, load_terms
from alumnus.teachers import Teacher, as_encoder, load_teacher
from alumnus.tensor_files import weights_hash

__all__ = ["Backbone", "Learner", "open_backbone", "open_learner"]


@dataclass(frozen=True)
class Backbone:
    """An encoder, as evaluations see it."""

    network: Encoder | Teacher
    model: EvalModel  # of that network

    @property
    def learns(self) -> bool:
        """Whether it is trained with the head."""
        return isinstance(self, Learner)

    def encoder(self) -> Encoder:
        """The network as an encoder; ValueError for a teacher that cannot be one."""
        if isinstance(self.network, Teacher):
            device = next(self.network.parameters(), torch.empty(0)).device
            return as_encoder(self.network)[0].to(device).eval().requires_grad_(False)
        return self.network

    def fingerprint(self) -> str:
        """A hash of the weights."""
        if isinstance(self.network, Teacher):
            return self.network.fingerprint()
        return weights_hash(self.network.state_dict())


@dataclass(frozen=True)
class Learner(Backbone):
    """An encoder that is trained with the head, and can be saved."""

    network: Encoder
    spec: EncoderSpec
    terms: tuple[Terms, ...]  # what it was trained from


def open_backbone(name: str, device: torch.device) -> Backbone:
    """The bare encoder of a run, an encoder, a released checkpoint, or a teacher; frozen."""
    path = Path(name).expanduser()
    if is_encoder(path):
        encoder = load_encoder(path)
        encoder.requires_grad_(False)
        return Backbone(encoder, encoder_model(path.resolve().name, encoder, device))
    teacher = load_teacher(name).to(device)
    return Backbone(teacher, teacher_model(teacher))


def open_learner(name: str, device: torch.device) -> Learner:
    """The same, to be trained; ValueError for a teacher that cannot be."""
    path = Path(name).expanduser()
    if is_encoder(path):
        encoder, spec, terms = load_encoder(path), load_encoder_spec(path), load_terms(path)
        model = encoder_model(path.resolve().name, encoder, device)
        return Learner(encoder, model, replace(spec, pretrained=False), terms)
    teacher = load_teacher(name)
    encoder, spec = as_encoder(teacher)
    encoder.requires_grad_()
    model = encoder_model(teacher.name, encoder, device)
    model = replace(model, size_px=teacher.input_size)  # as a frozen one
    return Learner(encoder, model, spec, teacher.terms)
