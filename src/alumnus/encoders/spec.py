"""What an encoder is, in words and numbers: a description that JSON can hold."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from alumnus.encoders.positions import PosInterp
from alumnus.images import IMAGENET_MEAN, IMAGENET_STD
from alumnus.spelling import unknown

__all__ = ["VIT_SIZES", "EncoderSpec", "ViTSize"]


class ViTSize(NamedTuple):
    """Width, depth and heads of a named ViT."""

    dim: int
    depth: int
    num_heads: int


VIT_SIZES: dict[str, ViTSize] = {
    "vit_micro": ViTSize(128, 6, 4),  # miniworld
    "vit_tiny": ViTSize(192, 12, 3),
    "vit_small": ViTSize(384, 12, 6),
    "vit_base": ViTSize(768, 12, 12),
    "vit_large": ViTSize(1024, 24, 16),
}


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """Everything needed to build an encoder again, without its weights.

    `model` is one of VIT_SIZES, "vit" or "croco" (then `dim`, `depth`, `num_heads` are given),
    "timm:NAME" or "python:module:factory". For "timm:" and "python:" only `image_size`,
    `in_channels`, `drop_path`, `pretrained` and `options` apply: the rest describes our ViT, of
    which "croco" (see `CrocoEncoder`) has sizes, `norm_eps`, `mean` and `std` alone.
    """

    model: str = "vit_base"
    image_size: int = 224  # native side, px
    in_channels: int = 3
    drop_path: float = 0.0  # stochastic depth of the last block; linear over depth
    pretrained: bool = False  # timm only: start from its published weights
    options: Mapping[str, Any] = field(default_factory=dict)  # for the timm or python factory

    patch_size: int = 16
    dim: int | None = None  # None: as the named size says
    depth: int | None = None
    num_heads: int | None = None
    mlp_ratio: float = 4.0
    registers: int = 0
    layer_scale: float | None = None  # initial value; None: no LayerScale
    qkv_bias: bool = True
    proj_bias: bool = True
    ffn_bias: bool = True
    ffn: Literal["mlp", "swiglu"] = "mlp"
    qk_norm: bool = False  # LayerNorm on each head's queries and keys, eps 1e-5
    norm_affine: bool = True  # LayerNorms in the blocks
    last_norm_affine: bool = True  # the final LayerNorm
    mask_token: bool = False  # for `forward(masks=...)`; UNIC and DUNE store one
    stem: Literal["patch", "conv"] = "patch"
    pos_interp: PosInterp = "offset"
    pre_norm: bool = False  # LayerNorm before the blocks and patches without bias (CLIP)
    mean_pooled: bool = False  # no final norm; [CLS] is the normed mean of patches (dBOT)
    activation: Literal["gelu", "quickgelu"] = "gelu"  # of the MLP; CLIP's is x sigmoid(1.702 x)
    norm_eps: float = 1e-6  # of the LayerNorms, except those of qk_norm

    mean: tuple[float, ...] = IMAGENET_MEAN  # of the images that its weights see, not python:
    std: tuple[float, ...] = IMAGENET_STD  # those it is given are ImageNet-normalised in any case

    @property
    def vit_size(self) -> ViTSize:
        """Width, depth and heads of our ViT; ValueError for an unknown or incomplete one."""
        given = (self.dim, self.depth, self.num_heads)
        if self.model in VIT_SIZES:
            chosen = zip(given, VIT_SIZES[self.model], strict=True)
            return ViTSize(*(named if own is None else own for own, named in chosen))
        if self.model not in ("vit", "croco"):
            forms = [*VIT_SIZES, "vit", "croco", "timm:NAME", "python:module:factory"]
            raise unknown("encoder", self.model, forms)
        if self.dim is None or self.depth is None or self.num_heads is None:
            raise ValueError(f"the encoder {self.model!r} needs dim, depth and num_heads")
        return ViTSize(self.dim, self.depth, self.num_heads)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EncoderSpec":
        """The inverse of `dataclasses.asdict`; an unknown key is a ValueError."""
        known = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise unknown("encoder setting", key, known)
        listed = {name: tuple(values[name]) for name in ("mean", "std") if name in values}
        return cls(**{**values, **listed})
