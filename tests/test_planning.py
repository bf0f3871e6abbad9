"""`alumnus plan`: its numbers are those of the run, and it leaves nothing behind."""

from pathlib import Path

import pytest
import torch

import toys
from alumnus import api, costs
from alumnus.distill import Distillation
from alumnus.encoders import EncoderSpec, build_encoder
from alumnus.plans import Plan
from alumnus.runs import load

WORDS = ("data.train=photos", "train.precision=fp32", "out=run")
CACHED = (*WORDS, "cache={enabled: true, views: 2}")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    toys.write_recipe(tmp_path)
    toys.write_images(tmp_path / "photos")
    return tmp_path


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def size_of(*paths: Path) -> int:
    return sum(path.stat().st_size for path in paths)


@pytest.mark.parametrize("words", [WORDS, CACHED], ids=["live", "cached"])
def test_a_plan_measures_and_leaves_nothing_behind(place: Path, words: tuple[str, ...]) -> None:
    before = files(place)
    plan = api.plan("toy.yaml", *words)
    assert files(place) == before
    assert plan.time is not None
    assert plan.time.step_s > 0
    assert 0 <= plan.time.data_wait < 1
    assert plan.time.train_s == pytest.approx(plan.steps * plan.time.step_s)
    assert (plan.time.cache_s > 0) == (words is CACHED)
    assert plan.time.hours == (plan.time.train_s + plan.time.cache_s) / 3600


def test_without_measuring_no_step_is_taken(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Distillation, "step", None)
    plan = api.plan("toy.yaml", *WORDS, measure=False)
    assert plan.time is None
    assert "not measured" in str(plan)


def test_counts_are_those_of_the_run_that_follows(place: Path) -> None:
    plan = api.plan("toy.yaml", *CACHED, "optim.steps=10", measure=False)
    result = api.distill("toy.yaml", *CACHED, "optim.steps=10")
    assert plan.steps == result.steps
    encoder = next(part for part in plan.parts if part.role == "encoder")
    assert encoder.parameters == costs.parameters(load(result.folder))
    run = place / "run"
    kept = [path for path in (run / "checkpoints").rglob("*") if path.is_file()]
    # one more is reserved for writing; safetensors' headers are a few KiB
    assert plan.disk.checkpoints * 2 / 3 == pytest.approx(size_of(*kept), rel=0.4)
    assert plan.disk.cache == plan.disk.cache_missing
    built = size_of(*(place / "cache" / "features").rglob("*.bin"))
    rows = 2 * plan.images
    assert plan.disk.cache == pytest.approx(built, abs=2 * 8 * rows)  # marks beside the features
    assert api.plan("toy.yaml", *CACHED, measure=False).disk.cache_missing == 0


def test_features_that_are_there_cost_no_time(place: Path) -> None:
    api.cache("toy.yaml", *CACHED)
    plan = api.plan("toy.yaml", *CACHED)
    assert plan.time is not None
    assert plan.time.cache_s == 0


def test_of_sizes_drawn_at_random_operations_are_the_mean_and_memory_is_of_the_largest(
    place: Path,
) -> None:
    def plan(*words: str) -> Plan:
        return api.plan("toy.yaml", *WORDS, *words, measure=False)

    small, large = plan("data.size=16"), plan("data.size=48")
    drawn = plan("data.sizes=[16,48,48]", "data.size=32")
    for low, high, found in zip(small.parts, large.parts, drawn.parts, strict=True):
        assert (found.role, found.name) == (low.role, low.name)
        assert (low.flops, high.flops, found.flops) != (None, None, None)
        assert found.flops == pytest.approx(((low.flops or 0) + 2 * (high.flops or 0)) / 3, abs=1)
    assert small.memory.activations < drawn.memory.activations == large.memory.activations


def test_operations_of_a_vit_are_those_of_its_formula() -> None:
    dim, depth, side, patch = 32, 3, 32, 8
    spec = EncoderSpec(
        model="vit", dim=dim, depth=depth, num_heads=2, patch_size=patch, image_size=side
    )
    patches = (side // patch) ** 2
    n = patches + 1
    embed = 2 * patches * (3 * patch * patch) * dim
    block = 2 * n * dim * (3 * dim + dim + 4 * dim + 4 * dim) + 2 * 2 * n * n * dim
    encoder = build_encoder(spec).eval()
    counted = costs.flops(lambda x: encoder(x), torch.zeros(1, 3, side, side))
    assert counted == embed + depth * block
