"""The linear dense head: BatchNorm and a 1x1 convolution on frozen patch tokens."""

import torch
from torch import Tensor, nn

__all__ = ["LinearHead"]

INIT_STD = 0.01  # of the convolution's weights


class LinearHead(nn.Module):
    """Logits of each patch: `conv_seg(bn(features))`, one linear map for all places.

    Parameters are named as in DINOv2's released segmentation heads, without their prefix
    `decode_head.`: `bn` (BatchNorm over batch and places, which brings the channels of any model
    to one scale) and `conv_seg` (1x1, with bias).

    Source: DINOv2 (arXiv 2304.07193), section 7.4.
    """

    def __init__(self, dim: int, classes: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(dim)
        self.conv_seg = nn.Conv2d(dim, classes, kernel_size=1)
        nn.init.normal_(self.conv_seg.weight, std=INIT_STD, generator=generator)
        assert self.conv_seg.bias is not None, "a convolution has one unless told otherwise"
        nn.init.zeros_(self.conv_seg.bias)

    @property
    def dim(self) -> int:
        """Width of the features it takes."""
        return self.bn.num_features

    @property
    def classes(self) -> int:
        """Number of its classes."""
        return self.conv_seg.out_channels

    def forward(self, features: Tensor) -> Tensor:  # [B, D, h, w] -> [B, K, h, w]
        logits: Tensor = self.conv_seg(self.bn(features))
        return logits
