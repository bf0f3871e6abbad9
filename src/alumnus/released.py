"""Released UNIC and DUNE checkpoints (`.pth`), read without executing anything from them."""

import argparse
import ast
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from alumnus.encoders.conversion import (
    encoder_from_reference,
    encoder_name_from_reference,
    encoder_to_reference,
    infer_encoder_spec,
    strip_wrappers,
)
from alumnus.pickles import load_pickle
from alumnus.projectors import ProjectorSpec
from alumnus.student import Student, StudentSpec, build_student
from alumnus.tokens import TOKEN_TYPES, TokenType

__all__ = [
    "ReleasedCheckpoint",
    "Statistics",
    "load_released",
    "name_from_reference",
    "read_reference_state",
    "student_from_reference_state",
    "student_to_reference",
]

System = Literal["unic", "dune"]
Statistics = dict[str, dict[TokenType, tuple[Tensor, Tensor]]]  # teacher, type: mean [D], std [D]


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """A released student in our terms."""

    student_spec: StudentSpec
    state_dict: dict[str, Tensor]  # of the Student, our names
    statistics: Statistics
    info: dict[str, Any]  # "system" (unic or dune), "progress" (epochs or steps), "args"


def load_released(path: str | Path, *, num_heads: int | None = None) -> ReleasedCheckpoint:
    """Read a UNIC or DUNE `.pth`; ValueError, one sentence, if it is anything else.

    Sizes come from the tensors, so an arch name that nobody knows does no harm; `num_heads`
    is needed only where heads are not 64 wide and the file does not tell.
    """
    checkpoint = load_pickle(path)
    if not isinstance(checkpoint, Mapping) or not isinstance(checkpoint.get("model"), Mapping):
        raise ValueError(f"{path} is not a UNIC or DUNE checkpoint: it holds no 'model'")
    args = (
        vars(checkpoint["args"]) if isinstance(checkpoint.get("args"), argparse.Namespace) else {}
    )
    options = {key: _literal(args.get(key)) for key in ("proj_args", "dune_args")}
    projector_heads = options["proj_args"].get("num_heads")
    try:
        released = read_reference_state(
            checkpoint["model"],
            num_heads=num_heads or projector_heads,  # DUNE's projectors have the encoder's heads
            projector_heads=projector_heads,
            projector_scale=options["proj_args"].get("scale", 1.0),
            apply_last_norm=options["dune_args"].get("last_enc_norm", False),
            statistics=checkpoint.get("teacher_ft_stats"),
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    released.info["progress"] = checkpoint.get("epoch", checkpoint.get("iter"))
    released.info["args"] = {key: value for key, value in args.items() if _is_plain(value)}
    return released


def read_reference_state(
    state: Mapping[str, Tensor],  # reference names, `module.` and `_orig_mod.` allowed
    *,
    num_heads: int | None = None,
    projector_heads: int | None = None,  # DUNE; None: the encoder's
    projector_scale: float = 1.0,  # DUNE, where it is not a parameter; 0 means one there
    apply_last_norm: bool = False,  # DUNE's `last_enc_norm`
    statistics: Mapping[str, Mapping[str, Mapping[str, Tensor]]] | None = None,  # UNIC
) -> ReleasedCheckpoint:
    """A student in the reference layout, in our terms; every size comes from the tensors."""
    bare = strip_wrappers(state)
    encoder = encoder_from_reference(_under(bare, "encoder."))
    encoder_spec = infer_encoder_spec(encoder, num_heads=num_heads)
    system: System = "unic" if any(name.startswith("lp.heads.") for name in bare) else "dune"
    assert encoder_spec.depth is not None, "inferred specs state their depth"
    found = _dune_statistics(bare) if statistics is None else _flat_statistics(statistics)
    if system == "unic":
        projectors = _ladder_specs(_under(bare, "lp.heads."), depth=encoder_spec.depth)
    else:
        projectors = _transformer_specs(
            _under(bare, "projectors."),
            statistics=found,
            num_heads=projector_heads,
            scale=projector_scale,
            apply_last_norm=apply_last_norm,
        )
    ours = {
        name_from_reference(name): tensor
        for name, tensor in bare.items()
        if not name.startswith("teacher_norms.")
    }
    spec = StudentSpec(encoder=encoder_spec, projectors=projectors)
    return ReleasedCheckpoint(spec, ours, found, {"system": system})


def student_from_reference_state(state: Mapping[str, Tensor], **options: Any) -> Student:
    """The Student of a reference state, its weights loaded strictly.

    `options` are those of `read_reference_state`.
    """
    released = read_reference_state(state, **options)
    student = build_student(released.student_spec)
    student.load_state_dict(released.state_dict)
    return student


def name_from_reference(name: str) -> str:
    """Our name of a tensor or parameter of a UNIC or DUNE student.

    >>> name_from_reference("lp.heads.dino.cls.3.layers.2.bias")
    'projectors.dino.heads.cls.3.2.bias'
    """
    if name.startswith("encoder."):
        return f"encoder.{encoder_name_from_reference(name.removeprefix('encoder.'))}"
    if match := re.fullmatch(r"lp\.heads\.([^.]+)\.(\w+)\.(\d+)\.layers\.(.+)", name):
        return "projectors.{}.heads.{}.{}.{}".format(*match.groups())
    if match := re.fullmatch(r"projectors\.([^.]+)\.(.+)", name):
        return f"projectors.{match[1]}.{re.sub('^blocks[.]', 'layers.', match[2])}"
    raise ValueError(f"{name!r} is no tensor of a UNIC or DUNE student")


def student_to_reference(
    state: Mapping[str, Tensor], statistics: Statistics, *, block_chunks: int = 1
) -> dict[str, Any]:
    """A student in the reference layout: `model` and, for ladders, `teacher_ft_stats`.

    The inverse of `read_reference_state`; a student of ladders becomes a UNIC checkpoint, one
    of transformer projectors a DUNE checkpoint.
    """
    encoder = encoder_to_reference(_under(state, "encoder."), block_chunks=block_chunks)
    model: OrderedDict[str, Tensor] = OrderedDict((f"encoder.{k}", v) for k, v in encoder.items())
    for name, tensor in _under(state, "projectors.").items():
        if match := re.fullmatch(r"([^.]+)\.heads\.(\w+)\.(\d+)\.(.+)", name):
            model["lp.heads.{}.{}.{}.layers.{}".format(*match.groups())] = tensor
        else:
            model[f"projectors.{re.sub('[.]layers[.]', '.blocks.', name, count=1)}"] = tensor
    if any(name.startswith("lp.") for name in model):
        return {"model": model, "teacher_ft_stats": _unic_statistics(statistics)}
    for teacher, types in statistics.items():
        for token_type, (mean, std) in types.items():
            model[f"teacher_norms.{teacher}.normalizers.{token_type}.mean"] = mean
            model[f"teacher_norms.{teacher}.normalizers.{token_type}.std"] = std
    return {"model": model}


def _ladder_specs(heads: Mapping[str, Tensor], *, depth: int) -> dict[str, ProjectorSpec]:
    """One ladder per teacher of `<teacher>.<type>.<block>.layers.<j>.<weight|bias>`."""
    specs: dict[str, ProjectorSpec] = {}
    for teacher in dict.fromkeys(name.partition(".")[0] for name in heads):
        own = _under(heads, f"{teacher}.")
        types = tuple(t for t in TOKEN_TYPES if any(name.startswith(f"{t}.") for name in own))
        rungs = _under(own, f"{types[0]}.")
        blocks = sorted({int(name.partition(".")[0]) for name in rungs})
        options: dict[str, Any] = {}
        for block in blocks:
            layers = _under(rungs, f"{block}.layers.")
            weights = {int(k.partition(".")[0]): v for k, v in layers.items() if "weight" in k}
            first = next(j for j in sorted(weights) if weights[j].ndim == 2)
            options["last_hidden_dim" if block == depth - 1 else "hidden_dim"] = len(weights[first])
            options["prenorm"], options["midnorm"] = first > 0, first + 1 in weights
            dim = len(weights[max(weights)])
        if blocks != list(range(depth)):
            options["blocks"] = blocks
        specs[teacher] = ProjectorSpec(kind="ladder", dim=dim, token_types=types, options=options)
    return specs


def _transformer_specs(
    projectors: Mapping[str, Tensor],
    *,
    statistics: Statistics,
    num_heads: int | None,
    scale: float,
    apply_last_norm: bool,
) -> dict[str, ProjectorSpec]:
    """One transformer projector per teacher; its token types are those with statistics."""
    specs: dict[str, ProjectorSpec] = {}
    for teacher in dict.fromkeys(name.partition(".")[0] for name in projectors):
        own = _under(projectors, f"{teacher}.")
        dim, width = own["linear.weight"].shape
        options: dict[str, Any] = {
            "num_blocks": 1 + max(int(k.split(".")[1]) for k in own if k.startswith("blocks.")),
            "mlp_ratio": len(own["blocks.0.mlp.fc1.weight"]) / width,
            "layer_scale": 1e-4 if "blocks.0.ls1.gamma" in own else None,
            "qkv_bias": "blocks.0.attn.qkv.bias" in own,
            "norm_affine": "blocks.0.norm1.weight" in own,
            "scale": "learned" if "scale" in own else scale,
            "apply_last_norm": apply_last_norm,
        }
        if num_heads is not None:
            options["num_heads"] = num_heads
        types = tuple(t for t in TOKEN_TYPES if t in statistics.get(teacher, TOKEN_TYPES))
        specs[teacher] = ProjectorSpec(
            kind="transformer", dim=dim, token_types=types, options=options
        )
    return specs


def _flat_statistics(statistics: Mapping[str, Mapping[str, Mapping[str, Tensor]]]) -> Statistics:
    """UNIC's `teacher_ft_stats`: means and deviations [1, D] or [1, 1, D], flattened."""
    return {
        teacher: {
            t: (types[t]["mean"].flatten(), types[t]["std"].flatten())
            for t in TOKEN_TYPES
            if t in types
        }
        for teacher, types in statistics.items()
    }


def _unic_statistics(statistics: Statistics) -> dict[str, dict[str, dict[str, Tensor]]]:
    """The inverse of `_flat_statistics`."""
    lead: dict[TokenType, tuple[int, ...]] = {"cls": (1, -1), "patch": (1, 1, -1)}
    return {
        teacher: {
            t: {"mean": mean.view(lead[t]), "std": std.view(lead[t])}
            for t, (mean, std) in types.items()
        }
        for teacher, types in statistics.items()
    }


def _dune_statistics(state: Mapping[str, Tensor]) -> Statistics:
    """DUNE's `teacher_norms.<teacher>.normalizers.<type>.<mean|std>` buffers."""
    norms = _under(state, "teacher_norms.")
    found: Statistics = {}
    for name in norms:
        teacher, _, token_type, _ = name.split(".")
        prefix = f"{teacher}.normalizers.{token_type}"
        for t in TOKEN_TYPES:
            if t == token_type:
                found.setdefault(teacher, {})[t] = (norms[f"{prefix}.mean"], norms[f"{prefix}.std"])
    return found


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _literal(value: object) -> dict[str, Any]:
    """A dict, or the dict that a string spells; never evaluated, {} if it is neither."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return {}
    return dict(value) if isinstance(value, dict) else {}


def _is_plain(value: object) -> bool:
    """Whether JSON could hold it."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    return value is None or type(value) in (str, int, float, bool)
