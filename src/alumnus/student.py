"""The student: an encoder, one projector per teacher, and side heads where wanted."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from alumnus.encoders import Encoder, EncoderSpec, build_encoder
from alumnus.losses import side_of
from alumnus.projectors import Projector, ProjectorSpec, build_projector
from alumnus.spelling import unknown
from alumnus.tokens import Tokens

__all__ = ["Student", "StudentSpec", "build_student"]


@dataclass(frozen=True, kw_only=True)
class StudentSpec:
    """Everything needed to build a student again, without its weights."""

    encoder: EncoderSpec
    projectors: Mapping[str, ProjectorSpec] = field(default_factory=dict)  # by teacher
    sides: Mapping[str, ProjectorSpec] = field(default_factory=dict)  # second ones, in training

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers, for JSON."""
        return {
            "encoder": dataclasses.asdict(self.encoder),
            "projectors": {name: dataclasses.asdict(p) for name, p in self.projectors.items()},
            "sides": {name: dataclasses.asdict(p) for name, p in self.sides.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StudentSpec":
        """The inverse of `to_dict`; an unknown key is a ValueError."""
        projectors, sides = (
            {name: _projector_spec(p) for name, p in values.get(key, {}).items()}
            for key in ("projectors", "sides")
        )
        encoder = EncoderSpec.from_dict(values["encoder"])
        return cls(encoder=encoder, projectors=projectors, sides=sides)


class Student(nn.Module):
    """Images in, one prediction per teacher out: all that DDP, FSDP2 or compile wraps.

    A side head is a second, light projector of a teacher: its prediction is `side_of(teacher)`.
    """

    def __init__(
        self,
        encoder: Encoder,
        projectors: Mapping[str, Projector],
        sides: Mapping[str, Projector] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projectors = nn.ModuleDict(projectors)
        self.sides = nn.ModuleDict(sides)
        read = [*projectors.values(), *sides.values()]
        self.blocks = sorted({block for projector in read for block in projector.blocks})

    @property
    def units(self) -> list[nn.Module]:
        """What FSDP2 shards by itself: the encoder's blocks, where it names some, projectors."""
        heads = [*self.projectors.values(), *self.sides.values()]
        return [*getattr(self.encoder, "units", []), *heads]

    def forward(self, images: Tensor) -> dict[str, Tokens]:  # [B, C, H, W]
        output = self.encoder(images, blocks=self.blocks)
        predictions = {name: project(output) for name, project in self.projectors.items()}
        return predictions | {side_of(name): side(output) for name, side in self.sides.items()}


def build_student(spec: StudentSpec) -> Student:
    """A new student with fresh weights, its projectors in the order of the spec."""
    encoder = build_encoder(spec.encoder)
    projectors, sides = (
        {
            name: build_projector(
                projector,
                block_dims=encoder.block_dims,
                width=encoder.dim,
                num_heads=encoder.num_heads,
            )
            for name, projector in specs.items()
        }
        for specs in (spec.projectors, spec.sides)
    )
    return Student(encoder, projectors, sides)


def _projector_spec(values: Mapping[str, Any]) -> ProjectorSpec:
    known = [f.name for f in dataclasses.fields(ProjectorSpec)]
    for key in values:
        if key not in known:
            raise unknown("projector setting", key, known)
    return ProjectorSpec(**{**values, "token_types": tuple(values["token_types"])})
