"""Which attention kernel: on CPUs torch's fused one is slow in bfloat16 for short sequences."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alumnus.encoders.rope import Rotation, rotate

__all__ = ["RotaryAttention", "attend", "choose_attention"]

# One core with AVX512-BF16, torch 2.x, forward and backward in ms, fused and written out:
# 256 images of 17 tokens 55 and 6, of 65 tokens 134 and 21; 32 images of 197 tokens 48 and 17.
# Beyond, the table of weights of all pairs of tokens costs memory.
LONGEST = 256


def choose_attention(blocks: Iterable[nn.Module], x: Tensor) -> None:  # [B, N, D]
    """Let timm's blocks write attention out where that pays: bf16 autocast on a CPU, N <= 256.

    In float32 both take the same time, and the fused one stays.
    """
    written_out = _written_out(x)
    for block in blocks:
        attention: Any = block.attn
        attention.fused_attn = not written_out


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # [B, heads, M, d], 2x [B, heads, N, d]
    """Attention of queries to keys, softmax(q k^T / sqrt(d)) v, by the kernel that pays."""
    if _written_out(k):
        logits: Tensor = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        return logits.softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


def _written_out(x: Tensor) -> bool:  # [..., N, D]
    return x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and x.shape[-2] <= LONGEST


class RotaryAttention(nn.Module):
    """Self-attention with rotary positions and biases, as in CroCo (arXiv 2211.10408)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, turn: Rotation) -> Tensor:  # [B, N, D]
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # [B, N, 3, heads, d]
        qkv = qkv.permute(2, 0, 3, 1, 4)
        q, k = rotate(qkv[:2], turn)
        mixed: Tensor = self.proj(attend(q, k, qkv[2]).transpose(1, 2).flatten(2))
        return mixed
