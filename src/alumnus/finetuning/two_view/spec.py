"""The two-view head that fits an encoder, where settings do not say otherwise."""

from alumnus.encoders import Encoder
from alumnus.finetune_config import TwoViewSection
from alumnus.heads.two_view import TwoViewSpec

__all__ = ["fitting_spec"]

LARGE = 384  # width of encoders from which on heads are built as MASt3R's are
MOST_WIDTH, MOST_DEPTH = 768, 12  # MASt3R's
HEAD_WIDTH = 64  # of attention, the most


def fitting_spec(encoder: Encoder, settings: TwoViewSection, *, size_px: int) -> TwoViewSpec:
    """MASt3R's proportions at the encoder's size.

    Decoders of three quarters of its width and width / 64 layers (4 to 12), heads of attention of
    at most 64 channels; DPT and descriptors as MASt3R's from a width of 384 on, below one linear
    layer for points and a small MLP for 16-d descriptors. ValueError for widths that do not fit
    together.
    """
    large = encoder.dim >= LARGE
    dim = settings.width or min(MOST_WIDTH, 32 * max(1, round(encoder.dim * 0.75 / 32)))
    return TwoViewSpec(
        encoder_dim=encoder.dim,
        patch_size=encoder.patch_size,
        bridge=settings.bridge,
        dim=dim,
        depth=settings.depth or min(MOST_DEPTH, max(4, encoder.dim // 64)),
        num_heads=settings.heads or _heads(dim),
        points=settings.points or ("dpt" if large else "linear"),
        dpt_levels=tuple(max(1, dim * part // 8) for part in (1, 2, 4, 8)),
        dpt_dim=max(1, dim // 3),
        dpt_last_dim=max(1, dim // 6),
        desc_dim=settings.desc_dim or (24 if large else 16),
        desc_hidden=None if large else dim,
        image_size=size_px,
    )


def _heads(dim: int) -> int:
    """The fewest heads of at most 64 channels whose width rotary positions can halve twice."""
    fitting = (
        n for n in range(-(-dim // HEAD_WIDTH), dim + 1) if dim % n == 0 and dim // n % 4 == 0
    )
    return next(fitting, 1)
