"""Miniworld: small procedural pictures with exact labels, rendered on the spot."""

from pathlib import Path

from alumnus.miniworld.domain import Domain
from alumnus.miniworld.domains import DOMAINS
from alumnus.miniworld.objects import CLASSES, GENERATOR_VERSION, MASK_NAMES, Scene, render_object
from alumnus.miniworld.pairs import Correspondences, correspondences
from alumnus.miniworld.people import PERSON_MASK_NAMES, Person, body_points, render_person
from alumnus.miniworld.rooms import KINDS, RoomPair, RoomView, render_room
from alumnus.miniworld.source import MiniworldSource, render_dataset

__all__ = [
    "CLASSES",
    "DOMAINS",
    "GENERATOR_VERSION",
    "KINDS",
    "MASK_NAMES",
    "PERSON_MASK_NAMES",
    "Correspondences",
    "Domain",
    "MiniworldSource",
    "Person",
    "RoomPair",
    "RoomView",
    "Scene",
    "body_points",
    "correspondences",
    "render_dataset",
    "render_object",
    "render_person",
    "render_room",
    "teacher_folder",
]


def teacher_folder(domain: str) -> Path:
    """The encoder folder (encoder.json, encoder.safetensors, card.md) of a domain's teacher."""
    return Path(__file__).parent / "weights" / domain
