"""A previous run or an exported encoder as a teacher: students can teach."""

from pathlib import Path

from torch import nn

from alumnus.runs import load_encoder, load_terms
from alumnus.teachers.base import Traits
from alumnus.teachers.python_teacher import traits_of

__all__ = ["run_teacher"]


def run_teacher(path: Path) -> tuple[nn.Module, Traits]:
    """The encoder of a run folder, an exported folder or a released `.pth`, at its native size.

    Its tokens are those after the final norm: what its users see.
    """
    encoder = load_encoder(path)
    if encoder.in_channels != 3:
        raise ValueError(
            f"the encoder in {str(path)!r} takes {encoder.in_channels} channels, but teachers "
            "see RGB"
        )
    inherits = load_terms(path)
    traits = traits_of(
        encoder,
        name=path.name,
        input_size=encoder.image_size,
        pos_interp=str(getattr(encoder, "pos_interp", "none")),
        inherits=inherits,
        licence=" + ".join(sorted({terms.licence for terms in inherits})) or "unknown",
    )
    return encoder, traits
