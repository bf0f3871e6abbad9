"""Export: our ViT as plain timm weights, for use without this package."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alumnus.encoders import Encoder, EncoderSpec, TimmEncoder, ViT
from alumnus.encoders.timm_models import timm_settings

__all__ = ["TimmExport", "to_timm"]

GATED_MODEL = "vit_giant_patch14_dinov2"  # timm's plain ViT with SwiGLU; widths are overridden


TIMM_EPS = 1e-6  # of its ViTs' norms


class TimmExport(NamedTuple):
    """`timm.create_model(name, **kwargs)` takes `state_dict` strictly."""

    name: str
    kwargs: dict[str, Any]
    state_dict: dict[str, Tensor]


def to_timm(encoder: Encoder, spec: EncoderSpec) -> TimmExport:
    """The encoder as a timm model with equal `forward_features` at its native size.

    Without registers the two layouts are the same. With registers timm gives none of the
    prefix tokens a position, so that of [CLS] is added into `cls_token`, for good: train on
    with the alumnus weights, not with these. At other sizes timm interpolates positions its own
    way (antialiased, no offset). Missing biases and LayerNorm weights become zeros and ones;
    the mask token is left out. The weights see images normalised with `spec.mean` and `spec.std`.
    ValueError for an encoder that timm cannot express.
    """
    if isinstance(encoder, TimmEncoder):
        state = {k.removeprefix("model."): v for k, v in encoder.state_dict().items()}
        return TimmExport(spec.model.removeprefix("timm:"), timm_settings(spec), state)
    if not isinstance(encoder, ViT):
        raise ValueError(f"only ViTs and timm models export to timm, not {spec.model!r}")
    foreign = {
        "a convolutional stem": spec.stem == "conv",
        "qk-norm of eps 1e-5": spec.qk_norm,
        "a norm before the blocks as CLIP's": spec.pre_norm,
        "[CLS] as a mean of patches": spec.mean_pooled,
        "another GELU": spec.activation != "gelu",
        "LayerNorms of another eps": spec.norm_eps != TIMM_EPS,
    }
    if what := [name for name, has in foreign.items() if has]:
        raise ValueError(
            f"timm's ViT cannot express {what[0]}: write ONNX, or go on with the alumnus weights"
        )
    state = {k: v.detach().clone() for k, v in encoder.state_dict().items() if k != "mask_token"}
    if spec.registers:
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:]
    return TimmExport(
        _base_name(encoder, spec), _kwargs(encoder, spec), _with_defaults(encoder, spec, state)
    )


def _base_name(encoder: ViT, spec: EncoderSpec) -> str:
    """The timm model whose settings are overridden least."""
    if spec.ffn == "swiglu":
        return GATED_MODEL
    size = {192: "tiny", 384: "small", 1024: "large"}.get(encoder.dim, "base")
    return f"vit_{size}_patch16_224"


def _kwargs(encoder: ViT, spec: EncoderSpec) -> dict[str, Any]:
    hidden = encoder.state_dict()["blocks.0.mlp.fc1.weight"].shape[0]
    return {
        "img_size": spec.image_size,
        "patch_size": spec.patch_size,
        "in_chans": spec.in_channels,
        "embed_dim": encoder.dim,
        "depth": encoder.depth,
        "num_heads": encoder.num_heads,
        "mlp_ratio": hidden / encoder.dim,
        "init_values": spec.layer_scale or (1.0 if spec.ffn == "swiglu" else None),
        "reg_tokens": spec.registers,
        "no_embed_class": bool(spec.registers),
        "num_classes": 0,
        "global_pool": "token",
    }


def _with_defaults(
    encoder: ViT, spec: EncoderSpec, state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The biases and LayerNorm weights that timm always has, where ours were switched off."""
    full = dict(state)
    channels = state["cls_token"][0, 0]  # [D]
    for name, _ in encoder.named_modules():
        last = name.rpartition(".")[2]
        if last in ("qkv", "proj", "fc1", "fc2") and name.startswith("blocks."):
            weight = state[f"{name}.weight"]
            full.setdefault(f"{name}.bias", torch.zeros_like(weight[:, 0]))
        elif last in ("norm1", "norm2") or name == "norm":
            full.setdefault(f"{name}.weight", torch.ones_like(channels))
            full.setdefault(f"{name}.bias", torch.zeros_like(channels))
        elif last in ("ls1", "ls2") and spec.ffn == "swiglu":  # GATED_MODEL insists on LayerScale
            full.setdefault(f"{name}.gamma", torch.ones_like(channels))
    return full
