"""Images named one by one in a file: lines of text, CSV or Parquet."""

import csv
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from alumnus.data.batch import Sample
from alumnus.data.decode import BrokenImageError, decode
from alumnus.data.names import Names
from alumnus.data.selection import Columns, choose_column, chosen_rows

__all__ = ["LIST_SUFFIXES", "FileListSource"]

LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".parquet")
LOOKED_FOR = 8  # files, spread over the list, of which one must exist when it is opened


class FileListSource:
    """The images of a list, in its order; relative paths start at the list's folder.

    - .txt: a path on each line, then, if wanted, a tab and a label
    - .csv, .tsv: a header and columns; .parquet: columns (needs pyarrow)

    The path is in the column `columns["image"]` (default: path, image, file, ...), the label in
    `columns["label"]` (default: label, class, cls, target; none is fine). Labels that are whole
    numbers stay these numbers, others are numbered in sorted order. `where` keeps the rows whose
    columns have these values, `split` those with that word in a column "split". A row costs its
    path and 12 bytes of memory.

    ValueError, one sentence, for a list that cannot be understood or names no file that is there.
    """

    def __init__(
        self,
        path: Path,
        *,
        split: str | None = None,
        columns: Columns | None = None,
        where: Mapping[str, str] | None = None,
        name: str,
        domain: str = "default",
        generic: bool = False,
    ) -> None:
        self.folder, self.name, self.domain, self.generic = path.parent, name, domain, generic
        what = f"the list {str(path)!r}"
        header = _header(path, what)
        image = choose_column("image", header, columns, where=what)
        label = choose_column("label", header, columns, where=what)
        if split is not None:
            if "split" not in header:
                raise ValueError(f"{what} has no column split, so no split {split!r}")
            where = {"split": split, **(where or {})}
        if image is None:
            raise ValueError(
                f"{what} has no column of paths, only {', '.join(header)}: name it with "
                "columns={image: NAME}"
            )
        needed = [image, *([label] if label else []), *(where or {})]
        table = _columns(path, [c for c in dict.fromkeys(needed) if c in header], header)
        if where:
            keep = chosen_rows(where, header, table.__getitem__, of=what)
            table = {name: [values[i] for i in keep] for name, values in table.items()}
        paths = table.pop(image)
        if not all(paths):
            raise ValueError(f"row {paths.index('') + 1} of {what} has no path")
        if not paths:
            raise ValueError(f"{what} names no images")
        self.classes: tuple[str, ...] | None = None
        self._cls: np.ndarray[tuple[int], np.dtype[np.int32]] | None = None
        if label is not None and label != image:
            self.classes, self._cls = _numbered(table[label], what)
        self._paths = Names(paths)
        self._refuse_if_nothing_is_there(what)

    def __len__(self) -> int:
        return len(self._paths)

    def identity(self, index: int) -> str:
        """The path as the list has it."""
        return self._paths[index]

    def read(self, index: int) -> Sample:
        """Decode one image; BrokenImageError also where the file is not there."""
        identity = self.identity(index)
        try:
            data = (self.folder / identity).read_bytes()
        except OSError as error:
            raise BrokenImageError(self.name, identity, error.strerror or str(error)) from error
        picture = decode(data, source=self.name, identity=identity)
        return Sample(picture, {} if self._cls is None else {"cls": int(self._cls[index])})

    def _refuse_if_nothing_is_there(self, what: str) -> None:
        some = np.unique(np.linspace(0, len(self) - 1, LOOKED_FOR).astype(int)).tolist()
        if not any((self.folder / self.identity(i)).is_file() for i in some):
            raise ValueError(
                f"none of {len(some)} files looked for in {what} is there, e.g. "
                f"{str(self.folder / self.identity(0))!r}: relative paths start at the folder of "
                "the list"
            )


def _header(path: Path, what: str) -> list[str]:
    if path.suffix == ".parquet":
        return [str(name) for name in _parquet().read_schema(path).names]
    with _text(path) as file:
        if path.suffix == ".txt":
            return ["path", "label"] if "\t" in file.readline() else ["path"]
        header = next(csv.reader(file, delimiter=_delimiter(path)), [])
    if not header:
        raise ValueError(f"{what} is empty")
    return header


def _columns(path: Path, names: Sequence[str], header: Sequence[str]) -> dict[str, list[str]]:
    """The values of some columns, as words; an empty word where there is none."""
    if path.suffix == ".parquet":
        table = _parquet().read_table(path, columns=list(names))
        return {
            name: ["" if v is None else str(v) for v in table.column(name).to_pylist()]
            for name in names
        }
    with _text(path) as file:
        if path.suffix == ".txt":
            rows = [line.rstrip("\r\n").split("\t") for line in file if line.strip()]
        else:
            rows = list(islice(csv.reader(file, delimiter=_delimiter(path)), 1, None))
    places = [(name, header.index(name)) for name in names]
    return {
        name: [row[i].strip() if i < len(row) else "" for row in rows if row] for name, i in places
    }


def _text(path: Path) -> Any:
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix == ".tsv" else ","


def _numbered(
    labels: Sequence[str], what: str
) -> "tuple[tuple[str, ...], np.ndarray[tuple[int], np.dtype[np.int32]]]":
    """Names of the classes, and the class of each row."""
    found = sorted(set(labels))
    if "" in found:
        raise ValueError(f"row {labels.index('') + 1} of {what} has no label, but others have")
    if all(word.isdecimal() for word in found):
        numbers = np.array([int(word) for word in labels])
        if numbers.max() <= 2**24:
            return tuple(map(str, range(int(numbers.max()) + 1))), numbers.astype(np.int32)
    number = {word: i for i, word in enumerate(found)}
    return tuple(found), np.array([number[word] for word in labels], np.int32)


def _parquet() -> Any:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise ValueError("lists in Parquet need pyarrow: pip install 'alumnus[parquet]'") from error
    return parquet
