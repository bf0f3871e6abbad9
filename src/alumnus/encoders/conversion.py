"""Encoder weights between our names and those of UNIC, DUNE and DINOv2: pure functions.

The three share one layout: `register_tokens`, `mlp.w12` and `mlp.w3` of SwiGLU, and blocks
either flat (`blocks.<i>`) or in chunks (`blocks.<chunk>.<i>`, i counting through all chunks).
"""

import re
from collections.abc import Mapping

from torch import Tensor

from alumnus.encoders.positions import PosInterp, grid_side
from alumnus.encoders.spec import EncoderSpec
from alumnus.encoders.vit import swiglu_hidden

__all__ = [
    "encoder_from_reference",
    "encoder_name_from_reference",
    "encoder_to_reference",
    "infer_encoder_spec",
    "strip_wrappers",
]

HEAD_WIDTH = 64  # of every published ViT-T/S/B/L; the tensors do not tell
WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile


def strip_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state without the prefixes that DDP and torch.compile put in front of names."""

    def bare(name: str) -> str:
        while name.startswith(WRAPPERS):
            name = name.partition(".")[2]
        return name

    return {bare(name): tensor for name, tensor in state.items()}


def encoder_name_from_reference(name: str) -> str:
    """Our name of an encoder tensor.

    >>> encoder_name_from_reference("blocks.0.7.mlp.w12.weight")
    'blocks.7.mlp.fc1.weight'
    """
    name = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name)
    name = name.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.")
    return "reg_token" if name == "register_tokens" else name


def encoder_from_reference(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an encoder in the reference layout."""
    return {encoder_name_from_reference(name): tensor for name, tensor in state.items()}


def encoder_to_reference(
    state: Mapping[str, Tensor],
    *,
    block_chunks: int = 1,  # 1 as UNIC and DUNE save it, 0 (flat) as DINOv2 publishes it
) -> dict[str, Tensor]:
    """The inverse of `encoder_from_reference`."""
    gated = _is_gated(state)
    chunk = max(1, _depth(state) // max(1, block_chunks))

    def rename(name: str) -> str:
        if name == "reg_token":
            return "register_tokens"
        if gated:
            name = name.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3.")
        if block_chunks and (match := re.match(r"blocks\.(\d+)\.", name)):
            return f"blocks.{int(match[1]) // chunk}.{name.removeprefix('blocks.')}"
        return name

    return {rename(name): tensor for name, tensor in state.items()}


def infer_encoder_spec(
    state: Mapping[str, Tensor],  # our names
    *,
    num_heads: int | None = None,
    pos_interp: PosInterp = "offset",
    layer_scale: float = 1e-4,  # initial value to note where there is LayerScale
) -> EncoderSpec:
    """The spec of the ViT these tensors belong to.

    Only the number of heads cannot be read off: without qk-norm it is `num_heads`, else one
    per 64 channels; ValueError where that does not divide.
    """
    try:
        dim = state["cls_token"].shape[-1]
        patch = state["patch_embed.proj.weight"]
        side = grid_side(state["pos_embed"])
        fc1, fc2 = state["blocks.0.mlp.fc1.weight"], state["blocks.0.mlp.fc2.weight"]
    except KeyError as error:
        raise ValueError(f"these are not the weights of a ViT: no tensor {error}") from error
    if "blocks.0.attn.q_norm.weight" in state:
        num_heads = dim // state["blocks.0.attn.q_norm.weight"].shape[0]
    if num_heads is None and dim % HEAD_WIDTH:
        raise ValueError(
            f"an encoder of width {dim} has no standard number of heads and the file does not "
            "tell: pass num_heads"
        )
    gated, mean_pooled = _is_gated(state), "fc_norm.weight" in state
    ratio = fc1.shape[0] / dim
    if gated:
        ratio = 4.0 if swiglu_hidden(dim, 4.0) == fc2.shape[1] else 1.5 * fc2.shape[1] / dim
    return EncoderSpec(
        model="vit",
        image_size=side * patch.shape[-1],
        in_channels=patch.shape[1],
        patch_size=patch.shape[-1],
        dim=dim,
        depth=_depth(state),
        num_heads=num_heads or dim // HEAD_WIDTH,
        mlp_ratio=ratio,
        registers=state["reg_token"].shape[1] if "reg_token" in state else 0,
        layer_scale=layer_scale if "blocks.0.ls1.gamma" in state else None,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        proj_bias="blocks.0.attn.proj.bias" in state,
        ffn_bias="blocks.0.mlp.fc1.bias" in state,
        ffn="swiglu" if gated else "mlp",
        qk_norm="blocks.0.attn.q_norm.weight" in state,
        norm_affine="blocks.0.norm1.weight" in state,
        last_norm_affine=mean_pooled or "norm.weight" in state,
        mask_token="mask_token" in state,
        pos_interp=pos_interp,
        pre_norm="norm_pre.weight" in state,
        mean_pooled=mean_pooled,
    )


def _depth(state: Mapping[str, Tensor]) -> int:
    found = (re.match(r"blocks\.(\d+)\.", name) for name in state)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _is_gated(state: Mapping[str, Tensor]) -> bool:
    """Whether the feed-forward is SwiGLU: its first layer is twice as wide as its second."""
    fc1, fc2 = state["blocks.0.mlp.fc1.weight"], state["blocks.0.mlp.fc2.weight"]
    return fc1.shape[0] == 2 * fc2.shape[1]
