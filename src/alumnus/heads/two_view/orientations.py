"""Landscapes and portraits in one batch: the layout in which MASt3R's training data come.

Axes: B pairs, H W pixels of the landscape.
"""

from itertools import product

import torch
from torch import Tensor

from alumnus.heads.two_view.network import Pair, TwoViewNetwork
from alumnus.heads.two_view.predictions import ViewPrediction

__all__ = ["predict_mixed"]


def predict_mixed(
    network: TwoViewNetwork,
    images1: Tensor,  # [B, 3, H, W], portraits stored transposed
    images2: Tensor,  # [B, 3, H', W']
    *,
    portrait1: Tensor,  # [B] bool on the CPU: which of them are portraits
    portrait2: Tensor,
    symmetrised: bool = False,  # pairs 2i and 2i + 1 are the same with roles swapped
) -> Pair:
    """Predictions for both views of each pair, in the layout of the images.

    Portraits are turned upright for the network and their predictions transposed back: pixels
    only, points stay as they are. A symmetrised batch is encoded once.

    Source: the training layout of DUSt3R and MASt3R. Differs: pairs of one kind go through the
    network together, so nothing in it knows of orientations.
    """
    step = 2 if symmetrised else 1
    parts: list[Pair] = []
    order: list[Tensor] = []
    for turned1, turned2 in product((False, True), repeat=2):
        chosen = ((portrait1 == turned1) & (portrait2 == turned2))[::step].nonzero()[:, 0] * step
        if not len(chosen):
            continue
        at = chosen.to(images1.device)
        one, two = _turned(images1[at], turned1), _turned(images2[at], turned2)
        if not symmetrised:
            first, second = network(one, two)
            parts.append((_stored(first, turned1), _stored(second, turned2)))
            order.append(chosen)
            continue
        (first, second), (swapped2, swapped1) = network.both_ways(one, two)
        parts.append((_stored(first, turned1), _stored(second, turned2)))
        parts.append((_stored(swapped2, turned2), _stored(swapped1, turned1)))
        order += [chosen, chosen + 1]
    back = torch.cat(order).argsort().to(images1.device)
    return _joined([p[0] for p in parts], back), _joined([p[1] for p in parts], back)


def _turned(images: Tensor, turned: bool) -> Tensor:
    return images.transpose(2, 3) if turned else images


def _stored(prediction: ViewPrediction, turned: bool) -> ViewPrediction:
    return ViewPrediction(*(t.transpose(1, 2) for t in prediction)) if turned else prediction


def _joined(parts: list[ViewPrediction], back: Tensor) -> ViewPrediction:
    return ViewPrediction(*(torch.cat(field)[back] for field in zip(*parts, strict=True)))
