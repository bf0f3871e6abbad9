"""A convolutional stem: small ViTs learn faster on small images than with one large patch."""

import itertools
import math

from timm.layers import LayerNorm2d
from torch import Tensor, nn

__all__ = ["ConvStem"]


class ConvStem(nn.Module):
    """Images [B, C, H, W] to patch embeddings [B, h, w, D] by 3x3 convolutions of stride 2.

    One per factor of two of the patch size, each with a channel norm and GELU, the width
    doubling up to `dim`; a 1x1 convolution ends it.

    Source: "Early Convolutions Help Transformers See Better" (arXiv 2106.14881).
    Differs from it: channel LayerNorm for BatchNorm, so that no image sees another one.
    """

    def __init__(self, *, image_size: int, patch_size: int, in_channels: int, dim: int) -> None:
        super().__init__()
        steps = int(math.log2(patch_size))
        if 2**steps != patch_size or dim % 2 ** (steps - 1):
            raise ValueError(
                f"a convolutional stem needs a patch size that is a power of two and a width "
                f"that it divides, not {patch_size} and {dim}"
            )
        self.patch_size = (patch_size, patch_size)
        self.img_size = (image_size, image_size)
        self.grid_size = (image_size // patch_size, image_size // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        widths = [in_channels, *(dim // 2**s for s in reversed(range(steps)))]
        layers: list[nn.Module] = []
        for narrow, wide in itertools.pairwise(widths):
            layers += [
                nn.Conv2d(narrow, wide, 3, stride=2, padding=1),
                LayerNorm2d(wide),
                nn.GELU(),
            ]
        self.layers = nn.Sequential(*layers)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, images: Tensor) -> Tensor:  # [B, C, H, W] -> [B, h, w, D]
        features: Tensor = self.proj(self.layers(images))
        return features.permute(0, 2, 3, 1)
