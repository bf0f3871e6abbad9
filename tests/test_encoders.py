"""Encoders: any size, equal to the reference, clear refusals; timm models behind one interface."""

import dataclasses
import doctest
import importlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from alumnus.encoders import (
    VIT_SIZES,
    Encoder,
    EncoderSpec,
    PosInterp,
    ViT,
    build_encoder,
    interpolate_positions,
    resize_pos_embed,
)
from alumnus.encoders.conversion import (
    encoder_from_reference,
    encoder_to_reference,
    infer_encoder_spec,
)
from alumnus.encoders.vit import swiglu_hidden
from alumnus.tokens import EncoderOutput, Tokens
from golden_files import golden, golden_json, sub

DOCUMENTED = (
    "alumnus.encoders.conversion",
    "alumnus.encoders.official",
    "alumnus.encoders.positions",
    "alumnus.released",
    "alumnus.spelling",
)
TINY = EncoderSpec(model="vit", dim=24, depth=3, num_heads=2, image_size=32, patch_size=8)


def tiny(**changes: Any) -> EncoderSpec:
    return replace(TINY, **changes)


def all_tokens(tokens: Tokens) -> Tensor:  # [B, 1 + R + N, D]
    registers = [] if tokens.registers is None else [tokens.registers]
    return torch.cat([tokens.of("cls").unsqueeze(1), *registers, tokens.of("patch")], dim=1)


def close(ours: Tensor | None, theirs: Tensor, *, atol: float = 2e-5) -> None:
    assert ours is not None
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)  # measured 4e-6


@pytest.mark.parametrize("module", DOCUMENTED)
def test_docstring_examples_are_true(module: str) -> None:
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted
    assert not results.failed


@pytest.mark.golden
def test_encoder_options_equal_the_reference() -> None:
    tensors = golden("encoder_variants")
    variants = golden_json("encoder_variants")
    assert variants
    for name, settings in variants.items():
        theirs = sub(tensors, f"{name}/state/")
        state = encoder_from_reference(theirs)
        mode: PosInterp = "antialias" if settings.get("interpolate_antialias") else "size"
        if settings.get("interpolate_offset", 0.1):
            mode = "offset"
        spec = infer_encoder_spec(state, num_heads=settings["num_heads"], pos_interp=mode)
        assert (spec.image_size, spec.patch_size) == (settings["img_size"], settings["patch_size"])
        assert spec.depth == settings["depth"]
        for key in theirs:
            if key.endswith("mlp.w3.weight"):
                hidden = swiglu_hidden(settings["embed_dim"], settings["mlp_ratio"])
                assert theirs[key].shape[1] == hidden
        encoder = build_encoder(spec).eval()
        encoder.load_state_dict(state)
        images = [key for key in tensors if key.startswith(f"{name}/") and key.endswith("/image")]
        assert images
        for key in images:
            data = sub(tensors, key.removesuffix("image"))
            with torch.no_grad():
                output = encoder(data["image"])
            close(output.final.cls, data["x_norm_clstoken"])
            close(output.final.patches, data["x_norm_patchtokens"])
            close(all_tokens(output.prenorm), data["x_prenorm"])
            if settings.get("num_register_tokens"):
                close(output.final.registers, data["x_norm_regtokens"])
        back = encoder_to_reference(state, block_chunks=settings.get("block_chunks", 1))
        assert set(back) == set(theirs)
        assert all(torch.equal(back[key], theirs[key]) for key in theirs)


@pytest.mark.golden
def test_resizing_stored_positions_equals_the_reference() -> None:
    tensors = golden("pos_embed_resize")
    cases = golden_json("pos_embed_resize")["cases"]
    assert cases
    for case in cases:
        old, new = (tensors[f"case{case['case']}/{which}"] for which in ("old", "new"))
        close(resize_pos_embed(old, case["new_side"]), new, atol=1e-6)


MANIFESTS = Path(__file__).parent / "golden" / "manifests"
DINOV2 = sorted((MANIFESTS / "teachers").glob("*dinov2*.json"))


@pytest.mark.parametrize("path", DINOV2, ids=lambda path: path.stem)
def test_published_dinov2_layouts_convert_strictly_both_ways(path: Path) -> None:
    manifest = json.loads(path.read_text())
    with torch.device("meta"):
        theirs = {name: torch.empty(shape) for name, (shape, _) in manifest["tensors"].items()}
        state = encoder_from_reference(theirs)
        spec = infer_encoder_spec(state)
        encoder = build_encoder(spec)
    encoder.load_state_dict(state, assign=True)
    settings = manifest["settings"]
    assert spec.image_size == settings["img_size"]
    assert spec.registers == settings["num_register_tokens"]
    assert (spec.ffn == "swiglu") == settings["ffn"].startswith("swiglu")
    assert set(encoder_to_reference(state, block_chunks=0)) == set(theirs)


def test_positions_are_used_as_they_are_only_on_their_own_grid() -> None:
    stored = torch.randn(1, 1 + 16, 6)
    for mode in get_args(PosInterp):
        assert interpolate_positions(stored, (4, 4), mode=mode) is stored
        other = interpolate_positions(stored, (2, 8), mode=mode)
        assert other.shape == stored.shape
        assert not torch.allclose(other, stored)


def test_every_position_mode_differs_from_the_others() -> None:
    stored = torch.randn(1, 1 + 16, 6)
    modes = get_args(PosInterp)
    found = [interpolate_positions(stored, (3, 3), mode=mode) for mode in modes]
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        assert not torch.allclose(found[a], found[b], atol=1e-3)


@pytest.mark.parametrize("size", [(32, 32), (48, 24), (8, 80), (8, 8)])
@pytest.mark.parametrize("registers", [0, 3])
def test_any_size_that_the_patch_divides_gives_its_grid(
    size: tuple[int, int], registers: int
) -> None:
    encoder = build_encoder(tiny(registers=registers))
    output = encoder(torch.randn(2, 3, *size), blocks=[0, 2])
    grid = (size[0] // 8, size[1] // 8)
    for tokens in (output.final, output.prenorm, *output.blocks.values()):
        assert tokens.grid == grid
        assert tokens.of("patch").shape == (2, grid[0] * grid[1], 24)
        assert tokens.of("cls").shape == (2, 24)
        assert (tokens.registers is None) == (registers == 0)
    assert list(output.blocks) == [0, 2]
    close(all_tokens(output.blocks[2]), all_tokens(output.prenorm), atol=0)


@pytest.mark.parametrize("shape", [(1, 3, 30, 32), (1, 3, 32, 30), (1, 1, 32, 32), (3, 32, 32)])
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="encoder"):
        build_encoder(TINY)(torch.zeros(shape))


def test_blocks_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no block 3: the encoder's are 0 to 2"):
        build_encoder(TINY)(torch.zeros(1, 3, 32, 32), blocks=[3])


def test_more_or_fewer_input_channels() -> None:
    for channels in (1, 5):
        encoder = build_encoder(tiny(in_channels=channels))
        assert encoder(torch.randn(1, channels, 32, 32)).final.of("cls").shape == (1, 24)


def test_registers_get_no_position_and_cls_does() -> None:
    encoder = build_encoder(tiny(registers=2))
    assert isinstance(encoder, ViT)
    with torch.no_grad():
        x = encoder._pos_embed(torch.zeros(1, 4, 4, 24))
    close(x[:, 0], (encoder.cls_token + encoder.pos_embed[:, :1])[:, 0], atol=0)
    assert encoder.reg_token is not None
    close(x[:, 1:3], encoder.reg_token, atol=0)
    close(x[:, 3:], encoder.pos_embed[:, 1:], atol=0)


def test_initial_weights_follow_the_published_scheme() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(tiny(dim=96, registers=4, layer_scale=1e-4, mask_token=True))
    parameters = dict(encoder.named_parameters())
    for name, parameter in parameters.items():
        if name == "pos_embed" or (name.startswith("blocks") and parameter.ndim == 2):
            assert 0.018 < parameter.std().item() < 0.022, name
        elif name.endswith("bias") and name.startswith("blocks"):
            assert not parameter.any(), name
        elif name.endswith("gamma"):
            assert (parameter == 1e-4).all(), name
        elif name in ("cls_token", "reg_token"):
            assert 0 < parameter.abs().max().item() < 1e-5, name
    assert all(torch.isfinite(parameter).all() for parameter in parameters.values())


def test_drop_path_acts_in_training_only_and_grows_with_depth() -> None:
    encoder: Any = build_encoder(tiny(drop_path=0.5))
    images = torch.randn(8, 3, 32, 32)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in encoder.blocks]
    assert rates == pytest.approx([0.0, 0.25, 0.5])
    encoder.train()
    assert not torch.equal(encoder(images).final.cls, encoder(images).final.cls)
    encoder.eval()
    assert torch.equal(encoder(images).final.cls, encoder(images).final.cls)


def test_activation_checkpointing_changes_no_gradient() -> None:
    images, encoder = torch.randn(2, 3, 32, 32), build_encoder(TINY)
    gradients = []
    for enable in (False, True):
        encoder.zero_grad()
        encoder.set_grad_checkpointing(enable)  # type: ignore[operator]
        encoder(images).final.of("patch").square().mean().backward()
        gradients.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    for plain, recomputed in zip(*gradients, strict=True):
        close(recomputed, plain, atol=1e-7)


def test_masked_patches_do_not_see_their_pixels() -> None:
    encoder = build_encoder(tiny(mask_token=True)).eval()
    masks = torch.zeros(1, 16, dtype=torch.bool)
    masks[0, 5] = True
    images, other = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 32, 32)
    changed = images.clone()
    changed[..., 8:16, 8:16] = other[..., 8:16, 8:16]  # patch 5 = row 1, column 1
    with torch.no_grad():
        close(
            encoder(changed, masks=masks).final.patches,
            encoder(images, masks=masks).final.of("patch"),
            atol=0,
        )
        assert not torch.allclose(encoder(changed).final.cls, encoder(images).final.cls)
    with pytest.raises(ValueError, match="no mask token"):
        build_encoder(TINY)(images, masks=masks)


def test_miniworld_size_with_a_convolutional_stem_has_the_planned_parameters() -> None:
    encoder = build_encoder(
        EncoderSpec(model="vit_micro", stem="conv", patch_size=8, image_size=64)
    )
    assert 1.25e6 < sum(p.numel() for p in encoder.parameters()) < 1.5e6
    output = encoder(torch.randn(1, 3, 64, 96))
    assert output.final.grid == (8, 12)
    with pytest.raises(ValueError, match="power of two"):
        build_encoder(EncoderSpec(model="vit_micro", stem="conv", patch_size=14))


@pytest.mark.parametrize("name", VIT_SIZES)
def test_every_named_size_builds(name: str) -> None:
    with torch.device("meta"):
        encoder = build_encoder(EncoderSpec(model=name))
    assert (encoder.dim, encoder.depth, encoder.num_heads) == VIT_SIZES[name]


def test_spec_survives_json() -> None:
    spec = tiny(registers=2, layer_scale=1e-4, ffn="swiglu", options={})
    assert EncoderSpec.from_dict(json.loads(json.dumps(dataclasses.asdict(spec)))) == spec
    with pytest.raises(ValueError, match="did you mean 'registers'"):
        EncoderSpec.from_dict({"register": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "vit_smal"}, "did you mean 'vit_small'"),
        ({"model": "timm:resnt18"}, "did you mean 'resnet18'"),
        ({"model": "timm:levit_128s", "image_size": 224}, "cannot be a student at 224 px"),
        ({"model": "timm:resnet18", "options": {"wrong": 1}}, "refuses an option.*wrong"),
        ({"model": "python:nowhere:factory"}, "there is no Python module 'nowhere'"),
        ({"model": "python:math:factory"}, "has no factory 'factory'"),
        ({"model": "python:math:sqrt"}, "cannot be called with its options: missing"),
        ({"model": "python:math"}, "not of the form"),
        ({"model": "vit", "dim": None}, "needs dim, depth and num_heads"),
        ({"num_heads": 5}, "not a divisor"),
        ({"image_size": 33}, "not a multiple"),
        ({"pos_interp": "antialas"}, "did you mean 'antialias'"),
        ({"options": {"a": 1}}, "options are for timm: and python: models"),
        ({"pretrained": True}, "pretrained weights exist for timm models only"),
    ],
)
def test_a_wrong_setting_is_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build_encoder(tiny(**changes))
    assert "\n" not in str(caught.value)


TIMM_FAMILIES = {  # name: (side px, has a class token, every size allowed)
    "vit_tiny_patch16_224": (32, True, True),
    "vit_tiny_r_s16_p8_224": (64, True, True),
    "deit_tiny_distilled_patch16_224": (32, True, True),
    "vit_pwee_patch16_reg1_gap_256": (32, False, True),
    "eva02_tiny_patch14_224": (28, True, True),
    "convnext_atto": (64, False, True),
    "tf_efficientnet_lite0": (64, False, True),
    "mobilenetv3_small_050": (64, False, True),
    "resnet18": (64, False, True),
    "swin_tiny_patch4_window7_224": (64, False, True),
    "efficientformerv2_s0": (64, False, False),
}


@pytest.mark.parametrize("name", TIMM_FAMILIES)
def test_timm_families_fit_the_interface(name: str) -> None:
    side, has_cls, any_size = TIMM_FAMILIES[name]
    encoder = build_encoder(EncoderSpec(model=f"timm:{name}", image_size=side, in_channels=4))
    images = torch.randn(2, 4, side, side + (encoder.patch_size if any_size else 0))
    with torch.no_grad():
        output: EncoderOutput = encoder.eval()(images, blocks=range(encoder.depth))
    assert encoder.has_cls == has_cls
    grid = tuple(length // encoder.patch_size for length in images.shape[-2:])
    for tokens in (output.final, output.prenorm):
        assert tokens.grid == grid
        assert tokens.of("patch").shape == (2, grid[0] * grid[1], encoder.dim)
        assert tokens.of("cls").shape == (2, encoder.dim)
    for block, tokens in output.blocks.items():
        assert tokens.of("patch").shape[-1] == encoder.block_dims[block]
        assert tokens.of("cls").shape == (2, encoder.block_dims[block])
    assert encoder.dim % encoder.num_heads == 0


def test_timm_vit_gives_timms_own_features() -> None:
    encoder = build_encoder(EncoderSpec(model="timm:vit_tiny_patch16_224", image_size=32)).eval()
    model: Any = encoder.model
    images = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        output, features = encoder(images, blocks=[11]), model.forward_features(images)
        close(output.final.cls, features[:, 0], atol=0)
        close(output.final.patches, features[:, 1:], atol=0)
        close(model.norm(output.prenorm.of("patch")), features[:, 1:], atol=1e-6)
        close(output.blocks[11].patches, output.prenorm.of("patch"), atol=0)


def test_timm_cnn_gives_timms_own_pooled_feature() -> None:
    encoder = build_encoder(EncoderSpec(model="timm:convnext_atto", image_size=64)).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        close(encoder(images).final.cls, encoder.model(images), atol=1e-6)  # type: ignore[operator]


class OwnEncoder(nn.Module):
    """Not an Encoder by inheritance: the attributes and the forward are enough."""

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.dim, self.block_dims, self.patch_size, self.num_heads = dim, (dim,), 4, 1
        self.in_channels, self.image_size = 3, 16
        self.conv = nn.Conv2d(3, dim, 4, stride=4)

    def forward(self, images: Tensor, *, blocks: Sequence[int] = ()) -> EncoderOutput:
        tokens = Tokens.from_map(self.conv(images))
        return EncoderOutput(tokens, tokens, dict.fromkeys(blocks, tokens))


def test_a_module_of_your_own_is_an_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    spec = EncoderSpec(model="python:test_encoders:OwnEncoder", options={"dim": 12})
    encoder: Encoder = build_encoder(spec)
    assert encoder(torch.randn(1, 3, 8, 16)).final.of("patch").shape == (1, 8, 12)
    with pytest.raises(ValueError, match="lacks dim, block_dims"):
        build_encoder(EncoderSpec(model="python:torch.nn:Identity"))


@pytest.mark.parametrize("grad", [True, False])
def test_both_attention_kernels_give_the_same_tokens(grad: bool) -> None:
    encoder = build_encoder(EncoderSpec(model="vit_micro", image_size=32, patch_size=8)).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.set_grad_enabled(grad):
        fused = encoder(images).final.of("patch")
        with torch.autocast("cpu", torch.bfloat16):
            written_out = encoder(images).final.of("patch")
    attention: Any = encoder.get_submodule("blocks.0.attn")
    assert not attention.fused_attn
    # bfloat16 has 8 bits; measured 0.02 on tokens of deviation 1
    torch.testing.assert_close(written_out, fused, rtol=0, atol=0.1)
    encoder(images)
    assert attention.fused_attn
