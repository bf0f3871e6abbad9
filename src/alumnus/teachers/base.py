"""What a teacher is: a frozen network that knows its own image size and statistics.

Images reach it ImageNet-normalised at any size; it resizes and re-normalises for itself.
Axes: B images, H W pixels, N patches, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alumnus.encoders import Encoder, last_layers
from alumnus.images import IMAGENET_MEAN, IMAGENET_STD, renormalise
from alumnus.licences import Terms
from alumnus.spelling import unknown
from alumnus.teachers.chunks import in_chunks
from alumnus.tensor_files import weights_hash
from alumnus.tokens import TOKEN_TYPES, EncoderOutput, Grid, Tokens, TokenType

__all__ = [
    "GRID_POLICIES",
    "INTERPOLATION",
    "GridPolicy",
    "Teacher",
    "Traits",
    "match_images",
    "resize_images",
    "resolve_grid",
]

GridPolicy = Literal["auto", "match", "native", "pool"]
GRID_POLICIES: tuple[GridPolicy, ...] = get_args(GridPolicy)
INTERPOLATION = "bicubic"  # of images


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What an adapter knows about its network besides the network."""

    dim: int  # width of its tokens
    patch_size: int  # pixels per step of its patch grid
    token_types: tuple[TokenType, ...]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    licence: str = "unknown"  # of its weights
    data: tuple[str, ...] = ()  # what it was trained on, where known
    inherits: tuple[Terms, ...] = ()  # of a student: from its own teachers
    domain: str = "default"  # which images it is good at
    pos_interp: str = "none"  # how its position embedding meets other grids
    runs_on: Literal["device", "host"] = "device"
    input_size: int | None = None  # px, the side it is run at; None: whatever side comes
    fixed_size: bool = False  # it takes no other size, and only squares
    reference: str | None = None  # whose preprocessing it should have


class Teacher(nn.Module):
    """A network behind the teacher interface: always in eval mode, never with gradients.

    `network` maps images [B, 3, H, W], in its own statistics and at a size that it takes, to
    Tokens (or EncoderOutput, of which the final tokens are taken).
    """

    def __init__(
        self,
        network: nn.Module,
        traits: Traits,
        *,
        name: str,
        tokens: Sequence[TokenType] | None = None,  # of those it has; None: all
        domain: str | None = None,
        grid: GridPolicy = "auto",
    ) -> None:
        super().__init__()
        if "." in name or not name:
            raise ValueError(f"teacher name {name!r} must be a short alias without dots")
        if grid not in GRID_POLICIES:
            raise unknown(f"grid policy of teacher {name}", grid, GRID_POLICIES)
        if grid == "match" and traits.fixed_size:
            raise ValueError(
                f"teacher {name} takes images of {traits.input_size} px only, so grid=match is "
                "impossible; choose auto, native or pool"
            )
        self.network = network.requires_grad_(False).eval()
        self.traits = replace(
            traits,
            token_types=_chosen_tokens(name, traits.token_types, tokens),
            domain=domain or traits.domain,
        )
        self.name, self.grid = name, grid
        self.dim, self.patch_size = traits.dim, traits.patch_size
        self.token_types, self.domain = self.traits.token_types, self.traits.domain
        self.mean, self.std = traits.mean, traits.std
        self.licence, self.pos_interp = traits.licence, traits.pos_interp
        self.runs_on = traits.runs_on
        self.input_size, self.fixed_size = traits.input_size, traits.fixed_size

    @property
    def terms(self) -> tuple[Terms, ...]:
        """What a student inherits from it; through a student from that one's teachers too."""
        if not self.traits.inherits:
            return (Terms(self.name, self.licence, self.traits.data),)
        return tuple(replace(t, of=f"{self.name}/{t.of}") for t in self.traits.inherits)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Teacher":
        """A network of the host stays there, whatever device or precision is asked for."""
        if self.runs_on == "host":
            return self
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call,no-any-return]

    def forward(self, images: Tensor) -> Tokens:
        """Tokens of ImageNet-normalised images [B, 3, H, W] of any size, on its own grid."""
        return self.encode(resize_images(images, self.own_size(*images.shape[-2:])))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tokens:
        """As `forward`, for images that already have a size that the network takes.

        The tokens are where the images are; a network that runs on the host is brought them.
        """
        seen = self._seen(images)
        ours = isinstance(self.network, Encoder)  # others know best themselves
        tokens = in_chunks(self._chosen, seen) if ours else self._chosen(seen)
        return tokens.to(images.device)

    def _chosen(self, images: Tensor) -> Tokens:
        output: Tokens | EncoderOutput = self.network(images)
        tokens = output.final if isinstance(output, EncoderOutput) else output
        return tokens.only(self.token_types)

    @torch.no_grad()
    def last_layers(self, images: Tensor, count: int) -> Tokens:
        """As `encode`, of the last blocks side by side (`alumnus.encoders.last_layers`).

        ValueError where the network has no such blocks.
        """
        seen = self._seen(images)
        own: Callable[[Tensor, int], Tokens] | None = getattr(self.network, "last_layers", None)
        tokens = last_layers(self.network, seen, count) if own is None else own(seen, count)
        return tokens.to(images.device)

    def _seen(self, images: Tensor) -> Tensor:
        """Images where the network runs, with its statistics."""
        there = images.cpu() if self.runs_on == "host" else images
        return renormalise(there, mean=self.mean, std=self.std)

    def own_size(self, height: int, width: int) -> tuple[int, int]:
        """The size at which it looks at images of height x width px.

        A fixed-size network looks at squares. Others keep the aspect: `input_size` (where there
        is one) for the short side, the long one in steps of the patch.
        """
        if self.fixed_size:
            assert self.input_size is not None, "a fixed size is a size"
            return self.input_size, self.input_size
        if self.input_size is None:
            return _whole_patches(height, self.patch_size), _whole_patches(width, self.patch_size)
        scale = self.input_size / min(height, width)
        return (
            self.input_size if height <= width else _whole_patches(height * scale, self.patch_size),
            self.input_size if width <= height else _whole_patches(width * scale, self.patch_size),
        )

    def train(self, mode: bool = True) -> "Teacher":
        """A teacher stays in eval mode, whatever `mode` says."""
        return super().train(False)

    def fingerprint(self) -> str:
        """A hash of the weights, for keys of feature caches."""
        given = getattr(self.network, "fingerprint", None)
        if callable(given):
            return str(given())
        return weights_hash(self.network.state_dict())


def resize_images(images: Tensor, size: Grid) -> Tensor:  # [B, 3, H, W] -> [B, 3, *size]
    """Bicubic, antialiased where it shrinks; the images themselves at their own size."""
    height, width = images.shape[-2:]
    if (height, width) == size:
        return images
    shrinks = size[0] < height or size[1] < width
    return F.interpolate(
        images, size=size, mode=INTERPOLATION, align_corners=False, antialias=shrinks
    )


def match_images(images: Tensor, size: Grid) -> Tensor:  # [B, 3, H, W] -> [B, 3, *size]
    """The resize of grid policy `match`: bicubic, corners aligned, no antialiasing.

    Source: DUNE (arXiv 2503.14405), teachers of another patch size than the student's.
    """
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size=size, mode=INTERPOLATION, align_corners=True)


def resolve_grid(
    policy: GridPolicy, *, teacher: Grid, student: Grid, name: str
) -> Literal["native", "pool"]:
    """What `auto` means for a teacher's own grid; ValueError where `pool` is impossible."""
    coarser = teacher[0] <= student[0] and teacher[1] <= student[1]
    if policy == "pool" and not coarser:
        raise ValueError(
            f"teacher {name} has a grid of {teacher[0]}x{teacher[1]}, finer than the student's "
            f"{student[0]}x{student[1]}, so grid=pool is impossible; choose auto or native"
        )
    return "pool" if policy != "native" and coarser else "native"


def _whole_patches(pixels: float, patch_size: int) -> int:
    return max(1, round(pixels / patch_size)) * patch_size


def _chosen_tokens(
    name: str, held: tuple[TokenType, ...], wanted: Sequence[TokenType] | None
) -> tuple[TokenType, ...]:
    if wanted is None:
        return held
    for token_type in wanted:
        if token_type not in TOKEN_TYPES:
            raise unknown("token type", token_type, TOKEN_TYPES)
        if token_type not in held:
            raise ValueError(
                f"teacher {name} has no {token_type!r} tokens, only {', '.join(held) or 'none'}"
            )
    if not wanted:
        raise ValueError(f"tokens of teacher {name} is empty, but at least one type is needed")
    return tuple(t for t in TOKEN_TYPES if t in wanted)
