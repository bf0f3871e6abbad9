"""Published ViTs in the layouts of their authors: pure functions from their names to ours.

DINO and iBOT name tensors as timm and we do. DeiT-III names LayerScale otherwise and gives [CLS] no
position; dBOT pools patches; DINOv2 is as UNIC and DUNE; MetaCLIP is the visual part of a CLIP in
OpenCLIP's layout. timm's own files of these models are read, too.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from alumnus.encoders.conversion import encoder_name_from_reference
from alumnus.encoders.positions import is_square

__all__ = ["encoder_from_official", "is_unused"]

RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\.gamma_([12])$", r".ls\1.gamma"),  # DeiT-III
        (r"^visual\.class_embedding$", "cls_token"),  # OpenCLIP from here on
        (r"^visual\.positional_embedding$", "pos_embed"),
        (r"^visual\.conv1\.", "patch_embed.proj."),
        (r"^visual\.ln_pre\.", "norm_pre."),
        (r"^visual\.ln_post\.", "norm."),
        (r"^visual\.transformer\.resblocks\.", "blocks."),
        (r"^(blocks\.\d+)\.ln_", r"\1.norm"),
        (r"^(blocks\.\d+\.attn)\.in_proj_", r"\1.qkv."),
        (r"^(blocks\.\d+\.attn)\.out_proj\.", r"\1.proj."),
        (r"^(blocks\.\d+\.mlp)\.c_fc\.", r"\1.fc1."),
        (r"^(blocks\.\d+\.mlp)\.c_proj\.", r"\1.fc2."),
    )
)
UNUSED = re.compile(
    r"head(_dist)?\.(weight|bias)"  # a classifier
    r"|visual\.proj"  # CLIP: out of the features and into the space shared with text
    r"|(transformer|token_embedding|ln_final)\..*"  # CLIP: the text tower
    r"|positional_embedding|text_projection|logit_scale|logit_bias|attn_mask"
)


def is_unused(name: str) -> bool:
    """Whether an official tensor is knowingly left out: classifiers and text towers.

    >>> is_unused("visual.proj"), is_unused("visual.ln_pre.bias")
    (True, False)
    """
    return UNUSED.fullmatch(name) is not None


def encoder_from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of a published ViT; all tensors but those of `is_unused` are in it.

    Positions without an entry for [CLS] get a zero one, which adds nothing.
    """
    ours = {_our_name(name): tensor for name, tensor in state.items() if not is_unused(name)}
    for name, axes in (("cls_token", 3), ("pos_embed", 3)):
        if name in ours:  # OpenCLIP: [D] and [1 + N, D]
            ours[name] = ours[name].reshape((1,) * (axes - ours[name].ndim) + ours[name].shape)
    positions = ours.get("pos_embed")
    if positions is not None and is_square(positions.shape[1]):
        ours["pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    return ours


def _our_name(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = pattern.sub(replacement, name)
    return encoder_name_from_reference(name)
