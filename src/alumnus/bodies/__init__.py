"""People in photographs as bodies: networks by name, body models, what was found and its files."""

from alumnus.bodies.choosing import BODIES, open_body
from alumnus.bodies.finding import FoundPeople, find_people
from alumnus.bodies.model import BodyModel
from alumnus.bodies.opening import load_people

__all__ = [
    "BODIES",
    "BodyModel",
    "FoundPeople",
    "find_people",
    "load_people",
    "open_body",
]
