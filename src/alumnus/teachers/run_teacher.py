"""A previous run or an exported encoder as a teacher: students can teach."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from alumnus.licences import Terms
from alumnus.runs import load_encoder, load_info
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
    traits = traits_of(
        encoder,
        name=path.name,
        input_size=encoder.image_size,
        pos_interp=str(getattr(encoder, "pos_interp", "none")),
        **_terms(load_info(path)),
    )
    return encoder, traits


def _terms(info: Mapping[str, Any]) -> dict[str, Any]:
    """The licences that a student passes on, as far as they were written down."""
    inherits = [Terms.from_dict(terms) for terms in info.get("inherits", ())]
    if not inherits:  # written by an earlier version, or by another program
        taught = info.get("teachers", {}).items()
        inherits = [Terms(name, about.get("licence", "unknown")) for name, about in taught]
    stated = sorted({terms.licence for terms in inherits})
    return {"inherits": tuple(inherits), "licence": " + ".join(stated) or "unknown"}
