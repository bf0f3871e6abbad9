"""Joint regression is ridge regression, scored by PCK, its penalty chosen on training images."""

import numpy as np
import pytest
import torch
from torch import Tensor

from alumnus.evaluation.joints import (
    STRENGTHS,
    constant_joints,
    joint_regression,
    kernel,
    pck,
    ridge,
    torso_px,
)

TORSO = ((0, 1), (2, 3))


@pytest.mark.parametrize("dim", [5, 40])  # fewer and more dimensions than samples
def test_ridge_equals_the_normal_equation(dim: int) -> None:
    rng = np.random.default_rng(0)
    x, y, x_new = (
        rng.normal(size=(20, dim)) + 3,
        rng.normal(size=(20, 4)),
        rng.normal(size=(7, dim)),
    )
    strengths = [0.01, 1.0, 50.0]
    features, new = torch.from_numpy(x), torch.from_numpy(x_new)
    got = ridge(
        kernel(features, features, block=3),
        kernel(new, features, block=3),
        torch.from_numpy(y),
        strengths,
    )
    centred = x - x.mean(0)
    for strength, prediction in zip(strengths, got.numpy(), strict=True):
        weights = np.linalg.solve(
            centred.T @ centred + strength * np.eye(dim), centred.T @ (y - y.mean(0))
        )
        want = (x_new - x.mean(0)) @ weights + y.mean(0)
        np.testing.assert_allclose(prediction, want, atol=1e-9)  # float64; measured 1e-12


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


def people(n: int, *, seed: int, noise: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Features [n, 4, 6] that hold four joints linearly, the joints, image sizes."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(8, 24, generator=torch.Generator().manual_seed(99))
    place = torch.rand(n, 4, 2, generator=generator)
    features = place.flatten(1) @ mixing
    features = features + noise * torch.randn(n, 24, generator=generator)
    visible = (torch.rand(n, 4, 1, generator=generator) > 0.2).float()
    sizes = torch.tensor([[160, 120]]).expand(n, 2)
    return features.unflatten(1, (4, 6)), torch.cat([place, visible], dim=-1), sizes


def test_regression_finds_joints_that_features_hold_and_beats_the_constant() -> None:
    train, test = people(80, seed=0), people(30, seed=1)
    score = joint_regression(*train, *test, torso=TORSO)
    constant = pck(constant_joints(train[1], 30), *test[1:], torso=TORSO)
    assert score.pck > 99
    assert constant.pck < 40
    assert score.strength in STRENGTHS


def test_test_joints_take_no_part_in_the_fit_or_the_choice_of_the_penalty() -> None:
    train, test = people(60, seed=0, noise=1.0), people(30, seed=1, noise=1.0)
    moved = test[1].flip(0)
    first = joint_regression(*train, *test, torso=TORSO)
    second = joint_regression(*train, test[0], moved, test[2], torso=TORSO)
    assert (first.strength, first.val_pck) == (second.strength, second.val_pck)
    assert torch.equal(first.prediction, second.prediction)


def test_places_of_invisible_joints_change_nothing() -> None:
    features, joints, sizes = people(60, seed=0, noise=0.5)
    hidden = joints.clone()
    hidden[..., :2] = torch.where(joints[..., 2:] > 0, joints[..., :2], -7.0)
    test = people(30, seed=1)
    scores = [joint_regression(features, j, sizes, *test, torso=TORSO) for j in (joints, hidden)]
    assert torch.equal(scores[0].prediction, scores[1].prediction)


def test_scale_and_offset_of_channels_change_nothing() -> None:
    train, test = people(60, seed=0, noise=0.5), people(30, seed=1, noise=0.5)
    scale = torch.tensor([1.0, 2.0, 4.0, 0.5, 8.0, 0.25])  # powers of two: exact in float32
    plain = joint_regression(*train, *test, torso=TORSO)
    scaled = joint_regression(train[0] * scale, *train[1:], test[0] * scale, *test[1:], torso=TORSO)
    torch.testing.assert_close(plain.prediction, scaled.prediction, atol=1e-6, rtol=0)


def test_constant_is_the_mean_of_visible_places() -> None:
    joints = torch.tensor([[[0.2, 0.4, 1], [0.9, 0.9, 0]], [[0.4, 0.8, 1], [0.1, 0.1, 0]]])
    want = torch.tensor([[0.3, 0.6], [0.5, 0.5]], dtype=torch.float64)  # never visible: the middle
    torch.testing.assert_close(constant_joints(joints, 3), want.expand(3, 2, 2), atol=1e-7, rtol=0)
