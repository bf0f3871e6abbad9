"""The teacher audit: what models tell of each other, from unlabelled images."""

import json
from pathlib import Path

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

import alumnus
import toys
from alumnus.evaluation.comparison import (
    STRENGTHS,
    Kernels,
    coverage_order,
    gram,
    neighbour_overlap,
)

N = 120


def random(dim: int, seed: int) -> Tensor:
    return torch.randn(N, dim, generator=torch.Generator().manual_seed(seed))


def kernels(**features: Tensor) -> Kernels:
    return Kernels({name: gram(x) for name, x in features.items()}, torch.arange(N))


def test_turned_and_scaled_features_are_told_whole() -> None:
    x = random(6, 0)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0]
    told = kernels(x=x, y=x @ turn * 7 + 3).explained(["x"], "y")
    assert told > 0.999


def test_unrelated_features_tell_nothing() -> None:
    assert kernels(x=random(6, 0), y=random(6, 1)).explained(["x"], "y") < 0.05


def test_a_part_tells_its_share_and_the_whole_tells_the_part() -> None:
    a, b = random(4, 0), random(4, 1)
    held = kernels(a=a, b=b, both=torch.cat([a, b], dim=1))
    assert held.explained(["a"], "both") == pytest.approx(0.5, abs=0.06)
    assert held.explained(["both"], "a") > 0.99
    assert held.explained(["a", "b"], "both") > 0.99
    assert held.explained([], "a") == 0


def test_share_is_that_of_ridge_regression_on_held_out_images() -> None:
    x = random(5, 0)
    y = torch.tanh(x @ random(5, 1)[:5]) + 0.3 * random(5, 2)
    ours = kernels(x=x, y=y).explained(["x"], "y")
    standard = [((v - v.mean(0)) / v.std(0, correction=0)).double() for v in (x, y)]
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    missed, total = torch.zeros(len(STRENGTHS), dtype=torch.float64), 0.0
    for held in order.tensor_split(5):
        fit = torch.ones(N, dtype=torch.bool)
        fit[held] = False
        inputs, targets = (v.numpy() for v in standard)
        centred = standard[0][fit] - standard[0][fit].mean(0)
        for i, strength in enumerate(STRENGTHS):
            ridge = Ridge(alpha=strength * float((centred**2).sum()))
            ridge.fit(inputs[fit.numpy()], targets[fit.numpy()])
            error = torch.from_numpy(ridge.predict(inputs[held.numpy()])) - standard[1][held]
            missed[i] += (error**2).sum()
        total += float(((standard[1][held] - standard[1][fit].mean(0)) ** 2).sum())
    assert ours == pytest.approx(1 - float(missed.min()) / total, abs=1e-6)


def test_samples_of_one_image_are_held_out_together() -> None:
    """Each image twice: who could look at the twin would tell everything."""
    x, y = (random(60, seed)[: N // 2].repeat_interleave(2, dim=0) for seed in (0, 1))
    grams = {"x": gram(x), "y": gram(y)}
    alone = Kernels(grams, torch.arange(N)).explained(["x"], "y")
    together = Kernels(grams, torch.arange(N // 2).repeat_interleave(2)).explained(["x"], "y")
    assert alone > 0.5
    assert together < 0.1


def test_dimensions_that_never_change_do_not_count() -> None:
    x = random(4, 0)
    padded = torch.cat([x, torch.full((N, 3), 5.0)], dim=1)
    torch.testing.assert_close(gram(padded), gram(x), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="equal for all images"):
        gram(torch.ones(N, 3))


def test_overlap_is_one_with_itself_and_chance_without_relation() -> None:
    a, b = gram(random(8, 0)), gram(random(8, 1))
    assert neighbour_overlap(a, 3 * a) == 1
    assert neighbour_overlap(a, b) == pytest.approx(10 / (N - 1), abs=0.04)


def test_a_pool_grows_by_what_adds_most() -> None:
    a, b = random(4, 0), random(4, 1)
    held = kernels(a=a, twin=a + 0.01 * random(4, 2), b=b)
    names = ["a", "twin", "b"]

    def coverage(pool: object) -> float:
        assert isinstance(pool, list)
        return sum(1.0 if n in pool else held.explained(pool, n) for n in names) / 3

    order = coverage_order(coverage, names)
    assert "b" in (order[0][0], order[1][0])
    assert [share for _, share in order] == sorted(share for _, share in order)
    assert order[-1][1] == 1


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    return toys.write_images(tmp_path / "photos", count=40)


def test_command_compares_teachers_without_labels(images: Path, tmp_path: Path) -> None:
    found = alumnus.compare(["python:toys:red", "python:toys:blue"], str(images), images=36)
    assert (found.models, found.images) == (["red", "blue"], 36)
    assert [level.name for level in found.levels] == ["image", "patch"]
    assert "adds" in str(found)
    found.save(tmp_path / "audit.json")
    record = json.loads((tmp_path / "audit.json").read_text())
    assert record["levels"]["image"]["cka"]["red"]["red"] == pytest.approx(1)
    found.draw(tmp_path / "audit.png")
    assert (tmp_path / "audit.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("models", "why"),
    [
        (["python:toys:red"], "at least two models"),
        (["python:toys:red", "python:toys:red"], "each can be there once"),
    ],
)
def test_what_cannot_be_compared_is_refused(images: Path, models: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        alumnus.compare(models, str(images))


def test_few_images_are_refused(tmp_path: Path) -> None:
    few = toys.write_images(tmp_path / "few", count=8)
    with pytest.raises(ValueError, match="has 8 images; a comparison needs 32"):
        alumnus.compare(["python:toys:red", "python:toys:blue"], str(few))
