"""People in many photographs, and what is written of each: `alumnus people`."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from alumnus.bodies.choosing import lacking, open_body
from alumnus.bodies.drawing import people_picture
from alumnus.bodies.files import MESHES, as_json, write_mesh
from alumnus.bodies.finding import FoundPeople, find_people
from alumnus.bodies.opening import load_people
from alumnus.data.folder import images_in
from alumnus.finetuning.by_name import opened_network
from alumnus.heads.people import PeopleNetwork
from alumnus.heads.people.photos import check_field_of_view
from alumnus.heads.photos import read_photo
from alumnus.spelling import unknown
from alumnus.text_files import check_outputs, write_text

__all__ = ["find_in_photographs"]

Photograph = Path | Image.Image
ENDINGS = ("json", "png", "obj", "npz")  # of what may be written of a photograph

log = logging.getLogger(__name__)


def find_in_photographs(
    images: Sequence[str | Path | Image.Image],  # files, folders of them, pictures
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
    on_found: Callable[[FoundPeople], None] | None = None,
) -> list[FoundPeople]:
    """An answer for each photograph that can be read, in their order; see `alumnus.people`.

    One photograph is in memory at a time; its files are written before the next one is read.
    """
    photos = list(_photos(images))
    stems = _stems(photos)
    if mesh not in MESHES:
        raise unknown("kind of mesh", mesh, MESHES)
    if not 0 < threshold < 1:
        raise ValueError(f"the threshold is {threshold:g}, but scores lie between 0 and 1")
    check_field_of_view(fov_deg)
    if out is not None:
        _check_other_folder(out, images)
        written = [f"{stem}.{ending}" for stem in stems for ending in ENDINGS]
        check_outputs(out, written, inputs=photos, overwrite=overwrite)
    network = opened_network(model, load_people, encoder, device)
    chosen = open_body(body, network.head.spec)
    if chosen is None and body is None:
        log.warning("%s", lacking(network.head.spec))
    called = "a network" if isinstance(model, PeopleNetwork) else str(model)
    answers = []
    for name, stem, picture in _read(photos, stems):
        found = find_people(
            network, picture, name=name, body=chosen, threshold=threshold, fov_deg=fov_deg
        )
        answers.append(found)
        if out is not None:
            write_text(out / f"{stem}.json", as_json(found, model=called))
            people_picture(found, picture).save(out / f"{stem}.png")
            if chosen is not None and mesh != "none":
                write_mesh(found, out / f"{stem}.{mesh}")
        if on_found is not None:
            on_found(found)
    return answers


def _photos(images: Sequence[str | Path | Image.Image]) -> Iterator[Photograph]:
    """Pictures and files, those of folders by name; ValueError for what is not there."""
    if not images:
        raise ValueError("in which photographs should people be found? give at least one IMAGE")
    for given in images:
        if isinstance(given, Image.Image):
            yield given
            continue
        path = Path(given).expanduser()
        if not path.exists():
            raise ValueError(f"there is no photograph {str(path)!r}")
        if path.is_file():
            yield path
            continue
        inside = images_in(path)
        if not inside:
            raise ValueError(f"there is no photograph in the folder {str(path)!r}")
        yield from inside


def _read(
    photos: Sequence[Photograph], stems: Sequence[str]
) -> Iterator[tuple[str, str, Image.Image]]:
    """Name, stem and pixels of each that can be read; the others are named in the log.

    ValueError at the end if there was none.
    """
    broken = []
    for photo, stem in zip(photos, stems, strict=True):
        try:
            picture = read_photo(photo)
        except ValueError as error:
            log.warning("left out: %s", error)
            broken.append(error)
            continue
        yield str(photo) if isinstance(photo, Path) else stem, stem, picture
    if len(broken) == len(photos):
        raise ValueError(
            str(broken[0])
            if len(broken) == 1
            else f"none of the {len(photos)} photographs can be read; the last: {broken[-1]}"
        )
    if broken:
        log.warning("%d of %d photographs left out", len(broken), len(photos))


def _stems(photos: Sequence[Photograph]) -> list[str]:
    """What the files of each photograph are called: its name, numbered where it comes again."""
    names: list[str] = []
    for photo in photos:
        name = own = photo.stem if isinstance(photo, Path) else "photograph"
        again = 1
        while name in names:
            again += 1
            name = f"{own}-{again}"
        names.append(name)
    return names


def _check_other_folder(out: Path, images: Sequence[str | Path | Image.Image]) -> None:
    """ValueError where what is drawn would be among the photographs the next time."""
    given = [Path(x).expanduser() for x in images if not isinstance(x, Image.Image)]
    if out.is_dir() and any(out.samefile(path) for path in given):
        raise ValueError(
            f"out={out} is the folder of the photographs, and what is drawn would be one of them "
            "the next time: choose another out"
        )
