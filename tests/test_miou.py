"""Masks are scored as an independent loop over pixels scores them."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from alumnus.evaluation.miou import IGNORE, confusion, mask_score


def naive_iou(
    prediction: NDArray[np.int64], truth: NDArray[np.int64], classes: int
) -> dict[int, float]:
    """IoU of each class that occurs, by sets of pixels."""
    counted = [i for i, label in enumerate(truth) if label != IGNORE]
    found = {}
    for c in range(classes):
        true = {i for i in counted if truth[i] == c}
        said = {i for i in counted if prediction[i] == c}
        if true:
            found[c] = len(true & said) / len(true | said)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_scores_equal_a_naive_loop_over_pixels_whatever_is_ignored(seed: int) -> None:
    draw = np.random.default_rng(seed)
    classes = int(draw.integers(1, 7))
    used = draw.integers(0, classes, max(1, classes - 1))  # some classes do not occur
    truth = draw.choice([*used, IGNORE], 300)
    truth[0] = used[0]
    prediction = draw.integers(0, classes, 300)
    halves = [
        confusion(torch.tensor(p), torch.tensor(t), classes=classes)
        for p, t in zip(np.split(prediction, 2), np.split(truth, 2), strict=True)
    ]
    score = mask_score(halves[0] + halves[1])

    expected = naive_iou(prediction, truth, classes)
    assert score.miou == pytest.approx(100 * sum(expected.values()) / len(expected), abs=1e-9)
    assert score.occurring == len(expected)
    for c in range(classes):
        got = score.iou[c].item()
        assert got == pytest.approx(100 * expected[c]) if c in expected else math.isnan(got)
    valid = truth != IGNORE
    assert score.pixels == valid.sum()
    assert score.pixel_accuracy == pytest.approx(100 * (prediction == truth)[valid].mean())


def test_a_class_that_is_predicted_but_occurs_nowhere_is_not_in_the_mean() -> None:
    truth = torch.tensor([0, 0, 0, 1])
    prediction = torch.tensor([0, 0, 2, 1])
    score = mask_score(confusion(prediction, truth, classes=3))
    assert score.miou == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert score.class_accuracy == pytest.approx(100 * (2 / 3 + 1) / 2)


def test_what_is_ignored_may_be_predicted_as_anything() -> None:
    truth = torch.tensor([0, 1, IGNORE, IGNORE])
    scores = [
        mask_score(confusion(torch.tensor([0, 1, a, b]), truth, classes=2))
        for a, b in ((0, 0), (1, 0), (1, 1))
    ]
    assert {score.miou for score in scores} == {100.0}


def test_classes_beyond_the_last_are_refused() -> None:
    with pytest.raises(ValueError, match="a true class of 0 to 7 occurs, but there are 3 classes"):
        confusion(torch.tensor([0, 1]), torch.tensor([0, 7]), classes=3)


def test_masks_without_any_class_are_refused() -> None:
    empty = confusion(torch.tensor([0]), torch.tensor([IGNORE]), classes=2)
    with pytest.raises(ValueError, match="no pixel has a class"):
        mask_score(empty)
