"""People in many photographs, and what is written of each: `alumnus people`."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from alumnus.bodies.choosing import lacking, open_body
from alumnus.bodies.drawing import people_picture
from alumnus.bodies.files import MESHES, as_json, write_mesh
from alumnus.bodies.finding import FoundPeople, find_people
from alumnus.bodies.opening import opened_network
from alumnus.data.folder import EXTENSIONS
from alumnus.heads.people import PeopleNetwork
from alumnus.spelling import unknown
from alumnus.text_files import write_text

__all__ = ["find_in_photographs"]

log = logging.getLogger(__name__)


def find_in_photographs(
    images: Sequence[str | Path],  # files, or folders of them
    model: str | Path | PeopleNetwork,
    out: Path | None,
    *,
    encoder: str | None,
    body: str | None,
    mesh: str,
    fov_deg: float,
    threshold: float,
    overwrite: bool,
    device: str,
) -> list[FoundPeople]:
    """One answer a photograph, in their order; see `alumnus.people`."""
    photos = list(_photos(images))
    stems = _stems(photos)
    if mesh not in MESHES:
        raise unknown("kind of mesh", mesh, MESHES)
    if not 0 < threshold < 1:
        raise ValueError(f"the threshold is {threshold:g}, but scores lie between 0 and 1")
    if out is not None:
        _check_free(out, [] if overwrite else stems)
    network = opened_network(model, encoder, device)
    chosen = open_body(body, network.head.spec)
    if chosen is None and body is None:
        log.warning("%s", lacking(network.head.spec))
    called = "a network" if isinstance(model, PeopleNetwork) else str(model)
    answers = []
    for photo, stem in zip(photos, stems, strict=True):
        found = find_people(network, photo, body=chosen, threshold=threshold, fov_deg=fov_deg)
        answers.append(found)
        if out is not None:
            write_text(out / f"{stem}.json", as_json(found, model=called))
            people_picture(found).save(out / f"{stem}.png")
            if chosen is not None and mesh != "none":
                write_mesh(found, out / f"{stem}.{mesh}")
    return answers


def _photos(images: Sequence[str | Path]) -> Iterator[Path]:
    """Files, those of folders by name; ValueError for what is not there."""
    if not images:
        raise ValueError("in which photographs should people be found? give at least one IMAGE")
    for given in images:
        path = Path(given).expanduser()
        if not path.exists():
            raise ValueError(f"there is no photograph {str(path)!r}")
        if path.is_file():
            yield path
            continue
        inside = sorted(file for file in path.iterdir() if file.suffix.lower() in EXTENSIONS)
        if not inside:
            raise ValueError(f"there is no photograph in the folder {str(path)!r}")
        yield from inside


def _stems(photos: Sequence[Path]) -> list[str]:
    """What the files of each photograph are called: its name, numbered where it comes again."""
    names: list[str] = []
    for photo in photos:
        name, again = photo.stem, 1
        while name in names:
            again += 1
            name = f"{photo.stem}-{again}"
        names.append(name)
    return names


def _check_free(out: Path, stems: Sequence[str]) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file, but should be a folder")
    for stem in stems:
        for ending in ("json", "png", "obj", "npz"):
            file = out / f"{stem}.{ending}"
            if file.exists():
                raise ValueError(f"{file} is there already: add --overwrite, or choose another out")
