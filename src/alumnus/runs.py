"""A finished run, an exported encoder or a released checkpoint: load it in one line.

Encoders and students are saved as safetensors with a JSON description beside them; the JSON
holds the SHA-256 of the weights, so a half-replaced or damaged pair is noticed.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, overload

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from alumnus.encoders import Encoder, EncoderSpec, build_encoder
from alumnus.released import Statistics, load_released
from alumnus.student import Student, StudentSpec, build_student
from alumnus.tokens import TOKEN_TYPES

__all__ = [
    "LoadedStudent",
    "load",
    "load_encoder",
    "load_encoder_spec",
    "load_student",
    "save_encoder",
    "save_student",
]

M = TypeVar("M", bound=nn.Module)
Stem = Literal["encoder", "student"]
RELEASED_SUFFIXES = (".pth", ".pt", ".bin")


@dataclass(frozen=True)
class LoadedStudent:
    """A student with everything its predictions need to be read in the teachers' spaces."""

    student: Student
    spec: StudentSpec
    statistics: Statistics  # teacher, token type: mean and std [D] of its standardisation
    info: dict[str, Any]  # whatever was saved besides, such as "system" of released files


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

    `path` is a run folder, a folder with encoder.safetensors and encoder.json (or one of these
    files), or a released UNIC or DUNE `.pth`, of which nothing is executed. `num_heads` is for
    `.pth` files whose heads are not 64 wide. ValueError, one sentence, for anything else.
    """
    if projectors:
        return load_student(path, num_heads=num_heads)
    return load_encoder(path, num_heads=num_heads)


def load_encoder(path: str | Path, *, num_heads: int | None = None) -> Encoder:
    """The encoder of a run, an exported folder or a released checkpoint; see `load`."""
    path = Path(path)
    if _is_released(path):
        return load_student(path, num_heads=num_heads).student.encoder
    folder = _folder(path)
    description, state = _read(folder, "encoder")
    spec = _built_fresh(EncoderSpec.from_dict(description["encoder"]))
    return _filled(build_encoder(spec), state, folder)


def load_encoder_spec(folder: str | Path) -> EncoderSpec:
    """The description of a saved encoder, without its weights."""
    description = _read_json(Path(folder) / "encoder.json")
    return EncoderSpec.from_dict(description["encoder"])


def load_student(path: str | Path, *, num_heads: int | None = None) -> LoadedStudent:
    """Encoder, projectors and statistics of a run or a released checkpoint; see `load`."""
    path = Path(path)
    if _is_released(path):
        released = load_released(path, num_heads=num_heads)
        student = _filled(build_student(released.student_spec), released.state_dict, path)
        return LoadedStudent(student, released.student_spec, released.statistics, released.info)
    folder = _folder(path)
    if not (folder / "student.json").exists():
        raise ValueError(
            f"{path} holds no student.json: its projectors were not kept, only the encoder can "
            "be loaded"
        )
    description, tensors = _read(folder, "student")
    spec = StudentSpec.from_dict(description["student"])
    state = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    fresh = build_student(replace(spec, encoder=_built_fresh(spec.encoder)))
    statistics: Statistics = {}
    for name in tensors:
        for t in TOKEN_TYPES:
            if name.startswith("statistics.") and name.endswith(f".{t}.mean"):
                stem = name.removesuffix(".mean")
                pair = (tensors[name], tensors[f"{stem}.std"])
                statistics.setdefault(name.split(".")[1], {})[t] = pair
    return LoadedStudent(_filled(fresh, state, folder), spec, statistics, description["info"])


def save_encoder(
    folder: str | Path,
    encoder: nn.Module,
    spec: EncoderSpec,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write encoder.safetensors and encoder.json; `extra` goes into the JSON as "info"."""
    _write(
        Path(folder),
        "encoder",
        encoder.state_dict(),
        {"encoder": dataclasses.asdict(spec), "info": dict(extra or {})},
    )


def save_student(
    folder: str | Path,
    student: Student,
    spec: StudentSpec,
    statistics: Statistics,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write student.safetensors (weights and statistics) and student.json."""
    tensors = {f"model.{name}": tensor for name, tensor in student.state_dict().items()}
    for teacher, types in statistics.items():
        for token_type, (mean, std) in types.items():
            tensors[f"statistics.{teacher}.{token_type}.mean"] = mean
            tensors[f"statistics.{teacher}.{token_type}.std"] = std
    description = {"student": spec.to_dict(), "info": dict(extra or {})}
    _write(Path(folder), "student", tensors, description)


def _write(
    folder: Path, stem: Stem, tensors: Mapping[str, Tensor], description: dict[str, Any]
) -> None:
    """Weights first, then the JSON with their hash; each by fsync and rename."""
    folder.mkdir(parents=True, exist_ok=True)
    weights, text = folder / f"{stem}.safetensors", folder / f"{stem}.json"
    temporary = weights.with_suffix(".safetensors.tmp")
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, temporary)
    description = {**description, "sha256": _sha256(temporary)}
    _replace(temporary, weights)
    temporary = text.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(description, indent=1) + "\n")
    _replace(temporary, text)


def _replace(temporary: Path, final: Path) -> None:
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(final)


def _read(folder: Path, stem: Stem) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors; ValueError where one is missing or they do not match."""
    description = _read_json(folder / f"{stem}.json")
    weights = folder / f"{stem}.safetensors"
    try:
        if description.get("sha256") not in (None, _sha256(weights)):
            raise ValueError(f"{weights} is damaged: its hash is not the one in {stem}.json")
        return description, load_file(weights)
    except FileNotFoundError:
        raise ValueError(f"{folder} holds {stem}.json but no {stem}.safetensors") from None
    except SafetensorError as error:
        raise ValueError(f"{weights} is damaged: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(
            f"{path.parent} holds no {path.name}: it is no finished run and no exported encoder"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict) or path.stem not in values:
        raise ValueError(f"{path} does not describe an alumnus {path.stem}")
    return cast(dict[str, Any], values)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_released(path: Path) -> bool:
    return path.suffix in RELEASED_SUFFIXES and not path.is_dir()


def _folder(path: Path) -> Path:
    """The folder that `path` is or lies in; ValueError if there is nothing to load."""
    if path.is_dir():
        return path
    if path.name in ("encoder.safetensors", "encoder.json") and path.exists():
        return path.parent
    if path.exists():
        raise ValueError(
            f"{path} is no run folder, no encoder.safetensors and no released .pth checkpoint"
        )
    raise ValueError(f"there is nothing at {path}")


def _built_fresh(spec: EncoderSpec) -> EncoderSpec:
    """The spec without the download of weights that are overwritten anyway."""
    return replace(spec, pretrained=False)


def _filled(module: M, state: Mapping[str, Tensor], path: Path) -> M:
    """The module with these weights, strictly, in eval mode."""
    ours = module.state_dict()
    differing = {k for k in ours.keys() & state.keys() if ours[k].shape != state[k].shape}
    if wrong := sorted(differing | (ours.keys() ^ state.keys())):
        raise ValueError(
            f"the weights in {path} do not fit their description: {len(wrong)} tensors are "
            f"missing, too many or of another shape, {wrong[0]!r} first"
        )
    module.load_state_dict(state)
    return module.eval()
