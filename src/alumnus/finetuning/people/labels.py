"""Pictures of people with their bodies, from any source that says them as the miniworld does."""

import logging

import numpy as np
import torch
from torch import Tensor

from alumnus.data import BrokenImageError, Source
from alumnus.miniworld.body import BONES, JOINTS, SHAPE_COMPONENTS
from alumnus.miniworld.people_bodies import HEAD, PeopleData

__all__ = ["read_bodies"]

log = logging.getLogger(__name__)

FIELDS = {  # and their shapes; see `miniworld.people.Person`
    "K": (3, 3),
    "shape": (SHAPE_COMPONENTS,),
    "rotations": (len(BONES), 3, 3),
    "translation": (3,),
    "joints": (len(JOINTS), 3),
    "visible": (len(JOINTS),),
}
PERSON = 1  # in masks


def read_bodies(source: Source) -> tuple[PeopleData, Tensor]:
    """All that can be read, in memory, and their places [L] in the source.

    Pictures are squares of one size. Broken ones are left out, with a warning; ValueError, one
    sentence, where a body is not told or pictures differ.
    """
    places: list[int] = []
    images: list[Tensor] = []
    masks: list[Tensor] = []
    found: dict[str, list[Tensor]] = {name: [] for name in FIELDS}
    for index in range(len(source)):
        try:
            sample = source.read(index)
            picture, fields = sample.image, sample.fields
        except BrokenImageError as error:
            log.warning("left out: %s", error)
            continue
        name = source.identity(index)
        for field, shape in FIELDS.items():
            value = np.asarray(fields.get(field, ()))
            if value.shape != shape:
                raise ValueError(
                    f"image {name!r} of {source.name!r} has no {field} of shape {shape}: people "
                    "are learned from bodies as miniworld:people has them"
                )
            kind = torch.bool if field == "visible" else torch.float32
            found[field].append(torch.from_numpy(np.array(value)).to(kind))
        pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
        if pixels.shape[1] != pixels.shape[2] or (images and pixels.shape != images[0].shape):
            raise ValueError(
                f"image {name!r} of {source.name!r} is {picture.width}x{picture.height} px, but "
                "people are learned from squares of one size"
            )
        mask = fields.get("mask")
        person = torch.zeros(pixels.shape[1:]) if mask is None else torch.from_numpy(mask == PERSON)
        places.append(index)
        images.append(pixels.contiguous())
        masks.append(person.to(torch.uint8)[None])
    if not places:
        raise ValueError(f"none of the {len(source)} images of {source.name!r} can be read")
    columns = {name: torch.stack(values) for name, values in found.items()}
    joints = columns.pop("joints")
    people = PeopleData(
        images=torch.stack(images),
        mask=torch.stack(masks),
        head=joints[:, HEAD].clone(),
        **columns,
    )
    return people, torch.tensor(places)
