"""The domains of the miniworld: one row each."""

from typing import Any

import numpy as np

from alumnus.miniworld.body import BONES, JOINTS, SHAPE_COMPONENTS
from alumnus.miniworld.domain import Domain
from alumnus.miniworld.objects import CLASSES, GENERATOR_VERSION, MASK_NAMES, render_object
from alumnus.miniworld.people import (
    PEOPLE_VERSION,
    PERSON_MASK_NAMES,
    project,
    render_person,
)
from alumnus.miniworld.rooms import KINDS, MOST_THINGS, ROOMS_VERSION, render_room

__all__ = ["DOMAINS", "OBJECTS", "PEOPLE", "ROOMS"]


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
    names={"mask": MASK_NAMES},
    views=1,
    chunk=2 * len(CLASSES),  # whole turns through the classes
    dtype=_object_dtype,
    render=_object_records,
    fields=_object_fields,
)


def _people_dtype(size_px: int) -> np.dtype[np.void]:
    """The fields of `Person`, but `depth` as float16 and without what follows from others."""
    return np.dtype(
        [
            ("image", np.uint8, (size_px, size_px, 3)),
            ("mask", np.uint8, (size_px, size_px)),
            ("depth", np.float16, (size_px, size_px)),
            ("K", np.float32, (3, 3)),
            ("pose", np.float32, (4, 4)),
            ("joints", np.float32, (len(JOINTS), 3)),
            ("visible", np.bool_, (len(JOINTS),)),
            ("shape", np.float32, (SHAPE_COMPONENTS,)),
            ("rotations", np.float32, (len(BONES), 3, 3)),
            ("translation", np.float32, (3,)),
        ]
    )


def _people_records(seed: int, scene: int, size_px: int) -> list[tuple[Any, ...]]:
    person = render_person(seed, scene, size_px)
    names = _people_dtype(size_px).names or ()
    return [tuple(getattr(person, name) for name in names)]


def _people_fields(record: np.void) -> dict[str, Any]:
    """The fields of `Person`: "mask" uint8, "depth" float32 in metres, "K", "pose", "joints",
    "pixels", "visible", "shape", "rotations", "translation"; see `people`.
    """  # fmt: skip
    names = [name for name in record.dtype.names or () if name not in ("image", "depth")]
    return {
        **{name: np.array(record[name]) for name in names},
        "depth": record["depth"].astype(np.float32),
        "pixels": project(record["joints"], record["K"]),
    }


PEOPLE = Domain(
    name="people",
    about="one person in a room: mask, depth, joints, pose and shape of the body",
    version=PEOPLE_VERSION,
    classes=None,
    names={"mask": PERSON_MASK_NAMES, "joints": tuple(name for name, _ in JOINTS)},
    views=1,
    chunk=96,
    dtype=_people_dtype,
    render=_people_records,
    fields=_people_fields,
)


def _room_dtype(size_px: int) -> np.dtype[np.void]:
    """A `RoomView` (depth in float16), and of its scene the number and the kinds of things."""
    return np.dtype(
        [
            ("image", np.uint8, (size_px, size_px, 3)),
            ("depth", np.float16, (size_px, size_px)),
            ("ids", np.uint8, (size_px, size_px)),
            ("K", np.float32, (3, 3)),
            ("pose", np.float32, (4, 4)),
            ("overlap", np.float32),
            ("pair", np.int32),
            ("kinds", np.uint8, (MOST_THINGS,)),
        ]
    )


def _room_records(seed: int, scene: int, size_px: int) -> list[tuple[Any, ...]]:
    drawn = render_room(seed, scene, size_px)
    return [(*view, scene, drawn.kinds) for view in drawn.views]


def _room_fields(record: np.void) -> dict[str, Any]:
    """ "depth" float32 in metres, "K" [3, 3] pixels, "pose" [4, 4] camera to world, "pair": number
    of the scene, "overlap" with the other view, "ids" uint8, "mask" uint8 (into KINDS)."""
    return {
        "depth": record["depth"].astype(np.float32),
        "K": np.array(record["K"]),
        "pose": np.array(record["pose"]),
        "pair": int(record["pair"]),
        "overlap": float(record["overlap"]),
        "ids": np.array(record["ids"]),
        "mask": record["kinds"][record["ids"]],
    }


ROOMS = Domain(
    name="rooms",
    about="two views of a furnished room: depth, cameras, overlap, kinds of things",
    version=ROOMS_VERSION,
    classes=KINDS,
    names={"mask": KINDS},
    views=2,
    chunk=48,
    dtype=_room_dtype,
    render=_room_records,
    fields=_room_fields,
)

DOMAINS: dict[str, Domain] = {domain.name: domain for domain in (OBJECTS, ROOMS, PEOPLE)}
