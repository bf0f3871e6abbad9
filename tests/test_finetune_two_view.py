"""`alumnus finetune --head two-view`: trained on pairs, resumed, loaded, refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import alumnus
from alumnus import api
from alumnus.config import ConfigError
from alumnus.data import open_source
from alumnus.encoders import Encoder, EncoderSpec, build_encoder
from alumnus.evaluation.suite import CONSTANT
from alumnus.finetune_config import TwoViewSection
from alumnus.finetuning.two_view.spec import fitting_spec
from alumnus.heads.two_view import TwoViewHead
from alumnus.runs import save_encoder
from alumnus.scenes import load_two_view
from test_finetune import stopped_after

SMALL = EncoderSpec(model="vit", dim=16, depth=1, num_heads=2, patch_size=8, image_size=32)
ROOMS = "data=miniworld:rooms:test[:40],miniworld:rooms:test[40:48]"
SHORT = ("steps=8", "batch_size=4", "lr=3e-3", "evaluations=1", "log_every=1", "two_view.depth=1")
QUICK = (ROOMS, *SHORT, "device=cpu", "threads=1", "workers=0")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    save_encoder(folder, build_encoder(SMALL), SMALL)
    return str(folder)


def test_a_two_view_head_is_trained_scored_and_loaded(encoder: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = api.finetune(encoder, *QUICK, f"out={out}", head="two-view")
    [task] = result.results.tasks
    assert (task.name, task.kind) == ("rooms AUC@20", "two-view")
    assert task.test["images"] == 8
    assert set(result.results.scores[task.name]) == {Path(encoder).name, CONSTANT}
    for column in ("auc5", "abs_rel", "match_4px"):
        assert column in result.table
    reports = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [report["loss"] for report in reports]
    assert sum(losses[-3:]) < sum(losses[:3])
    assert 0 <= reports[-1]["held_out/match_patch"] <= 100

    model = alumnus.load_head(out)
    source = open_source("miniworld:rooms:test")
    first, second = (model.prepare(source.read(i).image)[None] for i in (40, 41))
    assert first.shape == (1, 3, 32, 32)
    view1, view2 = model(first, second[..., :24])  # views may differ in size
    assert view1.points.shape == (1, 32, 32, 3)
    assert view2.desc.shape == (1, 32, 24, 16)
    network = load_two_view(out)
    with torch.no_grad():
        assert torch.equal(network(first, second)[0].points, model(first, second)[0].points)


def test_a_resumed_two_view_head_equals_an_uninterrupted_one_bit_for_bit(
    encoder: str, tmp_path: Path
) -> None:
    words = (*QUICK, "steps=5")
    api.finetune(encoder, *words, f"out={tmp_path / 'whole'}", head="two-view")
    stopped_after(2, encoder, words, tmp_path / "stopped", head="two-view")
    assert not (tmp_path / "stopped" / "head.json").exists()
    api.finetune(encoder, *words, f"out={tmp_path / 'stopped'}", head="two-view", resume=True)
    folders = tmp_path / "whole", tmp_path / "stopped"
    ours, theirs = (load_file(folder / "two_view.safetensors") for folder in folders)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_an_unfrozen_encoder_learns_from_pairs_too(encoder: str, tmp_path: Path) -> None:
    before = load_file(Path(encoder) / "encoder.safetensors")
    words = (*QUICK, "steps=2", "two_view.bridge=true", f"out={tmp_path / 'out'}")
    api.finetune(encoder, *words, head="two-view", unfrozen=True)
    after = load_file(tmp_path / "out" / "encoder.safetensors")
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert {"patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"} <= set(changed)
    assert load_two_view(tmp_path / "out").head.spec.bridge


@pytest.mark.parametrize(
    ("head", "words", "sentence"),
    [
        ("classes", ["two_view.depth=2"], "two_view.depth is that of two-view, not of classes"),
        ("two-view", ["layers=2"], "layers are those of segmentation and depth: two-view sees one"),
        ("two-view", ["two_view.dept=2"], r"did you mean 'two_view.depth'\?"),
        (
            "two-view",
            ["two_view.least_overlap=0.9"],
            "two_view.least_overlap is 0.9, but must be below two_view.most_overlap, 0.9",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(
    encoder: str, tmp_path: Path, head: str, words: list[str], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        api.finetune(encoder, ROOMS, *words, f"out={tmp_path / 'out'}", head=head)


def test_what_cannot_be_trained_is_said_before_anything_is_written(
    encoder: str, tmp_path: Path
) -> None:
    words = (*QUICK, f"out={tmp_path / 'out'}")
    widths = ("two_view.width=30", "two_view.heads=4")
    objects = "data=miniworld:objects:test[:4],miniworld:rooms:test[:4]"
    with pytest.raises(
        ValueError, match="red can neither be trained on nor see two views or people"
    ):
        api.finetune("python:toys:red", *words, head="two-view")
    with pytest.raises(ValueError, match=r"two_view\.matches is 99999, but pictures of"):
        api.finetune(encoder, *words, "two_view.matches=99999", head="two-view")
    with pytest.raises(ValueError, match="decoders of width 30 cannot have 4 heads"):
        api.finetune(encoder, *words, *widths, head="two-view")
    with pytest.raises(ValueError, match=r"needs pairs of views \(depth, K, pose and pair"):
        api.finetune(encoder, *words, objects, head="two-view")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dim", [16, 128, 192, 384, 768, 1024])
def test_a_head_fits_any_width_and_is_mast3rs_at_its_width(dim: int) -> None:
    encoder = Encoder()
    encoder.dim, encoder.patch_size = dim, 16
    spec = fitting_spec(encoder, TwoViewSection(), size_px=512)
    assert spec.dim <= dim * 2
    if dim == 1024:
        assert (spec.dim, spec.depth, spec.num_heads, spec.points) == (768, 12, 12, "dpt")
        assert (spec.dpt_levels, spec.dpt_dim, spec.dpt_last_dim) == ((96, 192, 384, 768), 256, 128)
    if dim <= 192:
        TwoViewHead(spec)  # fits together
