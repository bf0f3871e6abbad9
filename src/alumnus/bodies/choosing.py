"""Which body model stands for what a people head predicts: `--body`."""

from pathlib import Path

from alumnus.bodies.baked import BakedAnny
from alumnus.bodies.full_anny import FullAnny
from alumnus.bodies.model import BodyModel
from alumnus.bodies.smplx import ROTATIONS, load_smplx
from alumnus.bodies.smplx_files import WHERE
from alumnus.heads.people import PeopleSpec
from alumnus.miniworld.body import BONES, SHAPE_COMPONENTS
from alumnus.spelling import unknown

__all__ = ["BODIES", "lacking", "open_body"]

BODIES = ("anny", "anny-full", "smplx=PATH", "none")


def open_body(choice: str | None, spec: PeopleSpec) -> BodyModel | None:
    """The body model of a choice of `BODIES`, for the head of this spec.

    None: `anny` where the head's numbers are its, else no body; see `lacking` for what to say
    then. ValueError, one sentence, for a body that has other numbers or whose files are missing.
    """
    kind, _, path = (choice or "").partition("=")
    if choice is None:
        return BakedAnny() if _is_anny(spec) else None
    if choice == "none":
        return None
    if choice in ("anny", "anny-full"):
        if not _is_anny(spec):
            raise ValueError(
                f"{choice} turns {len(BONES)} joints and has {SHAPE_COMPONENTS} shape numbers, but "
                f"this network predicts {spec.rotations} rotations and {spec.betas} shape numbers"
            )
        return BakedAnny() if choice == "anny" else FullAnny()
    if kind != "smplx":
        raise unknown("body", choice, BODIES)
    if spec.rotations != ROTATIONS:
        raise ValueError(
            f"SMPL-X bodies take {ROTATIONS} rotations, but this network predicts {spec.rotations}"
        )
    return load_smplx(Path(path).expanduser(), betas=spec.betas, expressions=spec.expressions)


def lacking(spec: PeopleSpec) -> str:
    """What is missing for bodies of this head, where none was opened."""
    numbers = f"{spec.rotations} rotations and {spec.betas} shape numbers"
    if spec.rotations == ROTATIONS:
        return (
            f"without a body model there are no joints and no mesh: {numbers} are for SMPL-X, "
            f"{WHERE}; then add --body smplx=PATH"
        )
    return f"there are no joints and no mesh: no body model of alumnus has {numbers}"


def _is_anny(spec: PeopleSpec) -> bool:
    return (spec.rotations, spec.betas) == (len(BONES), SHAPE_COMPONENTS)
