"""Photographs in files, and their names."""

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from alumnus.data.folder import images_in

__all__ = ["check_there", "photo_names", "photographs_in"]


def photographs_in(folder: Path) -> list[Path]:
    """The images in a folder, by name; those in folders below are left out."""
    if folder.is_file():
        raise ValueError(f"{str(folder)!r} is one photograph: name two or more, or a folder")
    return images_in(folder)


def photo_names(
    photographs: Sequence[str | Path | Image.Image], unnamed: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Files from the folder that holds all; open images as `unnamed` says, else by number."""
    paths = [
        None if isinstance(photo, Image.Image) else Path(photo).expanduser()
        for photo in photographs
    ]
    paths = [path and path.parent.resolve() / path.name for path in paths]
    folders = [path.parent for path in paths if path is not None]
    common = os.path.commonpath(folders) if folders else ""
    numbers = map(str, range(len(paths)))
    return tuple(
        otherwise if path is None else path.relative_to(common).as_posix()
        for path, otherwise in zip(paths, unnamed or numbers, strict=True)
    )


def check_there(photographs: Sequence[str | Path | Image.Image]) -> None:
    """ValueError for a file that is missing."""
    for photo in photographs:
        if not isinstance(photo, Image.Image) and not Path(photo).expanduser().is_file():
            raise ValueError(f"there is no photograph {str(photo)!r}")
