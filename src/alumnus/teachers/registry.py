"""How a name, a path or a class becomes a teacher."""

import logging
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import timm
from torch import nn

from alumnus import hub
from alumnus.cachedir import cache_dir, whole_file
from alumnus.encoders import PosInterp, ViT
from alumnus.licences import Terms
from alumnus.runs import load_terms
from alumnus.spelling import unknown
from alumnus.teachers.base import GridPolicy, Teacher, Traits
from alumnus.teachers.catalogue import TEACHERS, TeacherInfo
from alumnus.teachers.hf_teacher import hf_teacher
from alumnus.teachers.litert_teacher import litert_teacher
from alumnus.teachers.onnx_teacher import onnx_teacher
from alumnus.teachers.python_teacher import find_factory, python_teacher
from alumnus.teachers.reference import difference
from alumnus.teachers.run_teacher import run_teacher
from alumnus.teachers.timm_teacher import timm_licence, timm_teacher
from alumnus.tokens import TokenType

__all__ = [
    "check_teacher",
    "fetch_weights",
    "keep_weights",
    "known_terms",
    "list_teachers",
    "load_teacher",
    "teacher_name",
]

log = logging.getLogger(__name__)

Opened = tuple[nn.Module, Traits]


@dataclass(frozen=True)
class Family:
    """All teachers of the form `NAME:REST`."""

    form: str  # for lists and sentences
    open: Callable[[str, Path | None], Opened]
    check: Callable[[str], object]  # ValueError for what does not exist; loads nothing
    takes_weights: bool = False
    licence: Callable[[str], str | None] = lambda _: None  # where it is known before loading


def _check_timm(name: str) -> None:
    if not timm.is_model(name):
        raise unknown("timm model", name, [*timm.list_models(), *timm.list_pretrained()])


def _check_hf(place: str) -> None:
    if not Path(place).expanduser().is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", place):
        raise ValueError(f"'hf:{place}' is neither of the form hf:ORG/NAME nor a folder")


def _tensor_of_file(rest: str, kind: str) -> tuple[Path, str]:
    file, _, tensor = rest.partition("#")
    if not file or not tensor:
        raise ValueError(f"'{kind}:{rest}' is not of the form {kind}:FILE#TENSOR")
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no file {file!r} for teacher '{kind}:{rest}'")
    return path, tensor


FAMILIES: dict[str, Family] = {
    "timm": Family(
        "timm:MODEL",
        lambda rest, weights: timm_teacher(rest, weights=weights),
        _check_timm,
        takes_weights=True,
        licence=timm_licence,
    ),
    "hf": Family("hf:ORG/NAME", lambda rest, _: hf_teacher(rest), _check_hf),
    "python": Family(
        "python:package.module:factory", lambda rest, _: python_teacher(rest), find_factory
    ),
    "litert": Family(
        "litert:FILE#TENSOR",
        lambda rest, _: litert_teacher(*_tensor_of_file(rest, "litert")),
        lambda rest: _tensor_of_file(rest, "litert"),
    ),
    "onnx": Family(
        "onnx:FILE#TENSOR",
        lambda rest, _: onnx_teacher(*_tensor_of_file(rest, "onnx")),
        lambda rest: _tensor_of_file(rest, "onnx"),
    ),
}
FORMS = (*(family.form for family in FAMILIES.values()), "RUN_FOLDER")


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
    licence: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    grid: GridPolicy = "auto",
    pos_interp: PosInterp | None = None,
) -> Teacher:
    """A teacher, ready to run on the CPU.

    `model` is a registered name, `timm:MODEL`, `hf:ORG/NAME`, `python:package.module:factory`,
    `litert:FILE#TENSOR`, `onnx:FILE#TENSOR`, or the path of a run or an exported encoder. `weights`
    (path, URL or `hf:ORG/REPO/FILE`) replaces those it would come with; `licence`, `mean` and
    `std` (of RGB in 0 to 1) what is known here of it, `pos_interp` how a ViT of ours meets other
    grids. ValueError, one sentence, for a teacher that does not exist, UnavailableError for one
    that cannot be fetched now.
    """
    check_teacher(model, weights)
    network, traits = _open(model, weights)
    if licence is not None:
        traits = replace(traits, licence=licence, inherits=())
    traits = replace(traits, mean=_rgb(mean, traits.mean), std=_rgb(std, traits.std))
    if pos_interp is not None:
        traits = _with_positions(model, network, traits, pos_interp)
    named = name or teacher_name(model)
    teacher = Teacher(network, traits, name=named, tokens=tokens, domain=domain, grid=grid)
    if sentence := difference(teacher):
        log.warning("%s", sentence)
    return teacher


def check_teacher(model: str, weights: str | None = None) -> None:
    """ValueError, one sentence, for a teacher that does not exist; none is loaded or fetched.

    UnavailableError, which is one, where its authors alone hand out the file, and it is not here.
    """
    hub.check_weights(weights)
    if model in TEACHERS:
        if weights is None and TEACHERS[model].by_hand:
            fetch_weights(model)  # nothing is fetched by hand: it is here, or this says so
        return
    family, rest = _family(model)
    if family is not None:
        family.check(rest)
    elif not Path(model).expanduser().exists():
        if "/" in model:
            raise ValueError(f"there is nothing at {model}: a teacher's path is a run or encoder")
        raise unknown("teacher", model, [*TEACHERS, *FORMS])
    if weights is not None and not (family and family.takes_weights):
        raise ValueError(f"weights are for timm and registered teachers, not for {model!r}")


def known_terms(name: str, model: str, licence: str | None = None) -> tuple[Terms, ...]:
    """What is known of the terms of teacher `name` without loading it; nothing is fetched.

    `licence` is what is stated of it. Empty where only the loaded teacher says; ValueError for a
    run or encoder that cannot be read.
    """
    if licence is not None:
        return (Terms(name, licence),)
    if model in TEACHERS:
        return (Terms(name, TEACHERS[model].traits.licence),)
    family, rest = _family(model)
    if family is not None:
        known = family.licence(rest)
        return () if known is None else (Terms(name, known),)
    inherits = load_terms(Path(model).expanduser()) or (Terms("run", "unknown"),)
    return tuple(replace(terms, of=f"{name}/{terms.of}") for terms in inherits)


def fetch_weights(name: str) -> Path:
    """The file of a registered teacher's weights, from the cache or else from where they are.

    ValueError for an unknown name, UnavailableError, saying what to do, where they cannot be had.
    """
    info = _registered(name)
    if kept := _kept(name):
        return kept[0]
    try:
        path = hub.resolve_weights(info.weights, sha256=info.sha256)
    except hub.UnavailableError as error:
        if name in hub.RELEASED:
            raise
        connect = f"connect once and run: alumnus get {name}, or "
        raise hub.UnavailableError(
            f"teacher {name}: {error}; {'' if info.by_hand else connect}take a file "
            f"that you have: weights=PATH, or for good, alumnus get {name} --file PATH"
        ) from error
    assert path is not None, "a source was given"
    return path


def keep_weights(name: str, file: Path) -> Path:
    """From now on these are the weights of a registered teacher; gives the copy in the cache.

    ValueError, one sentence, for a file that is not of this teacher.
    """
    hub.check_weights(file)
    _registered(name).network(file.expanduser())
    target = cache_dir("weights", "own") / f"{name}{file.suffix}"
    with file.expanduser().open("rb") as given, whole_file(target) as copy:
        shutil.copyfileobj(given, copy, 1 << 20)
    for earlier in _kept(name):
        if earlier != target:
            earlier.unlink()
    return target


def _registered(name: str) -> TeacherInfo:
    if name not in TEACHERS:
        raise unknown("teacher", name, TEACHERS)
    return TEACHERS[name]


def _kept(name: str) -> list[Path]:
    """The file that `keep_weights` wrote, with whatever suffix it was given, or none."""
    own = cache_dir("weights", "own")
    return sorted(path for path in own.iterdir() if name in (path.name, path.stem))


def _open(model: str, weights: str | None) -> Opened:
    path = hub.resolve_weights(weights)
    if model in TEACHERS:
        info = TEACHERS[model]
        if info.requires is not None:  # before anything is fetched
            info.requires()
        return info.network(path or fetch_weights(model)), info.traits
    family, rest = _family(model)
    if family is not None:
        return family.open(rest, path)
    return run_teacher(Path(model).expanduser())


def _family(model: str) -> tuple[Family | None, str]:
    name, colon, rest = model.partition(":")
    return (FAMILIES.get(name) if colon else None), rest


def _rgb(stated: Sequence[float] | None, own: tuple[float, ...]) -> tuple[float, ...]:
    if stated is None:
        return own
    if len(stated) != 3:
        raise ValueError(f"mean and std of a teacher are three numbers (RGB), not {len(stated)}")
    return tuple(float(value) for value in stated)


def _with_positions(model: str, network: nn.Module, traits: Traits, mode: PosInterp) -> Traits:
    if not isinstance(network, ViT):
        raise ValueError(f"pos_interp is for the ViTs of alumnus, and {model!r} is none of them")
    network.pos_interp = mode
    return replace(traits, pos_interp=mode)
