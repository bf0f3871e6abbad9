"""Two-view networks by name: shipped, a file of MASt3R or DUNE-MASt3R, a folder."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import alumnus
from alumnus.encoders import EncoderSpec, build_encoder
from alumnus.heads.two_view import (
    TwoViewHead,
    TwoViewNetwork,
    TwoViewSpec,
    load_mast3r,
    save_two_view_head,
)
from alumnus.miniworld import teacher_folder
from alumnus.runs import load_encoder, save_encoder
from two_view_files import dune_mast3r_file, mast3r_file

ENCODER = EncoderSpec(model="vit", dim=8, depth=1, num_heads=1, image_size=16, patch_size=4)
HEAD = TwoViewSpec(
    encoder_dim=8, patch_size=4, points="linear", dim=8, depth=1, num_heads=1, desc_dim=4
)


def points(network: TwoViewNetwork) -> Tensor:
    patch = network.head.spec.patch_size
    images = torch.randn(2, 1, 3, 2 * patch, 3 * patch, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        second: Tensor = network(images[0], images[1])[1].points
    return second


def test_the_shipped_teacher_opens_by_name_and_by_folder() -> None:
    network = alumnus.load_two_view("miniworld-rooms")
    assert not network.training
    folder = teacher_folder("rooms")
    for other in (Path("miniworld-rooms"), folder, folder / "two_view.safetensors"):
        assert torch.equal(points(alumnus.load_two_view(other)), points(network))
    elsewhere = alumnus.load_two_view(folder, encoder="miniworld-rooms")
    torch.testing.assert_close(points(elsewhere), points(network))
    assert torch.equal(
        points(alumnus.load_two_view(folder, encoder=load_encoder(folder))), points(network)
    )


def test_a_file_of_mast3r_opens_by_its_path(tmp_path: Path) -> None:
    file = mast3r_file(tmp_path)
    assert torch.equal(points(alumnus.load_two_view(file)), points(load_mast3r(file)))
    with pytest.raises(ValueError, match="holds its own encoder: leave encoder=x out"):
        alumnus.load_two_view(file, encoder="x")


def test_weights_that_are_kept_open_by_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    file = mast3r_file(tmp_path)
    expected = points(load_mast3r(file))
    alumnus.get("mast3r-vitl16", file=file)
    file.unlink()
    assert torch.equal(points(alumnus.load_two_view("mast3r-vitl16")), expected)


def test_dune_mast3r_asks_for_the_encoder_that_it_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, encoder = dune_mast3r_file(tmp_path, named="dune_small_encoder")
    with pytest.raises(ValueError, match=r"encoder=FILE, which should be 'dune_small_encoder'"):
        alumnus.load_two_view(file)
    network = alumnus.load_two_view(file, encoder=encoder)
    assert network.head.spec.encoder_name == "dune_small_encoder"
    other = tmp_path / "dune_base"
    save_encoder(other, encoder, encoder.spec)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(points(alumnus.load_two_view(file, encoder=other)), points(network))
    assert "trained on the encoder 'dune_small_encoder', but this is 'dune_base'" in caplog.text


@pytest.mark.parametrize("named", ["dune_vitbase_14_448_paper_encoder", "dune_vitsmall_14_336"])
def test_dune_mast3r_refuses_an_encoder_that_its_name_rules_out(tmp_path: Path, named: str) -> None:
    file, encoder = dune_mast3r_file(tmp_path, named=named)
    with pytest.raises(ValueError, match=f"trained on the encoder '{named}' .width ") as refused:
        alumnus.load_two_view(file, encoder=encoder)
    assert f"not on one of width {encoder.dim}, patches of 14 px" in str(refused.value)


def test_a_head_without_an_encoder_beside_it_asks_for_one(tmp_path: Path) -> None:
    save_two_view_head(tmp_path, TwoViewHead(replace(HEAD, encoder_name="mine")))
    for place in (tmp_path, tmp_path / "two_view.safetensors"):
        with pytest.raises(ValueError, match=r"no encoder beside .* which should be 'mine'"):
            alumnus.load_two_view(place)
    assert alumnus.load_two_view(tmp_path, encoder=build_encoder(ENCODER)).image_size == 16
    with pytest.raises(ValueError, match="is for an encoder of width 8 and patches of 4 px, not"):
        alumnus.load_two_view(tmp_path, encoder="miniworld-objects")


def test_photographs_are_prepared_as_the_head_says(tmp_path: Path) -> None:
    save_encoder(tmp_path, build_encoder(ENCODER), ENCODER)
    save_two_view_head(tmp_path, TwoViewHead(replace(HEAD, image_size=24, squares=False)))
    network = alumnus.load_two_view(tmp_path)
    assert (network.image_size, network.head.spec.squares) == (24, False)
    with pytest.raises(ValueError, match="photographs of 3 px hold not one patch of 4 px"):
        replace(HEAD, image_size=3)


def test_heads_saved_before_photographs_were_described_load(tmp_path: Path) -> None:
    head = TwoViewHead(HEAD)
    save_two_view_head(tmp_path, head)
    stored: dict[str, Any] = json.loads((tmp_path / "two_view.json").read_text())["two_view"]
    for key in ("image_size", "squares", "encoder_name"):
        del stored[key]
    assert TwoViewSpec.from_dict(stored) == HEAD


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("miniworld-room", "did you mean 'miniworld-rooms'"),
        (Path(__file__).parent, "there is no two-view head at"),
        (Path(__file__), "is damaged or no torch checkpoint"),
    ],
)
def test_what_is_no_two_view_network_is_one_sentence(name: str | Path, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as refused:
        alumnus.load_two_view(name)
    assert "\n" not in str(refused.value)
