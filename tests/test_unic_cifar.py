"""The scripts of docs/results/unic-cifar.md: valid runs, sound objectives."""

from pathlib import Path

import pytest
import torch

from alumnus.config import load_config
from alumnus.encoders import build_encoder
from benchmarks.unic_cifar import run as driver
from benchmarks.unic_cifar import teachers

BENCH = driver.Bench(Path("packs"), Path("runs/teachers"), Path("runs/unic-cifar"))
RUNS = [run for stage in driver.STAGES.values() for run in stage()]


def test_every_run_is_a_valid_recipe_with_a_name_of_its_own() -> None:
    assert len({run.name for run in RUNS}) == len(RUNS)
    for run in RUNS:
        config = load_config("mini-unic", BENCH.words(run))
        assert list(config.teachers) == list(run.teachers)
        assert config.train.seed == run.seed


def test_the_pools_are_all_sets_of_the_teachers_and_seven_with_a_network_of_imagenet() -> None:
    pools = [frozenset(run.teachers) for run in driver.pools()]
    assert len(set(pools)) == len(pools) == 14
    assert sum(driver.LITES[0] in pool for pool in pools) == 5
    assert sum(lite in pool for pool in pools for lite in driver.LITES[1:]) == 2


@pytest.mark.parametrize("name", teachers.RECIPES)
def test_every_teacher_learns_on_one_batch(name: str) -> None:
    torch.manual_seed(0)
    recipe = teachers.RECIPES[name]
    encoder = build_encoder(teachers.SPEC)
    objective = recipe.objective(encoder.dim)
    images = torch.randn(8, 3, 32, 32)
    views = [images + 0.1 * torch.randn_like(images) for _ in range(recipe.views)]
    seen = teachers.Seen(views, torch.arange(8))
    parameters = [*encoder.parameters(), *objective.heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=5e-4)
    losses = []
    for _ in range(25):
        torch.manual_seed(1)  # the same patches are hidden
        loss = objective.loss(encoder, seen)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.8 * losses[0]


def test_contrastive_loss_is_least_for_partners_that_agree() -> None:
    apart = torch.eye(6)
    agreeing = torch.cat([apart, apart])
    mixed = torch.cat([apart, apart.roll(1, dims=0)])
    good, bad = (teachers.info_nce(x, temperature=0.2) for x in (agreeing, mixed))
    assert good < bad


def test_gradient_histograms_tell_vertical_from_horizontal_edges() -> None:
    ramp = torch.linspace(0, 1, 16).expand(1, 3, 16, 16).contiguous()
    across, down = (
        teachers.patch_descriptors(image, 8)[0, 0, : teachers.BINS * 4]
        for image in (ramp, ramp.transpose(2, 3))
    )
    assert torch.nn.functional.cosine_similarity(across, down, dim=0) < 0.1
    same = teachers.patch_descriptors(5 * ramp, 8)[0, 0, : teachers.BINS * 4]
    torch.testing.assert_close(same, across)
