"""The ten-line examples of released checkpoints, on small files in the released formats."""

import argparse
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import alumnus
from alumnus.encoders import EncoderSpec, build_encoder
from alumnus.encoders.conversion import encoder_to_reference
from alumnus.runs import save_encoder
from two_view_files import dune_mast3r_file

ROOT = Path(__file__).parents[1]
ENCODER, HEADS = "dune_vitbase14_448_paper.pth", "dunemast3r_cvpr25_vitbase.pth"


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The two files under their published names, and two photographs of other sizes."""
    file, encoder = dune_mast3r_file(tmp_path)
    file.rename(tmp_path / HEADS)
    state = {f"encoder.{k}": v for k, v in encoder_to_reference(encoder.state_dict()).items()}
    options = f"{{'num_heads': {encoder.num_heads}}}"
    args = argparse.Namespace(image_size=encoder.image_size, proj_args=options)
    torch.save({"model": state, "args": args, "iter": 7}, tmp_path / ENCODER)
    for name, size in (("left.jpg", (300, 200)), ("right.jpg", (150, 260))):
        Image.effect_noise(size, 90).convert("RGB").save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("alumnus.heads.two_view.released.DUNE_PX", 56)  # 518 px take a while
    return tmp_path


def test_dunes_features_are_drawn_in_three_colours(downloads: Path) -> None:
    seen = runpy.run_path(str(ROOT / "examples" / "dune_features.py"))
    encoder = alumnus.load(downloads / ENCODER)
    h, w = seen["tokens"].grid
    assert seen["patches"].shape == (h * w, encoder.dim)
    with Image.open("pca.png") as picture:
        assert picture.size == (w, h)
        colours = np.array(picture).reshape(-1, 3)
        assert (colours.min(axis=0) == 0).all()
        assert (colours.max(axis=0) >= 254).all()


def test_dune_mast3r_matches_photographs_of_different_sizes(
    downloads: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = runpy.run_path(str(ROOT / "examples" / "dune_mast3r.py"))
    assert len(seen["found"]) > 0
    assert "matches, confidence" in capsys.readouterr().out
    assert (downloads / "found" / "matches.png").is_file()


@pytest.mark.parametrize("name", ["dune_features.py", "dune_mast3r.py"])
def test_the_page_shows_the_examples_as_they_are(name: str) -> None:
    text = (ROOT / "examples" / name).read_text()
    code = text.partition('"""\n\n')[2]
    assert code
    assert f"```python\n{code}```" in (ROOT / "docs" / "two-view.md").read_text()
    statements = [line for line in code.splitlines() if line and line[0] not in " )"]
    assert len(statements) <= 12


def test_the_readmes_first_blocks_run_in_a_folder_with_a_run_and_a_photograph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = EncoderSpec(model="vit_tiny", patch_size=16, image_size=32, drop_path=0.0)
    save_encoder(tmp_path / "runs" / "photos", build_encoder(spec), spec)
    Image.effect_noise((60, 40), 90).convert("RGB").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "README.md").read_text()
    assert "alumnus export runs/photos photos-timm  " in page
    alumnus.export("runs/photos", "photos-timm")
    seen: dict[str, Any] = {}
    for block in page.split("```python\n")[1:3]:
        exec(block.partition("```")[0], seen)
    assert seen["tokens"].cls.shape == (1, 192)
    with torch.no_grad():
        plain = seen["model"].eval().forward_features(seen["images"])[:, 1:]
    torch.testing.assert_close(plain, seen["tokens"].patches, rtol=0, atol=1e-4)
