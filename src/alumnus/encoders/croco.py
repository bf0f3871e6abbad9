"""CroCo's ViT encoder, the one of DUSt3R and MASt3R: rotary positions instead of learned ones.

Axes: B images, H W pixels, N patches, D width.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from functools import partial

from timm.layers import Mlp
from torch import Tensor, nn

from alumnus.encoders.attention import RotaryAttention
from alumnus.encoders.base import Encoder, check_blocks, check_images
from alumnus.encoders.rope import Rotation, grid_positions, rotation
from alumnus.encoders.spec import EncoderSpec
from alumnus.images import renormalise
from alumnus.tokens import EncoderOutput, Grid, Tokens

__all__ = ["CrocoEncoder", "croco_from_released", "infer_croco_spec", "xavier"]

MLP_RATIO = 4
IMAGE_SIZE = 512  # px, long side of the released MASt3R; the tensors do not tell
ITS_OWN = (
    *("model", "image_size", "patch_size", "dim", "depth", "num_heads", "norm_eps"),
    *("mean", "std"),
)


class CrocoBlock(nn.Module):
    """Self-attention with rotary positions and an MLP (erf-GELU), each behind a LayerNorm."""

    def __init__(self, dim: int, num_heads: int, *, norm_eps: float) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, dim, eps=norm_eps)
        self.norm1, self.norm2 = norm(), norm()
        self.attn = RotaryAttention(dim, num_heads)
        self.mlp = Mlp(dim, MLP_RATIO * dim)

    def forward(self, x: Tensor, turn: Rotation) -> Tensor:  # [B, N, D]
        x = x + self.attn(self.norm1(x), turn)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class CrocoEncoder(Encoder):
    """Patches, blocks and a final norm: no [CLS], no registers, no learned positions.

    `cls` is the mean over patches. Source: CroCo v2 (arXiv 2211.10408).
    """

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        _check(spec)
        self.spec = spec
        dim, depth, num_heads = spec.vit_size
        self.dim, self.block_dims, self.num_heads = dim, (dim,) * depth, num_heads
        self.patch_size, self.image_size, self.in_channels = spec.patch_size, spec.image_size, 3
        stride = spec.patch_size
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, stride, stride=stride)})
        self.blocks = nn.ModuleList(
            CrocoBlock(dim, num_heads, norm_eps=spec.norm_eps) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=spec.norm_eps)
        self.blocks.apply(xavier)

    @property
    def units(self) -> list[nn.Module]:
        """What is sharded by itself: the blocks."""
        return list(self.blocks)

    def forward(self, images: Tensor, *, blocks: Sequence[int] = ()) -> EncoderOutput:
        """Encode images [B, 3, H, W], both sides multiples of the patch size."""
        check_images(images, in_channels=self.in_channels, patch_size=self.patch_size)
        check_blocks(blocks, self.depth)
        images = renormalise(images, mean=self.spec.mean, std=self.spec.std)
        embedded = Tokens.from_map(self.patch_embed["proj"](images))
        x, grid = embedded.of("patch"), embedded.grid
        assert grid is not None, "tokens of a map have its grid"
        positions = grid_positions(grid, device=images.device)
        turn = rotation(positions, self.dim // self.num_heads)
        outputs: dict[int, Tokens] = {}
        for index, block in enumerate(self.blocks):
            x = block(x, turn)
            if index in blocks:
                outputs[index] = _tokens(x, grid)
        return EncoderOutput(
            final=_tokens(self.norm(x), grid), prenorm=_tokens(x, grid), blocks=outputs
        )


def xavier(module: nn.Module) -> None:
    """Xavier's uniform weights and no bias, if it is a linear layer."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def croco_from_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state of the encoder within a released CroCo, DUSt3R or MASt3R; the rest is left out."""
    return {
        re.sub(r"^enc_", "", name): tensor
        for name, tensor in state.items()
        if name.startswith(("patch_embed.", "enc_blocks.", "enc_norm."))
    }


def infer_croco_spec(
    state: Mapping[str, Tensor],  # our names
    *,
    num_heads: int | None = None,  # None: 64 channels each
) -> EncoderSpec:
    """The spec of the encoder these tensors belong to; ValueError for other tensors."""
    patch = state.get("patch_embed.proj.weight")
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    if patch is None or not depth:
        raise ValueError("these are not the weights of a CroCo encoder: no patches or no blocks")
    dim = patch.shape[0]
    if num_heads is None and dim % 64:
        raise ValueError(
            f"an encoder of width {dim} has no standard number of heads and the file does not "
            "tell: pass num_heads"
        )
    return EncoderSpec(
        model="croco",
        image_size=IMAGE_SIZE,
        patch_size=patch.shape[-1],
        dim=dim,
        depth=depth,
        num_heads=num_heads or dim // 64,
    )


def _tokens(x: Tensor, grid: Grid) -> Tokens:
    return Tokens(patches=x, grid=grid, cls=x.mean(dim=1))


def _check(spec: EncoderSpec) -> None:
    for field in dataclasses.fields(EncoderSpec):
        usual = EncoderSpec.__dataclass_fields__[field.name].default
        if field.name in ITS_OWN or usual is dataclasses.MISSING:
            continue
        if (given := getattr(spec, field.name)) != usual:
            raise ValueError(f"the encoder 'croco' has no {field.name}, but it is {given!r}")
    dim, _, num_heads = spec.vit_size
    if dim % num_heads or (dim // num_heads) % 4:
        raise ValueError(
            f"an encoder of width {dim} cannot have {num_heads} heads: each needs a multiple of 4 "
            "channels for its rotary positions"
        )
