"""Options that reach the bare encoder: its last norm, a side head, the share of patches."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import toys
from alumnus import api, measure
from alumnus.config import ConfigError, load_config
from alumnus.runs import load_student

PLAIN = "projector={kind: transformer}"
NORMED = "projector={kind: transformer, apply_last_norm: true}"
SIDE = "projector={kind: transformer, side: {teacher: red, weight: 0.3}}"


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    toys.write_recipe(tmp_path)
    return toys.write_images(tmp_path / "photos")


def trained(photos: Path, *words: str) -> Path:
    out = photos.parent / "run"
    api.distill(photos.parent / "toy.yaml", f"data.train={photos}", f"out={out}", *words)
    return out


@pytest.mark.parametrize(("words", "learns"), [(PLAIN, False), (NORMED, True), (SIDE, True)])
def test_the_last_norm_learns_where_a_head_reads_behind_it(
    words: str, learns: bool, photos: Path
) -> None:
    weights = load_file(trained(photos, words) / "encoder.safetensors")
    assert weights["norm.weight"].ne(1).any().item() is learns


def test_a_side_head_is_kept_with_the_run_and_hides_nothing_in_its_evaluation(
    photos: Path,
) -> None:
    run = trained(photos, SIDE)
    loaded = load_student(run)
    assert list(loaded.student.sides) == ["red"]
    rows = measure.student_models(loaded, "student", torch.device("cpu"))
    assert [row.name for row in rows[:-1]] == ["student", "student as red", "student as blue"]
    again = photos.parent / "again"
    words = [f"data.train={photos}", SIDE, f"init={run}", "optim.steps=1", f"out={again}"]
    api.distill(photos.parent / "toy.yaml", *words)


def test_a_student_of_patches_alone_learns_no_cls(photos: Path) -> None:
    words = ["projector={kind: linear}", "optim.weight_decay=0", "optim.steps=2"]
    run = trained(photos, *words, "loss.patch_share=1")
    weights = load_file(run / "student.safetensors")
    bias = {k: v for k, v in weights.items() if k.startswith("model.projectors.red.heads")}
    assert not bias["model.projectors.red.heads.cls.bias"].any()
    assert bias["model.projectors.red.heads.patch.bias"].any()


def test_a_side_head_of_no_teacher_is_refused(photos: Path) -> None:
    words = ["projector={side: {teacher: rad}}"]
    with pytest.raises(ConfigError, match=r"side\.teacher: unknown teacher 'rad'.*mean 'red'"):
        load_config(photos.parent / "toy.yaml", words)
