"""The interface of body models: rotations and shape numbers in, a surface and joints out.

Axes: P people, R rotations, V vertices, J joints, T triangles.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["BodyModel"]


class BodyModel(Protocol):
    """A body as a people head predicts it."""

    @property
    def name(self) -> str:
        """What `body=` calls it."""

    @property
    def joints(self) -> tuple[str, ...]:
        """Their names; the first is the pelvis."""

    @property
    def links(self) -> tuple[tuple[int, int], ...]:
        """Joints between which a line is drawn."""

    @property
    def faces(self) -> NDArray[np.intp]:
        """[T, 3] corners, counter-clockwise from outside."""

    @property
    def primary(self) -> int:
        """The joint that people heads locate: the head's."""

    def posed(
        self,
        shape: Tensor,  # [P, betas]
        rotations: Tensor,  # [P, R, 3, 3], relative to the parents
        expression: Tensor,  # [P, expressions], which many bodies leave out
    ) -> tuple[Tensor, Tensor]:  # [P, V, 3], [P, J, 3]
        """Vertices and joints, metres, wherever the body stands; float32."""
