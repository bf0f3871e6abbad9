"""3D joints from frozen patch tokens by ridge regression in closed form.

Axes: n images, N patches, D width, J joints. Joints are in metres in the camera's frame.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from alumnus.evaluation.human_metrics import aligned
from alumnus.evaluation.joints import ridge

__all__ = ["STRENGTHS", "BodyScore", "body_regression", "body_score", "constant_body"]

STRENGTHS = tuple(10.0**i for i in range(-2, 4))  # relative to the mean diagonal of X'X


@dataclass(frozen=True, kw_only=True)
class BodyScore:
    """How far predicted joints are off, the mean over joints and people."""

    mpjpe_mm: float  # relative to the root
    pa_mpjpe_mm: float  # after the similarity that brings a body nearest to the true one
    people: int
    joints: int  # of a person, without the root
    strength: float | None = None  # the chosen ridge penalty
    val_mpjpe_mm: float | None = None  # at that penalty, on the validation part of training


def relative_to(joints: Tensor, root: int) -> Tensor:  # [n, J, 3] -> [n, J - 1, 3]
    """All other joints, from the root."""
    others = [i for i in range(joints.shape[1]) if i != root]
    return joints[:, others] - joints[:, root : root + 1]


def _mpjpe_mm(prediction: Tensor, truth: Tensor) -> float:
    distance = (prediction.double() - truth.double()).norm(dim=-1)
    return 1000 * float(distance.mean())


def body_score(prediction: Tensor, truth: Tensor) -> BodyScore:
    """Errors of joints [n, J - 1, 3], relative to the root as of `relative_to`."""
    pairs = zip(prediction.double().numpy(), truth.double().numpy(), strict=True)
    nearest = [aligned(p, t) for p, t in pairs]
    return BodyScore(
        mpjpe_mm=_mpjpe_mm(prediction, truth),
        pa_mpjpe_mm=_mpjpe_mm(torch.from_numpy(np.stack(nearest)), truth),
        people=len(truth),
        joints=truth.shape[1],
    )


@dataclass(frozen=True)
class _Readout:
    """A linear map from all patch tokens of an image to its joints, for each penalty."""

    mean: Tensor  # [N, D]
    scale: Tensor  # [D]
    prior: Tensor  # [J - 1, 3], mean pose
    weights: Tensor  # [S, N * D, 3 (J - 1)]

    @classmethod
    def fit(cls, tokens: Tensor, joints: Tensor, strengths: Sequence[float]) -> "_Readout":
        mean, prior = tokens.mean(dim=0), joints.mean(dim=0)
        std = (tokens - mean).square().mean(dim=(0, 1)).sqrt()
        scale = torch.where(std > 0, std, 1.0)
        x = ((tokens - mean) / scale).flatten(1)
        return cls(mean, scale, prior, ridge(x, (joints - prior).flatten(1), strengths))

    def predict(self, tokens: Tensor) -> Iterator[Tensor]:  # [m, N, D] -> S times [m, J - 1, 3]
        x = ((tokens - self.mean) / self.scale).flatten(1)
        for weights in self.weights:
            yield (x @ weights).unflatten(1, self.prior.shape) + self.prior


def body_regression(
    train: Tensor,  # [n, N, D] patch tokens
    train_joints: Tensor,  # [n, J, 3]
    test: Tensor,  # [m, N, D]
    test_joints: Tensor,  # [m, J, 3]
    *,
    root: int = 0,
    val_ratio: float = 0.2,
    seed: int = 0,
) -> BodyScore:
    """MPJPE on the test set of a linear map from all patch tokens to all joints.

    Ridge regression with an intercept; channels are standardised. One penalty is chosen of
    `STRENGTHS` by the MPJPE on a random `val_ratio` of the training set (the larger among equals),
    then all of it is fitted.

    Unlike 2D joints, whose heat maps a map shared by all places can draw, a pose is where parts are
    relative to each other: on training images of the miniworld's people (frozen features of the
    teacher for objects, three folds of 2,400) tokens of the 7x7 grid side by side leave 232 mm, of
    4x4 236, of 2x2 247, their mean 271; the mean pose leaves 306.
    """
    if len(train) < 4:
        raise ValueError(f"joint regression needs at least 4 training images, not {len(train)}")
    truth, test_truth = relative_to(train_joints, root), relative_to(test_joints, root)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    cut = max(1, round(val_ratio * len(train)))
    val, fit = order[:cut].sort().values, order[cut:].sort().values
    errors = [
        _mpjpe_mm(found, truth[val])
        for found in _Readout.fit(train[fit], truth[fit], STRENGTHS).predict(train[val])
    ]
    best = min(range(len(STRENGTHS)), key=lambda i: (errors[i], -STRENGTHS[i]))
    [found] = _Readout.fit(train, truth, STRENGTHS[best : best + 1]).predict(test)
    score = body_score(found, test_truth)
    return replace(score, strength=STRENGTHS[best], val_mpjpe_mm=errors[best])


def constant_body(train_joints: Tensor, test_joints: Tensor, *, root: int = 0) -> BodyScore:
    """The trivial predictor: the mean pose of training."""
    truth = relative_to(test_joints, root)
    return body_score(relative_to(train_joints, root).mean(dim=0).expand_as(truth), truth)
