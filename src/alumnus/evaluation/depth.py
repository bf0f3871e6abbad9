"""Linear depth: what one linear map of frozen patch tokens says of the distance of every pixel.

Axes: B windows, K bins, H W pixels, h w grid.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from alumnus.evaluation.depth_maps import DepthScore, depth_score
from alumnus.evaluation.masks import LabelledSource
from alumnus.evaluation.segmentation import DenseModel, scene_batches
from alumnus.evaluation.windows import slide_all
from alumnus.heads import LinearHead, expected_depth, sig_loss, uniform_bins

__all__ = ["LRS", "DepthObjective", "DepthProtocol", "bins_of", "constant_depths", "score_depths"]

LRS = (1e-3, 3e-3, 1e-2)


@dataclass(frozen=True, kw_only=True)
class DepthProtocol:
    """How a depth head is trained and measured; defaults follow DINOv2's linear protocol.

    Images, windows, kept features and schedule are those of linear segmentation
    (`SegmentationProtocol`). The tokens are patches, each beside [CLS] where a model has one and
    heads see one layer. The learning rate is the one of `LRS` with the best delta1 on a random
    20% of the training images. Bins go from `least_m` to `most_m`, beyond which pixels are
    neither learned nor counted; without it to the largest depth of the training images.

    Source: DINOv2 (arXiv 2304.07193), section 7.4.
    Differs: features are computed once, of images that are neither rotated, mirrored nor changed
    in colour; the loss looks at one pixel of 8 x 8 and has no gradient-matching term; 1,000 steps.
    """

    bins: int = 256
    least_m: float = 1e-3
    most_m: float | None = None
    steps: int | None = None  # None: 1,000
    batch_size: int = 16
    lr: float | None = None  # None: chosen of `LRS`
    weight_decay: float = 1e-4
    layers: int = 1  # of a ViT, the last ones, side by side
    median_scaling: bool = False

    def __post_init__(self) -> None:
        if self.most_m is not None and not self.most_m > self.least_m:
            raise ValueError(
                f"the largest depth is {self.most_m:g} m, but must be above the first bin, "
                f"{self.least_m:g} m"
            )
        if self.bins < 2:
            raise ValueError(f"bins is {self.bins}, but must be at least 2")

    @property
    def augment(self) -> bool:
        """Features are computed once."""
        return False

    @property
    def total_steps(self) -> int:
        """Steps of the optimiser."""
        return self.steps or 1000

    @property
    def loss_stride(self) -> int:
        """The loss looks at one pixel of so many, along each axis."""
        return 8

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates to choose from."""
        return LRS if self.lr is None else (self.lr,)


class DepthObjective:
    """A head learns the depth of each pixel, by the bins [K] at depths in metres."""

    def __init__(self, bins: Tensor, *, median_scaling: bool = False) -> None:
        self.bins, self.median_scaling = bins, median_scaling

    @property
    def outputs(self) -> int:
        """Channels of the head."""
        return len(self.bins)

    def loss(self, logits: Tensor, depth: Tensor) -> Tensor:  # [B, K, h, w], [B, H, W] -> []
        """SigLoss of the expected depth."""
        return sig_loss(self._depth(logits, depth), depth)

    def score(self, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
        """delta1, percent, the mean over windows with any depth."""
        scores = [
            depth_score(found.cpu(), true.cpu(), median_scaling=self.median_scaling)
            for logits, truth in batches
            for found, true in zip(self._depth(logits, truth), truth, strict=True)
            if bool((true > 0).any())
        ]
        return DepthScore.mean(scores).delta1 if scores else 0.0

    def _depth(self, logits: Tensor, like: Tensor) -> Tensor:  # [B, H, W]
        height, width = like.shape[-2:]
        return expected_depth(logits, self.bins, size=(height, width))


def bins_of(protocol: DepthProtocol, most_m: float) -> Tensor:  # [K]
    """The bins of a task whose training images go as far as `most_m`."""
    most_m = most_m if protocol.most_m is None else protocol.most_m
    return uniform_bins(min(protocol.least_m, most_m / 2), most_m, protocol.bins)


@torch.no_grad()
def score_depths(
    model: DenseModel,
    head: LinearHead,
    bins: Tensor,  # [K] metres
    test: LabelledSource,
    *,
    median_scaling: bool,
    batch_size: int,
    num_workers: int = 0,
    device: str | torch.device = "cpu",
) -> DepthScore:
    """Depths by sliding windows, compared with the true ones at the size of the stored images."""
    scores: list[DepthScore] = []
    for scenes in scene_batches(test, [model.window], num_workers=num_workers):
        depths = slide_all(
            [image.to(device) for [image], _ in scenes],
            lambda windows: expected_depth(head(model.fn(windows).float()), bins)[:, None],
            window=model.window,
            stride=model.stride,
            batch_size=batch_size,
        )
        for depth, (_, truth) in zip(depths, scenes, strict=True):
            size = truth.shape[-2:]
            fine = F.interpolate(depth[None], size=size, mode="bilinear", align_corners=False)
            scores.append(depth_score(fine[0, 0].cpu(), truth, median_scaling=median_scaling))
    return DepthScore.mean(scores)


def constant_depths(
    metres: float, test: LabelledSource, *, median_scaling: bool, num_workers: int = 0
) -> DepthScore:
    """The trivial predictor: one depth everywhere."""
    return DepthScore.mean(
        [
            depth_score(torch.full_like(truth, metres), truth, median_scaling=median_scaling)
            for scenes in scene_batches(test, [], num_workers=num_workers)
            for _, truth in scenes
        ]
    )
