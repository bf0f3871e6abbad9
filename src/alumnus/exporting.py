"""Encoders as the files of others: `alumnus export`."""

import copy
import importlib.util
import json
import math
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import timm
import torch
from timm.models import save_for_hf
from torch import Tensor, nn

from alumnus.encoders import Encoder, EncoderSpec, TimmEncoder
from alumnus.export import to_timm
from alumnus.images import renormalise
from alumnus.licences import Terms, sentences
from alumnus.runs import load_encoder, load_encoder_spec, load_terms, save_encoder
from alumnus.spelling import unknown

__all__ = ["FORMATS", "ExportFormat", "Exported", "check_export", "export_encoder"]

ExportFormat = Literal["timm", "onnx", "alumnus"]
FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)
ONNX_FILE = "model.onnx"
ONNX_BYTES = 1_800_000_000  # weights beyond go into a file of their own: one holds 2 GB
WRITTEN = (  # by any format
    "config.json",
    "encoder.json",
    "encoder.safetensors",
    "licences.txt",
    "model.safetensors",
    ONNX_FILE,
    f"{ONNX_FILE}.data",
)
LARGEST = 1e-3  # difference of a feature, in standard deviations of all, of an export that is right


@dataclass(frozen=True)
class Exported:
    """What was written, and how far it is from the encoder."""

    folder: Path
    files: tuple[str, ...]
    difference: float  # largest of any token, in standard deviations of all
    how: str  # to load it
    terms: tuple[Terms, ...]

    def __str__(self) -> str:
        apart = f" within {self.difference:.0e} of a token's deviation" if self.difference else ""
        return "\n".join(
            [
                f"{self.folder}: {', '.join(self.files)}; equal to the encoder{apart}",
                *(f"licences  {sentence}" for sentence in sentences(self.terms)),
                "",
                self.how,
            ]
        )


def check_export(out: Path, to: str, *, overwrite: bool) -> ExportFormat:
    """The format; ValueError where it is none, lacks a package, or the folder is in use."""
    chosen = next((known for known in FORMATS if known == to), None)
    if chosen is None:
        raise unknown("format", to, FORMATS)
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if not _is_there(name)]
    if chosen == "onnx" and missing:
        raise ValueError(f"ONNX export needs {', '.join(missing)}: pip install 'alumnus[onnx]'")
    if out.is_file():
        raise ValueError(f"{out} is a file: an export is a folder")
    held = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if held and not overwrite:
        raise ValueError(f"{out} is not empty: add --overwrite, or choose another folder")
    if foreign := [name for name in held if name not in WRITTEN]:
        raise ValueError(
            f"{out} holds {foreign[0]!r}, which no export wrote, so it is not replaced: choose "
            "another folder"
        )
    return chosen


def export_encoder(
    path: str | Path,
    out: Path,
    to: ExportFormat,
    *,
    size_px: int | None = None,  # of ONNX's images; None: the encoder's own
    num_heads: int | None = None,  # of a `.pth` whose heads are not 64 wide
) -> Exported:
    """Write the encoder of `path` (as `load` takes it) into the folder `out`.

    What is written is opened again and compared, for one, two and three images, before any file is
    there. ValueError where the format cannot hold the encoder, or the size does not suit it.
    """
    path, out = Path(path).expanduser(), out.resolve()
    if out in (path.resolve(), path.resolve().parent):
        raise ValueError(f"{out} is where the encoder is: choose another folder")
    terms = load_terms(path) or (Terms(path.name, "unknown"),)
    spec = load_encoder_spec(path, num_heads=num_heads)
    held = _Held(load_encoder(path, num_heads=num_heads), spec, terms)
    encoder = held.encoder
    size = size_px or spec.image_size
    if size % encoder.patch_size:
        raise ValueError(
            f"images of {size} px do not divide into patches of {encoder.patch_size} px"
        )
    if to != "onnx" and size != spec.image_size:
        raise ValueError(f"a size is for ONNX; {to} models are told theirs when they are loaded")
    draws = torch.Generator().manual_seed(0)
    images = torch.randn(3, spec.in_channels, size, size, generator=draws)
    was_there = out.is_dir()
    out.mkdir(parents=True, exist_ok=True)
    try:
        files, difference = _write(held, out, to, images)
    except BaseException:
        if not was_there:
            with suppress(OSError):
                out.rmdir()
        raise
    channels = "ImageNet-normalised" if spec.in_channels == 3 else "as the student saw them"
    shape = f"[B, {spec.in_channels}, {size}, {size}] float32, {channels}"
    return Exported(out, files, difference, HOW[to].format(folder=out, shape=shape), terms)


def _write(
    held: "_Held", out: Path, to: ExportFormat, images: Tensor
) -> tuple[tuple[str, ...], float]:
    """The files, in a folder that is there, and how far they are from the encoder."""
    with tempfile.TemporaryDirectory(prefix=".export.", dir=out) as made:
        folder = Path(made)
        again = WRITERS[to](held, folder, images[:2])
        difference = max(_apart(again, held.encoder, images[:count]) for count in (1, 2, 3))
        if not difference < LARGEST:
            raise ValueError(
                f"the export is not equal to the encoder: tokens differ by {difference:.1e} of "
                "their standard deviation; nothing was written"
            )
        (folder / "licences.txt").write_text("\n".join(sentences(held.terms)) + "\n")
        files = tuple(sorted(file.name for file in folder.iterdir()))
        for name in files:
            (folder / name).replace(out / name)
        for name in set(WRITTEN) - set(files):  # of an export that this one replaces
            (out / name).unlink(missing_ok=True)
    return files, difference


def _apart(again: "Again", encoder: Encoder, images: Tensor) -> float:
    """The largest difference of a token, in standard deviations; not finite where shapes differ."""
    expected, found = _tokens(encoder, images), again(images)
    if found.shape != expected.shape:
        return math.inf
    return float((found - expected).abs().max() / expected.std())


HOW = {
    "timm": 'model = timm.create_model("local-dir:{folder}", pretrained=True)\n'
    "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n"
    'model = transformers.AutoModel.from_pretrained("{folder}")  # or',
    "onnx": 'session = onnxruntime.InferenceSession("{folder}/model.onnx")\n'
    'session.run(None, {{"images": images}})  # {shape}',
    "alumnus": 'encoder = alumnus.load("{folder}")',
}

Again = Callable[[Tensor], Tensor]  # images to tokens, by what was written


class _Held(NamedTuple):
    encoder: Encoder
    spec: EncoderSpec
    terms: tuple[Terms, ...]


def _tokens(encoder: nn.Module, images: Tensor) -> Tensor:  # [B, tokens, D]
    with torch.inference_mode():
        return torch.cat([_3d(x) for x in _outputs(encoder, images).values()], dim=1)


def _outputs(encoder: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """[CLS] [B, D] and patches [B, N, D], each where there is such."""
    final = encoder(images).final
    named = {"cls": final.cls, "patches": final.patches}
    return {name: x for name, x in named.items() if x is not None}


def _3d(tokens: Tensor) -> Tensor:
    return tokens.unsqueeze(1) if tokens.ndim == 2 else tokens


def _write_alumnus(held: _Held, folder: Path, _: Tensor) -> Again:
    inherits = [asdict(terms) for terms in held.terms]
    save_encoder(folder, held.encoder, held.spec, {"inherits": inherits})
    again = load_encoder(folder)
    return lambda images: _tokens(again, images)


def _write_timm(held: _Held, folder: Path, _: Tensor) -> Again:
    spec, export = held.spec, to_timm(held.encoder, held.spec)
    model: Any = timm.create_model(export.name, **export.kwargs)
    model.load_state_dict(export.state_dict)
    looks = {
        "input_size": (spec.in_channels, spec.image_size, spec.image_size),
        "mean": spec.mean,
        "std": spec.std,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
    }
    save_for_hf(
        model,
        str(folder),
        model_args=export.kwargs,
        model_config={"pretrained_cfg": looks},
        safe_serialization=True,
    )
    described = json.loads((folder / "config.json").read_text())
    described["model_args"].pop("num_classes", None)  # stands above too; transformers adds it
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")
    # as others may read it who may read that: safetensors gives its files to their owner alone
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)
    again: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    if isinstance(held.encoder, TimmEncoder):
        twin = copy.deepcopy(held.encoder)
        twin.model = again
        return lambda images: _tokens(twin, images)

    def tokens(images: Tensor) -> Tensor:
        with torch.inference_mode():
            seen = renormalise(images, mean=spec.mean, std=spec.std)
            found: Tensor = again.forward_features(seen)
        return torch.cat([found[:, :1], found[:, 1 + spec.registers :]], dim=1)

    return tokens


class _Outputs(nn.Module):
    """What an ONNX file gives."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(_outputs(self.encoder, images).values())


def _write_onnx(held: _Held, folder: Path, images: Tensor) -> Again:
    import onnxruntime

    names = list(_outputs(held.encoder, images))
    weights = sum(p.nbytes for p in held.encoder.parameters())
    with warnings.catch_warnings(action="ignore"):  # about the exporter's own insides
        torch.onnx.export(
            _Outputs(held.encoder).eval(),
            (images,),
            str(folder / ONNX_FILE),
            input_names=["images"],
            output_names=names,
            dynamic_shapes=({0: torch.export.Dim.AUTO},),
            external_data=weights > ONNX_BYTES,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(str(folder / ONNX_FILE))

    def tokens(images: Tensor) -> Tensor:
        try:
            found = session.run(names, {"images": images.numpy()})
        except Exception as error:  # the library's own, of no common kind
            raise ValueError(
                f"the ONNX network cannot take {len(images)} images, so the encoder's code depends "
                f"on their number ({str(error).splitlines()[0]}); nothing was written"
            ) from error
        return torch.cat([_3d(torch.from_numpy(x)) for x in found], dim=1)

    return tokens


WRITERS: dict[ExportFormat, Callable[[_Held, Path, Tensor], Again]] = {
    "timm": _write_timm,
    "onnx": _write_onnx,
    "alumnus": _write_alumnus,
}


def _is_there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
