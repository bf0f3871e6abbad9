"""Which samples of a source are meant: by values of their fields, and which columns hold what."""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from alumnus.spelling import unknown

__all__ = ["Columns", "choose_column", "chosen_rows"]

Columns = Mapping[str, str]  # what a column is, "image" or "label", and its name
IMAGE_COLUMNS = ("path", "image", "file", "filename", "file_name", "image_path", "filepath", "img")
LABEL_COLUMNS = ("label", "class", "cls", "target")
CHOICES = {"image": IMAGE_COLUMNS, "label": LABEL_COLUMNS}


def choose_column(
    what: str, names: Sequence[str], columns: Columns | None, *, where: str
) -> str | None:
    """The column of the images or labels: as chosen, else the first with a usual name.

    ValueError for a chosen one that `names` lacks, and for a key other than "image" or "label".
    """
    for key in columns or {}:
        if key not in CHOICES:
            raise unknown("key of columns", key, CHOICES)
    if columns and what in columns:
        if columns[what] not in names:
            raise unknown(f"column of {where}", columns[what], names)
        return columns[what]
    return next((name for name in CHOICES[what] if name in names), None)


def chosen_rows(
    where: Mapping[str, str],
    fields: Collection[str],
    values_of: Callable[[str], Sequence[str | None]],
    *,
    of: str,
) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Rows whose fields have the values of `where`; ValueError for unknown ones or no row."""
    keep: np.ndarray[tuple[int], np.dtype[np.bool_]] | None = None
    for field, wanted in where.items():
        if field not in fields:
            raise unknown(f"field of {of}", field, fields)
        values = values_of(field)
        agrees = np.array([value == wanted for value in values])
        if not agrees.any():
            raise unknown(f"{field} of {of}", wanted, {v for v in values if v is not None})
        keep = agrees if keep is None else keep & agrees
    if keep is None or not keep.any():
        raise ValueError(f"no sample of {of} has all of where {dict(where)}")
    return np.flatnonzero(keep)
