"""Text files that appear whole; names of pictures; folders that results go to."""

from collections.abc import Iterable
from pathlib import Path

__all__ = ["check_outputs", "check_picture", "write_text"]


def write_text(path: Path, text: str) -> Path:
    """Write a file; a reader sees the old one or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    return partial.replace(path)


def check_picture(path: str | Path | None) -> None:
    """ValueError, one sentence, for a picture that is no .png; before it is drawn."""
    if path is not None and Path(path).suffix != ".png":
        raise ValueError(f"pictures are written as .png, so {str(path)!r} needs that ending")


def check_outputs(
    folder: Path | None,
    names: Iterable[str],
    *,
    inputs: Iterable[object],
    overwrite: bool,
) -> None:
    """ValueError, one sentence, where files of a folder would be lost; None writes nothing.

    Paths among `inputs` are never written over, by whatever link they are reached; other files
    only with `overwrite`.
    """
    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out={folder} is a file, but should be a folder")
    paths = (Path(given).expanduser() for given in inputs if isinstance(given, str | Path))
    given = {_which(path) for path in paths if path.exists()}
    for file in (folder / name for name in names):
        if not file.exists():
            continue
        if _which(file) in given:
            raise ValueError(f"{file} is a photograph that was given: choose another out")
        if not overwrite:
            raise ValueError(f"{file} is there already: add --overwrite, or choose another out")


def _which(file: Path) -> tuple[int, int]:
    """The same for all paths of one file."""
    about = file.stat()
    return about.st_dev, about.st_ino
