"""A folder of images, with the first level of subfolders as classes where there is one."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from alumnus.data.batch import Sample
from alumnus.data.decode import BrokenImageError, decode
from alumnus.data.names import Names

__all__ = ["EXTENSIONS", "FolderSource", "images_in"]

EXTENSIONS = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff",
              ".webp")  # fmt: skip


class FolderSource:
    """All images below a folder, sorted by relative path; hidden files and folders are left out.

    If every image lies in a subfolder and there are at least two of these, they are the classes:
    `classes` is their sorted names, the field "cls" of a sample the number of its own.
    Raises ValueError for a folder without images.
    """

    def __init__(
        self, folder: Path, *, name: str, domain: str = "default", generic: bool = False
    ) -> None:
        self.folder, self.name, self.domain, self.generic = folder, name, domain, generic
        paths = sorted(_image_paths(folder))
        if not paths:
            tars = any(folder.glob("*.tar*"))
            hint = "; it holds tar files, but no index.json that makes them a pack" if tars else ""
            raise ValueError(
                f"there are no images in {str(folder)!r} or below "
                f"(looked for {', '.join(EXTENSIONS)}){hint}"
            )
        self._paths = Names(paths)
        tops = [path.partition("/")[0] if "/" in path else None for path in paths]
        found = sorted({top for top in tops if top is not None})
        self.classes = tuple(found) if None not in tops and len(found) > 1 else None
        number = {top: i for i, top in enumerate(found)}
        self._cls = np.array([number[t] for t in tops if t], np.int32) if self.classes else None

    def __len__(self) -> int:
        return len(self._paths)

    def identity(self, index: int) -> str:
        """The path relative to the folder, with forward slashes."""
        return self._paths[index]

    def fields(self, index: int) -> dict[str, Any]:
        """All but the image."""
        return {} if self._cls is None else {"cls": int(self._cls[index])}

    def read(self, index: int) -> Sample:
        """Decode one image; BrokenImageError also where the file is gone or may not be read."""
        identity = self.identity(index)
        try:
            data = (self.folder / identity).read_bytes()
        except OSError as error:
            raise BrokenImageError(self.name, identity, error.strerror or str(error)) from error
        picture = decode(data, source=self.name, identity=identity)
        return Sample(picture, self.fields(index))


def images_in(folder: Path) -> list[Path]:
    """The images in a folder itself, by name; hidden files and those in folders below are left out.

    ValueError where there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {str(folder)!r}")
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in EXTENSIONS and path.is_file() and not path.name.startswith(".")
    )


def _image_paths(folder: Path) -> list[str]:
    """Relative paths, "/"-separated; links to folders are followed, but no folder visited twice."""

    def refuse(error: OSError) -> None:
        raise ValueError(f"folder {error.filename!r} cannot be read: {error.strerror}") from error

    paths: list[str] = []
    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        relative = Path(here).relative_to(folder).as_posix()
        prefix = "" if relative == "." else f"{relative}/"
        paths += [
            prefix + file
            for file in files
            if file.lower().endswith(EXTENSIONS) and not file.startswith(".")
        ]
    return paths
