"""A decoder block that looks at its own view and at the other one.

Axes: B pairs, N patches of this view, M of the other, D width.
"""

from functools import partial

from timm.layers import Mlp
from torch import Tensor, nn

from alumnus.encoders.attention import RotaryAttention, attend
from alumnus.encoders.rope import Rotation, rotate

__all__ = ["CrossAttention", "DecoderBlock"]

MLP_RATIO = 4


class CrossAttention(nn.Module):
    """Attention of one view's tokens to the other's, each with its own rotary positions."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.projq, self.projk, self.projv = (nn.Linear(dim, dim) for _ in range(3))
        self.proj = nn.Linear(dim, dim)

    def forward(
        self,
        x: Tensor,  # [B, N, D]
        other: Tensor,  # [B, M, D]
        turn: Rotation,  # of N positions
        other_turn: Rotation,  # of M positions
    ) -> Tensor:  # [B, N, D]
        q, k, v = (
            linear(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for linear, tokens in ((self.projq, x), (self.projk, other), (self.projv, other))
        )
        seen = attend(rotate(q, turn), rotate(k, other_turn), v)
        mixed: Tensor = self.proj(seen.transpose(1, 2).flatten(2))
        return mixed


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention and MLP, each behind a LayerNorm and added to its input.

        x <- x + self(norm1 x);  x <- x + cross(norm2 x, norm_y y);  x <- x + mlp(norm3 x)

    Modules are named as in the released files. Source: CroCo v2 (arXiv 2211.10408), MASt3R
    (arXiv 2406.09756), section 3.1.
    """

    def __init__(self, dim: int, num_heads: int, *, norm_eps: float) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, dim, eps=norm_eps)
        self.norm1, self.norm2, self.norm3, self.norm_y = norm(), norm(), norm(), norm()
        self.attn = RotaryAttention(dim, num_heads)
        self.cross_attn = CrossAttention(dim, num_heads)
        self.mlp = Mlp(dim, MLP_RATIO * dim)

    def forward(
        self,
        x: Tensor,  # [B, N, D]
        other: Tensor,  # [B, M, D]
        turn: Rotation,
        other_turn: Rotation,
    ) -> Tensor:  # [B, N, D]
        x = x + self.attn(self.norm1(x), turn)
        x = x + self.cross_attn(self.norm2(x), self.norm_y(other), turn, other_turn)
        out: Tensor = x + self.mlp(self.norm3(x))
        return out
