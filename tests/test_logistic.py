"""Logistic regression is sklearn's, tuned without a look at the test set."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from alumnus.evaluation.linear import LinearClassifier, stratified_split
from alumnus.evaluation.logistic import C_RANGE, fit_at, fit_logistic, objective, tune_c
from alumnus.evaluation.logistic_sgd import fit_sgd, train_sgd

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
@pytest.mark.parametrize("classes", [2, 4])
def test_predictions_are_sklearns_at_the_chosen_c(dim: int, classes: int) -> None:
    train, train_labels, test, _ = noisy_classes(dim=dim, classes=classes)
    fit = fit_logistic(train, train_labels, trials=8)
    plain = LogisticRegression(C=fit.c, tol=1e-8, max_iter=5000)
    plain.fit(train.double().numpy(), train_labels.numpy())
    assert C_RANGE[0] <= fit.c <= C_RANGE[1]
    assert np.array_equal(fit.classifier.predict(test).numpy(), plain.predict(test.numpy()))


@pytest.mark.parametrize("c", [1e-5, 1e-2, 1.0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize(("dim", "classes"), [(24, 4), (200, 4), (24, 2)])
def test_loss_at_equal_c_is_sklearns_optimum(c: float, dim: int, classes: int) -> None:
    train, labels, _, _ = noisy_classes(dim=dim, n=160, classes=classes)
    # as features come: neither centred nor scaled, variances falling over two decades
    train = 3 * train * torch.logspace(0, -1, dim) + 5
    plain = LogisticRegression(C=c, tol=1e-9, max_iter=20000).fit(
        train.double().numpy(), labels.numpy()
    )
    weight, bias = torch.from_numpy(plain.coef_), torch.from_numpy(plain.intercept_)
    if classes == 2:  # scikit-learn's one score, that of the second class
        weight, bias = torch.cat([0 * weight, weight]), torch.cat([0 * bias, bias])
    optimum = LinearClassifier(
        weight=weight, bias=bias, centre=torch.zeros(dim), classes=torch.arange(classes)
    )
    ours = objective(fit_at(train, labels, c), train, labels, c)
    assert abs(ours - objective(optimum, train, labels, c)) < 1e-4


def test_centred_fit_far_from_the_origin_is_that_near_it() -> None:
    train, labels, test, _ = noisy_classes(dim=30)
    near, far = (fit_at(train + shift, labels, 1.0) for shift in (0.0, 1000.0))
    assert torch.equal(near.predict(test), far.predict(test + 1000.0))


def test_only_allowed_classes_are_predicted() -> None:
    train, labels, test, _ = noisy_classes(dim=30)
    classifier = fit_at(train, labels, 1.0)
    two = torch.tensor([1, 3])
    chosen = classifier.predict(test, among=two)
    assert set(chosen.tolist()) == {1, 3}
    free = classifier.predict(test)
    agree = torch.isin(free, two)
    assert torch.equal(chosen[agree], free[agree])
    with pytest.raises(ValueError, match="none of the classes"):
        classifier.predict(test, among=torch.tensor([9]))


def test_validation_accuracy_is_that_of_a_plain_fit_on_the_fitting_part() -> None:
    train, labels, _, _ = noisy_classes(dim=100)
    tried = tune_c(train, labels, trials=6)
    fit, val = stratified_split(labels)
    assert len(tried) == 6
    for c, val_top1 in tried.items():
        plain = LogisticRegression(C=c, tol=1e-8, max_iter=5000)
        plain.fit(train[fit].double().numpy(), labels[fit].numpy())
        assert val_top1 == pytest.approx(100 * plain.score(train[val].numpy(), labels[val].numpy()))


def test_equal_seeds_give_equal_results() -> None:
    train, train_labels, _, _ = noisy_classes(dim=16)
    one, two = (fit_logistic(train, train_labels, trials=6, seed=3) for _ in range(2))
    assert (one.c, one.val_top1) == (two.c, two.val_top1)
    assert torch.equal(one.classifier.weight, two.classifier.weight)


@pytest.mark.parametrize("seed", range(5))
def test_split_holds_out_a_fifth_of_every_class_and_loses_no_sample(seed: int) -> None:
    labels = torch.tensor([0] * 10 + [1] * 5 + [2] * 2 + [3])[torch.randperm(18)]
    fit, val = stratified_split(labels, seed=seed)
    assert torch.equal(torch.cat([fit, val]).sort().values, torch.arange(18))
    assert labels[val].bincount(minlength=4).tolist() == [2, 1, 1, 0]


def test_one_class_is_refused() -> None:
    features = torch.randn(6, 3)
    for fit in (fit_logistic, fit_sgd):
        with pytest.raises(ValueError, match="two or more classes"):
            fit(features, torch.zeros(6, dtype=torch.long))


def test_classes_of_single_images_are_refused() -> None:
    features, labels = torch.randn(4, 3), torch.arange(4)
    for fit in (fit_logistic, fit_sgd):
        with pytest.raises(ValueError, match="validation part"):
            fit(features, labels)


def test_sgd_comes_to_the_optimum_of_lbfgs() -> None:
    train, labels, test, _ = noisy_classes(dim=12, n=200)
    decay = 1e-2  # of |W|^2 / 2 in the mean loss: C = 1 / (n decay)
    unit = torch.nn.functional.normalize(train, dim=1)
    c = 1 / (len(train) * decay)
    exact = fit_at(unit, labels, c)
    sgd = train_sgd(train, labels, lr=3.0, weight_decay=decay, epochs=400)
    found = objective(replace(sgd, l2=False), unit, labels, c)
    assert found == pytest.approx(objective(exact, unit, labels, c), abs=1e-4)
    assert torch.equal(sgd.predict(test), exact.predict(torch.nn.functional.normalize(test)))


def test_sgd_tunes_on_the_training_set_and_separates_what_can_be() -> None:
    train, labels, test, truth = noisy_classes(dim=12, n=200)
    fit = fit_sgd(train, labels, trials=3, epochs=20)
    again = fit_sgd(train, labels, trials=3, epochs=20)
    assert (fit.lr, fit.weight_decay, fit.val_top1) == (
        again.lr,
        again.weight_decay,
        again.val_top1,
    )
    accuracy = (fit.classifier.predict(test) == truth).double().mean()
    lbfgs = (fit_logistic(train, labels, trials=6).classifier.predict(test) == truth).double()
    assert accuracy > lbfgs.mean() - 0.1
    assert torch.equal(fit.classifier.predict(7 * test), fit.classifier.predict(test))  # length 1
