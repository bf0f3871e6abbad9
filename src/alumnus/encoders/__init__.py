"""Student backbones: our ViT, CroCo's, any timm model, any module of your own."""

from alumnus.encoders.base import Encoder
from alumnus.encoders.build import build_encoder
from alumnus.encoders.croco import CrocoEncoder
from alumnus.encoders.layers import last_layers
from alumnus.encoders.positions import (
    PosInterp,
    grid_side,
    interpolate_positions,
    resize_pos_embed,
)
from alumnus.encoders.spec import VIT_SIZES, EncoderSpec
from alumnus.encoders.timm_models import TimmEncoder
from alumnus.encoders.vit import ViT

__all__ = [
    "VIT_SIZES",
    "CrocoEncoder",
    "Encoder",
    "EncoderSpec",
    "PosInterp",
    "TimmEncoder",
    "ViT",
    "build_encoder",
    "grid_side",
    "interpolate_positions",
    "last_layers",
    "resize_pos_embed",
]
