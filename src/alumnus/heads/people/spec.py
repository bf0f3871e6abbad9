"""What a people head is, in numbers: a description that JSON can hold."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alumnus.heads.people.camera import camera_channels
from alumnus.spelling import unknown

__all__ = ["PeopleSpec"]


@dataclass(frozen=True, kw_only=True)
class PeopleSpec:
    """Everything needed to build a people head again, without its weights.

    The defaults are those of Multi-HMR's ViT-L of 672 px, whose body model is SMPL-X.
    """

    dim: int = 1024  # of the patches that come in
    patch_size: int = 14  # px
    grid: int = 48  # patches along each side
    camera_bands: int = 16
    camera_max_resolution: int = 64
    rotations: int = 53  # joints of the body model that turn, the root first
    betas: int = 10  # numbers of its shape
    kid_betas: int = 11  # of another initial shape that released files hold and nothing reads
    expressions: int = 10  # numbers of its face
    width: int = 1024  # of the queries
    depth: int = 2
    heads: int = 8
    head_dim: int = 32
    mlp_dim: int = 1024

    @property
    def context_dim(self) -> int:
        """Channels of a patch with its viewing ray."""
        return self.dim + camera_channels(self.camera_bands)

    @property
    def side_px(self) -> int:
        """Side of the square picture."""
        return self.grid * self.patch_size

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PeopleSpec":
        """The inverse of `dataclasses.asdict`; an unknown key is a ValueError."""
        known = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise unknown("setting of a people head", key, known)
        return cls(**values)
