"""2D joints from frozen patch tokens by ridge regression in closed form: what a space localises."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "JOINT_GRID",
    "LSP_TORSO",
    "JointScore",
    "constant_joints",
    "joint_regression",
    "kernel",
    "pck",
    "ridge",
    "torso_px",
]

JOINT_GRID = (7, 7)  # finer patch grids are averaged down to this one
STRENGTHS = tuple(10.0 ** (i / 2) for i in range(-8, 9))  # 1e-4 ... 1e4, of the unit-scale kernel
Pairs = Sequence[tuple[int, int]]
LSP_TORSO: Pairs = ((9, 2), (8, 3))  # left shoulder to right hip, right shoulder to left hip


@dataclass(frozen=True, kw_only=True)
class JointScore:
    """How near predicted joints are, over the visible joints of people with a torso."""

    pck: float  # percent of joints within the threshold
    mean_error_px: float  # in pixels of the stored images
    people: int  # that were counted
    joints: int  # that were counted
    prediction: Tensor  # [n, J, 2], x and y, in widths and heights of the image
    strength: float | None = None  # the chosen ridge penalty
    val_pck: float | None = None  # at that penalty, on the validation part of the training set


def torso_px(
    joints: Tensor,  # [n, J, 3], x and y in pixels, 1 where visible
    *,
    torso: Pairs = LSP_TORSO,
) -> Tensor:  # [n], 0 where no pair is visible
    """Distance between the first pair of joints that are both visible."""
    highest = max(max(pair) for pair in torso)
    if highest >= joints.shape[1]:
        raise ValueError(
            f"torso names joint {highest}, but there are {joints.shape[1]} joints a person"
        )
    length = joints.new_zeros(len(joints))
    for a, b in torso:
        distance = (joints[:, a, :2] - joints[:, b, :2]).norm(dim=1)
        seen = (joints[:, a, 2] > 0) & (joints[:, b, 2] > 0)
        length = torch.where((length == 0) & seen, distance, length)
    return length


def pck(
    prediction: Tensor,  # [n, J, 2], x and y, in widths and heights of the image
    joints: Tensor,  # [n, J, 3], the same, and 1 where visible
    sizes: Tensor,  # [n, 2], width and height in pixels
    *,
    threshold: float = 0.2,
    torso: Pairs = LSP_TORSO,
) -> JointScore:
    """Share of visible joints predicted within `threshold` torso lengths of where they are.

    The torso is measured from left shoulder to right hip; where one of these is not visible, from
    right shoulder to left hip; people with neither are left out. Distances are in pixels of the
    stored image, so a change of its aspect ratio on the way to the model does not count.
    """
    scale = sizes[:, None].double()  # [n, 1, 2]
    truth_px = torch.cat([joints[..., :2].double() * scale, joints[..., 2:].double()], dim=-1)
    error_px = (prediction.double() * scale - truth_px[..., :2]).norm(dim=-1)  # [n, J]
    length_px = torso_px(truth_px, torso=torso)
    counted = (joints[..., 2] > 0) & (length_px > 0)[:, None]
    if not counted.any():
        raise ValueError("no person has both a visible torso and a visible joint")
    near = error_px <= threshold * length_px[:, None]
    return JointScore(
        pck=100 * near[counted].double().mean().item(),
        mean_error_px=error_px[counted].mean().item(),
        people=int(counted.any(dim=1).sum()),
        joints=int(counted.sum()),
        prediction=prediction,
    )


def kernel(rows: Tensor, columns: Tensor, *, block: int = 4096) -> Tensor:  # [m, D], [n, D]
    """Dot products [m, n], summed in float64 without a float64 copy of all features."""
    product = torch.zeros(len(rows), len(columns), dtype=torch.float64)
    for left, right in zip(rows.split(block, dim=1), columns.split(block, dim=1), strict=True):
        product += left.double() @ right.double().T
    return product


def ridge(
    train_kernel: Tensor,  # [n, n], dot products of the training features
    cross_kernel: Tensor,  # [m, n], of the features to predict for with these
    targets: Tensor,  # [n, K]
    strengths: Sequence[float],
) -> Tensor:  # [S, m, K], float64
    """Predictions of ridge regression for each strength, in dual form.

        min over w, b of |X w + b - Y|^2 + strength * |w|^2

    The intercept is not penalised. One eigendecomposition serves all strengths; with n samples
    and D dimensions it costs n^3, not D^3.
    """
    k, cross, y = train_kernel.double(), cross_kernel.double(), targets.double()
    mean = k.mean(dim=0)
    values, vectors = torch.linalg.eigh(k - mean - mean[:, None] + mean.mean())
    centred = cross - cross.mean(dim=1, keepdim=True) - mean + mean.mean()
    basis, coordinates = centred @ vectors, vectors.T @ (y - y.mean(dim=0))  # [m, n], [n, K]
    values = values.clamp(min=0)  # rounding leaves some below
    shrunk = [basis @ (coordinates / (values + strength)[:, None]) for strength in strengths]
    return torch.stack(shrunk) + y.mean(dim=0)


def _unit_scale(fit: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:  # [n, N, D] -> [n, N * D]
    """Centre and scale each channel by its statistics in `fit`; a sample has length about 1.

    One scale a channel, not one a place: a channel that is nearly silent somewhere would
    otherwise be amplified there.
    """
    mean = fit.mean(dim=0)  # [N, D]
    std = (fit - mean).square().mean(dim=(0, 1)).sqrt()  # [D]
    std = torch.where(std > 0, std, 1.0) * (mean.numel() ** 0.5)
    return ((fit - mean) / std).flatten(1), ((other - mean) / std).flatten(1)


def _regress(
    fit: Tensor,  # [n, N, D]
    joints: Tensor,  # [n, J, 3]
    other: Tensor,  # [m, N, D]
    strengths: Sequence[float],
) -> Tensor:  # [S, m, J, 2]
    """Each joint regressed from the samples that show it; the middle of the image if none does."""
    x_fit, x_other = _unit_scale(fit, other)
    within, across = kernel(x_fit, x_fit), kernel(x_other, x_fit)
    predictions = []
    for j in range(joints.shape[1]):
        seen = (joints[:, j, 2] > 0).nonzero().flatten()
        if len(seen) == 0:
            predictions.append(torch.full((len(strengths), len(other), 2), 0.5).double())
            continue
        square = within[seen][:, seen]
        predictions.append(ridge(square, across[:, seen], joints[seen, j, :2], strengths))
    return torch.stack(predictions, dim=2)


def joint_regression(
    train: Tensor,  # [n, N, D] patch tokens, one grid for all
    train_joints: Tensor,  # [n, J, 3], x and y in widths and heights of the image, 1 where visible
    train_sizes: Tensor,  # [n, 2], width and height in pixels
    test: Tensor,  # [m, N, D]
    test_joints: Tensor,  # [m, J, 3]
    test_sizes: Tensor,  # [m, 2]
    *,
    threshold: float = 0.2,
    torso: Pairs = LSP_TORSO,
    val_ratio: float = 0.2,
    seed: int = 0,
) -> JointScore:
    """PCK on the test set of linear regression from a flattened patch grid to all joints.

    Channels are standardised with the statistics of the fitting part. One ridge penalty for all
    joints is chosen of `STRENGTHS` by the PCK of a random `val_ratio` of the training set (the
    larger among equals), then all of it is fitted. Invisible joints take no part.
    """
    if len(train) < 4:
        raise ValueError(f"joint regression needs at least 4 training images, not {len(train)}")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    cut = max(1, round(val_ratio * len(train)))
    val, fit = order[:cut].sort().values, order[cut:].sort().values
    scores = [
        pck(prediction, train_joints[val], train_sizes[val], threshold=threshold, torso=torso).pck
        for prediction in _regress(train[fit], train_joints[fit], train[val], STRENGTHS)
    ]
    best = max(range(len(STRENGTHS)), key=lambda i: (scores[i], STRENGTHS[i]))
    prediction = _regress(train, train_joints, test, STRENGTHS[best : best + 1])[0]
    result = pck(prediction, test_joints, test_sizes, threshold=threshold, torso=torso)
    return JointScore(
        pck=result.pck,
        mean_error_px=result.mean_error_px,
        people=result.people,
        joints=result.joints,
        prediction=prediction,
        strength=STRENGTHS[best],
        val_pck=scores[best],
    )


def constant_joints(train_joints: Tensor, n: int) -> Tensor:  # [n0, J, 3] -> [n, J, 2]
    """The trivial predictor: each joint at the mean of where it is visible in training."""
    seen = (train_joints[..., 2:] > 0).double()  # [n0, J, 1]
    total = (train_joints[..., :2].double() * seen).sum(dim=0)
    mean = torch.where(seen.sum(dim=0) > 0, total / seen.sum(dim=0).clamp(min=1), 0.5)
    return mean.expand(n, -1, -1)
