"""What reads points and descriptors of one view off its tokens.

Axes: B images, N patches of a h x w grid, E width of the encoder, D of the decoder, p patch side.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from alumnus.heads.two_view.dpt import DPTHead
from alumnus.heads.two_view.predictions import ViewPrediction, predict
from alumnus.heads.two_view.spec import TwoViewSpec
from alumnus.tokens import Grid, Tokens

__all__ = ["ViewHead", "patches_to_pixels"]

POINT_CHANNELS = 4  # x, y, z, confidence


def patches_to_pixels(values: Tensor, grid: Grid, patch_size: int) -> Tensor:
    """Each patch's C p^2 values, planes of p x p, on its pixels: [B, N, C p^2] -> [B, C, H, W]."""
    return F.pixel_shuffle(Tokens(patches=values, grid=grid).as_map(), patch_size)


class ViewHead(nn.Module):
    """Points and descriptors of one view; modules are named as in the released files.

    Points come from four layers by a `DPTHead`, or from the last decoder block by one linear layer
    (`proj`; DUSt3R's head of 224 px). Descriptors come from an MLP (erf-GELU) on encoder and last
    decoder tokens side by side (MASt3R, arXiv 2406.09756, section 3.2). All in float32, under
    autocast too.
    """

    def __init__(self, spec: TwoViewSpec) -> None:
        super().__init__()
        self.spec = spec
        if spec.points == "dpt":
            self.dpt = DPTHead(
                [spec.encoder_dim if hook == 0 else spec.dim for hook in spec.hooks],
                levels=spec.dpt_levels,
                dim=spec.dpt_dim,
                last_dim=spec.dpt_last_dim,
                patch_size=spec.patch_size,
                channels=POINT_CHANNELS,
            )
        else:
            self.proj = nn.Linear(spec.dim, POINT_CHANNELS * spec.patch_size**2)
        joint = spec.encoder_dim + spec.dim
        self.head_local_features = Mlp(
            joint, spec.desc_hidden or 4 * joint, (spec.desc_dim + 1) * spec.patch_size**2
        )

    def forward(self, layers: Sequence[Tensor], grid: Grid) -> ViewPrediction:
        """From the encoder's tokens [B, N, E], then those of each decoder block [B, N, D]."""
        with torch.autocast(layers[0].device.type, enabled=False):
            first, last = layers[0].float(), layers[-1].float()
            spec = self.spec
            descriptors = self.head_local_features(torch.cat([first, last], dim=-1))
            return predict(
                self.raw_points(layers, grid),
                patches_to_pixels(descriptors, grid, spec.patch_size),
                point_scale=spec.point_scale,
                conf=spec.conf,
                desc_conf=spec.desc_conf,
            )

    def raw_points(self, layers: Sequence[Tensor], grid: Grid) -> Tensor:  # [B, 4, H, W]
        """Point and confidence of each pixel before they are brought to scale."""
        if self.spec.points == "dpt":
            raw: Tensor = self.dpt([layers[hook].float() for hook in self.spec.hooks], grid)
            return raw
        return patches_to_pixels(self.proj(layers[-1].float()), grid, self.spec.patch_size)
