"""Weighted k-nearest-neighbour classification: what frozen features separate, nothing trained."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["KNN_K", "KnnScore", "knn_classify"]

KNN_K = (10, 20, 100, 200)  # the neighbourhoods that DINO, UNIC and their successors report


@dataclass(frozen=True, kw_only=True)
class KnnScore:
    """The result for one number of neighbours; accuracies in percent."""

    k: int
    top1: float
    top5: float
    top1_hit: Tensor  # [n_test], bool
    top5_hit: Tensor  # [n_test], bool


def _vote(
    test: Tensor,  # [c, D]
    train: Tensor,  # [n, D]
    train_labels: Tensor,  # [n]
    ks: Sequence[int],
    *,
    num_classes: int,
    temperature: float,
    among: Tensor | None,
) -> dict[int, Tensor]:  # k -> [c, num_classes], the classes with most votes first
    """The classes of a chunk of test features in the order of their votes."""
    similarity, neighbour = (test @ train.T).topk(max(ks), dim=1)  # [c, max k]
    weight, label = (similarity / temperature).exp(), train_labels[neighbour]
    classes = torch.arange(num_classes, device=train.device)
    ranked = {}
    for k in ks:
        votes = weight.new_zeros(len(test), num_classes)
        votes.scatter_add_(1, label[:, :k], weight[:, :k])
        if among is not None:
            votes = votes.masked_fill(~torch.isin(classes, among), -1.0)  # behind all others
        # stable: classes without a vote keep their order, on every device
        ranked[k] = votes.sort(dim=1, descending=True, stable=True).indices
    return ranked


def knn_classify(
    train: Tensor,  # [n, D]
    train_labels: Tensor,  # [n], int64, below num_classes
    test: Tensor,  # [n_test, D]
    test_labels: Tensor,  # [n_test]
    *,
    num_classes: int,
    ks: Sequence[int] = KNN_K,
    temperature: float = 0.07,
    l2_normalise: bool = True,
    among: Tensor | None = None,  # numbers of the classes to choose from; None: all
    chunk: int = 1024,
) -> dict[int, KnnScore]:
    """Accuracy of the weighted vote of each test feature's k nearest training features.

        votes_c = sum over the k nearest of class c of exp(similarity / temperature)

    Similarity is the dot product, the cosine where `l2_normalise`. Top-5 looks at the first
    min(5, k) classes; classes with equal votes are ranked by their number. All training features
    are neighbours, also those of classes that are not `among` the ones to choose. Each k above the
    number of training features is left out; where none is left, all features vote.

    `chunk` test features are compared at once; the result does not depend on it.

    Source: the k-NN protocol of DINO (arXiv 2104.14294) that UNIC (arXiv 2408.05088) follows.
    """
    if len(train) == 0 or len(test) == 0:
        raise ValueError(
            f"k-NN needs training and test features; there are {len(train)} and {len(test)}"
        )
    if l2_normalise:
        train, test = F.normalize(train, dim=1), F.normalize(test, dim=1)
    fitting = sorted({k for k in ks if k <= len(train)}) or [len(train)]
    hits: dict[int, list[Tensor]] = {k: [] for k in fitting}
    for part, truth in zip(test.split(chunk), test_labels.split(chunk), strict=True):
        ranked = _vote(
            part,
            train,
            train_labels,
            fitting,
            num_classes=num_classes,
            temperature=temperature,
            among=among,
        )
        for k, classes in ranked.items():
            hits[k].append(classes == truth[:, None])  # [c, num_classes]

    scores = {}
    for k in fitting:
        hit = torch.cat(hits[k])
        top1, top5 = hit[:, 0], hit[:, : min(5, k)].any(dim=1)
        scores[k] = KnnScore(
            k=k,
            top1=100 * top1.double().mean().item(),
            top5=100 * top5.double().mean().item(),
            top1_hit=top1,
            top5_hit=top5,
        )
    return scores
