"""Body regression in the manner of Multi-HMR (arXiv 2402.14654): who is where, in which pose."""

from alumnus.heads.people.files import load_people_head, save_people_head
from alumnus.heads.people.head import People, PeopleHead, detect, surest
from alumnus.heads.people.network import PeopleNetwork
from alumnus.heads.people.regressor import Cells
from alumnus.heads.people.released import load_multihmr
from alumnus.heads.people.spec import PeopleSpec

__all__ = [
    "Cells",
    "People",
    "PeopleHead",
    "PeopleNetwork",
    "PeopleSpec",
    "detect",
    "load_multihmr",
    "load_people_head",
    "save_people_head",
    "surest",
]
