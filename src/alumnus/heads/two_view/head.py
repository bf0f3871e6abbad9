"""The two-view head: tokens of two images in, points of both in one frame and descriptors out.

Axes: B pairs, N patches of view 1, M of view 2, E width of the encoder, D of the decoders.
"""

from typing import NamedTuple

from torch import Tensor, nn

from alumnus.encoders.croco import xavier
from alumnus.encoders.rope import Rotation, grid_positions, rotation
from alumnus.heads.two_view.decoder import DecoderBlock
from alumnus.heads.two_view.predictions import ViewPrediction
from alumnus.heads.two_view.spec import TwoViewSpec
from alumnus.heads.two_view.view_heads import ViewHead
from alumnus.tokens import Grid, Tokens

__all__ = ["PairLayers", "TwoViewHead"]

BRIDGE_EPS = 1e-5


class PairLayers(NamedTuple):
    """What the heads may read of each view: encoder tokens, then the output of each block.

    Encoder tokens have width E; the last block's output is after the decoders' final norm.
    """

    first: list[Tensor]  # [B, N, E], then [B, N, D] of blocks 1 to L
    second: list[Tensor]  # the same with M patches


class TwoViewHead(nn.Module):
    """MASt3R without its encoder, on the patch tokens of any encoder.

    One linear layer brings tokens to the decoders' width; two decoders, one per view, look at
    each other: block k of both reads what blocks k - 1 gave. One final norm serves both. Each
    view has its own heads (`ViewHead`). With `spec.bridge` a LayerNorm of its own precedes all,
    then give it the tokens before the encoder's final norm.

    Parameters are named as in the released files. New weights: Xavier for the decoders, PyTorch's
    default for the heads.

    Source: MASt3R (arXiv 2406.09756), section 3; DUNE (arXiv 2503.14405) for the bridge.
    Differs: the views may have different sizes.
    """

    def __init__(self, spec: TwoViewSpec) -> None:
        super().__init__()
        self.spec = spec
        width, eps = spec.encoder_dim, spec.norm_eps
        self.norm = nn.LayerNorm(width, eps=BRIDGE_EPS) if spec.bridge else nn.Identity()
        self.decoder_embed = nn.Linear(width, spec.dim)
        self.dec_blocks, self.dec_blocks2 = (
            nn.ModuleList(
                DecoderBlock(spec.dim, spec.num_heads, norm_eps=eps) for _ in range(spec.depth)
            )
            for _ in range(2)
        )
        self.dec_norm = nn.LayerNorm(spec.dim, eps=eps)
        self.downstream_head1, self.downstream_head2 = ViewHead(spec), ViewHead(spec)
        for part in (self.decoder_embed, self.dec_blocks, self.dec_blocks2):
            part.apply(xavier)

    def forward(
        self,
        view1: Tokens,  # patches [B, N, E]
        view2: Tokens,  # patches [B, M, E]; its grid may be another one
    ) -> tuple[ViewPrediction, ViewPrediction]:
        """Both views' predictions; the points of both are in the camera frame of view 1."""
        layers = self.decode(view1, view2)
        grid1, grid2 = _grid(view1), _grid(view2)
        return self.downstream_head1(layers.first, grid1), self.downstream_head2(
            layers.second, grid2
        )

    def decode(self, view1: Tokens, view2: Tokens) -> PairLayers:
        """The decoders alone."""
        turn1, turn2 = self._turn(view1), self._turn(view2)
        first, second = (self.norm(view.of("patch")) for view in (view1, view2))
        layers = PairLayers([first], [second])
        x, y = self.decoder_embed(first), self.decoder_embed(second)
        for block1, block2 in zip(self.dec_blocks, self.dec_blocks2, strict=True):
            x, y = block1(x, y, turn1, turn2), block2(y, x, turn2, turn1)
            layers.first.append(x)
            layers.second.append(y)
        layers.first[-1], layers.second[-1] = self.dec_norm(x), self.dec_norm(y)
        return layers

    def _turn(self, view: Tokens) -> Rotation:
        patches = view.of("patch")
        if patches.shape[-1] != self.spec.encoder_dim:
            raise ValueError(
                f"the two-view head takes tokens of width {self.spec.encoder_dim}, not "
                f"{patches.shape[-1]}: it belongs to another encoder"
            )
        positions = grid_positions(_grid(view), device=patches.device)
        return rotation(positions, self.spec.dim // self.spec.num_heads)


def _grid(view: Tokens) -> Grid:
    assert view.grid is not None, "patch tokens always carry their grid"
    return view.grid
