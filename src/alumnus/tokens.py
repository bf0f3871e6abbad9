"""Tokens: the one shape in which encoders, projectors and teachers hand features on."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["TOKEN_TYPES", "EncoderOutput", "Grid", "TokenType", "Tokens", "resize_grid"]

Grid = tuple[int, int]  # (h, w), in patches
TokenType = Literal["cls", "patch"]
TOKEN_TYPES: tuple[TokenType, ...] = get_args(TokenType)


class Tokens(NamedTuple):
    """Features of a batch of images; a model without a token type leaves it None.

    Patches are row-major: patch n of a (h, w) grid lies in row n // w, column n % w.
    """

    patches: Tensor | None = None  # [B, N, D]
    grid: Grid | None = None  # (h, w) with h * w == N
    cls: Tensor | None = None  # [B, D]
    registers: Tensor | None = None  # [B, R, D]

    @property
    def types(self) -> tuple[TokenType, ...]:
        """The token types that are here, "cls" before "patch"."""
        held: dict[TokenType, Tensor | None] = {"cls": self.cls, "patch": self.patches}
        return tuple(t for t in TOKEN_TYPES if held[t] is not None)

    def of(self, token_type: TokenType) -> Tensor:  # [B, D] for "cls", [B, N, D] for "patch"
        """The tokens of one type; ValueError where there are none."""
        tokens = self.cls if token_type == "cls" else self.patches
        if tokens is None:
            raise ValueError(
                f"there are no {token_type!r} tokens here, only {', '.join(self.types) or 'none'}"
            )
        return tokens

    def as_map(self) -> Tensor:  # [B, D, h, w]
        """The patch tokens as a feature map."""
        patches = self.of("patch")
        assert self.grid is not None, "patch tokens always carry their grid"
        features: Tensor = patches.transpose(1, 2).unflatten(2, self.grid)
        return features

    def pooled(self) -> Tensor:  # [B, D]
        """One vector per image: [CLS] where there is one, else the mean over patches."""
        return self.of("patch").mean(dim=1) if self.cls is None else self.cls

    def map(self, change: Callable[[Tensor], Tensor]) -> "Tokens":
        """All tensors changed in the same way: moved, pinned."""
        patches, grid, cls, registers = self
        return Tokens(
            patches=None if patches is None else change(patches),
            grid=grid,
            cls=None if cls is None else change(cls),
            registers=None if registers is None else change(registers),
        )

    def to(self, device: torch.device) -> "Tokens":
        """The same tokens there; the host does not wait for an accelerator to take them."""

        def moved(values: Tensor) -> Tensor:
            if values.device.type == "cpu" and device.type == "cuda":
                values = values.pin_memory()
            return values.to(device, non_blocking=device.type != "cpu")

        return self.map(moved)

    def only(self, types: tuple[TokenType, ...]) -> "Tokens":
        """The same tokens without the types not named."""
        return Tokens(
            patches=self.of("patch") if "patch" in types else None,
            grid=self.grid if "patch" in types else None,
            cls=self.of("cls") if "cls" in types else None,
        )

    @classmethod
    def from_map(cls, features: Tensor, cls_token: Tensor | None = None) -> "Tokens":
        """Tokens of a feature map [B, D, h, w] and, where given, a [CLS] token [B, D]."""
        h, w = features.shape[-2:]
        return cls(patches=features.flatten(2).transpose(1, 2), grid=(h, w), cls=cls_token)


class EncoderOutput(NamedTuple):
    """What an encoder gives: its result, the same before the final norm, and chosen blocks."""

    final: Tokens  # after the final norm
    prenorm: Tokens  # before it
    blocks: dict[int, Tokens]  # raw block outputs, by block index


def resize_grid(tokens: Tokens, grid: Grid) -> Tokens:
    """Resample patch tokens to another grid: area average to fewer, bilinear to more patches.

    [CLS] and registers pass unchanged, and so does everything if the grid is the same.
    """
    if tokens.grid is None or tokens.grid == grid:
        return tokens
    features = tokens.as_map()
    if grid[0] <= tokens.grid[0] and grid[1] <= tokens.grid[1]:
        resized = F.adaptive_avg_pool2d(features, grid)
    else:
        # bilinear has no bfloat16 kernel with antialiasing on every device
        resized = F.interpolate(
            features.float(), size=grid, mode="bilinear", align_corners=False, antialias=True
        ).to(features.dtype)
    return tokens._replace(patches=resized.flatten(2).transpose(1, 2), grid=grid)
