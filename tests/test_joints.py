"""Joint regression is ridge regression, scored by PCK, its penalty chosen on training images."""

import numpy as np
import pytest
import torch
from torch import Tensor

from alumnus.evaluation.joints import (
    STRENGTHS,
    JointScore,
    constant_joints,
    heatmaps,
    joint_regression,
    locate,
    pck,
    ridge,
    torso_px,
)

TORSO = ((0, 1), (2, 3))


@pytest.mark.parametrize("dim", [5, 40])  # fewer and more dimensions than samples
def test_ridge_equals_the_normal_equation(dim: int) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, dim)) * 3, rng.normal(size=(20, 4))
    strengths = [0.01, 1.0, 50.0]
    got = ridge(torch.from_numpy(x), torch.from_numpy(y), strengths, block=7)
    gram = x.T @ x
    for strength, weights in zip(strengths, got.numpy(), strict=True):
        want = np.linalg.solve(gram + strength * np.diag(gram).mean() * np.eye(dim), x.T @ y)
        np.testing.assert_allclose(weights, want, atol=1e-12)  # float64; measured 1e-15


@pytest.mark.parametrize("grid", [(7, 7), (4, 6)])
def test_joints_are_found_where_their_heat_was_drawn(grid: tuple[int, int]) -> None:
    places = 0.15 + 0.7 * torch.rand(20, 3, 2, generator=torch.Generator().manual_seed(0))
    found = locate(heatmaps(places, grid), grid)
    assert (found - places).abs().mean() < 0.2 / min(grid)
    assert (found - places).abs().max() < 0.5 / min(grid)


def test_torso_is_the_first_pair_that_is_visible() -> None:
    person = torch.tensor([[0.0, 0, 1], [3, 4, 1], [0, 0, 1], [6, 8, 1]])
    first_hidden, all_hidden = person.clone(), person.clone()
    first_hidden[1, 2] = 0
    all_hidden[1:3, 2] = 0
    lengths = torso_px(torch.stack([person, first_hidden, all_hidden]), torso=TORSO)
    assert lengths.tolist() == [5.0, 10.0, 0.0]


def test_pck_of_a_person_drawn_by_hand() -> None:
    # 200 x 100 pixels; torso from (20, 20) to (20, 70): 50 px, so 10 px are near enough
    joints = torch.tensor([[[0.1, 0.2, 1], [0.1, 0.7, 1], [0.5, 0.5, 1], [0.9, 0.9, 0]]])
    prediction = torch.tensor([[[0.1, 0.2], [0.1, 0.79], [0.56, 0.5], [0.0, 0.0]]])
    # errors: 0 px, 9 px, 12 px; the last joint is not visible
    score = pck(prediction, joints, torch.tensor([[200, 100]]), torso=TORSO)
    assert score.pck == pytest.approx(200 / 3)
    assert score.mean_error_px == pytest.approx(7.0, abs=1e-5)
    assert (score.people, score.joints) == (1, 3)


def test_pck_leaves_out_people_without_a_torso_and_refuses_none() -> None:
    seen = torch.tensor([[0.1, 0.1, 1], [0.1, 0.6, 1], [0.5, 0.5, 0], [0.5, 0.5, 0]])
    hidden = seen * torch.tensor([1, 1, 0])
    hidden[0, 2] = 1.0
    joints = torch.stack([seen, hidden])
    sizes = torch.full((2, 2), 100)
    score = pck(joints[..., :2], joints, sizes, torso=TORSO)
    assert (score.people, score.joints, score.pck) == (1, 2, 100.0)
    with pytest.raises(ValueError, match="visible torso"):
        pck(joints[1:, :, :2], joints[1:], sizes[1:], torso=TORSO)


def test_torso_of_a_joint_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="torso names joint 9, but there are 4 joints"):
        torso_px(torch.ones(1, 4, 3))


GRID = (7, 5)


def people(n: int, *, seed: int, noise: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Patch tokens [n, 35, 6] that hold the heat of four joints linearly, joints, image sizes."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(4, 6, generator=torch.Generator().manual_seed(99))
    places = torch.rand(n, 4, 2, generator=generator)
    tokens = heatmaps(places, GRID) @ mixing
    tokens = tokens + noise * torch.randn(tokens.shape, generator=generator)
    visible = (torch.rand(n, 4, 1, generator=generator) > 0.2).float()
    sizes = torch.tensor([[160, 120]]).expand(n, 2)
    return tokens, torch.cat([places, visible], dim=-1), sizes


def regression(train: tuple[Tensor, ...], test: tuple[Tensor, ...]) -> JointScore:
    return joint_regression(*train, *test, grid=GRID, torso=TORSO)


def test_regression_finds_joints_that_tokens_hold_and_beats_the_constant() -> None:
    train, test = people(80, seed=0, noise=0.02), people(30, seed=1, noise=0.02)
    score = regression(train, test)
    constant = pck(constant_joints(train[1], 30), *test[1:], torso=TORSO)
    assert score.pck > 80
    assert constant.pck < 30
    assert score.strength in STRENGTHS


def test_test_joints_take_no_part_in_the_fit_or_the_choice_of_the_penalty() -> None:
    train, test = people(60, seed=0, noise=0.3), people(30, seed=1, noise=0.3)
    moved = test[1].flip(0)
    first = regression(train, test)
    second = regression(train, (test[0], moved, test[2]))
    assert (first.strength, first.val_pck) == (second.strength, second.val_pck)
    assert torch.equal(first.prediction, second.prediction)


def test_places_of_invisible_joints_change_nothing() -> None:
    features, joints, sizes = people(60, seed=0, noise=0.2)
    hidden = joints.clone()
    hidden[..., :2] = torch.where(joints[..., 2:] > 0, joints[..., :2], -7.0)
    test = people(30, seed=1)
    scores = [regression((features, j, sizes), test) for j in (joints, hidden)]
    assert torch.equal(scores[0].prediction, scores[1].prediction)


def test_scale_of_channels_change_nothing() -> None:
    train, test = people(60, seed=0, noise=0.2), people(30, seed=1, noise=0.2)
    scale = torch.tensor([1.0, 2.0, 4.0, 0.5, 8.0, 0.25])  # powers of two: exact in float32
    plain = regression(train, test)
    scaled = regression((train[0] * scale, *train[1:]), (test[0] * scale, *test[1:]))
    torch.testing.assert_close(plain.prediction, scaled.prediction, atol=1e-6, rtol=0)


def test_constant_is_the_mean_of_visible_places() -> None:
    joints = torch.tensor([[[0.2, 0.4, 1], [0.9, 0.9, 0]], [[0.4, 0.8, 1], [0.1, 0.1, 0]]])
    want = torch.tensor([[0.3, 0.6], [0.5, 0.5]], dtype=torch.float64)  # never visible: the middle
    torch.testing.assert_close(constant_joints(joints, 3), want.expand(3, 2, 2), atol=1e-7, rtol=0)
