"""What a two-view head is, in words and numbers: a description that JSON can hold."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from alumnus.heads.two_view.predictions import ConfidenceRange, PointScale, Rise
from alumnus.spelling import unknown

__all__ = ["PointHead", "TwoViewSpec"]

PointHead = Literal["dpt", "linear"]
FROM_ZERO, FROM_ONE = ConfidenceRange(0.0), ConfidenceRange(1.0)


@dataclass(frozen=True, kw_only=True)
class TwoViewSpec:
    """Everything needed to build a two-view head again, without its weights.

    The defaults are the released MASt3R's. ValueError for sizes that do not fit together.
    """

    encoder_dim: int  # width of the tokens that come in
    patch_size: int  # px, of the encoder: the outputs have that many pixels per patch
    bridge: bool = False  # LayerNorm (eps 1e-5) in front of everything, as in DUNE-MASt3R
    dim: int = 768  # of the decoders
    depth: int = 12
    num_heads: int = 12
    norm_eps: float = 1e-6  # of the decoders' LayerNorms
    points: PointHead = "dpt"  # or one linear layer on the last tokens
    dpt_levels: tuple[int, ...] = (96, 192, 384, 768)  # channels, see `DPTHead`
    dpt_dim: int = 256
    dpt_last_dim: int = 128
    point_scale: PointScale = "exp"
    conf: ConfidenceRange = FROM_ONE
    desc_dim: int = 24
    desc_hidden: int | None = None  # of the descriptors' MLP; None: 4 (encoder_dim + dim)
    desc_conf: ConfidenceRange = FROM_ZERO
    image_size: int | None = None  # px, the long side of photographs; None: the encoder's
    squares: bool = True  # whether it takes square photographs, else these are cut to 4:3
    encoder_name: str | None = None  # where a released file names the encoder that it stands on

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 4:
            raise ValueError(
                f"decoders of width {self.dim} cannot have {self.num_heads} heads: each needs a "
                "multiple of 4 channels for its rotary positions"
            )
        if len(self.dpt_levels) != 4:
            raise ValueError(f"dpt_levels are four widths, not {list(self.dpt_levels)}")
        if self.image_size is not None and self.image_size < self.patch_size:
            raise ValueError(
                f"photographs of {self.image_size} px hold not one patch of {self.patch_size} px"
            )
        for what, name, choices in (
            ("point head", self.points, get_args(PointHead)),
            ("scale of points", self.point_scale, get_args(PointScale)),
            *(("rise of confidences", c.rise, get_args(Rise)) for c in (self.conf, self.desc_conf)),
        ):
            if name not in choices:
                raise unknown(what, name, choices)
        if any(c.rise == "sigmoid" and c.high is None for c in (self.conf, self.desc_conf)):
            raise ValueError("confidences that rise as a sigmoid need an upper end")

    @property
    def hooks(self) -> tuple[int, int, int, int]:
        """What the DPT head reads: 0 is the encoder's tokens, k the output of decoder block k."""
        return 0, self.depth // 2, 3 * self.depth // 4, self.depth

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TwoViewSpec":
        """The inverse of `dataclasses.asdict`; an unknown key is a ValueError."""
        known = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise unknown("two-view setting", key, known)
        ranges = {k: ConfidenceRange(*v) for k, v in values.items() if k in ("conf", "desc_conf")}
        levels = {k: tuple(v) for k, v in values.items() if k == "dpt_levels"}
        return cls(**{**values, **ranges, **levels})
