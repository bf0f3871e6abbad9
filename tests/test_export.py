"""Exported encoders: a plain timm model with equal features."""

from dataclasses import replace
from typing import Any

import pytest
import timm
import torch

from alumnus.encoders import EncoderSpec, build_encoder
from alumnus.export import to_timm
from alumnus.released import read_reference_state
from alumnus.tokens import Tokens
from golden_files import golden, golden_json, sub

TINY = EncoderSpec(model="vit", dim=24, depth=2, num_heads=2, image_size=32, patch_size=8)
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "registers": {"registers": 3},
    "layer scale": {"layer_scale": 0.1, "registers": 1},
    "swiglu": {"ffn": "swiglu"},
    "no biases": {"qkv_bias": False, "proj_bias": False, "ffn_bias": False},
    "no affine norms": {"norm_affine": False, "last_norm_affine": False, "registers": 2},
    "mask token": {"mask_token": True},
    "five channels": {"in_channels": 5},
    "odd mlp": {"mlp_ratio": 2.3},
}


def randomised(spec: EncoderSpec) -> torch.nn.Module:
    """Fresh weights are too close to zero to tell a forgotten token from a kept one."""
    encoder = build_encoder(spec).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(std=0.2)
    return encoder


def features(tokens: Tokens) -> torch.Tensor:
    registers = [] if tokens.registers is None else [tokens.registers]
    return torch.cat([tokens.of("cls").unsqueeze(1), *registers, tokens.of("patch")], dim=1)


@pytest.mark.parametrize("name", VARIANTS)
def test_plain_timm_gives_equal_features(name: str) -> None:
    spec = replace(TINY, **VARIANTS[name])
    encoder: Any = randomised(spec)
    export = to_timm(encoder, spec)
    model = timm.create_model(export.name, **export.kwargs).eval()
    model.load_state_dict(export.state_dict)
    images = torch.randn(2, spec.in_channels, 32, 32)
    with torch.no_grad():
        ours, theirs = encoder(images).final, model.forward_features(images)
        torch.testing.assert_close(theirs, features(ours), rtol=0, atol=1e-5)  # measured 2e-6
        torch.testing.assert_close(model(images), ours.of("cls"), rtol=0, atol=1e-5)


def test_a_base_vit_loads_into_timm_by_its_plain_name() -> None:
    spec = EncoderSpec(model="vit_base", mask_token=True)
    with torch.device("meta"):
        encoder = build_encoder(spec)
        export = to_timm(encoder, spec)
        model = timm.create_model("vit_base_patch16_224", num_classes=0)
    assert export.name == "vit_base_patch16_224"
    model.load_state_dict(export.state_dict, assign=True)


@pytest.mark.golden
@pytest.mark.parametrize("system", ["unic", "dune"])
def test_a_released_encoder_in_timm_equals_the_reference(system: str) -> None:
    tensors, settings = golden(f"{system}_model"), golden_json(f"{system}_model")
    released = read_reference_state(
        sub(tensors, "state/"), num_heads=settings["encoder"]["num_heads"]
    )
    spec = released.student_spec.encoder
    encoder = build_encoder(spec)
    encoder.load_state_dict(sub(released.state_dict, "encoder."))
    export = to_timm(encoder, spec)
    model = timm.create_model(export.name, **export.kwargs).eval()
    model.load_state_dict(export.state_dict)
    native = [
        name
        for name, size in settings["resolutions"].items()
        if size["height"] == size["width"] == spec.image_size
    ]
    prefix = "encoder" if system == "unic" else "encoder_apply_norm_true"
    assert native
    for name in native:
        with torch.no_grad():
            cls = model(tensors[f"{name}/image"])
        torch.testing.assert_close(
            cls, tensors[f"{name}/{prefix}/x_norm_clstoken"], rtol=0, atol=2e-5
        )


def test_a_timm_encoder_exports_as_itself() -> None:
    spec = EncoderSpec(model="timm:resnet18", image_size=64, in_channels=1)
    encoder = build_encoder(spec).eval()
    export = to_timm(encoder, spec)
    model = timm.create_model(export.name, **export.kwargs).eval()
    model.load_state_dict(export.state_dict)
    images = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(images), encoder(images).final.of("cls"))


@pytest.mark.parametrize("changes", [{"qk_norm": True}, {"stem": "conv"}])
def test_what_timm_cannot_express_is_refused(changes: dict[str, Any]) -> None:
    spec = replace(TINY, **changes)
    with pytest.raises(ValueError, match="timm's ViT cannot express"):
        to_timm(build_encoder(spec), spec)
