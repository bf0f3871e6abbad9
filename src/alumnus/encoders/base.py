"""The encoder interface: images in, EncoderOutput out."""

from collections.abc import Sequence

from torch import Tensor, nn

from alumnus.tokens import EncoderOutput

__all__ = ["Encoder", "check_blocks", "check_images"]


class Encoder(nn.Module):
    """A student backbone: what a run keeps and exports.

    A module of your own (`python:module:factory`) need not inherit from it, having the
    attributes and the forward is enough.
    """

    dim: int  # width of the final tokens
    block_dims: tuple[int, ...]  # width of each block's (or stage's) output
    patch_size: int  # pixels per step of the final patch grid
    num_heads: int  # attention heads, also the default of projectors built on it
    in_channels: int
    image_size: int  # native side, px; any H, W that `patch_size` divides may come

    @property
    def depth(self) -> int:
        """Number of blocks (or stages)."""
        return len(self.block_dims)

    def forward(self, images: Tensor, *, blocks: Sequence[int] = ()) -> EncoderOutput:
        """Encode images [B, C, H, W]; `blocks` names the raw block outputs wanted besides."""
        raise NotImplementedError


def check_images(images: Tensor, *, in_channels: int, patch_size: int) -> None:
    """ValueError for images that an encoder cannot take."""
    if images.ndim != 4 or images.shape[1] != in_channels:
        raise ValueError(
            f"images have shape {tuple(images.shape)}, but the encoder takes "
            f"[B, {in_channels}, H, W]"
        )
    height, width = images.shape[-2:]
    if height % patch_size or width % patch_size or not height or not width:
        raise ValueError(
            f"images are {height}x{width} px, but both sides must be multiples of the "
            f"encoder's patch size {patch_size}"
        )


def check_blocks(blocks: Sequence[int], depth: int) -> None:
    """ValueError for block indices that the encoder does not have."""
    for block in blocks:
        if not 0 <= block < depth:
            raise ValueError(f"there is no block {block}: the encoder's are 0 to {depth - 1}")
