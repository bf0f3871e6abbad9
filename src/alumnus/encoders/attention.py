"""Which attention kernel: on CPUs torch's fused one is slow in bfloat16 for short sequences."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["choose_attention"]

# One core with AVX512-BF16, torch 2.x, forward and backward in ms, fused and written out:
# 256 images of 17 tokens 55 and 6, of 65 tokens 134 and 21; 32 images of 197 tokens 48 and 17.
# Beyond, the table of weights of all pairs of tokens costs memory.
LONGEST = 256


def choose_attention(blocks: Iterable[nn.Module], x: Tensor) -> None:  # [B, N, D]
    """Let timm's blocks write attention out where that pays: bf16 autocast on a CPU, N <= 256.

    In float32 both take the same time, and the fused one stays.
    """
    written_out = (
        x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and x.shape[1] <= LONGEST
    )
    for block in blocks:
        attention: Any = block.attn
        attention.fused_attn = not written_out
