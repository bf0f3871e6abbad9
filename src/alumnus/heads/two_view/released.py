"""Released MASt3R and DUNE-MASt3R checkpoints, read without executing anything from them."""

import argparse
import ast
import dataclasses
import re
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alumnus import hub
from alumnus.encoders import VIT_SIZES, CrocoEncoder, Encoder
from alumnus.encoders.conversion import strip_wrappers
from alumnus.encoders.croco import croco_from_released, infer_croco_spec
from alumnus.heads.two_view.head import TwoViewHead
from alumnus.heads.two_view.network import TwoViewNetwork
from alumnus.heads.two_view.predictions import ConfidenceRange
from alumnus.heads.two_view.spec import TwoViewSpec
from alumnus.pickles import load_pickle
from alumnus.strict import fill

__all__ = [
    "Released",
    "build_dune_mast3r",
    "build_mast3r",
    "infer_two_view_spec",
    "load_dune_mast3r",
    "load_mast3r",
    "load_mast3r_encoder",
    "read_mast3r",
]

HALF = (0.5, 0.5, 0.5)  # mean and std of the images that MASt3R's weights see
DUNE_PX = 518  # long side of photographs for DUNE-MASt3R
HEAD_WIDTH = 64  # channels, of every published model; the tensors do not tell
UNLIMITED = ("exp", -inf, inf)  # points of any length
ENCODER = ("patch_embed.", "enc_blocks.", "enc_norm.")  # in DUNE-MASt3R stored without use
UNUSED = re.compile(
    r"mask_token"  # of pre-training
    r"|downstream_head[12]\.dpt\.scratch\.refinenet4\.resConfUnit1\..*"  # of the coarsest level
)
DUNE_NAME = re.compile(r"dune_vit(?P<size>small|base|large)_?(?P<patch>\d+)_(?P<px>\d+).*")
ALIAS = re.compile(r"(downstream_head[12]\.dpt\.scratch\.)layer([1-4])_rn\.weight")


class Released(NamedTuple):
    """A checkpoint: its tensors, and the arguments of the call that once built the model."""

    file: Path
    state: dict[str, Tensor]
    settings: dict[str, Any]  # empty where the file does not tell
    encoder: str | None = None  # the name of the one that it stands on, where it holds none

    @property
    def is_dune(self) -> bool:
        """Whether it is DUNE-MASt3R, which holds no encoder."""
        return any(name.startswith("mast3r.") for name in self.state)


def load_mast3r(path: str | Path, *, num_heads: tuple[int, int] | None = None) -> TwoViewNetwork:
    """MASt3R: encoder, decoders and heads, in eval mode on the CPU.

    `path` is the authors' `.pth` or the `.safetensors` of their repository at Hugging Face, a URL
    or `hf:ORG/REPO/FILE`. Sizes come from the tensors; `num_heads` (of the encoder, of the
    decoders) is needed only where a head is not 64 wide and the file does not tell. ValueError,
    one sentence, for anything else.
    """
    return build_mast3r(read_mast3r(path), num_heads=num_heads)


def build_mast3r(released: Released, *, num_heads: tuple[int, int] | None = None) -> TwoViewNetwork:
    """As `load_mast3r`, of tensors that are read already."""
    if released.is_dune:
        raise ValueError(f"{released.file} is DUNE-MASt3R, which load_dune_mast3r reads")
    encoder = _encoder(released, None if num_heads is None else num_heads[0], mean=HALF, std=HALF)
    head = _head(
        released, None if num_heads is None else num_heads[1], encoder.patch_size, squares=False
    )
    return TwoViewNetwork(encoder, head).eval()


def load_mast3r_encoder(path: str | Path, *, num_heads: int | None = None) -> CrocoEncoder:
    """MASt3R's encoder alone, what DUNE has as a teacher; see `load_mast3r`.

    It takes images as its weights do, (x - 0.5) / 0.5: a teacher brings them there.
    """
    return _encoder(read_mast3r(path), num_heads)


def load_dune_mast3r(
    path: str | Path, encoder: Encoder, *, num_heads: int | None = None
) -> TwoViewNetwork:
    """DUNE-MASt3R: bridge, decoders and heads of a file on a DUNE encoder.

    The file holds no encoder but names the one it was trained on, which `alumnus.load` reads; the
    name is kept as `network.head.spec.encoder_name`. `num_heads` is that of the decoders; else as
    `load_mast3r`, and ValueError for an encoder that cannot be the one of that name.
    """
    return build_dune_mast3r(read_mast3r(path), encoder, num_heads=num_heads)


def build_dune_mast3r(
    released: Released, encoder: Encoder, *, num_heads: int | None = None
) -> TwoViewNetwork:
    """As `load_dune_mast3r`, of tensors that are read already."""
    if "norm.weight" not in released.state:
        raise ValueError(f"{released.file} is not DUNE-MASt3R: it holds no bridge 'norm.weight'")
    _check_named(released, encoder)
    state = {
        name.removeprefix("mast3r."): tensor
        for name, tensor in released.state.items()
        if not name.startswith(("dune_backbone.", "imagenet_"))
    }
    head = _head(
        released._replace(state=state),
        num_heads,
        encoder.patch_size,
        image_size=DUNE_PX,
        encoder_name=released.encoder,
    )
    return TwoViewNetwork(encoder, head).eval()


def infer_two_view_spec(
    state: Mapping[str, Tensor],  # our names
    *,
    patch_size: int,
    num_heads: int | None = None,  # None: 64 channels each
) -> TwoViewSpec:
    """The spec of the head these tensors belong to; ValueError for other tensors."""
    try:
        dim, encoder_dim = state["decoder_embed.weight"].shape
        hidden, joint = state["downstream_head1.head_local_features.fc1.weight"].shape
        described = len(state["downstream_head1.head_local_features.fc2.bias"])
        dpt = "downstream_head1.dpt.head.4.weight" in state
        sizes: dict[str, Any] = {"points": "linear"}
        if dpt:
            scratch = [f"downstream_head1.dpt.scratch.layer_rn.{k}.weight" for k in range(4)]
            sizes = {
                "points": "dpt",
                "dpt_levels": tuple(state[name].shape[1] for name in scratch),
                "dpt_dim": state[scratch[0]].shape[0],
                "dpt_last_dim": state["downstream_head1.dpt.head.4.weight"].shape[1],
            }
    except KeyError as error:
        raise ValueError(f"these are not the weights of MASt3R: no tensor {error}") from error
    if num_heads is None and dim % HEAD_WIDTH:
        raise ValueError(
            f"decoders of width {dim} have no standard number of heads and the file does not "
            "tell: pass num_heads"
        )
    return TwoViewSpec(
        encoder_dim=encoder_dim,
        patch_size=patch_size,
        bridge="norm.weight" in state,
        dim=dim,
        depth=len({name.split(".")[1] for name in state if name.startswith("dec_blocks.")}),
        num_heads=num_heads or dim // HEAD_WIDTH,
        desc_dim=described // patch_size**2 - 1,
        desc_hidden=None if hidden == 4 * joint else hidden,
        **sizes,
    )


def read_mast3r(path: str | Path) -> Released:
    """The checkpoint of a path, a URL or `hf:ORG/REPO/FILE`; ValueError for one of others."""
    file = hub.resolve_weights(path)
    assert file is not None, "a path was given"
    if file.suffix == ".safetensors":
        return Released(file, hub.read_state_dict(file), {})
    loaded = load_pickle(file)
    if not isinstance(loaded, Mapping) or not isinstance(loaded.get("model"), Mapping):
        raise ValueError(f"{file} is not a checkpoint of MASt3R: it holds no 'model'")
    args = loaded.get("args")
    call = args.model if isinstance(args, argparse.Namespace) and "model" in args else ""
    call = loaded.get("mast3r_model_str", call)
    named = loaded.get("dune_backbone_name")
    return Released(
        file,
        strip_wrappers(loaded["model"]),
        _arguments(str(call), file),
        None if named is None else str(named),
    )


def _check_named(released: Released, encoder: Encoder) -> None:
    """ValueError for an encoder of other sizes than those in the name that the file gives."""
    named = DUNE_NAME.fullmatch(released.encoder or "")
    if named is None:
        return
    asked = VIT_SIZES[f"vit_{named['size']}"].dim, int(named["patch"]), int(named["px"])
    given = encoder.dim, encoder.patch_size, encoder.image_size
    if given != asked:
        here, there = (f"width {w}, patches of {p} px at {s} px" for w, p, s in (given, asked))
        raise ValueError(
            f"{released.file} was trained on the encoder {released.encoder!r} ({there}), not on "
            f"one of {here}"
        )


def _arguments(call: str, file: Path) -> dict[str, Any]:
    """The keyword arguments of a written call, whose values are literals or `inf`."""
    if not call:
        return {}
    try:
        tree = ast.parse(re.sub(r"\binf\b", "1e999", call.strip()), mode="eval").body
        if not isinstance(tree, ast.Call):
            raise ValueError("not a call")
        return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in tree.keywords}
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{file} says it was built by {call!r}, which cannot be read") from error


def _encoder(released: Released, num_heads: int | None, **statistics: Any) -> CrocoEncoder:
    """`statistics`: mean and std of its images, where these come with ImageNet's."""
    state = croco_from_released(released.state)
    heads = num_heads or released.settings.get("enc_num_heads")
    try:
        spec = infer_croco_spec(state, num_heads=heads)
        _check_positions(released.settings)
    except ValueError as error:
        raise ValueError(f"{released.file}: {error}") from error
    with torch.device("meta"):  # no memory for weights that are replaced
        encoder = CrocoEncoder(dataclasses.replace(spec, **statistics))
    what = f"the encoder's weights in {released.file}"
    return fill(encoder, state, what=what, assign=True).float()


def _head(
    released: Released, num_heads: int | None, patch_size: int, **settings: Any
) -> TwoViewHead:
    """`settings`: fields of its spec that the tensors do not tell."""
    state = _used(released.state)
    heads = num_heads or released.settings.get("dec_num_heads")
    try:
        spec = infer_two_view_spec(state, patch_size=patch_size, num_heads=heads)
        spec = dataclasses.replace(spec, **_scales(released.settings), **settings)
        _check_positions(released.settings)
    except ValueError as error:
        raise ValueError(f"{released.file}: {error}") from error
    with torch.device("meta"):
        head = TwoViewHead(spec)
    what = f"the weights of decoders and heads in {released.file}"
    return fill(head, state, what=what, assign=True).float()


def _used(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of decoders and heads; of one that is stored under two names the second."""
    used: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith(ENCODER) or UNUSED.fullmatch(name):
            continue
        if match := ALIAS.fullmatch(name):
            name = f"{match[1]}layer_rn.{int(match[2]) - 1}.weight"
        used[name] = tensor
    return used


def _check_positions(settings: Mapping[str, Any]) -> None:
    positions = settings.get("pos_embed", "RoPE100")
    if positions != "RoPE100":
        raise ValueError(f"it was built with positions {positions!r}, but only 'RoPE100' is known")


def _scales(settings: Mapping[str, Any]) -> dict[str, Any]:
    """How raw numbers become points and confidences; nothing where the file does not tell."""
    if not settings:
        return {}
    if not settings.get("two_confs", False):
        raise ValueError("it gives points and descriptors one confidence, but only two are known")
    kind, *limits = settings.get("depth_mode", UNLIMITED)
    if tuple(limits) != UNLIMITED[1:]:
        raise ValueError(f"it limits the length of its points to {limits}, which is not known")
    conf = settings.get("conf_mode", ("exp", 1, inf))
    desc_conf = settings.get("desc_conf_mode", conf)
    return {"point_scale": kind, "conf": _range(conf), "desc_conf": _range(desc_conf)}


def _range(mode: Sequence[Any]) -> ConfidenceRange:
    rise, low, high = mode
    return ConfidenceRange(float(low), None if high == inf else float(high), rise)
