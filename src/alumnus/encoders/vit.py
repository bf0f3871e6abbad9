"""Our ViT: timm's, with the position embedding of UNIC, DUNE and DINOv2 kept as a parameter."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import Mlp, QuickGELU, SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alumnus.encoders.attention import choose_attention
from alumnus.encoders.base import Encoder, check_blocks, check_images
from alumnus.encoders.positions import interpolate_positions
from alumnus.encoders.spec import EncoderSpec
from alumnus.encoders.stem import ConvStem
from alumnus.images import renormalise
from alumnus.spelling import unknown
from alumnus.tokens import EncoderOutput, Grid, Tokens

__all__ = ["ViT", "swiglu_hidden"]

QK_NORM_EPS = 1e-5
ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "quickgelu": QuickGELU}


class ViT(VisionTransformer, Encoder):  # type: ignore[misc]  # timm is untyped
    """timm's VisionTransformer without a head, in the token order [CLS], registers, patches.

    Differs from timm's: the position embedding has an entry for [CLS] and none for registers,
    is interpolated as `pos_interp` says, and `forward` gives an EncoderOutput. Parameters are
    named as timm's and ordered as the reference systems' (cls, positions, registers, mask).
    """

    cls_token: nn.Parameter  # [1, 1, D]
    pos_embed: nn.Parameter  # [1, 1 + M*M, D]
    reg_token: nn.Parameter | None  # [1, R, D]
    mask_token: nn.Parameter | None  # [1, D]
    patch_embed: nn.Module
    norm_pre: nn.Module
    blocks: nn.Sequential
    norm: nn.Module
    fc_norm: nn.Module

    def __init__(self, spec: EncoderSpec) -> None:
        dim, depth, num_heads = spec.vit_size
        _check(spec, dim, num_heads)
        super().__init__(
            img_size=spec.image_size,
            patch_size=spec.patch_size,
            in_chans=spec.in_channels,
            num_classes=0,
            embed_dim=dim,
            depth=depth,
            num_heads=num_heads,
            qkv_bias=spec.qkv_bias,
            qk_norm=spec.qk_norm,
            proj_bias=spec.proj_bias,
            init_values=spec.layer_scale,
            dynamic_img_size=True,
            drop_path_rate=spec.drop_path,
            weight_init="skip",
            pre_norm=spec.pre_norm,
            norm_layer=_layer_norm(spec, affine=spec.norm_affine),
            mlp_layer=_feed_forward(spec, dim),
        )
        self.spec = spec
        self.dim, self.block_dims, self.num_heads = dim, (dim,) * depth, num_heads
        self.patch_size, self.image_size = spec.patch_size, spec.image_size
        self.in_channels, self.pos_interp = spec.in_channels, spec.pos_interp
        if spec.stem == "conv":
            self.patch_embed = ConvStem(
                image_size=spec.image_size,
                patch_size=spec.patch_size,
                in_channels=spec.in_channels,
                dim=dim,
            )
        # timm would give registers a position embedding, or none to [CLS]
        self.num_reg_tokens, self.num_prefix_tokens = spec.registers, 1 + spec.registers
        if spec.registers:
            self.reg_token = nn.Parameter(torch.empty(1, spec.registers, dim))
        self.mask_token = nn.Parameter(torch.empty(1, dim)) if spec.mask_token else None
        last_norm = _layer_norm(spec, affine=spec.last_norm_affine)(dim)
        self.mean_pooled = spec.mean_pooled
        self.norm = nn.Identity() if spec.mean_pooled else last_norm
        self.fc_norm = last_norm if spec.mean_pooled else nn.Identity()
        if spec.qk_norm:
            for block in self.blocks:
                attention: Any = block.attn
                attention.q_norm = nn.LayerNorm(dim // num_heads, eps=QK_NORM_EPS)
                attention.k_norm = nn.LayerNorm(dim // num_heads, eps=QK_NORM_EPS)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Truncated normal 0.02 for linear layers and positions, 1e-6 for [CLS] and registers."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        if self.reg_token is not None:
            nn.init.normal_(self.reg_token, std=1e-6)
        if self.mask_token is not None:
            nn.init.zeros_(self.mask_token)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def units(self) -> list[nn.Module]:
        """What is sharded by itself: the blocks."""
        return list(self.blocks)

    def forward(
        self,
        images: Tensor,  # [B, C, H, W], both sides multiples of the patch size
        *,
        blocks: Sequence[int] = (),
        masks: Tensor | None = None,  # [B, N] bool
    ) -> EncoderOutput:
        """Encode images; where `masks` is True the mask token takes the patch's place."""
        check_images(images, in_channels=self.in_channels, patch_size=self.patch_size)
        check_blocks(blocks, self.depth)
        images = renormalise(images, mean=self.spec.mean, std=self.spec.std)
        x = self.patch_embed(images)  # [B, h, w, D]
        grid: Grid = (x.shape[1], x.shape[2])
        if masks is not None:
            x = self._masked(x, masks)
        x = self.norm_pre(self._pos_embed(x))  # [B, 1 + R + N, D]
        choose_attention(self.blocks, x)
        outputs: dict[int, Tokens] = {}
        for index, block in enumerate(self.blocks):
            if self.grad_checkpointing and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
            if index in blocks:
                outputs[index] = self._split(x, grid)
        return EncoderOutput(
            final=self._final(x, grid), prenorm=self._split(x, grid), blocks=outputs
        )

    def _final(self, x: Tensor, grid: Grid) -> Tokens:
        tokens = self._split(self.norm(x), grid)
        if not self.mean_pooled:
            return tokens
        return tokens._replace(cls=self.fc_norm(tokens.of("patch").mean(dim=1)))

    def _masked(self, x: Tensor, masks: Tensor) -> Tensor:  # [B, h, w, D], [B, N]
        if self.mask_token is None:
            raise ValueError("this encoder has no mask token: build it with mask_token=True")
        return torch.where(masks.view(*x.shape[:3], 1), self.mask_token.to(x.dtype), x)

    def _pos_embed(self, x: Tensor) -> Tensor:  # [B, h, w, D] -> [B, 1 + R + N, D]
        pos_embed = self.position_embedding((x.shape[1], x.shape[2]))
        cls_token = (self.cls_token + pos_embed[:, :1]).expand(x.shape[0], -1, -1)
        patches = x.flatten(1, 2) + pos_embed[:, 1:]
        if self.reg_token is None:
            return torch.cat([cls_token, patches], dim=1)
        return torch.cat([cls_token, self.reg_token.expand(x.shape[0], -1, -1), patches], dim=1)

    def position_embedding(self, grid: Grid) -> Tensor:  # [1, 1 + N, D]
        """The position embedding added on a grid: that of [CLS], then of the patches."""
        return interpolate_positions(self.pos_embed, grid, mode=self.pos_interp)

    def _split(self, x: Tensor, grid: Grid) -> Tokens:  # [B, 1 + R + N, D]
        return Tokens(
            patches=x[:, self.num_prefix_tokens :],
            grid=grid,
            cls=x[:, 0],
            registers=x[:, 1 : self.num_prefix_tokens] if self.num_reg_tokens else None,
        )


def swiglu_hidden(dim: int, mlp_ratio: float) -> int:
    """Hidden width of a SwiGLU feed-forward: two thirds of the MLP's, up to a multiple of 8."""
    return (int(round(dim * mlp_ratio) * 2 / 3) + 7) // 8 * 8


def _layer_norm(spec: EncoderSpec, *, affine: bool) -> Callable[..., nn.LayerNorm]:
    return partial(nn.LayerNorm, eps=spec.norm_eps, elementwise_affine=affine)


def _feed_forward(spec: EncoderSpec, dim: int) -> Callable[..., nn.Module]:
    """timm's feed-forward with a bias switch of its own and an exact hidden width."""

    def build(*, in_features: int, **_timm: Any) -> nn.Module:  # timm's width, bias, activation
        if spec.ffn == "swiglu":
            hidden = swiglu_hidden(dim, spec.mlp_ratio)
            return SwiGLUPacked(in_features, 2 * hidden, bias=spec.ffn_bias)  # type: ignore[no-any-return]
        hidden, activation = round(dim * spec.mlp_ratio), ACTIVATIONS[spec.activation]
        return Mlp(in_features, hidden, act_layer=activation, bias=spec.ffn_bias)  # type: ignore[no-any-return]

    return build


def _check(spec: EncoderSpec, dim: int, num_heads: int) -> None:
    if dim % num_heads:
        raise ValueError(f"an encoder of width {dim} cannot have {num_heads} heads: not a divisor")
    if spec.image_size % spec.patch_size:
        raise ValueError(
            f"image_size {spec.image_size} is not a multiple of patch_size {spec.patch_size}"
        )
    for what, name, choices in (
        ("feed-forward", spec.ffn, ("mlp", "swiglu")),
        ("stem", spec.stem, ("patch", "conv")),
        ("activation", spec.activation, tuple(ACTIVATIONS)),
        ("position interpolation", spec.pos_interp, ("offset", "antialias", "size")),
    ):
        if name not in choices:
            raise unknown(what, name, choices)
