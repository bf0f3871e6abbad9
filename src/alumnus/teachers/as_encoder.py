"""A teacher as an encoder of ours, to be trained on and saved."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from alumnus.encoders import CrocoEncoder, Encoder, EncoderSpec, ViT, build_encoder
from alumnus.runs import load_encoder
from alumnus.strict import fill
from alumnus.teachers.base import Teacher
from alumnus.teachers.registry import load_teacher
from alumnus.teachers.timm_teacher import TimmNetwork

__all__ = ["as_encoder", "open_encoder"]


def as_encoder(teacher: Teacher) -> tuple[Encoder, EncoderSpec]:
    """A copy of its network that takes ImageNet-normalised images, and what describes it.

    ValueError, one sentence, for a network that is none of ours and not timm's.
    """
    network = teacher.network
    if isinstance(network, ViT):
        spec = replace(network.spec, pos_interp=network.pos_interp, pretrained=False)
        state = network.state_dict()
    elif isinstance(network, CrocoEncoder):
        spec, state = network.spec, network.state_dict()
    elif isinstance(network, TimmNetwork):
        model: Any = network.model
        spec = EncoderSpec(
            model=f"timm:{model.pretrained_cfg['architecture']}",
            image_size=teacher.input_size or model.pretrained_cfg["input_size"][-1],
        )
        state = network.state_dict()
    else:
        raise ValueError(
            f"{teacher.name} can neither be trained on nor see two views or people: only ViTs of "
            "alumnus and timm's models can; frozen it can have a head for classes, segmentation or "
            "depth"
        )
    spec = replace(spec, mean=tuple(teacher.mean), std=tuple(teacher.std))
    encoder = fill(build_encoder(spec), state, what=f"the weights of {teacher.name}")
    return encoder, spec


def open_encoder(name: str | Path | Encoder) -> Encoder:
    """The encoder of a run, a folder, a released checkpoint or a teacher's name; one stays itself.

    ValueError, one sentence, where there is none, and for a teacher that cannot become one.
    """
    if isinstance(name, Encoder):
        return name
    path = Path(name).expanduser()
    return load_encoder(path) if path.exists() else as_encoder(load_teacher(str(name)))[0]
