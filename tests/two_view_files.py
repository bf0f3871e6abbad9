"""Small checkpoints of MASt3R and DUNE-MASt3R in the released formats, of the fixtures' weights."""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alumnus.encoders import ViT
from alumnus.encoders.conversion import encoder_from_reference, infer_encoder_spec
from alumnus.strict import fill
from golden_files import ROOT, sub, threed

__all__ = ["dune_mast3r_file", "mast3r_file"]


def mast3r_file(folder: Path) -> Path:
    """A `.pth` of MASt3R in the released format with the fixture's weights."""
    state: dict[str, Tensor] = {}
    for path in sorted((ROOT / "threed").glob("b_mast3r_weights_*.safetensors")):
        tensors, settings = threed(path.stem)
        state |= sub(tensors, "w/")
    call = (
        f"AsymmetricMASt3R(pos_embed='{settings['rope']}', patch_embed_cls='ManyAR_PatchEmbed', "
        f"head_type='catmlp+dpt', output_mode='{settings['output_mode']}', "
        f"depth_mode={_mode(settings['depth_mode'])}, conf_mode={_mode(settings['conf_mode'])}, "
        f"enc_num_heads={settings['enc']['heads']}, dec_num_heads={settings['dec']['heads']}, "
        f"two_confs={settings['two_confs']}, desc_conf_mode={_mode(settings['desc_conf_mode'])})"
    )
    file = folder / "mast3r.pth"
    torch.save({"model": state, "args": argparse.Namespace(model=call), "epoch": 3}, file)
    return file


def _mode(mode: list[Any]) -> str:
    kind, low, high = mode
    return f"({kind!r}, {low}, {high})"


def dune_mast3r_file(folder: Path, *, named: str = "dune_tiny_encoder") -> tuple[Path, ViT]:
    """A `.pth` of DUNE-MASt3R in the released format, and the encoder that it stands on."""
    state: dict[str, Tensor] = {}
    for path in sorted((ROOT / "threed").glob("c_dunemast3r_weights_*.safetensors")):
        tensors, settings = threed(path.stem)
        state |= sub(tensors, "w/")
    backbone = encoder_from_reference(sub(state, "dune_backbone."))
    spec = infer_encoder_spec(backbone, num_heads=settings["encoder"]["heads"])
    encoder = fill(ViT(spec), backbone, what="the fixture")
    released = {k: v for k, v in state.items() if not k.startswith("dune_backbone.")}
    call = settings["mast3r_model_str"]
    file = folder / "dunemast3r.pth"
    torch.save({"model": released, "dune_backbone_name": named, "mast3r_model_str": call}, file)
    return file, encoder
