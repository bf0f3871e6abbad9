"""The dense prediction head: four layers of tokens, fused from coarse to fine into pixels.

Axes: B images, N patches of a h x w grid, H W pixels.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from alumnus.tokens import Grid, Tokens

__all__ = ["DPTHead"]


class DPTHead(nn.Module):
    """Raw maps of each pixel from the tokens of four layers; modules named as in released files.

    Layers become maps at 4, 2, 1 and 1/2 times the grid, all of one width; each is added to what
    came from the coarser ones and refined; the last, at 8 times the grid, is read out at the size
    of the image.

    Source: DPT (arXiv 2103.13413), section 3, as used by DUSt3R (arXiv 2312.14132) and MASt3R.
    Differs: each refinement's 1x1 convolution runs before its upsampling, not after it. These two
    commute (weights of a bilinear mean add up to 1), and there are a quarter as many pixels.
    """

    def __init__(
        self,
        token_dims: Sequence[int],  # widths of the four layers, shallow to deep
        *,
        levels: Sequence[int] = (96, 192, 384, 768),  # channels of their maps
        dim: int = 256,  # channels where they are fused
        last_dim: int = 128,  # channels before the read-out
        patch_size: int = 16,
        channels: int = 4,  # read out
    ) -> None:
        super().__init__()
        assert len(token_dims) == len(levels) == 4, "the head is made for four layers"
        self.patch_size = patch_size
        one, two, _, four = levels
        resize: list[list[nn.Module]] = [
            [nn.ConvTranspose2d(one, one, 4, stride=4)],
            [nn.ConvTranspose2d(two, two, 2, stride=2)],
            [],
            [nn.Conv2d(four, four, 3, stride=2, padding=1)],
        ]
        self.act_postprocess = nn.ModuleList(
            nn.Sequential(nn.Conv2d(token_dim, level, 1), *layers)
            for token_dim, level, layers in zip(token_dims, levels, resize, strict=True)
        )
        self.scratch = Fusion(levels, dim)
        self.head = nn.Sequential(
            nn.Conv2d(dim, dim // 2, 3, padding=1),
            nn.Identity(),  # where the map is brought to the image's size
            nn.Conv2d(dim // 2, last_dim, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(last_dim, channels, 1),
        )

    def forward(self, layers: Sequence[Tensor], grid: Grid) -> Tensor:
        """Tokens [B, N, *] of four layers, shallow to deep, to [B, channels, H, W]."""
        maps = [
            project(Tokens(patches=tokens, grid=grid).as_map())
            for project, tokens in zip(self.act_postprocess, layers, strict=True)
        ]
        x = self.head[0](self.scratch(maps))
        x = _resized(x, (grid[0] * self.patch_size, grid[1] * self.patch_size))
        raw: Tensor = self.head[1:](x)
        return raw


class Fusion(nn.Module):
    """Maps at 4, 2, 1 and 1/2 times the grid to one at 8 times the grid."""

    def __init__(self, levels: Sequence[int], dim: int) -> None:
        super().__init__()
        self.layer_rn = nn.ModuleList(
            nn.Conv2d(level, dim, 3, padding=1, bias=False) for level in levels
        )
        self.refinenet1, self.refinenet2, self.refinenet3 = (Refinement(dim) for _ in range(3))
        self.refinenet4 = Refinement(dim, joins=False)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        one, two, three, four = (
            reduce(level) for reduce, level in zip(self.layer_rn, maps, strict=True)
        )
        h, w = three.shape[-2:]
        x = self.refinenet4(four)[..., :h, :w]  # odd grids: 2 ceil(h / 2) is one too many
        x = self.refinenet3(x, three)
        x = self.refinenet2(x, two)
        fused: Tensor = self.refinenet1(x, one)
        return fused


class Refinement(nn.Module):
    """What came from coarser levels, plus this level, refined and twice as large."""

    def __init__(self, dim: int, *, joins: bool = True) -> None:
        super().__init__()
        self.resConfUnit1 = Residual(dim) if joins else None
        self.resConfUnit2 = Residual(dim)
        self.out_conv = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor, level: Tensor | None = None) -> Tensor:
        if self.resConfUnit1 is not None:
            x = x + self.resConfUnit1(level)
        x = self.out_conv(self.resConfUnit2(x))
        return _resized(x, (2 * x.shape[-2], 2 * x.shape[-1]))


class Residual(nn.Module):
    """x + conv(relu(conv(relu x)))."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(dim, dim, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(F.relu(self.conv1(F.relu(x))))
        return out


def _resized(x: Tensor, size: Grid) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
