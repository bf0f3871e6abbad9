"""The two-view head: parts equal to the published ones, and the promises of the whole."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import pytest
import torch
from torch import Tensor

from alumnus.encoders import EncoderSpec, build_encoder
from alumnus.encoders.attention import attend
from alumnus.encoders.rope import grid_positions, rotate, rotation
from alumnus.heads.two_view import (
    ConfidenceRange,
    TwoViewHead,
    TwoViewSpec,
    ViewPrediction,
    load_two_view_head,
    save_two_view_head,
)
from alumnus.heads.two_view.predictions import PointScale, Rise, confidence, points_of
from alumnus.heads.two_view.view_heads import patches_to_pixels
from alumnus.tokens import Grid, Tokens
from golden_files import sub, threed

TINY = TwoViewSpec(
    encoder_dim=12,
    patch_size=4,
    points="linear",
    dim=16,
    depth=2,
    num_heads=2,
    desc_dim=5,
    desc_hidden=8,
)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 5e-5) -> None:
    # the fixtures' own rule, |x - ref| <= tol (1 + |ref|); noise 5e-6
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def tokens(grid: Grid, batch: int = 2, dim: int = TINY.encoder_dim, seed: int = 0) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    return Tokens(torch.randn(batch, grid[0] * grid[1], dim, generator=generator), grid)


@pytest.mark.golden
def test_rotary_positions_equal_the_published_ones() -> None:
    tensors, settings = threed("a_croco_encoder")
    cases = [key.removesuffix("/in") for key in tensors if key.startswith("rope/") and "/in" in key]
    assert cases
    for case in cases:
        x, positions = tensors[f"{case}/in"], tensors[f"{case}/pos"]
        turn = rotation(positions.unsqueeze(1), x.shape[-1], base=settings["rope_base"])
        close(rotate(x, turn), tensors[f"{case}/out"])


@pytest.mark.golden
def test_grid_positions_are_row_and_column() -> None:
    tensors, settings = threed("a_croco_encoder")
    cases = [key.removeprefix("in/") for key in tensors if key.startswith("in/")]
    plain = [case for case in cases if f"out/{case}/patch_embed" in tensors]
    assert plain
    for case in plain:
        height, width = (side // settings["patch_size"] for side in tensors[f"in/{case}"].shape[2:])
        expected = tensors[f"out/{case}/pos"]
        assert torch.equal(grid_positions((height, width)).expand_as(expected), expected)


def test_attention_with_rotary_positions_sees_only_differences_of_place() -> None:
    q, k = torch.randn(2, 1, 1, 6, 8).unbind()
    places = grid_positions((2, 3))
    there, elsewhere = rotation(places, 8), rotation(places + torch.tensor([5, 2]), 8)
    products = [rotate(q, turn) @ rotate(k, turn).transpose(-2, -1) for turn in (there, elsewhere)]
    torch.testing.assert_close(*products, atol=1e-5, rtol=1e-5)  # float32 angles; measured 1e-6


def test_attention_written_out_equals_the_fused_one() -> None:
    q, k, v = torch.randn(3, 2, 4, 9, 8).unbind()
    fused = attend(q, k, v)
    with torch.autocast("cpu", torch.bfloat16):
        written_out = attend(q, k, v)
    # products in bfloat16, which has 8 bits
    torch.testing.assert_close(written_out.float(), fused, atol=2e-2, rtol=2e-2)


@pytest.mark.golden
def test_the_linear_point_head_equals_the_published_one() -> None:
    tensors, settings = threed("b_heads_linear_dpt")
    cases = {key.split("/")[0] for key in tensors if key.startswith("linear")}
    assert cases
    for case in cases:
        compare_linear_points(case, tensors, settings)


def compare_linear_points(case: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    weight, bias = (tensors[f"{case}/w/proj.{name}"].float() for name in ("weight", "bias"))
    values = torch.nn.functional.linear(tensors[f"{case}/in/tokens"], weight, bias)
    grid: Grid = tuple(settings["grid_linear"])
    raw = patches_to_pixels(values, grid, settings["patch_size_linear"]).permute(0, 2, 3, 1)
    close(points_of(raw[..., :3]), tensors[f"{case}/out/pts3d"], 2e-4)  # expm1 amplifies
    assert (raw.shape[-1] == 4) == (f"{case}/out/conf" in tensors)
    if raw.shape[-1] == 4:
        within = confidence_range(*settings["conf_mode"])
        close(confidence(raw[..., 3], within), tensors[f"{case}/out/conf"])


def confidence_range(rise: Rise, low: float | str, high: float | str) -> ConfidenceRange:
    """As the fixtures write it."""
    return ConfidenceRange(float(low), None if high == "inf" else float(high), rise)


@pytest.mark.golden
def test_scales_of_points_and_ranges_of_confidences_equal_the_published_ones() -> None:
    tensors = sub(threed("b_heads_linear_dpt")[0], "postprocess/")
    scales = [key.removeprefix("out/depth_") for key in tensors if key.startswith("out/depth_")]
    assert set(scales) <= set(get_args(PointScale))
    for scale in cast(list[PointScale], scales):
        close(points_of(tensors["in/xyz"], scale=scale), tensors[f"out/depth_{scale}"], 2e-4)
        assert not points_of(tensors["in/xyz"], scale=scale)[0].any()  # the zero vector
    ranges = [key.removeprefix("out/conf_") for key in tensors if key.startswith("out/conf_")]
    assert scales
    assert ranges
    for name in ranges:
        rise, low, high = name.split("_")
        within = confidence_range(cast(Rise, rise), low, high)
        close(confidence(tensors["in/conf"], within), tensors[f"out/conf_{name}"])


def test_points_at_the_origin_have_a_finite_gradient() -> None:
    raw = torch.zeros(3, requires_grad=True)
    points_of(raw).sum().backward()
    assert raw.grad is not None
    assert torch.isfinite(raw.grad).all()


def test_predictions_have_the_size_of_their_image_and_hold_their_promises() -> None:
    head = TwoViewHead(TINY).eval()
    predictions = head(tokens((2, 3)), tokens((4, 1), seed=1))
    for prediction, (h, w) in zip(predictions, ((8, 12), (16, 4)), strict=True):
        assert prediction.points.shape == (2, h, w, 3)
        assert prediction.conf.shape == prediction.desc_conf.shape == (2, h, w)
        assert prediction.desc.shape == (2, h, w, TINY.desc_dim)
        assert (prediction.conf > 1).all()
        assert (prediction.desc_conf > 0).all()
        length = prediction.desc.norm(dim=-1)
        torch.testing.assert_close(length, torch.ones_like(length))


def test_blocks_of_both_views_read_what_the_blocks_before_gave() -> None:
    head = TwoViewHead(replace(TINY, depth=1)).eval()
    with torch.no_grad():
        layers = head.decode(tokens((2, 3)), tokens((2, 3), seed=1))
        head.get_parameter("dec_blocks.0.cross_attn.proj.weight").mul_(2)
        changed = head.decode(tokens((2, 3)), tokens((2, 3), seed=1))
    assert not torch.equal(changed.first[-1], layers.first[-1])
    assert torch.equal(changed.second[-1], layers.second[-1])


def test_every_parameter_learns_from_both_views() -> None:
    head = TwoViewHead(replace(TINY, bridge=True))
    predictions = head(tokens((2, 3)), tokens((2, 3), seed=1))
    parts = [part for view in predictions for part in (*view, view.desc[..., 0])]
    torch.stack([part.square().mean() for part in parts]).sum().backward()
    without = [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    # a constant added to all keys of a view changes no attention
    assert all(name.endswith("projk.bias") for name in without)


def test_heads_run_in_float32_under_autocast() -> None:
    head = TwoViewHead(TINY).eval()
    with torch.autocast("cpu", torch.bfloat16):
        predictions = head(tokens((2, 3)), tokens((2, 3), seed=1))
    assert {part.dtype for view in predictions for part in view} == {torch.float32}


def test_the_bridge_is_a_norm_in_front_of_everything() -> None:
    head = TwoViewHead(replace(TINY, bridge=True)).eval()
    view = tokens((2, 3))
    scaled = view._replace(patches=view.of("patch") * 3 + 1)
    layers, same = head.decode(view, view), head.decode(scaled, scaled)
    for ours, theirs in zip(layers.first, same.first, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)  # eps 1e-5


def predicted(head: TwoViewHead) -> ViewPrediction:
    with torch.no_grad():
        second: ViewPrediction = head(tokens((2, 3)), tokens((3, 2), seed=1))[1]
    return second


@pytest.mark.parametrize(
    "spec",
    [
        TINY,
        replace(TINY, bridge=True, conf=ConfidenceRange(0.5, 30.0), point_scale="square"),
        replace(TINY, desc_conf=ConfidenceRange(0.0, 1.0, "sigmoid")),
    ],
)
def test_a_saved_head_predicts_the_same(spec: TwoViewSpec, tmp_path: Path) -> None:
    head = TwoViewHead(spec).eval()
    save_two_view_head(tmp_path, head, {"why": "test"})
    for place in (tmp_path, tmp_path / "two_view.safetensors"):
        loaded = load_two_view_head(place)
        assert loaded.spec == spec
        assert not loaded.training
        for ours, theirs in zip(predicted(loaded), predicted(head), strict=True):
            assert torch.equal(ours, theirs)
    save_two_view_head(tmp_path, head.half())
    assert next(load_two_view_head(tmp_path).parameters()).dtype == torch.float32


def test_it_stands_on_any_encoder() -> None:
    spec = EncoderSpec(model="vit", dim=12, depth=1, num_heads=1, image_size=16, patch_size=4)
    encoder = build_encoder(spec).eval()
    head = TwoViewHead(TINY).eval()
    first, second = (encoder(torch.randn(1, 3, *size)).final for size in ((16, 24), (24, 16)))
    assert head(first, second)[1].points.shape == (1, 24, 16, 3)


def test_what_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of 4 channels for its rotary"):
        replace(TINY, num_heads=8)
    with pytest.raises(ValueError, match="unknown scale of points 'log'"):
        replace(TINY, point_scale="log")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown rise of confidences 'tanh'"):
        replace(TINY, conf=ConfidenceRange(0.0, 1.0, "tanh"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sigmoid need an upper end"):
        replace(TINY, desc_conf=ConfidenceRange(0.0, rise="sigmoid"))
    with pytest.raises(ValueError, match="did you mean 'depth'"):
        TwoViewSpec.from_dict({"encoder_dim": 4, "patch_size": 4, "points": "linear", "dept": 2})
    with pytest.raises(ValueError, match="tokens of width 12, not 10"):
        TwoViewHead(TINY)(tokens((2, 3), dim=10), tokens((2, 3), dim=10))
    with pytest.raises(ValueError, match="choose a multiple of 4"):
        rotation(grid_positions((2, 2)), 6)
    with pytest.raises(ValueError, match="there is no two-view head at"):
        load_two_view_head(tmp_path)
