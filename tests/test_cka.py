"""CKA sees what two spaces share, and nothing of how they are turned or scaled."""

import pytest
import torch
from torch import Tensor

from alumnus.evaluation.cka import linear_cka


def gaussian(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def rotation(dim: int, seed: int) -> Tensor:
    turn: Tensor = torch.linalg.qr(gaussian(dim, dim, seed).double()).Q.float()
    return turn


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("n", [20, 200])
def test_a_space_equals_itself_turned_shifted_and_scaled(n: int, unbiased: bool) -> None:
    x = gaussian(n, 12, 0)
    turned = 1e-4 * x @ rotation(12, 1) + 3.0
    assert linear_cka(x, x, unbiased=unbiased) == pytest.approx(1.0)
    assert linear_cka(x, turned, unbiased=unbiased) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("unbiased", [True, False])
def test_rotation_and_scale_of_either_side_change_nothing(unbiased: bool) -> None:
    x, y = gaussian(60, 8, 0), gaussian(60, 5, 1) + gaussian(60, 8, 0)[:, :5]
    plain = linear_cka(x, y, unbiased=unbiased)
    assert 0.1 < plain < 0.95
    turned = linear_cka(x @ rotation(8, 2), 70 * y @ rotation(5, 3), unbiased=unbiased)
    assert turned == pytest.approx(plain, abs=1e-5)
    assert linear_cka(y, x, unbiased=unbiased) == pytest.approx(plain)


def test_a_stretch_of_one_direction_is_seen() -> None:
    x = gaussian(100, 6, 0)
    assert linear_cka(x, x * torch.tensor([20.0, 1, 1, 1, 1, 1])) < 0.7


def test_unrelated_spaces_share_nothing_though_they_are_wider_than_the_images_are_many() -> None:
    pairs = [(gaussian(128, 384, 2 * i), gaussian(128, 384, 2 * i + 1)) for i in range(8)]
    unbiased = torch.tensor([linear_cka(x, y) for x, y in pairs])
    assert unbiased.mean().abs() < 0.02  # mean 0; spread measured 0.006
    assert all(linear_cka(x, y, unbiased=False) > 0.7 for x, y in pairs)  # what bias does


def test_biased_form_is_the_published_one_in_features() -> None:
    x, y = gaussian(30, 4, 0).double(), gaussian(30, 7, 1).double()
    x, y = x - x.mean(0), y - y.mean(0)
    want = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    assert linear_cka(x, y, unbiased=False) == pytest.approx(float(want))


def test_unbiased_hsic_is_the_mean_over_ordered_quadruples() -> None:
    x, y = gaussian(6, 2, 0).double(), gaussian(6, 3, 1).double()
    k, m = x @ x.T, y @ y.T

    def hsic(a: Tensor, b: Tensor) -> Tensor:
        """E over distinct i, j, q, r of a_ij (b_ij + b_qr - 2 b_iq): the population's formula."""
        idx = [
            (i, j, q, r)
            for i in range(6) for j in range(6) for q in range(6) for r in range(6)
            if len({i, j, q, r}) == 4
        ]  # fmt: skip
        terms = [a[i, j] * (b[i, j] + b[q, r] - 2 * b[i, q]) for i, j, q, r in idx]
        return torch.stack(terms).mean()

    want = hsic(k, m) / (hsic(k, k) * hsic(m, m)).sqrt()
    assert linear_cka(x, y) == pytest.approx(float(want))


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (torch.randn(5, 2), torch.randn(6, 2), "5 and 6"),
        (torch.randn(3, 2), torch.randn(3, 2), "at least 4"),
        (torch.ones(9, 2), torch.randn(9, 2), "differ"),
    ],
)
def test_what_cannot_be_compared_is_refused(x: Tensor, y: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        linear_cka(x, y)
