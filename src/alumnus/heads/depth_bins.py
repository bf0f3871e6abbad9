"""Depth as an expectation over bins, and the loss that it is learned with.

Axes: B images, K bins, H W pixels, h w grid.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LAMBDA", "UPSAMPLING", "expected_depth", "sig_loss", "uniform_bins"]

LAMBDA = 0.85  # of SigLoss: how much of a common factor is forgiven
UPSAMPLING = 4  # logits are brought to as many times their grid before bins are weighed
FLOOR = 0.1  # added to each bin's weight
SMALLEST = 1e-12  # under the root, whose slope at 0 is infinite


def uniform_bins(least_m: float, most_m: float, count: int) -> Tensor:  # [K] float32
    """Depths of the bins, metres: equally spaced, both ends included."""
    return torch.linspace(least_m, most_m, count)


def expected_depth(
    logits: Tensor,  # [B, K, h, w]
    bins: Tensor,  # [K] metres
    *,
    size: tuple[int, int] | None = None,  # (H, W) px; None: four times the grid
) -> Tensor:  # [B, H, W] metres
    """The mean depth of the bins, each weighed by its logit.

        d = sum_k w_k bin_k / sum_k w_k,  w_k = relu(logit_k) + 0.1

    Logits are brought to four times their grid, or to `size` where that is less, and depths from
    there to `size` (both bilinear).

    Source: AdaBins (arXiv 2011.14141), equation 3, with DINOv2's uniform bins, linear weights and
    upsampling by 4 (arXiv 2304.07193, section 7.4). Differs: DINOv2 upsamples the features, which
    is the same but for the statistics of the BatchNorm.
    """
    h, w = (UPSAMPLING * side for side in logits.shape[-2:])
    fine = (h, w) if size is None else (min(h, size[0]), min(w, size[1]))
    # Channels last and one product for both sums: a third of the time on a CPU.
    logits = logits.float().contiguous(memory_format=torch.channels_last)
    logits = F.interpolate(logits, size=fine, mode="bilinear", align_corners=False)
    weights = (logits.relu() + FLOOR).permute(0, 2, 3, 1)  # [B, H, W, K]
    sums = weights @ torch.stack([bins, torch.ones_like(bins)], dim=1)
    depth = sums[..., 0] / sums[..., 1]
    if size is None or fine == size:
        return depth
    return F.interpolate(depth[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def sig_loss(depth: Tensor, truth: Tensor, *, lambda_: float = LAMBDA) -> Tensor:
    """The scale-invariant logarithmic loss over all pixels of a batch with a true depth above 0.

        sqrt(mean(g^2) - lambda mean(g)^2),  g = log depth - log truth

    `depth` [...] is above 0. Without any such pixel the loss has no gradient.

    Source: Eigen et al. (arXiv 1406.2283), equation 4; the root and lambda 0.85 as in AdaBins
    (arXiv 2011.14141), equation 4. Differs: its factor 10 is left out, which Adam does not see,
    and DINOv2's added gradient-matching term.
    """
    valid = truth > 0
    g = torch.where(valid, depth.float().log() - truth.float().clamp(min=1e-9).log(), 0.0)
    count = valid.sum().clamp(min=1)
    mean = g.sum() / count
    variance = (torch.where(valid, g - mean, 0.0) ** 2).sum() / count
    return (variance + (1 - lambda_) * mean**2).clamp(min=SMALLEST).sqrt()
