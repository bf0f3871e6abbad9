"""Logistic regression is sklearn's, tuned without a look at the test set."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from alumnus.evaluation.logistic import (
    C_RANGE,
    logistic_regression,
    stratified_split,
    tune_c,
)

Data = tuple[Tensor, Tensor, Tensor, Tensor]


def noisy_classes(*, dim: int, n: int = 60, classes: int = 4, seed: int = 0) -> Data:
    """Overlapping Gaussian classes: training features and labels, the same for testing."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=generator)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % classes
        noise = torch.randn(count, dim, generator=generator)
        return centres[labels] * (12 / dim) ** 0.5 + noise, labels

    return *draw(n), *draw(40)


@pytest.mark.parametrize("dim", [8, 200])  # fewer and more dimensions than samples
def test_score_is_sklearns_at_the_chosen_c(dim: int) -> None:
    train, train_labels, test, test_labels = noisy_classes(dim=dim)
    score = logistic_regression(train, train_labels, test, test_labels, trials=8)
    plain = LogisticRegression(C=score.c, max_iter=2000).fit(train.numpy(), train_labels.numpy())
    want = plain.predict(test.numpy())
    assert C_RANGE[0] <= score.c <= C_RANGE[1]
    assert np.array_equal(score.prediction.numpy(), want)
    assert score.top1 == pytest.approx(100 * float((want == test_labels.numpy()).mean()))


def test_test_labels_take_no_part_in_the_choice_of_c() -> None:
    train, train_labels, test, test_labels = noisy_classes(dim=30)
    other = test_labels[
        torch.randperm(len(test_labels), generator=torch.Generator().manual_seed(1))
    ]
    first = logistic_regression(train, train_labels, test, test_labels, trials=6)
    second = logistic_regression(train, train_labels, test, other, trials=6)
    assert (first.c, first.val_top1) == (second.c, second.val_top1)
    assert torch.equal(first.prediction, second.prediction)


def test_validation_accuracy_is_that_of_a_plain_fit_on_the_fitting_part() -> None:
    train, labels, _, _ = noisy_classes(dim=100)
    c, val_top1 = tune_c(train, labels, trials=6)
    fit, val = stratified_split(labels)
    plain = LogisticRegression(C=c, max_iter=2000).fit(train[fit].numpy(), labels[fit].numpy())
    assert val_top1 == pytest.approx(100 * plain.score(train[val].numpy(), labels[val].numpy()))


def test_equal_seeds_give_equal_results() -> None:
    train, train_labels, test, test_labels = noisy_classes(dim=16)
    runs = [
        logistic_regression(train, train_labels, test, test_labels, trials=6, seed=3)
        for _ in range(2)
    ]
    assert (runs[0].c, runs[0].top1) == (runs[1].c, runs[1].top1)


@pytest.mark.parametrize("seed", range(5))
def test_split_holds_out_a_fifth_of_every_class_and_loses_no_sample(seed: int) -> None:
    labels = torch.tensor([0] * 10 + [1] * 5 + [2] * 2 + [3])[torch.randperm(18)]
    fit, val = stratified_split(labels, seed=seed)
    assert torch.equal(torch.cat([fit, val]).sort().values, torch.arange(18))
    assert labels[val].bincount(minlength=4).tolist() == [2, 1, 1, 0]


def test_one_class_is_refused() -> None:
    features = torch.randn(6, 3)
    with pytest.raises(ValueError, match="two or more classes"):
        logistic_regression(features, torch.zeros(6, dtype=torch.long), features, torch.zeros(6))


def test_classes_of_single_images_are_refused() -> None:
    features, labels = torch.randn(4, 3), torch.arange(4)
    with pytest.raises(ValueError, match="validation part"):
        logistic_regression(features, labels, features, labels)
