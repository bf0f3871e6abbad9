"""Models of transformers as teachers."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from alumnus import hub
from alumnus.images import renormalise
from alumnus.teachers import UnavailableError, load_teacher

transformers = pytest.importorskip("transformers", reason="needs alumnus[hf]")

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {**TINY, "vocab_size": 9, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
del TEXT["image_size"], TEXT["patch_size"]


def config_of(family: str) -> Any:
    match family:
        case "dinov2":
            return transformers.Dinov2WithRegistersConfig(**TINY)
        case "vit":
            return transformers.ViTConfig(**TINY)
        case "clip":
            return transformers.CLIPConfig(vision_config=TINY, text_config=TEXT)
        case "siglip":
            return transformers.SiglipConfig(vision_config=TINY, text_config=TEXT)
        case "dinov3":
            return transformers.DINOv3ViTConfig(**TINY, num_register_tokens=4)
        case "resnet":
            return transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 16])
    return transformers.SwinConfig(
        embed_dim=8, depths=[1, 1], num_heads=[1, 1], image_size=32, window_size=2
    )


def saved(family: str, folder: Path, *, processor: bool = True, card: str = "") -> Any:
    """A model with fresh weights in the layout of the hub; the model itself."""
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config_of(family)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # norms too: they must not go unnoticed
    model.save_pretrained(folder)
    if processor:
        transformers.CLIPImageProcessor(
            size={"shortest_edge": 40}, crop_size=32, image_mean=[0.4] * 3, image_std=[0.2] * 3
        ).save_pretrained(folder)
    if card:
        (folder / "README.md").write_text(card)
    return model


def theirs(model: Any, images: Tensor) -> Any:
    vision = getattr(model, "vision_model", model)
    with torch.no_grad():
        return vision(pixel_values=renormalise(images, mean=(0.4,) * 3, std=(0.2,) * 3))


@pytest.mark.parametrize(
    ("family", "prefix"), [("dinov2", 5), ("vit", 1), ("dinov3", 5), ("siglip", 0), ("clip", 1)]
)
def test_a_model_of_transformers_gives_its_own_features(
    family: str, prefix: int, tmp_path: Path
) -> None:
    model = saved(family, tmp_path)
    teacher = load_teacher(f"hf:{tmp_path}", name="t")
    assert (teacher.dim, teacher.patch_size, teacher.input_size) == (16, 8, 32)
    assert (teacher.mean, teacher.std) == ((0.4,) * 3, (0.2,) * 3)
    images = torch.randn(2, 3, 32, 32)
    expected, tokens = theirs(model, images), teacher(images)
    patches = expected.last_hidden_state[:, prefix:]
    cls = expected.last_hidden_state[:, 0] if prefix else expected.pooler_output
    if family == "clip":  # transformers norms the class token only
        patches = model.vision_model.post_layernorm(patches)
        cls = expected.pooler_output
    torch.testing.assert_close(tokens.patches, patches, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens.cls, cls, atol=1e-5, rtol=1e-5)
    assert not teacher.fixed_size
    assert teacher(torch.randn(1, 3, 32, 48)).grid == (4, 6)


@pytest.mark.parametrize(("family", "patch"), [("resnet", 32), ("swin", 8)])
def test_hierarchical_models_end_in_a_coarser_grid(family: str, patch: int, tmp_path: Path) -> None:
    model = saved(family, tmp_path)
    teacher = load_teacher(f"hf:{tmp_path}")
    images = torch.randn(2, 3, 32, 32)
    tokens, expected = teacher(images), theirs(model, images)
    assert teacher.patch_size == patch
    torch.testing.assert_close(tokens.cls, expected.pooler_output.flatten(1), atol=1e-5, rtol=1e-5)


def test_a_file_that_lacks_a_tensor_is_refused_by_its_name(tmp_path: Path) -> None:
    saved("vit", tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    pooler = {name: tensors.pop(name) for name in list(tensors) if name.startswith("pooler.")}
    assert pooler
    save_file(tensors, file, metadata={"format": "pt"})
    load_teacher(f"hf:{tmp_path}")  # nothing of it goes through the pooler
    del tensors["layernorm.bias"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"do not fit: missing layernorm\.bias"):
        load_teacher(f"hf:{tmp_path}")


def test_what_the_card_states_is_the_licence(tmp_path: Path) -> None:
    saved("vit", tmp_path, card="---\nlicense: other\nlicense_name: dinov3-license\n---\n# Card\n")
    assert load_teacher(f"hf:{tmp_path}").licence == "dinov3-license"


def test_a_model_that_says_nothing_of_its_images_is_taken_as_imagenets_and_said_to_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved("vit", tmp_path, processor=False)
    teacher = load_teacher(f"hf:{tmp_path}", std=[0.5, 0.5, 0.5])
    assert "says no statistics of images" in caplog.text
    assert (teacher.mean[0], teacher.std[0]) == (0.485, 0.5)


def test_without_network_a_model_of_the_hub_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub, "_resolves", lambda url: False)
    with pytest.raises(UnavailableError, match="connect once, or give a folder"):
        load_teacher("hf:nobody/nothing")
    with pytest.raises(ValueError, match="neither of the form hf:ORG/NAME nor a folder"):
        load_teacher("hf:nothing")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UnavailableError, match=r"pip install 'alumnus\[hf\]'"):
        load_teacher("hf:nobody/nothing")


def test_a_teacher_is_compared_when_it_is_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved("vit", tmp_path)
    load_teacher(f"hf:{tmp_path}", name="t")
    assert not caplog.records
    load_teacher(f"hf:{tmp_path}", name="t", mean=[0.5, 0.5, 0.5])
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "mean 0.5/0.5/0.5 instead of 0.4/0.4/0.4" in record.getMessage()
