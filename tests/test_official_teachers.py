"""Published ViTs from their authors' files: equal in numbers, strict in names."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from alumnus import api, hub
from alumnus.encoders import EncoderSpec, PosInterp, ViT, build_encoder
from alumnus.encoders.conversion import infer_encoder_spec
from alumnus.encoders.official import encoder_from_official, is_unused
from alumnus.strict import fill
from alumnus.teachers import TEACHERS, UnavailableError, load_teacher
from alumnus.teachers.vit_teacher import vit_network
from alumnus.tokens import EncoderOutput, Tokens
from golden_files import ROOT, sub, threed

FIXTURES = sorted(path.stem for path in (ROOT / "threed").glob("d_*.safetensors"))
MANIFESTS = Path(__file__).parent / "golden" / "manifests" / "teachers"


def close(ours: Tensor | None, theirs: Tensor) -> None:
    assert ours is not None
    # the fixtures' own rule, |x - ref| <= tol (1 + |ref|); noise 5e-6
    torch.testing.assert_close(ours, theirs, atol=5e-5, rtol=5e-5)


def sequence(tokens: Tokens) -> Tensor:  # [B, 1 + R + N, D]
    registers = [] if tokens.registers is None else [tokens.registers]
    return torch.cat([tokens.of("cls").unsqueeze(1), *registers, tokens.of("patch")], dim=1)


def built(tensors: dict[str, Tensor], settings: dict[str, Any], variant: str) -> ViT:
    """The encoder of a fixture with the positions of a variant ("" where there is one only)."""
    state = encoder_from_official(sub(tensors, "w/"))
    spec = infer_encoder_spec(state, num_heads=settings["heads"])
    spec = replace(spec, norm_eps=settings["norm_eps"])
    if variant:
        offset = settings[variant]["interpolate_offset"]
        antialias = settings[variant]["interpolate_antialias"]
        mode: PosInterp = "offset" if offset else "antialias" if antialias else "size"
        spec = replace(spec, pos_interp=mode)
    assert (spec.image_size, spec.patch_size) == (settings["native"], settings["patch"])
    assert (spec.dim, spec.depth) == (settings["embed_dim"], settings["depth"])
    return fill(ViT(spec), state, what="the fixture")


def images_of(case: str, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """The input of a case and its masks; layers' outputs are of the native size."""
    if case == "masked":
        return tensors["in/masked_img"], tensors["in/masks"]
    return tensors[f"in/{case}"], None


@pytest.mark.golden
@pytest.mark.parametrize("name", FIXTURES)
def test_teacher_encoders_equal_the_published_ones(name: str) -> None:
    tensors, settings = threed(name)
    folders = {key.split("/")[0] for key in tensors if key.startswith("out")}
    assert folders
    for folder in folders:
        encoder = built(tensors, settings, folder.removeprefix("out").removeprefix("_"))
        outputs = sub(tensors, f"{folder}/")
        cases = {key.split("/")[0] for key in outputs}
        native = f"{settings['native']}x{settings['native']}"
        assert native in cases
        for case in cases:
            expected = sub(outputs, f"{case}/")
            with torch.no_grad():
                if case.startswith("intermediate_"):
                    block = int(case.removeprefix("intermediate_"))
                    output = encoder(tensors[f"in/{native}"], blocks=[block])
                    normed = output.blocks[block]
                    close(encoder.norm(normed.of("cls")), expected["cls"])
                    patches = encoder.norm(normed.of("patch"))
                    close(normed._replace(patches=patches).as_map(), expected["patch"])
                    continue
                images, masks = images_of(case, tensors)
                output = encoder(images, masks=masks)
            close(output.final.cls, expected["x_norm_clstoken"])
            close(output.final.patches, expected["x_norm_patchtokens"])
            if "x_norm_regtokens" in expected:
                close(output.final.registers, expected["x_norm_regtokens"])
            if "x_prenorm" in expected:
                close(sequence(output.prenorm), expected["x_prenorm"])
            if "logits" in expected:
                head = sub(tensors, "w/head.")
                logits = torch.nn.functional.linear(output.final.of("cls"), **head)
                close(logits, expected["logits"])


@pytest.mark.golden
def test_an_encoder_that_ignored_pooling_or_positions_would_not_pass() -> None:
    tensors, settings = threed("d_dbotft")
    native = f"{settings['native']}x{settings['native']}"
    with torch.no_grad():
        output = built(tensors, settings, "")(tensors[f"in/{native}"])
    pooled = tensors[f"out/{native}/x_norm_clstoken"]
    assert not torch.allclose(output.prenorm.of("cls"), pooled, atol=1e-2)
    tensors, settings = threed("d_dinov2_reg4")
    hub_, dune = (built(tensors, settings, variant) for variant in ("hub", "dune"))
    native = f"{settings['native']}x{settings['native']}"
    others = [key for key in tensors if key.startswith("in/") and "mask" not in key]
    others.remove(f"in/{native}")
    assert others
    for key in others:
        with torch.no_grad():
            theirs, other = (e(tensors[key]).final.of("patch") for e in (hub_, dune))
        assert not torch.allclose(theirs, other, atol=1e-3)


ALIASES = {  # manifest: teacher
    "teacher_dbotft_vitb16": "dbot-ft-vitb16",
    "teacher_deit3_vitb16": "deit3-vitb16",
    "teacher_dino_vitb16": "dino-vitb16",
    "teacher_dinov2_vitg14": "dinov2-vitg14",
    "teacher_dinov2_vitl14_reg4": "dinov2-vitl14-reg",
    "teacher_ibot_vitb16": "ibot-vitb16",
    "teacher_metaclip_vith14_visual": "metaclip-vith14",
    "backbone_dinov2_vitl14": "dinov2-vitl14",
    "multihmr_672_L": "multihmr-vitl14",
}


def fabricated(manifest: dict[str, Any], folder: Path) -> Path:
    """A file of the released layout: full shapes, each tensor one stored number."""
    model = {
        name: torch.zeros(1, dtype=getattr(torch, dtype)).expand(shape)
        for name, (shape, dtype) in manifest["tensors"].items()
    }
    structure = manifest["structure"]
    keys = [k for k, about in structure.get("top_level_keys", {}).items() if about == "tensors"]
    top_level = structure.get("top_level", "")
    keys += [k for k in ("model", "state_dict") if f"key '{k}' holding" in top_level]
    key = keys[0] if keys else None
    file = folder / "official.pth"
    torch.save(model if key is None else {key: model, "epoch": 3}, file)
    return file


@pytest.mark.parametrize("path", sorted(MANIFESTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_official_file_would_load_strictly(path: Path, tmp_path: Path) -> None:
    manifest = json.loads(path.read_text())
    info = TEACHERS[ALIASES[path.stem]]
    file = fabricated(manifest, tmp_path)
    teacher = load_teacher(info.name, weights=str(file))
    assert info.weights.endswith(manifest["checkpoint"].split(" ")[0])
    assert teacher.dim == info.traits.dim
    within = "backbone.encoder."  # the rest is a head on top
    whole = any(name.startswith(within) for name in manifest["tensors"])
    left_out = [
        name
        for name in manifest["tensors"]
        if is_unused(name) or (whole and not name.startswith(within))
    ]
    used = dict(teacher.network.named_parameters())
    assert len(used) == len(manifest["tensors"]) - len(left_out)
    if not whole:
        assert {name.split(".")[-1] for name in left_out} <= {"weight", "bias", "proj"}
    expected = {tuple(shape) for n, (shape, _) in manifest["tensors"].items() if n not in left_out}
    assert len(expected - {tuple(p.shape) for p in used.values()}) <= 3  # positions, CLIP's tokens


TINY = EncoderSpec(
    model="vit", dim=16, depth=2, num_heads=2, image_size=32, patch_size=8, mask_token=True
)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"blocks.1.norm1.bias": None}, "missing blocks.1.norm1.bias"),
        ({"extra.weight": torch.zeros(1)}, "unknown extra.weight"),
        ({"norm.weight": torch.zeros(3)}, "norm.weight is 3 and not 16"),
        (dict.fromkeys(["norm.weight", "norm.bias", "cls_token", "pos_embed"]), "and 1 more"),
    ],
)
def test_other_tensors_are_refused_by_name_in_one_sentence(
    change: dict[str, Tensor | None], sentence: str, tmp_path: Path
) -> None:
    state = build_encoder(TINY).state_dict() | change
    file = tmp_path / "changed.pth"
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, file)
    with pytest.raises(ValueError, match="the weights of tiny in") as refused:
        vit_network(TINY, "tiny", file)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_classifiers_are_left_out_and_half_precision_becomes_single(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    encoder = build_encoder(TINY).to(dtype)
    state = encoder.state_dict() | {"head.weight": torch.zeros(5, 16), "head.bias": torch.zeros(5)}
    torch.save({"model": state, "epoch": 3}, tmp_path / "official.pth")
    network = vit_network(TINY, "tiny", tmp_path / "official.pth")
    image = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        output: EncoderOutput = network(image)
        expected: EncoderOutput = encoder.float().eval()(image)
    assert torch.equal(output.final.of("patch"), expected.final.of("patch"))


def openclip_state(encoder: ViT) -> dict[str, Tensor]:
    """The inverse of the conversion, with a text tower besides."""
    names = {
        "norm_pre.": "ln_pre.",
        "norm.": "ln_post.",
        "patch_embed.proj.": "conv1.",
        "blocks.": "transformer.resblocks.",
        ".norm1.": ".ln_1.",
        ".norm2.": ".ln_2.",
        ".qkv.": ".in_proj_",
        ".attn.proj.": ".attn.out_proj.",
        ".fc1.": ".c_fc.",
        ".fc2.": ".c_proj.",
    }
    state = {}
    for name, tensor in encoder.state_dict().items():
        for ours, theirs in names.items():
            found = name.startswith(ours) if ours in ("norm.", "blocks.") else ours in name
            name = name.replace(ours, theirs, 1) if found else name
        state[f"visual.{name}"] = tensor
    state["visual.class_embedding"] = state.pop("visual.cls_token").flatten()
    state["visual.positional_embedding"] = state.pop("visual.pos_embed")[0]
    text = ("visual.proj", "logit_scale", "ln_final.weight", "transformer.resblocks.0.ln_1.bias")
    return state | {name: torch.zeros(2) for name in text}


def test_clip_towers_are_read_from_openclips_layout(tmp_path: Path) -> None:
    spec = replace(TINY, mask_token=False, pre_norm=True, activation="quickgelu", norm_eps=1e-5)
    encoder = ViT(spec).eval()
    torch.nn.init.normal_(encoder.cls_token)
    file = tmp_path / "clip.pt"
    torch.save({"state_dict": {f"module.{k}": v for k, v in openclip_state(encoder).items()}}, file)
    network = vit_network(spec, "clip", file)
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(image).final.of("cls"), encoder(image).final.of("cls"))
        plain = vit_network(replace(spec, activation="gelu"), "clip", file)
        assert not torch.allclose(plain(image).final.of("cls"), network(image).final.of("cls"))


def small_dinov2(folder: Path) -> Path:
    """A file of `dinov2-vits14-reg` in full shapes, each tensor one stored number."""
    (spec, _) = TEACHERS["dinov2-vits14-reg"].network.args  # type: ignore[attr-defined]
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in ViT(spec).state_dict().items()}
    file = folder / "small.pth"
    torch.save({key: torch.zeros(1).expand(shape) for key, shape in shapes.items()}, file)
    return file


def test_positions_of_a_teacher_can_meet_other_grids_in_another_way(tmp_path: Path) -> None:
    """DINOv2 with registers antialiases them; DUNE runs it with an offset instead."""
    file = str(small_dinov2(tmp_path))
    modes: tuple[PosInterp | None, ...] = (None, "offset")
    teachers = [load_teacher("dinov2-vits14-reg", weights=file, pos_interp=m) for m in modes]
    assert [t.pos_interp for t in teachers] == ["antialias", "offset"]
    assert [t.network.pos_interp for t in teachers] == ["antialias", "offset"]
    with pytest.raises(ValueError, match="pos_interp is for the ViTs of alumnus"):
        load_teacher("python:tiny_teachers:patch_mean_factory", pos_interp="offset")


@pytest.mark.parametrize("suffix", [".pth", ""])
def test_a_file_of_ones_own_is_checked_and_kept_for_its_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    given = small_dinov2(tmp_path)
    file = given.rename(given.with_suffix(suffix))
    with pytest.raises(ValueError, match=r"the weights of dinov2-vitb14-reg in .* do not fit"):
        api.get("dinov2-vitb14-reg", file=file)
    kept = api.get("dinov2-vits14-reg", file=file)
    file.unlink()
    assert api.get("dinov2-vits14-reg") == kept
    assert load_teacher("dinov2-vits14-reg").dim == 384
    with pytest.raises(ValueError, match="there is no file of weights"):
        api.get("dinov2-vits14-reg", file=file)
    file.with_suffix(".safetensors").write_bytes(b"no such header")
    with pytest.raises(ValueError, match="is damaged or no safetensors file"):
        api.get("dinov2-vits14-reg", file=file.with_suffix(".safetensors"))
    assert api.get("dinov2-vits14-reg") == kept


def test_a_teacher_out_of_reach_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(hub, "_resolves", lambda url: False)
    for name in ("dino-vitb16", "siglip2-vitb16"):
        with pytest.raises(UnavailableError, match=f"alumnus get {name}, or take a file"):
            load_teacher(name)


TWINS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # timm model: its and our settings
    "vit_base_patch16_224.dino": ({}, {}),
    "deit3_base_patch16_224.fb_in1k": ({}, {"layer_scale": 1.0}),
    "vit_base_patch16_224.mae": ({"global_pool": "avg"}, {"mean_pooled": True}),
    "vit_base_patch14_dinov2": ({}, {"layer_scale": 1.0}),
    "vit_base_patch14_reg4_dinov2": ({}, {"layer_scale": 1.0, "registers": 4}),
    "vit_giant_patch14_dinov2": ({}, {"layer_scale": 1.0, "ffn": "swiglu"}),
    "vit_huge_patch14_clip_quickgelu_224": (
        {},
        {"pre_norm": True, "activation": "quickgelu", "norm_eps": 1e-5},
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_timms_own_files_are_read_and_give_timms_own_features(name: str, tmp_path: Path) -> None:
    theirs, ours = TWINS[name]
    patch = 14 if "patch14" in name else 16
    size = {"img_size": 4 * patch, "embed_dim": 48, "depth": 2, "num_heads": 2}
    torch.manual_seed(0)
    model = timm.create_model(name, **size, **theirs).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    spec = EncoderSpec(
        model="vit", dim=48, depth=2, num_heads=2, image_size=4 * patch, patch_size=patch, **ours
    )
    images = torch.randn(2, 3, 4 * patch, 4 * patch)
    with torch.no_grad():
        output = vit_network(spec, name, tmp_path / "model.safetensors")(images)
        expected = model.forward_features(images)
        pooled = model.forward_head(expected, pre_logits=True)
    close(output.final.patches, expected[:, 1 + spec.registers :])
    close(output.final.cls, pooled)


def test_a_file_that_only_its_authors_hand_out_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path))
    with pytest.raises(
        UnavailableError, match="its authors hand it out; take a file that you have"
    ):
        load_teacher("multihmr-vitl14")
