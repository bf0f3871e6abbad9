"""Linear CKA: how alike two feature spaces are, whatever their widths, rotations and scales."""

import torch
from torch import Tensor

__all__ = ["linear_cka"]


def linear_cka(
    x: Tensor,  # [n, D1] features of n images
    y: Tensor,  # [n, D2] features of the same images
    *,
    unbiased: bool = True,
) -> float:
    """Linear centred kernel alignment of two sets of features of the same images.

        CKA = HSIC(K, L) / sqrt(HSIC(K, K) * HSIC(L, L)),  K = X X', L = Y Y'

    1 for equal spaces up to rotation, shift and scale; near 0 for unrelated ones. With
    `unbiased=False` HSIC is |X'Y|_F^2 of centred features, which grows towards 1 with D / n for
    unrelated features: 0.75 for two Gaussian spaces of 768 dimensions and 256 images. The
    unbiased HSIC of Song et al. has mean 0 there, so unrelated spaces may come out just below 0:

        HSIC(K, L) = [tr(K L) + 1'K1 1'L1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1'K L1] / (n (n - 3))

    with the diagonals of K and L set to 0. In float64; takes n x n numbers. ValueError for
    features of different images, for too few of them, and for features that do not vary.

    Source: Kornblith et al. 2019 (arXiv 1905.00414); the estimator is that of Song et al. 2012
    (JMLR 13), used for CKA by Nguyen et al. 2021 (arXiv 2010.15327).
    """
    if len(x) != len(y):
        raise ValueError(f"CKA compares features of the same images, not of {len(x)} and {len(y)}")
    least = 4 if unbiased else 2
    if len(x) < least:
        raise ValueError(f"CKA needs at least {least} images, not {len(x)}")
    k, l = _gram(x), _gram(y)  # noqa: E741  # K and L of the formula
    hsic = _unbiased_hsic if unbiased else _biased_hsic
    scale = hsic(k, k) * hsic(l, l)
    if not scale > 0:
        raise ValueError("CKA needs features that differ from image to image")
    return float(hsic(k, l) / scale.sqrt())


def _gram(features: Tensor) -> Tensor:  # [n, D] -> [n, n]
    """Products of centred features; scaled, since CKA is blind to scale and sums overflow."""
    centred = features.detach().double().flatten(1)
    centred = centred - centred.mean(dim=0)
    centred = centred / centred.norm().clamp(min=torch.finfo(torch.float64).tiny)
    gram: Tensor = centred @ centred.T
    return gram


def _biased_hsic(k: Tensor, l: Tensor) -> Tensor:  # [n, n] each -> []  # noqa: E741
    return (k * l).sum()


def _unbiased_hsic(k: Tensor, l: Tensor) -> Tensor:  # [n, n] each -> []  # noqa: E741
    n = len(k)
    k, l = (gram - gram.diagonal().diag() for gram in (k, l))  # noqa: E741
    means = k.sum() * l.sum() / ((n - 1) * (n - 2))
    rows = 2 / (n - 2) * (k.sum(dim=0) @ l.sum(dim=0))
    return ((k * l).sum() + means - rows) / (n * (n - 3))
