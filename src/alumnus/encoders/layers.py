"""The last blocks of a ViT side by side: wider patch tokens for dense heads."""

from typing import Any

import torch
from torch import Tensor, nn

from alumnus.tokens import EncoderOutput, Tokens

__all__ = ["last_layers"]


def last_layers(encoder: nn.Module, images: Tensor, count: int) -> Tokens:
    """Patch tokens of the last `count` blocks, each after the final norm: [B, N, count * D].

    Earlier blocks come first. Source: `get_intermediate_layers` of DINOv2, on which its heads of
    four layers were trained. ValueError for a network without so many blocks of one width that
    end in a norm.
    """
    network: Any = encoder
    widths = tuple(getattr(network, "block_dims", ()))
    norm = getattr(network, "norm", None) or getattr(getattr(network, "model", None), "norm", None)
    if not isinstance(norm, nn.Module) or len(set(widths[-count:])) != 1 or len(widths) < count:
        raise ValueError(f"it has no {count} last blocks of one width before a norm")
    depth = len(widths)
    output: EncoderOutput = network(images, blocks=range(depth - count, depth))
    parts = [norm(tokens.of("patch")) for _, tokens in sorted(output.blocks.items())]
    return Tokens(patches=torch.cat(parts, dim=-1), grid=output.final.grid)
