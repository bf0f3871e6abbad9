"""`alumnus export`: others' libraries open what is written, and see what the encoder sees."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import alumnus
from alumnus import cli
from alumnus.encoders import EncoderSpec
from alumnus.images import IMAGENET_MEAN, IMAGENET_STD
from alumnus.runs import save_encoder
from alumnus.tokens import EncoderOutput, Tokens
from golden_files import golden_json, golden_path
from test_export import TINY, VARIANTS, features, randomised

TERMS = [{"of": "a teacher", "licence": "CC-BY-NC-4.0", "data": []}]


def saved(folder: Path, spec: EncoderSpec) -> Any:
    encoder = randomised(spec)
    save_encoder(folder, encoder, spec, {"inherits": TERMS})
    return encoder


@pytest.mark.parametrize("name", ["plain", "registers", "five channels"])
def test_timm_opens_the_folder(tmp_path: Path, name: str) -> None:
    spec = replace(TINY, **VARIANTS[name])
    encoder = saved(tmp_path / "run", spec)
    made = alumnus.export(tmp_path / "run", tmp_path / "out")
    model: Any = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    images = torch.randn(3, spec.in_channels, 32, 32)
    with torch.no_grad():
        seen, expected = model.forward_features(images), features(encoder(images).final)
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5)
    if spec.in_channels == 3:
        looks = timm.data.resolve_model_data_config(model)
        assert (*looks["mean"], *looks["std"]) == (*IMAGENET_MEAN, *IMAGENET_STD)
        assert tuple(looks["input_size"]) == (3, 32, 32)
    assert made.difference < 1e-5
    assert "a teacher forbids commercial use" in (tmp_path / "out/licences.txt").read_text()
    assert len({file.stat().st_mode for file in (tmp_path / "out").iterdir()}) == 1


@pytest.mark.golden
@pytest.mark.parametrize("system", ["unic", "dune"])
def test_released_files_are_exported_with_their_terms(tmp_path: Path, system: str) -> None:
    heads = golden_json(f"{system}_checkpoint")["encoder"]["num_heads"]
    path = golden_path(f"{system}_checkpoint.pth")
    made = alumnus.export(path, tmp_path / "out", num_heads=heads)
    assert made.difference < 1e-5
    assert made.terms[0].licence == "CC-BY-NC-SA-4.0"
    kept = alumnus.export(path, tmp_path / "kept", "alumnus", num_heads=heads)
    assert kept.difference == 0


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224"])
def test_timm_models_are_exported_as_what_they_are(tmp_path: Path, name: str) -> None:
    spec = EncoderSpec(model=f"timm:{name}", image_size=64)
    encoder = saved(tmp_path / "run", spec)
    alumnus.export(tmp_path / "run", tmp_path / "out")
    model: Any = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        ours = encoder(images).final.of("cls")
        torch.testing.assert_close(model(images), ours, rtol=1e-4, atol=1e-4)


def test_transformers_opens_the_same_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    encoder = saved(tmp_path / "run", TINY)
    alumnus.export(tmp_path / "run", tmp_path / "out")
    model = transformers.AutoModel.from_pretrained(str(tmp_path / "out")).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        seen = model(images).last_hidden_state
        torch.testing.assert_close(seen, features(encoder(images).final), rtol=0, atol=1e-5)


def test_onnx_gives_cls_and_patches_of_any_number_of_images_at_a_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    encoder = saved(tmp_path / "run", replace(TINY, registers=2, stem="conv"))
    out = tmp_path / "out"
    words = ["alumnus", "export", str(tmp_path / "run"), str(out), "--to", "onnx", "--size", "48"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    said = capsys.readouterr().out
    assert "[B, 3, 48, 48] float32" in said
    session = onnxruntime.InferenceSession(str(out / "model.onnx"))
    for count in (1, 5):
        images = torch.randn(count, 3, 48, 48)
        cls, patches = session.run(["cls", "patches"], {"images": images.numpy()})
        with torch.no_grad():
            final = encoder(images).final
        torch.testing.assert_close(torch.from_numpy(cls), final.of("cls"), rtol=0, atol=1e-4)
        torch.testing.assert_close(torch.from_numpy(patches), final.of("patch"), rtol=0, atol=1e-4)


def test_onnx_refuses_code_that_counts_its_images(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    save_encoder(
        tmp_path / "run",
        counting(),
        EncoderSpec(model="python:test_exporting:counting", image_size=16),
    )
    with pytest.raises(ValueError, match=r"cannot take|not equal to the encoder"):
        alumnus.export(tmp_path / "run", tmp_path / "out", "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    alumnus.export(tmp_path / "run", tmp_path / "out", "alumnus")
    assert "unclear" in (tmp_path / "out/licences.txt").read_text()  # it says nothing


class _Counting(nn.Module):
    """An encoder of [CLS] alone, whose code makes a list as long as the batch."""

    patch_size, dim, image_size, in_channels, num_heads = 8, 4, 16, 3, 1
    block_dims = ()

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, images: Tensor, *, blocks: tuple[int, ...] = ()) -> EncoderOutput:
        cls = torch.stack([self.layer(image.mean(dim=(1, 2))) for image in images])
        tokens = Tokens(cls=cls)
        return EncoderOutput(tokens, tokens, {})


def counting() -> nn.Module:
    return _Counting()


def test_what_alumnus_wrote_it_opens_with_the_terms(tmp_path: Path) -> None:
    encoder = saved(tmp_path / "run", TINY)
    assert alumnus.export(tmp_path / "run", tmp_path / "out", "alumnus").difference == 0
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        ours = alumnus.load(tmp_path / "out")(images).final.of("patch")
        assert torch.equal(ours, encoder(images).final.of("patch"))
    assert json.loads((tmp_path / "out/encoder.json").read_text())["info"]["inherits"] == TERMS


@pytest.mark.parametrize(
    ("settings", "how", "said"),
    [
        ({}, {"to": "onxx"}, "unknown format 'onxx'.*did you mean 'onnx'"),
        ({}, {"to": "onnx", "size": 33}, "images of 33 px do not divide into patches of 8 px"),
        ({}, {"size": 64}, "a size is for ONNX"),
        ({"stem": "conv"}, {}, "cannot express a convolutional stem: write ONNX"),
        ({"pre_norm": True}, {}, "cannot express a norm before the blocks"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence_and_nothing_is_written(
    tmp_path: Path, settings: dict[str, Any], how: dict[str, Any], said: str
) -> None:
    saved(tmp_path / "run", replace(TINY, **settings))
    with pytest.raises(ValueError, match=said):
        alumnus.export(tmp_path / "run", tmp_path / "out", **how)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_folder_one_is_in_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "run", TINY)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    alumnus.export("../run", ".", "alumnus")
    assert (tmp_path / "here/encoder.safetensors").is_file()


def test_a_folder_in_use_is_replaced_only_when_asked(tmp_path: Path) -> None:
    saved(tmp_path / "run", TINY)
    alumnus.export(tmp_path / "run", tmp_path / "out", "alumnus")
    with pytest.raises(ValueError, match="is not empty: add --overwrite"):
        alumnus.export(tmp_path / "run", tmp_path / "out")
    alumnus.export(tmp_path / "run", tmp_path / "out", overwrite=True)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "config.json",
        "licences.txt",
        "model.safetensors",
    ]
    (tmp_path / "out/thesis.txt").touch()
    with pytest.raises(ValueError, match=r"holds 'thesis.txt', which no export wrote"):
        alumnus.export(tmp_path / "run", tmp_path / "out", overwrite=True)
    for model in ("run", "run/encoder.safetensors"):
        with pytest.raises(ValueError, match="is where the encoder is"):
            alumnus.export(tmp_path / model, tmp_path / "run", "alumnus", overwrite=True)
    with pytest.raises(ValueError, match="there is no encoder in"):
        alumnus.export(tmp_path / "nothing", tmp_path / "other")
