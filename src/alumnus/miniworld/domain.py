"""What a domain of the miniworld is: how its scenes are rendered and what is kept of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Domain"]


class Domain(NamedTuple):
    """One domain; a scene gives `views` pictures, which follow each other in the source.

    A picture is stored as one record of `dtype`, which has at least "image", uint8 [H, W, 3].
    """

    name: str
    about: str  # what is seen and known, in a few words
    version: int  # of the generator, part of the cache's name
    classes: tuple[str, ...] | None  # of the field "cls"
    names: Mapping[str, tuple[str, ...]]  # of the values of "mask", of the rows of "joints"
    views: int  # pictures of one scene
    chunk: int  # pictures per file, a multiple of `views`
    dtype: Callable[[int], np.dtype[np.void]]  # of a record, from the picture's size in pixels
    render: Callable[[int, int, int], Sequence[tuple[Any, ...]]]  # (seed, scene, size): records
    fields: Callable[[np.void], dict[str, Any]]  # what a sample gives of a record beside the image
