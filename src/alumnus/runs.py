"""A finished run, an exported encoder or a released checkpoint: load it in one line.

Encoders and students are safetensors files that describe themselves, see `tensor_files`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from torch import Tensor, nn

from alumnus.encoders import Encoder, EncoderSpec, build_encoder
from alumnus.licences import Terms
from alumnus.released import load_released
from alumnus.standardize import Kind, Standardizers
from alumnus.strict import fill
from alumnus.student import Student, StudentSpec, build_student
from alumnus.tensor_files import read_described_tensors, read_description, write_described
from alumnus.tokens import Tokens

__all__ = [
    "LoadedStudent",
    "is_encoder",
    "keeps_projectors",
    "load",
    "load_encoder",
    "load_encoder_spec",
    "load_student",
    "load_terms",
    "save_encoder",
    "save_student",
]

M = TypeVar("M", bound=nn.Module)
Stem = Literal["encoder", "student"]
RELEASED_SUFFIXES = (".pth", ".pt", ".bin")
RELEASED_LICENCE = "CC-BY-NC-SA-4.0"  # of the code and checkpoints of UNIC and of DUNE


@dataclass(frozen=True)
class LoadedStudent:
    """A student with everything its predictions need to be read in the teachers' spaces."""

    student: Student
    spec: StudentSpec
    standardizers: Standardizers
    info: dict[str, Any]  # whatever was saved besides, such as "system" of released files

    def predict(self, images: Tensor) -> dict[str, Tokens]:  # [B, C, H, W]
        """What each teacher would say: projections, de-standardised into its own space."""
        return self.standardizers.inverse(self.student(images))


@overload
def load(
    path: str | Path, *, projectors: Literal[False] = False, num_heads: int | None = None
) -> Encoder: ...
@overload
def load(
    path: str | Path, *, projectors: Literal[True], num_heads: int | None = None
) -> LoadedStudent: ...
def load(
    path: str | Path, *, projectors: bool = False, num_heads: int | None = None
) -> Encoder | LoadedStudent:
    """The encoder of `path`, or with `projectors` the whole student; in eval mode, on the CPU.

    `path` is a run folder, a folder with encoder.safetensors (or that file), or a released UNIC
    or DUNE `.pth`, of which nothing is executed. `num_heads` is for `.pth` files whose heads are
    not 64 wide. ValueError, one sentence, for anything else.
    """
    if projectors:
        return load_student(path, num_heads=num_heads)
    return load_encoder(path, num_heads=num_heads)


def load_encoder(path: str | Path, *, num_heads: int | None = None) -> Encoder:
    """The encoder of a run, an exported folder or a released checkpoint; see `load`."""
    path = Path(path)
    if _is_released(path):
        released = load_released(path, num_heads=num_heads)
        encoder = build_encoder(released.student_spec.encoder)
        named = released.state_dict.items()
        state = {k.removeprefix("encoder."): v for k, v in named if k.startswith("encoder.")}
        return _fill(encoder, state, path)
    weights = _weights(path, "encoder")
    description = read_description(weights, "encoder")
    spec = _built_fresh(EncoderSpec.from_dict(description["encoder"]))
    return _fill(build_encoder(spec), read_described_tensors(weights, description), weights)


def is_encoder(path: str | Path) -> bool:
    """Whether `load` has something to open there; that it is sound shows only on loading."""
    path = Path(path)
    if path.is_dir():
        return (path / "encoder.safetensors").exists()
    return path.exists() and (_is_released(path) or path.suffix == ".safetensors")


def keeps_projectors(path: str | Path) -> bool:
    """Whether `load(path, projectors=True)` has a student to open."""
    path = Path(path)
    return (path / "student.safetensors").exists() or (path.exists() and _is_released(path))


def load_encoder_spec(path: str | Path, *, num_heads: int | None = None) -> EncoderSpec:
    """The description of a saved or released encoder; `num_heads` as for `load`."""
    path = Path(path)
    if _is_released(path):
        return load_released(path, num_heads=num_heads).student_spec.encoder
    description = read_description(_weights(path, "encoder"), "encoder")
    return EncoderSpec.from_dict(description["encoder"])


def load_terms(path: str | Path) -> tuple[Terms, ...]:
    """What those take over who learn from a saved encoder, as far as it was written down.

    Of a released `.pth`, which says nothing itself, what the authors of UNIC and DUNE state.
    """
    path = Path(path)
    if _is_released(path):
        return (Terms(path.stem, RELEASED_LICENCE),)
    info = read_description(_weights(path, "encoder"), "encoder").get("info") or {}
    if inherits := info.get("inherits"):
        return tuple(Terms.from_dict(terms) for terms in inherits)
    taught = info.get("teachers", {}).items()  # written by an earlier version
    return tuple(Terms(name, about.get("licence", "unknown")) for name, about in taught)


def load_student(path: str | Path, *, num_heads: int | None = None) -> LoadedStudent:
    """Encoder, projectors and statistics of a run or a released checkpoint; see `load`."""
    path = Path(path)
    if _is_released(path):
        released = load_released(path, num_heads=num_heads)
        student = _fill(build_student(released.student_spec), released.state_dict, path)
        kind: Kind = "running" if released.info["system"] == "unic" else "batch"
        standardizers = Standardizers.with_statistics(kind, released.statistics)
        return LoadedStudent(student, released.student_spec, standardizers, released.info)
    weights = _weights(path, "student")
    description = read_description(weights, "student")
    tensors = read_described_tensors(weights, description)
    spec = StudentSpec.from_dict(description["student"])
    state = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    fresh = build_student(replace(spec, encoder=_built_fresh(spec.encoder)))
    buffers = {
        k.removeprefix("statistics."): v for k, v in tensors.items() if k.startswith("statistics.")
    }
    empty = Standardizers(description["standardize"], Standardizers.shapes_of(buffers))
    standardizers = _fill(empty, buffers, weights)
    return LoadedStudent(_fill(fresh, state, weights), spec, standardizers, description["info"])


def save_encoder(
    folder: str | Path,
    encoder: nn.Module,
    spec: EncoderSpec,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write encoder.safetensors and encoder.json; `extra` goes into the JSON as "info"."""
    write_described(
        Path(folder),
        "encoder",
        encoder.state_dict(),
        {"encoder": dataclasses.asdict(spec), "info": dict(extra or {})},
    )


def save_student(
    folder: str | Path,
    student: Student,
    spec: StudentSpec,
    standardizers: Standardizers,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write student.safetensors (weights and statistics) and student.json."""
    tensors = {f"model.{name}": tensor for name, tensor in student.state_dict().items()}
    tensors |= {f"statistics.{k}": v for k, v in standardizers.state_dict().items()}
    description = {
        "student": spec.to_dict(),
        "standardize": standardizers.kind,
        "info": dict(extra or {}),
    }
    write_described(Path(folder), "student", tensors, description)


def _weights(path: Path, stem: Stem) -> Path:
    """The safetensors file that `path` is or holds; ValueError if there is none."""
    if path.name == f"{stem}.json":
        path = path.parent
    if path.is_dir():
        weights = path / f"{stem}.safetensors"
        if weights.exists():
            return weights
        if stem == "student" and (path / "encoder.safetensors").exists():
            raise ValueError(f"{path} keeps no projectors, only its encoder can be loaded")
        raise ValueError(
            f"{path} holds no {weights.name}: it is no finished run and no exported {stem}"
        )
    if not path.exists():
        raise ValueError(f"there is nothing at {path}")
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path} is no run folder, no .safetensors file of alumnus and no released .pth"
        )
    return path


def _is_released(path: Path) -> bool:
    return path.suffix in RELEASED_SUFFIXES and not path.is_dir()


def _built_fresh(spec: EncoderSpec) -> EncoderSpec:
    """The spec without the download of weights that are overwritten anyway."""
    return replace(spec, pretrained=False)


def _fill(module: M, state: Mapping[str, Tensor], path: Path) -> M:
    """The module with these weights, strictly, in eval mode."""
    return fill(module, state, what=f"the weights in {path}")
