"""Which teachers there are, and how a name, a path or a class becomes one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
from torch import nn

from alumnus import hub
from alumnus.spelling import unknown
from alumnus.teachers.base import GridPolicy, Teacher, Traits
from alumnus.teachers.litert_teacher import blazepose, litert_teacher
from alumnus.teachers.python_teacher import find_factory, python_teacher
from alumnus.teachers.run_teacher import run_teacher
from alumnus.teachers.timm_teacher import efficientnet_lite, timm_teacher
from alumnus.tokens import TokenType

__all__ = [
    "TEACHERS",
    "TeacherInfo",
    "check_teacher",
    "list_teachers",
    "load_teacher",
    "teacher_name",
]


@dataclass(frozen=True)
class TeacherInfo:
    """A registered teacher, as lists show it."""

    name: str
    dim: int
    input_size: int  # px
    token_types: tuple[TokenType, ...]
    domain: str
    licence: str
    origin: str  # where its weights come from


TEACHERS: dict[str, TeacherInfo] = {
    row.name: row
    for row in (
        *(
            TeacherInfo(
                f"efficientnet-lite{i}",
                1280,
                size_px,
                ("cls", "patch"),
                "things",
                "Apache-2.0",
                hub.RELEASED[f"efficientnet-lite{i}"].origin,
            )
            for i, size_px in enumerate((224, 240, 260))
        ),
        TeacherInfo(
            "blazepose",
            192,
            224,
            ("patch",),
            "people",
            "Apache-2.0",
            hub.RELEASED["blazepose"].origin,
        ),
        TeacherInfo(
            "miniworld-objects",
            128,
            64,
            ("cls", "patch"),
            "objects",
            "Apache-2.0",
            "ships with alumnus",
        ),
    )
}
FAMILIES = ("timm:MODEL", "python:package.module:factory", "litert:FILE#TENSOR", "RUN_FOLDER")


def list_teachers() -> list[TeacherInfo]:
    """The registered teachers; any timm model, file, module or run is one besides."""
    return list(TEACHERS.values())


def teacher_name(model: str) -> str:
    """The short alias of a model that was given none, without dots.

    >>> teacher_name("timm:vit_base_patch16_224.dino")
    'vit_base_patch16_224-dino'
    """
    last = model.split("#")[0].rstrip("/").split("/")[-1].split(":")[-1]
    return last.removesuffix(".safetensors").removesuffix(".pth").replace(".", "-")


def load_teacher(
    model: str,
    *,
    name: str | None = None,
    weights: str | None = None,
    tokens: Sequence[TokenType] | None = None,
    domain: str | None = None,
    grid: GridPolicy = "auto",
) -> Teacher:
    """A teacher, ready to run on the CPU.

    `model` is a registered name, `timm:MODEL`, `python:package.module:factory`,
    `litert:FILE#TENSOR`, or the path of a run or an exported encoder. `weights` (path, URL or
    `hf:ORG/REPO/FILE`) replaces those it would come with. ValueError, one sentence, for a
    teacher that does not exist, UnavailableError for one that cannot be fetched now.
    """
    network, traits = _open(model, hub.resolve_weights(weights))
    return Teacher(
        network, traits, name=name or teacher_name(model), tokens=tokens, domain=domain, grid=grid
    )


def check_teacher(model: str, weights: str | None = None) -> None:
    """ValueError, one sentence, for a teacher that does not exist; none is loaded or fetched."""
    hub.check_weights(weights)
    family, colon, rest = model.partition(":")
    registered = model in TEACHERS
    if colon and family == "timm":
        if not timm.is_model(rest):
            raise unknown("timm model", rest, [*timm.list_models(), *timm.list_pretrained()])
        return
    if weights is not None and (not registered or model == "miniworld-objects"):
        raise ValueError(f"weights are for timm and registered teachers, not for {model!r}")
    if colon and family == "python":
        find_factory(rest)
    elif colon and family == "litert":
        _litert_file(rest)
    elif not registered and not Path(model).expanduser().exists():
        raise unknown("teacher", model, [*TEACHERS, *FAMILIES])


def _open(model: str, weights: Path | None) -> tuple[nn.Module, Traits]:
    family, colon, rest = model.partition(":")
    if colon and family == "timm":
        return timm_teacher(rest, weights=weights)
    if model.startswith("efficientnet-lite") and model in TEACHERS:
        return efficientnet_lite(int(model[-1]), weights=weights)
    if model == "blazepose":
        return blazepose(weights=weights)
    if weights is not None:
        raise ValueError(f"weights are for timm and registered teachers, not for {model!r}")
    if colon and family == "python":
        return python_teacher(rest)
    if colon and family == "litert":
        return litert_teacher(*_litert_file(rest))
    if model == "miniworld-objects":
        return _miniworld_objects()
    path = Path(model).expanduser()
    if path.exists():
        return run_teacher(path)
    raise unknown("teacher", model, [*TEACHERS, *FAMILIES])


def _litert_file(rest: str) -> tuple[Path, str]:
    file, _, tensor = rest.partition("#")
    if not file or not tensor:
        raise ValueError(f"'litert:{rest}' is not of the form litert:FILE#TENSOR")
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no LiteRT file {file!r}")
    return path, tensor


def _miniworld_objects() -> tuple[nn.Module, Traits]:
    from alumnus.miniworld import objects_teacher_folder  # its renderer loads only when wanted

    info = TEACHERS["miniworld-objects"]
    return run_teacher(objects_teacher_folder(), domain=info.domain, licence=info.licence)
