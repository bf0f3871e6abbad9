"""The domains of the miniworld: one row each."""

from typing import Any

import numpy as np

from alumnus.miniworld.domain import Domain
from alumnus.miniworld.objects import CLASSES, GENERATOR_VERSION, render_object

__all__ = ["DOMAINS", "OBJECTS"]


def _object_dtype(size_px: int) -> np.dtype[np.void]:
    """`image` uint8 [H, W, 3], `mask` uint8 [H, W], `depth` float16 [H, W], `cls` uint8."""
    return np.dtype(
        [
            ("image", np.uint8, (size_px, size_px, 3)),
            ("mask", np.uint8, (size_px, size_px)),
            ("depth", np.float16, (size_px, size_px)),
            ("cls", np.uint8),
        ]
    )


def _object_records(seed: int, scene: int, size_px: int) -> list[tuple[Any, ...]]:
    drawn = render_object(seed, scene, size_px)
    return [(drawn.image, drawn.mask, drawn.depth, drawn.cls)]


def _object_fields(record: np.void) -> dict[str, Any]:
    """ "cls" (into CLASSES), "mask" uint8 (into MASK_NAMES), "depth" float32 in metres."""
    return {
        "cls": int(record["cls"]),
        "mask": np.array(record["mask"]),
        "depth": record["depth"].astype(np.float32),
    }


OBJECTS = Domain(
    name="objects",
    about="one large object in a calm room: class, mask, depth",
    version=GENERATOR_VERSION,
    classes=CLASSES,
    views=1,
    chunk=2 * len(CLASSES),  # whole turns through the classes
    dtype=_object_dtype,
    render=_object_records,
    fields=_object_fields,
)
DOMAINS: dict[str, Domain] = {domain.name: domain for domain in (OBJECTS,)}
