"""Weighted k-NN equals the published systems' numbers and does what its docstring says."""

import pytest
import torch
from torch import Tensor

from alumnus.evaluation.knn import knn_classify
from golden_files import golden, golden_json


@pytest.mark.golden
def test_knn_hits_each_item_that_the_published_systems_hit() -> None:
    tensors, settings = golden("knn"), golden_json("knn")
    compared = 0
    for case in settings["cases"]:
        prefix = f"case{case['case']}/"
        names = ("train_features", "train_labels", "test_features", "test_labels")
        train, train_labels, test, test_labels = (tensors[prefix + name] for name in names)
        for want in case["results"]:
            score = knn_classify(
                train,
                train_labels,
                test,
                test_labels,
                num_classes=case["num_classes"],
                ks=[want["k"]],
                temperature=want["T"],
                l2_normalise=False,
                chunk=want["imgs_per_chunk"],
            )[want["k"]]
            stored = f"{prefix}k{want['k']}_T{want['T']}/"
            assert torch.equal(score.top1_hit, tensors[stored + "top1_hit"])
            assert torch.equal(score.top5_hit, tensors[stored + "top5_hit"])
            assert score.top1 == pytest.approx(want["top1"], abs=1e-9)
            assert score.top5 == pytest.approx(want["top5"], abs=1e-9)
            compared += 1
    assert compared > 0


def two_clusters() -> tuple[Tensor, Tensor]:
    """Six features around two directions, three of each class."""
    angle = torch.tensor([0.0, 0.1, 0.2, 1.4, 1.5, 1.6])
    return torch.stack([angle.cos(), angle.sin()], dim=1), torch.tensor([0, 0, 0, 1, 1, 1])


def test_scores_of_several_k_in_one_call_equal_those_of_single_calls() -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.randn(n, 6, generator=generator) for n in (60, 25))
    labels, truth = (torch.randint(4, (n,), generator=generator) for n in (60, 25))
    together = knn_classify(train, labels, test, truth, num_classes=4, ks=(3, 10, 50), chunk=7)
    for k, score in together.items():
        alone = knn_classify(train, labels, test, truth, num_classes=4, ks=[k])[k]
        assert torch.equal(alone.top1_hit, score.top1_hit)
        assert torch.equal(alone.top5_hit, score.top5_hit)


def test_k_above_the_training_set_is_left_out() -> None:
    features, labels = two_clusters()
    scores = knn_classify(features, labels, features, labels, num_classes=2, ks=(3, 6, 7, 200))
    assert list(scores) == [3, 6]


def test_all_features_vote_where_every_k_is_too_large() -> None:
    features, labels = two_clusters()
    scores = knn_classify(features, labels, features, labels, num_classes=2, ks=(10, 20))
    assert list(scores) == [6]
    assert scores[6].top1 == 100.0


def test_length_of_features_counts_only_without_l2_normalisation() -> None:
    features, labels = two_clusters()
    stretched = features * torch.tensor([1.0, 1.0, 1.0, 40.0, 40.0, 40.0])[:, None]

    def top1(*, l2_normalise: bool) -> float:
        scores = knn_classify(
            stretched, labels, features, labels, num_classes=2, ks=[1], l2_normalise=l2_normalise
        )
        return scores[1].top1

    assert top1(l2_normalise=True) == 100.0
    assert top1(l2_normalise=False) < 100.0


def test_empty_training_set_is_refused() -> None:
    features, labels = two_clusters()
    with pytest.raises(ValueError, match="needs training and test features"):
        knn_classify(features[:0], labels[:0], features, labels, num_classes=2)
