"""MASt3R and DUNE-MASt3R: equal to the published networks, from files as they are released."""

import argparse
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from alumnus.encoders import CrocoEncoder, EncoderSpec, ViT, build_encoder
from alumnus.encoders.conversion import encoder_from_reference, infer_encoder_spec
from alumnus.encoders.croco import croco_from_released, infer_croco_spec
from alumnus.heads.two_view import (
    TwoViewNetwork,
    TwoViewSpec,
    ViewPrediction,
    load_dune_mast3r,
    load_mast3r,
    load_mast3r_encoder,
    predict_mixed,
    prepare_photo,
    save_two_view_head,
)
from alumnus.heads.two_view.dpt import DPTHead
from alumnus.heads.two_view.predictions import points_of
from alumnus.heads.two_view.released import HALF, Released, build_dune_mast3r, build_mast3r
from alumnus.images import IMAGENET_MEAN, IMAGENET_STD
from alumnus.runs import save_encoder
from alumnus.scenes import load_two_view
from alumnus.strict import fill
from alumnus.teachers import TEACHERS, TeacherPool, load_teacher
from alumnus.teachers.base import Teacher, Traits, match_images
from golden_files import sub, threed
from procedural import compare_procedural, procedural, procedural_images, procedural_state
from two_view_files import dune_mast3r_file, mast3r_file

MANIFESTS = Path(__file__).parent / "golden" / "manifests" / "two_view"
TOKENS, POINTS, MAPS = 5e-5, 2e-4, 1e-4  # the fixtures' own tolerances


def close(ours: Tensor, theirs: Tensor, tolerance: float = TOKENS) -> None:
    # the fixtures' own rule, |x - ref| <= tol (1 + |ref|); noise is a tenth of it
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def from_half(images: Tensor) -> Tensor:
    """From (x - 0.5) / 0.5 to ImageNet statistics."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images * 0.5 + 0.5 - mean) / std


def golden_encoder() -> tuple[CrocoEncoder, dict[str, Tensor], Any]:
    tensors, settings = threed("a_croco_encoder")
    state = croco_from_released(sub(tensors, "w/"))
    spec = infer_croco_spec(state, num_heads=settings["num_heads"])
    assert (spec.dim, spec.depth) == (settings["embed_dim"], settings["depth"])
    assert spec.norm_eps == settings["norm_eps"]
    return fill(CrocoEncoder(spec), state, what="the fixture"), tensors, settings


@pytest.mark.golden
def test_the_croco_encoder_equals_the_published_one() -> None:
    encoder, tensors, _ = golden_encoder()
    cases = {key.split("/")[1] for key in tensors if key.endswith("/patch_embed")}
    assert cases
    for case in cases:
        images = tensors[f"in/{case}"]
        with torch.no_grad():
            embedded = encoder.get_submodule("patch_embed.proj")(images).flatten(2).transpose(1, 2)
            tokens = encoder(images).final
        close(embedded, tensors[f"out/{case}/patch_embed"])
        close(tokens.of("patch"), tensors[f"out/{case}/tokens"])


@pytest.mark.golden
def test_portraits_stored_as_landscapes_have_the_tokens_of_portraits() -> None:
    encoder, tensors, _ = golden_encoder()
    shapes = [key for key in tensors if key.endswith("_true_shape")]
    assert shapes
    for key in shapes:
        case = key.removeprefix("in/").removesuffix("_true_shape")
        for index, (height, width) in enumerate(tensors[key].tolist()):
            image = tensors[f"in/{case}"][index : index + 1]
            with torch.no_grad():
                seen = encoder(image.transpose(2, 3) if height > width else image).final
            close(seen.of("patch")[0], tensors[f"out/{case}/tokens"][index])


@pytest.mark.golden
def test_as_a_teacher_of_dune_it_gives_the_published_features() -> None:
    encoder, _, _ = golden_encoder()
    tensors, settings = threed("a_dune_mast3r_teacher")
    cases = {key.split("/")[1] for key in tensors if key.startswith("in/")}
    patch_size = settings["teacher_patch"]
    traits = Traits(
        dim=encoder.dim, patch_size=patch_size, token_types=("cls", "patch"), mean=HALF, std=HALF
    )
    teacher = Teacher(encoder, traits, name="rooms", grid="match")
    for case in cases:
        images, expected = tensors[f"in/{case}/imagenet_normalised"], sub(tensors, f"out/{case}/")
        student = settings["student_patch"] if "resized" in expected else patch_size
        pool = TeacherPool({"rooms": teacher}, student)
        tokens = pool.targets(SimpleNamespace(images=images, teacher_images=images))["rooms"]
        # after a bicubic resize
        close(tokens.of("patch"), expected["x_norm_patchtokens"], 1e-4)
        close(tokens.of("cls"), expected["x_norm_clstoken"], 1e-4)
        if "resized" in expected:
            size = tuple(expected["resized"].shape[-2:])
            close(match_images(images, (size[0], size[1])), expected["resized"], 1e-4)


@pytest.mark.golden
def test_the_dpt_head_equals_the_published_one() -> None:
    tensors, config = threed("b_heads_linear_dpt")
    settings, data = config["dpt"], sub(tensors, "dpt/")
    head = DPTHead(
        settings["token_dims"],
        levels=settings["layer_dims"],
        dim=settings["feature_dim"],
        last_dim=settings["last_dim"],
        patch_size=settings["patch_size"],
    )
    weights = {k: v.float() for k, v in sub(data, "w/dpt.").items()}
    fill(head, {k: v for k, v in weights.items() if k in head.state_dict()}, what="the fixture")
    cases = {key.split("/")[1] for key in data if key.startswith("in/")}
    assert cases
    for case in cases:
        h, w = map(int, case.split("x"))
        layers = [data[f"in/{case}/tokens{i}"] for i in range(len(settings["token_dims"]))]
        with torch.no_grad():
            raw = head(layers, (h, w))
        close(raw, data[f"out/{case}/raw"], MAPS)
        close(points_of(raw[:, :3].permute(0, 2, 3, 1)), data[f"out/{case}/pts3d"], POINTS)
        close(1 + raw[:, 3].exp(), data[f"out/{case}/conf"], MAPS)


@pytest.fixture(scope="module")
def mast3r(tmp_path_factory: pytest.TempPathFactory) -> TwoViewNetwork:
    return load_mast3r(mast3r_file(tmp_path_factory.mktemp("mast3r")))


@pytest.fixture(scope="module")
def dune_mast3r(tmp_path_factory: pytest.TempPathFactory) -> TwoViewNetwork:
    return load_dune_mast3r(*dune_mast3r_file(tmp_path_factory.mktemp("dune_mast3r")))


def compare(ours: tuple[ViewPrediction, ViewPrediction], case: dict[str, Tensor]) -> None:
    for view, points, prediction in zip(
        ("view1", "view2"), ("pts3d", "pts3d_in_other_view"), ours, strict=True
    ):
        expected = sub(case, f"out/{view}/")
        close(prediction.points, expected[points], POINTS)
        close(prediction.conf, expected["conf"])
        close(prediction.desc_conf, expected["desc_conf"])
        if "desc" in expected:
            close(prediction.desc, expected["desc"])
        else:
            close(prediction.desc[:, ::2, ::2], expected["desc_sub2"])


def compare_middle(network: TwoViewNetwork, images: list[Tensor], case: dict[str, Tensor]) -> None:
    """What is stored of the way from images to predictions."""
    middle = sub(case, "mid/")
    views = network.encode(*images)
    layers = network.head.decode(*views)
    for view, tokens, outputs in zip("12", views, layers, strict=True):
        for key, expected in middle.items():
            if key in (f"enc{view}", f"enc{view}_prenorm"):
                close(tokens.of("patch"), expected)
            elif key == f"enc{view}_bridge":
                close(outputs[0], expected)
            elif key == f"dec{view}_last":
                close(outputs[-1], expected)
            elif key.startswith(f"dec{view}_"):
                close(outputs[int(key.split("_")[1])], expected)
    head = network.head.downstream_head1
    if "dpt1_raw" in middle:
        grid = views[0].grid
        assert grid is not None
        close(head.raw_points(layers.first, grid), middle["dpt1_raw"], MAPS)
    if "localfeat1_raw" in middle:
        joint = torch.cat([layers.first[0], layers.first[-1]], dim=-1)
        close(head.head_local_features(joint), middle["localfeat1_raw"])


def cases_of(name: str) -> dict[str, dict[str, Tensor]]:
    tensors, _ = threed(name)
    return {case: sub(tensors, f"{case}/") for case in {key.split("/")[0] for key in tensors}}


@pytest.mark.golden
def test_mast3r_equals_the_published_network(mast3r: TwoViewNetwork) -> None:
    cases = cases_of("b_mast3r_landscape_only_false")
    assert any("mid/enc1" in case for case in cases.values())
    for case in cases.values():
        images = [from_half(case["in/img1"]), from_half(case["in/img2"])]
        with torch.no_grad():
            compare(mast3r(*images), case)
            compare_middle(mast3r, images, case)


@pytest.mark.golden
def test_mast3r_takes_both_orientations_in_one_batch(mast3r: TwoViewNetwork) -> None:
    cases = cases_of("b_mast3r_landscape_only_true").values()
    assert any(is_turned(case) for case in cases)
    for case in cases:
        compare_mixed(mast3r, case, symmetrised=False)


@pytest.mark.golden
def test_a_symmetrised_batch_is_encoded_once_with_the_same_result(mast3r: TwoViewNetwork) -> None:
    cases = cases_of("b_mast3r_landscape_only_true").values()
    swapped = [
        c
        for c in cases
        if torch.equal(c["in/img1"], c["in/img2"].unflatten(0, (-1, 2)).flip(1).flatten(0, 1))
    ]
    assert swapped
    seen: list[int] = []
    hook = mast3r.encoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    for case in swapped:
        compare_mixed(mast3r, case, symmetrised=True)
    hook.remove()
    assert sum(seen) == sum(len(case["in/img1"]) for case in swapped)


def is_turned(case: dict[str, Tensor]) -> bool:
    """Whether portraits are stored as landscapes in it."""
    return "in/true_shape1" in case and any(
        list(shape) != list(case[f"in/img{view}"].shape[2:])
        for view in (1, 2)
        for shape in case[f"in/true_shape{view}"].tolist()
    )


def compare_mixed(network: TwoViewNetwork, case: dict[str, Tensor], *, symmetrised: bool) -> None:
    shapes = case["in/true_shape1"], case["in/true_shape2"]
    portrait1, portrait2 = (shape[:, 0] > shape[:, 1] for shape in shapes)
    with torch.no_grad():
        predictions = predict_mixed(
            network,
            from_half(case["in/img1"]),
            from_half(case["in/img2"]),
            portrait1=portrait1,
            portrait2=portrait2,
            symmetrised=symmetrised,
        )
    compare(predictions, case)


@pytest.mark.golden
def test_dune_mast3r_equals_the_published_network(dune_mast3r: TwoViewNetwork) -> None:
    cases = cases_of("c_dunemast3r")
    assert any(is_turned(case) for case in cases.values())
    for case in cases.values():
        images = [from_half(case["in/img1"]), from_half(case["in/img2"])]
        if is_turned(case):
            compare_mixed(dune_mast3r, case, symmetrised=False)
            continue
        with torch.no_grad():
            compare(dune_mast3r(*images), case)
            compare_middle(dune_mast3r, images, case)


@pytest.mark.golden
@pytest.mark.slow
def test_full_size_mast3r_equals_the_published_one() -> None:
    """688 M parameters: 4 GB of memory, a minute."""
    expected = procedural("mast3r_vitl")
    manifest = json.loads((MANIFESTS / "mast3r_vitl_catmlpdpt_metric.json").read_text())
    state = procedural_state(manifest["tensors"])
    network = build_mast3r(Released(Path("procedural"), state, {}))
    compare_full_size(network, expected, "encoder_tokens_view1")


@pytest.mark.golden
@pytest.mark.slow
def test_full_size_dune_mast3r_equals_the_published_one() -> None:
    """Decoders and heads of 320 M parameters on DUNE's ViT-S."""
    expected = procedural("dunemast3r_vitsmall")
    manifest = json.loads((MANIFESTS / "dunemast3r_vitsmall.json").read_text())
    backbone = json.loads((MANIFESTS.parent / "dune_vits14_448.json").read_text())["tensors"]
    state = procedural_state({k: v for k, v in backbone.items() if k.startswith("encoder.")})
    weights = encoder_from_reference(sub(state, "encoder."))
    encoder = fill(ViT(infer_encoder_spec(weights)), weights, what="the procedural weights")
    released = Released(Path("procedural"), procedural_state(manifest["tensors"]), {})
    network = build_dune_mast3r(released, encoder)
    compare_full_size(network, expected, "encoder_tokens_view1_prenorm")


def compare_full_size(network: TwoViewNetwork, expected: dict[str, Any], tokens: str) -> None:
    images = [from_half(image) for image in procedural_images(expected["input"])]
    with torch.no_grad():
        compare_procedural(network.encode(*images)[0].of("patch"), expected[tokens])
        views = network(*images)
    for view, points, prediction in zip(
        ("view1", "view2"), ("pts3d", "pts3d_in_other_view"), views, strict=True
    ):
        for name, ours in zip((points, "conf", "desc", "desc_conf"), prediction, strict=True):
            compare_procedural(ours, expected[f"{view}/{name}"])


def fabricated(name: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A file of the released layout: full shapes, each tensor one stored number."""
    manifest: dict[str, Any] = json.loads((MANIFESTS / f"{name}.json").read_text())
    state = {
        name: torch.zeros(1, dtype=getattr(torch, dtype)).expand(shape)
        for name, (shape, dtype) in manifest["tensors"].items()
    }
    extra: dict[str, Any] = {}
    if "model_string_from_readme" in manifest:
        args = argparse.Namespace(model=manifest["model_string_from_readme"], lr=1e-4)
        extra = {"args": args, "epoch": 3, "best_so_far": None}
    torch.save({"model": state, **extra}, folder / "official.pth")
    return folder / "official.pth", manifest


def stored_twice(names: list[str]) -> int:
    return sum("scratch.layer_rn." in name for name in names)


def test_the_official_mast3r_file_would_load_strictly(tmp_path: Path) -> None:
    file, manifest = fabricated("mast3r_vitl_catmlpdpt_metric", tmp_path)
    network, names = load_mast3r(file), list(manifest["tensors"])
    unused = [n for n in names if n == "mask_token" or "refinenet4.resConfUnit1" in n]
    expected = len(names) - stored_twice(names) - len(unused)
    assert len(network.state_dict()) == expected
    assert network.head.spec == TwoViewSpec(
        encoder_dim=network.encoder.dim, patch_size=16, squares=False
    )
    teacher = load_teacher("mast3r-vitl16", weights=str(file))
    assert teacher.dim == network.encoder.dim == teacher.network.dim
    assert (teacher.token_types, teacher.patch_size) == (("patch",), network.encoder.patch_size)
    assert TEACHERS["mast3r-vitl16"].weights.startswith(f"hf:naver/{manifest['checkpoint'][:-4]}")


@pytest.mark.parametrize(("size", "dim"), [("base", 768), ("small", 384)])
def test_the_official_dune_mast3r_files_would_load_strictly(
    size: str, dim: int, tmp_path: Path
) -> None:
    file, manifest = fabricated(f"dunemast3r_vit{size}", tmp_path)
    spec = EncoderSpec(model="vit", dim=dim, depth=1, num_heads=1, image_size=448, patch_size=14)
    with torch.device("meta"):
        encoder = build_encoder(spec)
    network, names = load_dune_mast3r(file, encoder), list(manifest["tensors"])
    unused = [n for n in names if n.split(".")[1] in ("mask_token", "patch_embed", "enc_norm")]
    unused += [n for n in names if "refinenet4.resConfUnit1" in n]
    assert len(network.head.state_dict()) == len(names) - stored_twice(names) - len(unused)
    assert network.head.spec.bridge
    assert network.head.spec.squares


def test_a_repository_of_hugging_face_stores_shared_tensors_once(
    mast3r: TwoViewNetwork, tmp_path: Path
) -> None:
    """Under either of their two names; its file does not tell the number of heads."""
    state = torch.load(mast3r_file(tmp_path), weights_only=False)["model"]
    once = {k: v.clone() for k, v in state.items() if ".scratch.layer_rn." not in k}
    save_file(once, tmp_path / "model.safetensors")
    heads = mast3r.encoder.num_heads, mast3r.head.spec.num_heads
    loaded = load_mast3r(tmp_path / "model.safetensors", num_heads=heads)
    images = torch.randn(2, 1, 3, 32, 32).unbind()
    with torch.no_grad():
        for ours, theirs in zip(loaded(*images), mast3r(*images), strict=True):
            for a, b in zip(ours, theirs, strict=True):
                close(a, b, POINTS)  # other places in memory, other kernels
    encoder = load_mast3r_encoder(tmp_path / "model.safetensors", num_heads=heads[0])
    assert encoder.state_dict().keys() == mast3r.encoder.state_dict().keys()
    with pytest.raises(ValueError, match="pass num_heads"):
        load_mast3r(tmp_path / "model.safetensors")


def test_a_network_saved_in_two_files_is_the_same_again(
    mast3r: TwoViewNetwork, dune_mast3r: TwoViewNetwork, tmp_path: Path
) -> None:
    """Its images' statistics and how it prepares photographs, too."""
    square = Image.effect_noise((90, 90), 60).convert("RGB")
    for number, network in enumerate((mast3r, dune_mast3r)):
        encoder: Any = network.encoder
        save_encoder(tmp_path / str(number), encoder, encoder.spec)
        save_two_view_head(tmp_path / str(number), network.head)
        again = load_two_view(tmp_path / str(number))
        seen = network.prepare(square).images
        assert torch.equal(again.prepare(square).images, seen)
        size = 4 * network.head.spec.patch_size
        images = seen[..., :size, :size], seen[..., -size:, :size]
        with torch.no_grad():
            for ours, theirs in zip(again(*images), network(*images), strict=True):
                for a, b in zip(ours, theirs, strict=True):
                    close(a, b, POINTS)


def test_both_ways_equals_two_calls(mast3r: TwoViewNetwork) -> None:
    one, two = torch.randn(2, 3, 32, 48), torch.randn(2, 3, 48, 16)
    with torch.no_grad():
        pairs = zip(mast3r.both_ways(one, two), (mast3r(one, two), mast3r(two, one)), strict=True)
        for ours, theirs in pairs:
            for a, b in zip(ours, theirs, strict=True):
                for field, expected in zip(a, b, strict=True):
                    assert torch.equal(field, expected)


@pytest.mark.parametrize(
    ("size", "squares", "seen"),
    [
        ((640, 480), False, (384, 512)),
        ((480, 640), False, (512, 384)),
        ((200, 200), False, (384, 512)),
        ((200, 200), True, (512, 512)),
        ((1000, 610), True, (304, 512)),
    ],
)
def test_photographs_are_seen_in_whole_patches_around_their_middle(
    size: tuple[int, int], squares: bool, seen: tuple[int, int]
) -> None:
    photo = prepare_photo(Image.new("RGB", size), patch_size=16, squares=squares)
    assert photo.images.shape == (1, 3, *seen)
    h, w = seen
    corners = photo.in_original(torch.tensor([[-0.5, -0.5], [w - 0.5, h - 0.5]]))
    left, top = corners[0].tolist()
    right, bottom = (torch.tensor(size) - 1 - corners[1]).tolist()
    pixel = max(size) / 512  # a crop of an odd number of pixels is off by one
    assert left == pytest.approx(right, abs=pixel + 1e-3)
    assert top == pytest.approx(bottom, abs=pixel + 1e-3)


def test_a_pixel_seen_is_found_again_in_the_photograph(tmp_path: Path) -> None:
    image = Image.new("RGB", (400, 310))
    image.paste("white", (100, 60, 104, 64))  # its middle is at (101.5, 61.5)
    image.save(tmp_path / "photo.png")
    photo = prepare_photo(tmp_path / "photo.png", patch_size=14, long_side_px=518)
    bright = photo.images[0].mean(dim=0)
    weight = (bright - bright.median()).clamp(min=0)
    rows, columns = (torch.arange(side) for side in weight.shape)
    middle = torch.stack([(weight.sum(0) * columns).sum(), (weight.sum(1) * rows).sum()])
    found = photo.in_original(middle / weight.sum())
    torch.testing.assert_close(found, torch.tensor([101.5, 61.5]), atol=0.1, rtol=0)  # px


def test_what_is_no_mast3r_is_one_sentence(
    mast3r: TwoViewNetwork, dune_mast3r: TwoViewNetwork, tmp_path: Path
) -> None:
    file = mast3r_file(tmp_path)
    saved = torch.load(file, weights_only=False)
    for change, sentence in (
        ({"model": 3}, "is not a checkpoint of MASt3R: it holds no 'model'"),
        ({"model": {"mast3r.x": torch.zeros(1)}}, "which load_dune_mast3r reads"),
        ({"model": {"fc.weight": torch.zeros(1)}}, "these are not the weights of a CroCo encoder"),
        ({"model": saved["model"] | {"extra": torch.zeros(1)}}, "do not fit: unknown extra"),
        ({"args": argparse.Namespace(model="A(b=__import__('os'))")}, "cannot be read"),
        ({"args": argparse.Namespace(model="A(pos_embed='cosine')")}, "positions 'cosine'"),
    ):
        torch.save(saved | change, tmp_path / "other.pth")
        with pytest.raises(ValueError, match=r"other\.pth") as refused:
            load_mast3r(tmp_path / "other.pth", num_heads=(1, 1))
        assert sentence in str(refused.value)
        assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="holds no bridge"):
        load_dune_mast3r(file, mast3r.encoder)
    with pytest.raises(ValueError, match="the two-view head is for an encoder of width"):
        TwoViewNetwork(dune_mast3r.encoder, mast3r.head)
    with pytest.raises(ValueError, match="too thin"):
        prepare_photo(Image.new("RGB", (900, 9)), patch_size=16)
    with pytest.raises(ValueError, match="there is no photograph"):
        mast3r.prepare(tmp_path / "none.jpg")
    spec = EncoderSpec(model="croco", dim=16, depth=1, num_heads=1, registers=4)
    with pytest.raises(ValueError, match="the encoder 'croco' has no registers, but it is 4"):
        build_encoder(spec)


def test_the_page_on_two_views_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[1] / "docs" / "two-view.md").read_text()
    blocks = dict(re.findall(r"## ([^\n]+)\n+```python\n(.*?)```", page, flags=re.DOTALL))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("alumnus.encoders.croco.IMAGE_SIZE", 96)  # px; matching 512 takes a while
    mast3r_file(tmp_path)
    for name, size in (("left.jpg", (300, 200)), ("right.jpg", (150, 260))):
        Image.effect_noise(size, 90).convert("RGB").save(name)
    seen: dict[str, Any] = {}
    exec(blocks["Released checkpoints"], seen)
    assert seen["points"].shape[:2] == seen["left"].images.shape[2:]
    assert len(seen["pixels"]) == seen["sure"].sum()
    exec(blocks["Matches"], seen)
    assert len(seen["here"]) == len(seen["there"])
    spec = EncoderSpec(model="vit", dim=8, depth=1, num_heads=1, image_size=16, patch_size=8)
    save_encoder("runs/mine", build_encoder(spec), spec)
    exec(blocks["A head on an encoder of yours"], seen)
    assert seen["network"](torch.randn(1, 3, 16, 24), torch.randn(1, 3, 16, 16))
