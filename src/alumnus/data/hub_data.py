"""A data set in the format of Hugging Face datasets, from the hub or from a folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alumnus.data.batch import Sample
from alumnus.data.decode import BrokenImageError, decode
from alumnus.data.selection import Columns, choose_column, chosen_rows
from alumnus.spelling import unknown

__all__ = ["HubSource"]


class HubSource:
    """The rows of one split, each read alone by its number.

    `spec` is `ORG/NAME`, `ORG/NAME:SPLIT`, `ORG/NAME:CONFIG:SPLIT`, or the same with a folder that
    `save_to_disk` wrote, or one that `load_dataset` understands. Without a split: the only one, or
    "train". Images are in `columns["image"]` (default: the first column of images), labels in
    `columns["label"]` (default: label, class, cls, target; none is fine); a label below 0, as test
    splits have, is none. `where` keeps the rows whose columns have these values, classes by name.

    ValueError, one sentence, for whatever cannot be had; without a network, what was fetched
    before is used.
    """

    def __init__(
        self,
        spec: str,
        *,
        split: str | None = None,
        columns: Columns | None = None,
        where: Mapping[str, str] | None = None,
        name: str | None = None,
        domain: str = "default",
        generic: bool = False,
    ) -> None:
        path, config, own_split = _parts(spec)
        if split is not None and own_split is not None and split != own_split:
            raise ValueError(f"hf:{spec} names the split {own_split!r}, but split is {split!r}")
        self.domain, self.generic = domain, generic
        self.name = name or "-".join([Path(path).name, *(where or {}).values()])
        self.split, rows = _one_split(_loaded(path, config), own_split or split, f"hf:{path}")
        what = f"the data set hf:{path}"
        features = rows.features
        image = _image_column(features, columns, what)
        label = choose_column("label", list(features), columns, where=what)
        numbers = np.arange(len(rows), dtype=np.int64)
        if where:

            def values_of(field: str) -> list[str | None]:
                return [_word(value, features[field]) for value in rows[field]]

            numbers = chosen_rows(where, list(features), values_of, of=what)
        if not len(numbers):
            raise ValueError(f"{what} has no rows in its split {self.split!r}")
        self._numbers = numbers
        self._image, self._label = image, None if label == image else label
        self.classes = self._class_names(rows, what)
        rows = rows.select_columns([image, *([self._label] if self._label else [])])
        if type(features[image]).__name__ == "Image":
            rows = rows.cast_column(image, type(features[image])(decode=False))  # we decode
        self._rows = rows

    def __len__(self) -> int:
        return len(self._numbers)

    def identity(self, index: int) -> str:
        """Split and number of the row: `train/000115`."""
        return f"{self.split}/{int(self._numbers[index]):06d}"

    def read(self, index: int) -> Sample:
        """Decode one row; BrokenImageError also where it has no image."""
        identity, row = self.identity(index), self._rows[int(self._numbers[index])]
        held = row[self._image]
        if isinstance(held, dict):  # an image that is not decoded: its bytes, or where they are
            held = held["bytes"] if held.get("bytes") is not None else held.get("path")
        if isinstance(held, str):
            try:
                held = Path(held).read_bytes()
            except OSError as error:
                raise BrokenImageError(self.name, identity, error.strerror or str(error)) from error
        if held is None:
            raise BrokenImageError(self.name, identity, "the row has no image")
        picture = decode(held, source=self.name, identity=identity)
        return Sample(picture, self._fields(row))

    def _fields(self, row: Mapping[str, Any]) -> dict[str, Any]:
        label = None if self._label is None else row[self._label]
        if isinstance(label, str) and self.classes is not None:
            label = self.classes.index(label)
        return {"cls": int(label)} if label is not None and label >= 0 else {}

    def _class_names(self, rows: Any, what: str) -> tuple[str, ...] | None:
        """Names of a ClassLabel's classes, or of the words in a column of words."""
        if self._label is None:
            return None
        feature = rows.features[self._label]
        if hasattr(feature, "names"):
            return tuple(feature.names)
        dtype = str(getattr(feature, "dtype", ""))
        if dtype in ("string", "large_string"):
            return tuple(sorted({word for word in rows[self._label] if word is not None}))
        if "int" not in dtype:
            raise ValueError(f"labels of {what} are words or whole numbers, not {dtype or feature}")
        return None


def _parts(spec: str) -> tuple[str, str | None, str | None]:
    """Path, configuration and split."""
    if Path(spec).expanduser().is_dir():
        return str(Path(spec).expanduser()), None, None
    path, *rest = spec.split(":")
    if not path or len(rest) > 2 or not all(rest):
        raise ValueError(
            f"hf:{spec} should read hf:ORG/NAME, hf:ORG/NAME:SPLIT or hf:ORG/NAME:CONFIG:SPLIT"
        )
    return path, rest[0] if len(rest) == 2 else None, rest[-1] if rest else None


def _loaded(path: str, config: str | None) -> Any:
    """A Dataset, or a mapping of splits to such."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        if error.name != "datasets":
            raise
        raise ValueError(
            "data sets of Hugging Face need datasets: pip install 'alumnus[hf]'"
        ) from error
    folder = Path(path).expanduser()
    saved = any((folder / file).is_file() for file in ("dataset_dict.json", "state.json"))
    try:
        return (
            datasets.load_from_disk(str(folder)) if saved else datasets.load_dataset(path, config)
        )
    except Exception as error:  # the hub, its files and its formats: each has errors of its own
        why = " ".join(str(error).split())
        raise ValueError(f"the data set hf:{path} cannot be had: {why}") from error


def _one_split(loaded: Any, split: str | None, what: str) -> tuple[str, Any]:
    if not isinstance(loaded, Mapping):
        own = str(loaded.split or "train")
        if split not in (None, own):
            raise unknown(f"split of {what}", str(split), [own])
        return own, loaded
    if split is None and (len(loaded) == 1 or "train" in loaded):
        split = "train" if "train" in loaded else next(iter(loaded))
    if split is None:
        raise ValueError(f"{what} needs a split, one of {', '.join(loaded)}")
    if split not in loaded:
        raise unknown(f"split of {what}", split, loaded)
    return split, loaded[split]


def _image_column(features: Mapping[str, Any], columns: Columns | None, what: str) -> str:
    """The column chosen, else the first of images, else one with a usual name."""
    images = [n for n, feature in features.items() if type(feature).__name__ == "Image"]
    chosen = choose_column("image", list(features), columns, where=what)
    if images and not (columns and "image" in columns):
        return images[0]
    if chosen is None:
        raise ValueError(
            f"{what} has no column of images, only {', '.join(features)}: name it with "
            "columns={image: NAME}"
        )
    return chosen


def _word(value: Any, feature: Any) -> str | None:
    if value is None:
        return None
    return str(feature.int2str(value) if hasattr(feature, "int2str") and value >= 0 else value)
